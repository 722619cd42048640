import { Duration } from 'aws-cdk-lib';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import { SnsAction } from 'aws-cdk-lib/aws-cloudwatch-actions';
import type { ITopic } from 'aws-cdk-lib/aws-sns';
import type { Construct } from 'constructs';

/** One thing that somebody is told. */
export interface Watch {
  readonly metric: cloudwatch.IMetric;
  readonly threshold: number;
  /** What it means, in a sentence. */
  readonly meaning: string;
  /** Section of the runbook. */
  readonly section: string;
  /** Minutes in a row. */
  readonly minutes?: number;
  readonly comparison?: cloudwatch.ComparisonOperator;
  readonly missing?: cloudwatch.TreatMissingData;
}

/** Makes alarms that all say what they mean, where to read on, and whom to tell. */
export class Alarms {
  constructor(
    private readonly scope: Construct,
    private readonly topic: ITopic,
    private readonly runbookUrl: string,
    private readonly prefix: string,
  ) {}

  on(name: string, watch: Watch): cloudwatch.Alarm {
    const alarm = new cloudwatch.Alarm(this.scope, name, {
      alarmName: `${this.prefix}-${kebab(name)}`,
      alarmDescription: `${watch.meaning} ${this.runbookUrl}#${watch.section}`,
      metric: watch.metric,
      threshold: watch.threshold,
      comparisonOperator: watch.comparison ?? cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
      evaluationPeriods: watch.minutes ?? 5,
      treatMissingData: watch.missing ?? cloudwatch.TreatMissingData.NOT_BREACHING,
    });
    const action = new SnsAction(this.topic);
    alarm.addAlarmAction(action);
    alarm.addOkAction(action);
    return alarm;
  }
}

function kebab(name: string): string {
  return name.replace(/(?<!^)([A-Z])/g, '-$1').toLowerCase();
}

/** Period of every metric that an alarm looks at, unless it says otherwise. */
export const MINUTE = Duration.minutes(1);
