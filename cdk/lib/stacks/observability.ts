import { Duration, Stack, type StackProps } from 'aws-cdk-lib';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import { HttpCodeElb, HttpCodeTarget } from 'aws-cdk-lib/aws-elasticloadbalancingv2';
import { ServicePrincipal } from 'aws-cdk-lib/aws-iam';
import * as sns from 'aws-cdk-lib/aws-sns';
import { EmailSubscription } from 'aws-cdk-lib/aws-sns-subscriptions';
import type { IQueue } from 'aws-cdk-lib/aws-sqs';
import type { Construct } from 'constructs';

import { type Fleet, FLEETS } from '../build/metrics.ts';
import { type Config, namePrefix } from '../config/config.ts';
import { LANES, published, stalePercent } from '../constructs/freshness.ts';
import { StageKey } from '../constructs/key.ts';
import { Alarms, MINUTE } from '../constructs/alarms.ts';
import type { BulkStack } from './bulk.ts';
import type { EventsStack } from './events.ts';
import type { IntentStack } from './intent.ts';
import type { ServerlessStack } from './serverless.ts';
import type { WorkerStack } from './worker.ts';

/** SQS refuses receives beyond this many messages in flight, which looks like an empty queue. */
const IN_FLIGHT_CAP = 120_000;
const IN_FLIGHT_SHARE = 0.8;

export interface ObservabilityProps extends StackProps {
  readonly events: EventsStack;
  readonly worker: WorkerStack;
  readonly intent: IntentStack;
  readonly bulk: BulkStack;
  readonly serverless: ServerlessStack;
}

/** What is looked at, and whom it wakes. */
export class ObservabilityStack extends Stack {
  private readonly stage: string;

  constructor(
    scope: Construct,
    id: string,
    config: Config,
    private readonly parts: ObservabilityProps,
  ) {
    super(scope, id, {
      env: parts.env,
      description: parts.description,
      terminationProtection: parts.terminationProtection,
    });
    this.stage = config.stage;
    const topic = new sns.Topic(this, 'Alarms', {
      topicName: `${namePrefix(config)}-alarms`,
      masterKey: new StageKey(this, 'Key', config, 'alarms'),
      enforceSSL: true,
    });
    topic.grantPublish(new ServicePrincipal('cloudwatch.amazonaws.com'));
    if (config.alarms.email !== undefined) topic.addSubscription(new EmailSubscription(config.alarms.email));
    const alarms = new Alarms(this, topic, config.alarms.runbookUrl, namePrefix(config));
    this.queueAlarms(config, alarms);
    this.fleetAlarms(config, alarms);
    this.serviceAlarms(config, alarms);
    for (const fleet of FLEETS) this.chipAlarms(config, alarms, fleet);
    this.dashboard(config);
  }

  private queueAlarms({ worker }: Config, alarms: Alarms): void {
    const { events } = this.parts;
    for (const [name, queue] of [
      ['Catalog', events.catalog],
      ['Queries', events.queries],
    ] as const) {
      alarms.on(`${name}OldestMessage`, {
        metric: queue.metricApproximateAgeOfOldestMessage({ period: MINUTE }),
        threshold: 2 * worker.freshnessSeconds,
        meaning: `The oldest event on the ${name.toLowerCase()} queue waits too long: labels get stale.`,
        section: 'stale-labels',
      });
    }
    for (const [name, queue] of [
      ['Catalog', events.catalog],
      ['Queries', events.queries],
      ['Bulk', events.bulk],
    ] as const) {
      alarms.on(`${name}InFlight`, {
        metric: queue.metricApproximateNumberOfMessagesNotVisible({ period: MINUTE, statistic: 'Maximum' }),
        threshold: IN_FLIGHT_SHARE * IN_FLIGHT_CAP,
        meaning: `The ${name.toLowerCase()} queue nears ${IN_FLIGHT_CAP} messages in flight, where it looks empty.`,
        section: 'in-flight-cap',
      });
    }
    const visible = (queue: IQueue) =>
      queue.metricApproximateNumberOfMessagesVisible({ period: MINUTE, statistic: 'Maximum' });
    alarms.on('DeadLetters', {
      metric: visible(events.deadLetters),
      threshold: 0,
      minutes: 1,
      meaning: 'Messages were parked or received too often.',
      section: 'dead-letters',
    });
    alarms.on('Undelivered', {
      metric: visible(events.undelivered),
      threshold: 0,
      minutes: 1,
      meaning: 'Bus or topic could not deliver.',
      section: 'undelivered-events',
    });
  }

