import * as autoscaling from 'aws-cdk-lib/aws-autoscaling';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import type { IQueue } from 'aws-cdk-lib/aws-sqs';
import { Duration } from 'aws-cdk-lib';
import { Construct } from 'constructs';

import type { Config } from '../config/config.ts';
import { MINUTE } from './alarms.ts';
import { type Lane, LANES, stalePercent } from './freshness.ts';

export interface FleetScalingProps {
  readonly config: Config;
  readonly group: autoscaling.AutoScalingGroup;
  /** Somebody waits for what these bring. */
  readonly waitedFor: Record<Lane, IQueue>;
  /** Its age says nothing of freshness. */
  readonly bulk: IQueue;
}

/** Percent of a lane's events labelled late from which the fleet grows, and from which it doubles. */
const LATE_PERCENT = { much: 1, grave: 50 };

/**
 * The fleet follows the backlog for each chip, and grows at once when events are labelled
 * later than the goal, or the oldest one gets too old. Target tracking of a metric expression
 * has no L2 construct.
 */
export class FleetScaling extends Construct {
  constructor(scope: Construct, id: string, { config, group, waitedFor, bulk }: FleetScalingProps) {
    super(scope, id);
    const { backlogPerChip, freshnessSeconds } = config.worker;
    const queues = [waitedFor.catalog, waitedFor.queries, bulk];
    new autoscaling.CfnScalingPolicy(this, 'BacklogPerChip', {
      autoScalingGroupName: group.autoScalingGroupName,
      policyType: 'TargetTrackingScaling',
      targetTrackingConfiguration: {
        targetValue: backlogPerChip,
        customizedMetricSpecification: { metrics: backlogPerChipMetrics(group, queues) },
      },
    });
    this.growOn('OldestEvent', group, oldestEvent(waitedFor), freshnessSeconds, 3 * freshnessSeconds);
    for (const lane of LANES) {
      const late = lateWhileSomethingWaits(config, lane, waitedFor[lane]);
      this.growOn(`Freshness-${lane}`, group, late, LATE_PERCENT.much, LATE_PERCENT.grave);
    }
  }

  /** A quarter more chips from `much` on, twice as many from `grave` on. It never shrinks the fleet; the backlog does. */
  private growOn(
    name: string,
    group: autoscaling.AutoScalingGroup,
    metric: cloudwatch.IMetric,
    much: number,
    grave: number,
  ): void {
    const grow = new autoscaling.StepScalingPolicy(this, name, {
      autoScalingGroup: group,
      metric,
      adjustmentType: autoscaling.AdjustmentType.PERCENT_CHANGE_IN_CAPACITY,
      minAdjustmentMagnitude: 1,
      evaluationPeriods: 2,
      metricAggregationType: autoscaling.MetricAggregationType.MAXIMUM,
      estimatedInstanceWarmup: Duration.minutes(5),
      scalingSteps: [
        { upper: much, change: 0 },
        { lower: much, upper: grave, change: 25 },
        { lower: grave, change: 100 },
      ],
    });
    grow.node.addDependency(group);
  }
}

/** Seconds: the greater age of the two queues. It grows even where nothing is labelled at all. */
function oldestEvent(queues: Record<Lane, IQueue>): cloudwatch.MathExpression {
  const age = (lane: Lane) => queues[lane].metricApproximateAgeOfOldestMessage({ period: MINUTE });
  return new cloudwatch.MathExpression({
    expression: 'MAX([catalog, queries])',
    label: 'age of the oldest event',
    period: MINUTE,
    usingMetrics: { catalog: age('catalog'), queries: age('queries') },
  });
}

/**
 * Percent of a lane's events that were labelled late, while messages wait: events that came late
 * to an empty queue are their sender's fault, and no chip makes them fresher.
 */
function lateWhileSomethingWaits(config: Config, lane: Lane, queue: IQueue): cloudwatch.MathExpression {
  return new cloudwatch.MathExpression({
    expression: 'IF(waiting > 0, late, 0)',
    label: `${lane} events labelled late while others wait (%)`,
    period: MINUTE,
    usingMetrics: {
      waiting: queue.metricApproximateNumberOfMessagesVisible({ period: MINUTE, statistic: 'Maximum' }),
      late: stalePercent(config, lane),
    },
  });
}

/** Visible messages of all queues over the chips in service; all of them while there is no chip. */
function backlogPerChipMetrics(
  group: autoscaling.AutoScalingGroup,
  queues: readonly IQueue[],
): autoscaling.CfnScalingPolicy.TargetTrackingMetricDataQueryProperty[] {
  const visible = queues.map((queue, index) => ({
    id: `visible${index}`,
    returnData: false,
    metricStat: {
      stat: 'Average',
      metric: {
        namespace: 'AWS/SQS',
        metricName: 'ApproximateNumberOfMessagesVisible',
        dimensions: [{ name: 'QueueName', value: queue.queueName }],
      },
    },
  }));
  const chips = {
    id: 'chips',
    returnData: false,
    metricStat: {
      stat: 'Average',
      metric: {
        namespace: 'AWS/AutoScaling',
        metricName: 'GroupInServiceCapacity',
        dimensions: [{ name: 'AutoScalingGroupName', value: group.autoScalingGroupName }],
      },
    },
  };
  const sum = visible.map(({ id }) => `FILL(${id}, 0)`).join(' + ');
  const perChip = {
    id: 'backlog_per_chip',
    returnData: true,
    expression: `(${sum}) / IF(FILL(chips, 0) > 0, FILL(chips, 0), 1)`,
  };
  return [...visible, chips, { ...perChip, label: 'backlog per chip' }];
}
