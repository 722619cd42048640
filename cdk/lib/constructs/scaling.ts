import * as autoscaling from 'aws-cdk-lib/aws-autoscaling';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import type { IQueue } from 'aws-cdk-lib/aws-sqs';
import { Duration } from 'aws-cdk-lib';
import { Construct } from 'constructs';

import type { Config } from '../config/config.ts';

export interface FleetScalingProps {
  readonly config: Config;
  readonly group: autoscaling.AutoScalingGroup;
  readonly queues: readonly IQueue[];
}

/**
 * The fleet follows the backlog for each chip, and grows at once when the oldest event gets
 * too old. Target tracking of a metric expression has no L2 construct.
 */
export class FleetScaling extends Construct {
  constructor(scope: Construct, id: string, { config, group, queues }: FleetScalingProps) {
    super(scope, id);
    const { backlogPerChip, freshnessSeconds } = config.worker;
    new autoscaling.CfnScalingPolicy(this, 'BacklogPerChip', {
      autoScalingGroupName: group.autoScalingGroupName,
      policyType: 'TargetTrackingScaling',
      targetTrackingConfiguration: {
        targetValue: backlogPerChip,
        customizedMetricSpecification: { metrics: backlogPerChipMetrics(group, queues) },
      },
    });
    const age = new cloudwatch.MathExpression({
      expression: 'MAX([a0, a1])',
      label: 'age of the oldest event',
      period: Duration.minutes(1),
      usingMetrics: Object.fromEntries(
        // Bulk may wait: its age says nothing of freshness.
        queues
          .slice(0, 2)
          .map((queue, index) => [
            `a${index}`,
            queue.metricApproximateAgeOfOldestMessage({ period: Duration.minutes(1) }),
          ]),
      ),
    });
    const grow = new autoscaling.StepScalingPolicy(this, 'Freshness', {
      autoScalingGroup: group,
      metric: age,
      adjustmentType: autoscaling.AdjustmentType.PERCENT_CHANGE_IN_CAPACITY,
      minAdjustmentMagnitude: 1,
      evaluationPeriods: 2,
      metricAggregationType: autoscaling.MetricAggregationType.MAXIMUM,
      estimatedInstanceWarmup: Duration.minutes(5),
      scalingSteps: [
        // It never shrinks the fleet; the backlog does.
        { upper: freshnessSeconds, change: 0 },
        { lower: freshnessSeconds, upper: 3 * freshnessSeconds, change: 25 },
        { lower: 3 * freshnessSeconds, change: 100 },
      ],
    });
    grow.node.addDependency(group);
  }
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