  private fleetAlarms(config: Config, alarms: Alarms): void {
    const { worker, alarms: limits } = config;
    for (const lane of LANES) {
      alarms.on(`${lane === 'catalog' ? 'Catalog' : 'Queries'}Stale`, {
        metric: stalePercent(config, lane),
        threshold: limits.stalePercentMax,
        minutes: 15,
        meaning: `More than ${limits.stalePercentMax}% of the ${lane} events were labelled later than ${worker.freshnessSeconds} s after they occurred.`,
        section: 'stale-labels',
      });
    }
    alarms.on('FatalFaults', {
      metric: published(this.stage, 'event_failures_total', { fault: 'fatal' }),
      threshold: 0,
      minutes: 1,
      meaning: 'A worker met a fault that every event would meet, and stopped.',
      section: 'not-ready-or-fatal',
    });
    alarms.on('LeasesLost', {
      metric: published(this.stage, 'queue_leases_lost_total'),
      threshold: 0,
      minutes: 5,
      meaning: 'Messages became visible to others while a worker had them.',
      section: 'leases-lost',
    });
    alarms.on('FleetBelowFloor', {
      metric: this.chips(),
      threshold: worker.chipsMin,
      comparison: cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
      missing: worker.chipsMin > 0 ? cloudwatch.TreatMissingData.BREACHING : cloudwatch.TreatMissingData.NOT_BREACHING,
      minutes: 15,
      meaning: `Fewer than ${worker.chipsMin} chips are in service.`,
      section: 'new-hosts-do-not-come-up',
    });
    alarms.on('CostPerMillionLabels', {
      metric: this.dollarsPerMillionLabels(limits.dollarsPerChipHour),
      threshold: limits.dollarsPerMillionLabelsMax,
      minutes: 3,
      meaning: `A million labels cost more than ${limits.dollarsPerMillionLabelsMax} dollars of chips, three hours long.`,
      section: 'cost',
    });
  }

  private serviceAlarms({ intent }: Config, alarms: Alarms): void {
    const { targets, loadBalancer } = this.parts.intent;
    const perMinute = { period: MINUTE, statistic: 'Sum' };
    alarms.on('IntentP99', {
      metric: this.p99(),
      threshold: intent.p99Milliseconds / 1_000,
      meaning: `One request in a hundred to the online service takes more than ${intent.p99Milliseconds} ms.`,
      section: 'slow-online-service',
    });
    alarms.on('IntentErrors', {
      metric: new cloudwatch.MathExpression({
        expression: 'FILL(own, 0) + FILL(balancer, 0)',
        usingMetrics: {
          own: targets.metrics.httpCodeTarget(HttpCodeTarget.TARGET_5XX_COUNT, perMinute),
          // Without a healthy task the load balancer itself answers.
          balancer: loadBalancer.metrics.httpCodeElb(HttpCodeElb.ELB_5XX_COUNT, perMinute),
        },
        period: MINUTE,
        label: 'errors',
      }),
      threshold: 10,
      meaning: 'The online service answers with errors, or the load balancer for it.',
      section: 'slow-online-service',
    });
    alarms.on('IntentBelowFloor', {
      metric: targets.metrics.healthyHostCount({ period: MINUTE, statistic: 'Minimum' }),
      threshold: intent.tasksMin,
      comparison: cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
      missing: intent.tasksMin > 0 ? cloudwatch.TreatMissingData.BREACHING : cloudwatch.TreatMissingData.NOT_BREACHING,
      minutes: 10,
      meaning: `Fewer than ${intent.tasksMin} tasks of the online service are ready.`,
      section: 'slow-online-service',
    });
    alarms.on('IntentRefused', {
      metric: this.refusedPercent(),
      threshold: intent.refusedPercentMax,
      minutes: 5,
      meaning: `More than ${intent.refusedPercentMax}% of the requests to the online service were refused, as too many.`,
      section: 'slow-online-service',
    });
    alarms.on('IntentLookUpsFailed', {
      metric: published(this.stage, 'intent_lookups_total', { result: 'failed' }),
      threshold: 0,
      minutes: 15,
      meaning: 'The online service cannot read the label table, and scores every query.',
      section: 'slow-online-service',
    });
    alarms.on('BulkFailed', {
      metric: this.parts.bulk.stateMachine.metricFailed(perMinute),
      threshold: 0,
      minutes: 1,
      meaning: 'A bulk run failed.',
      section: 'bulk-run-failed',
    });
    alarms.on('BulkNotStarted', {
      metric: new cloudwatch.Metric({
        namespace: 'AWS/Events',
        metricName: 'FailedInvocations',
        dimensionsMap: { RuleName: this.parts.bulk.schedule.ruleName },
        ...perMinute,
      }),
      threshold: 0,
      minutes: 1,
      meaning: 'The schedule could not start a bulk run.',
      section: 'bulk-run-failed',
    });
    alarms.on('FunctionErrors', {
      metric: this.parts.serverless.function.metricErrors(perMinute),
      threshold: 0,
      meaning: 'The function fails as a whole, not for single messages.',
      section: 'function-errors',
    });
  }

  /** What neuron-monitor says of the chips of a fleet, and that it says something. */
  private chipAlarms({ worker, intent }: Config, alarms: Alarms, fleet: Fleet): void {
    const floor = { worker: worker.chipsMin, intent: intent.tasksMin }[fleet];
    const name = fleet === 'worker' ? 'Worker' : 'Intent';
    alarms.on(`${name}DeviceErrors`, {
      metric: published(this.stage, 'execution_errors_total', { fleet }),
      threshold: 0,
      minutes: 1,
      meaning: `A NeuronCore of the ${fleet} hosts failed.`,
      section: 'device-errors',
    });
    alarms.on(`${name}Unwatched`, {
      metric: published(this.stage, 'neuroncore_utilization_ratio', { fleet }, 'SampleCount'),
      threshold: 1,
      comparison: cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
      missing: floor > 0 ? cloudwatch.TreatMissingData.BREACHING : cloudwatch.TreatMissingData.NOT_BREACHING,
      minutes: 15,
      meaning: `No ${fleet} host publishes metrics: other alarms of these hosts are blind.`,
      section: 'unwatched-hosts',
    });
  }

  private dashboard(config: Config): void {
    const { events, intent } = this.parts;
    const queues = [events.catalog, events.queries, events.bulk];
    const graph = (title: string, ...left: cloudwatch.IMetric[]) =>
      new cloudwatch.GraphWidget({ title, left, width: 8, height: 6 });
    const period = { period: MINUTE };
    new cloudwatch.Dashboard(this, 'Dashboard', {
      dashboardName: namePrefix(config),
      defaultInterval: Duration.hours(6),
      widgets: [
        [
          graph(
            'Age of the oldest message (s)',
            ...queues.map((queue) => queue.metricApproximateAgeOfOldestMessage(period)),
          ),
          graph('Messages visible', ...queues.map((queue) => queue.metricApproximateNumberOfMessagesVisible(period))),
          graph(
            `Messages in flight, of ${IN_FLIGHT_CAP}`,
            ...queues.map((queue) => queue.metricApproximateNumberOfMessagesNotVisible(period)),
          ),
        ],
        [
          graph(
            'Dead letters',
            ...[events.deadLetters, events.undelivered].map((queue) =>
              queue.metricApproximateNumberOfMessagesVisible(period),
            ),
          ),
          graph('Stale labels (% of events)', ...LANES.map((lane) => stalePercent(config, lane))),
          graph(
            'Events and failures',
            published(this.stage, 'events_total'),
            published(this.stage, 'event_failures_total'),
          ),
        ],
        [
          graph('Online service: P99 (s)', this.p99()),
          graph(
            'Online service: requests, and those in work',
            intent.loadBalancer.metrics.requestCount(period),
            published(this.stage, 'http_requests_total'),
            published(this.stage, 'http_requests_in_work'),
          ),
          graph(
            'Pairs, queries and labels',
            ...['pairs_scored_total', 'pairs_skipped_total', 'queries_scored_total', 'label_items_written_total'].map(
              (name) => published(this.stage, name),
            ),
          ),
        ],
        [
          graph('Online service: refused (%)', this.refusedPercent()),
          graph('Online service: intents known', published(this.stage, 'intents_known_total')),
          graph(
            'Online service: looks in the table',
            ...['answered', 'failed', 'late'].map((result) =>
              published(this.stage, 'intent_lookups_total', { result }),
            ),
          ),
        ],
        [
          graph('Chips in service', this.chips()),
          graph(
            'NeuronCores in use',
            ...FLEETS.map((fleet) =>
              published(this.stage, 'neuroncore_utilization_ratio', { fleet }, 'Average').with({ label: fleet }),
            ),
          ),
          graph('Dollars per million labels', this.dollarsPerMillionLabels(config.alarms.dollarsPerChipHour)),
        ],
      ],
    });
  }

  private chips(period = MINUTE): cloudwatch.Metric {
    return new cloudwatch.Metric({
      namespace: 'AWS/AutoScaling',
      metricName: 'GroupInServiceCapacity',
      dimensionsMap: { AutoScalingGroupName: this.parts.worker.groupName },
      statistic: 'Average',
      period,
      label: 'chips in service',
    });
  }

  private p99(): cloudwatch.IMetric {
    return this.parts.intent.targets.metrics.targetResponseTime({ statistic: 'p99', period: MINUTE });
  }

  /** Of the requests to the online service, those that it did not begin. */
  private refusedPercent(): cloudwatch.MathExpression {
    return new cloudwatch.MathExpression({
      expression: '100 * FILL(refused, 0) / requests',
      usingMetrics: {
        refused: published(this.stage, 'http_requests_total', { status: '429' }),
        requests: published(this.stage, 'http_requests_total'),
      },
      period: MINUTE,
      label: 'requests refused (%)',
    });
  }

  /** What the chips of an hour cost over what they labelled in it; other services come on top. */
  private dollarsPerMillionLabels(dollarsPerChipHour: number): cloudwatch.MathExpression {
    const hour = Duration.hours(1);
    return new cloudwatch.MathExpression({
      expression: `1000000 * ${dollarsPerChipHour} * chips / labels`,
      usingMetrics: {
        chips: this.chips(hour),
        labels: published(this.stage, 'label_items_written_total', {}, 'Sum', hour),
      },
      period: hour,
      label: 'dollars per million labels',
    });
  }
}
