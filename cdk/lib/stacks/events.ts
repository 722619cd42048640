import { Duration, Stack, type StackProps } from 'aws-cdk-lib';
import * as events from 'aws-cdk-lib/aws-events';
import * as targets from 'aws-cdk-lib/aws-events-targets';
import * as sns from 'aws-cdk-lib/aws-sns';
import { SqsSubscription } from 'aws-cdk-lib/aws-sns-subscriptions';
import type { Construct } from 'constructs';

import { type Config, namePrefix } from '../config/config.ts';
import { acknowledge } from '../constructs/acknowledge.ts';
import { StageKey } from '../constructs/key.ts';
import { Queue } from '../constructs/queue.ts';
import { SenderPolicy } from '../constructs/sender.ts';

/** `detail-type` of the events that the rule takes off the bus. */
export const CATALOG_DETAIL_TYPES = ['upsert', 'delete', 'score_pairs'];
/** A worker's queues wait this many leases: one that lost its heartbeat twice is still its own. */
const LEASES_OF_VISIBILITY = 3;
/** A worker whose device takes longer for a batch calls itself not ready. */
export const SLOWEST_BATCH_SECONDS = 60;
/** Lambda asks for six timeouts of the function. */
const TIMEOUTS_OF_VISIBILITY = 6;

/** How events come in: a bus for the catalog, a topic for queries, and the queues behind them. */
export class EventsStack extends Stack {
  readonly key: StageKey;
  readonly bus: events.EventBus;
  readonly archive: events.Archive;
  readonly queryTopic: sns.Topic;
  readonly catalog: Queue;
  readonly queries: Queue;
  readonly bulk: Queue;
  /** What a worker parked, or received too often. */
  readonly deadLetters: Queue;
  /** What bus or topic could not deliver. */
  readonly undelivered: Queue;

  constructor(scope: Construct, id: string, config: Config, props: StackProps) {
    super(scope, id, props);
    this.key = new StageKey(this, 'Key', config, 'queues');
    const { key } = this;
    const name = namePrefix(config);
    const { retention } = config;
    const dead = (id: string, suffix: string) =>
      new Queue(this, id, { queueName: `${name}-${suffix}`, key, retention: Duration.days(retention.deadLetterDays) });
    this.deadLetters = dead('DeadLetters', 'dead-letters');
    this.undelivered = dead('Undelivered', 'undelivered');
    const queue = (id: string, suffix: string) =>
      new Queue(this, id, {
        queueName: `${name}-${suffix}`,
        key,
        retention: Duration.days(retention.queueDays),
        visibility: Duration.seconds(visibilitySeconds(config)),
        deadLetters: this.deadLetters,
      });
    this.catalog = queue('Catalog', 'catalog');
    this.queries = queue('Queries', 'queries');
    this.bulk = queue('BulkQueue', 'bulk');

    this.bus = new events.EventBus(this, 'Bus', { eventBusName: name, description: 'Changes of the catalog' });
    this.archive = this.bus.archive('Archive', {
      archiveName: name,
      description: 'Every change of the catalog, to be replayed',
      eventPattern: { detailType: CATALOG_DETAIL_TYPES },
      retention: Duration.days(retention.archiveDays),
    });
    new events.Rule(this, 'CatalogRule', {
      eventBus: this.bus,
      description: 'Catalog changes go to the catalog queue, as they are',
      eventPattern: { detailType: CATALOG_DETAIL_TYPES },
      targets: [
        new targets.SqsQueue(this.catalog, {
          message: events.RuleTargetInput.fromEventPath('$.detail'),
          deadLetterQueue: this.undelivered,
          retryAttempts: 185,
          maxEventAge: Duration.hours(24),
        }),
      ],
    });

    // Of its own: the queues' key names the topic, and so cannot also encrypt it.
    const topicKey = new StageKey(this, 'TopicKey', config, 'topics');
    this.queryTopic = new sns.Topic(this, 'QueryTopic', {
      topicName: `${name}-queries`,
      masterKey: topicKey,
      enforceSSL: true,
    });
    this.queryTopic.addSubscription(
      new SqsSubscription(this.queries, { rawMessageDelivery: true, deadLetterQueue: this.undelivered }),
    );
    new SenderPolicy(this, 'Sender', { config, bus: this.bus, topic: this.queryTopic, topicKey });
    acknowledge(this.deadLetters, 'it is the dead-letter queue', 'AwsSolutions-SQS3');
    acknowledge(this.undelivered, 'it is the dead-letter queue of bus and topic', 'AwsSolutions-SQS3');
  }
}

/** The queues' own visibility timeout: a receiver that sets none keeps a message this long. */
export function visibilitySeconds({ worker, serverless }: Config): number {
  return serverless.enabled
    ? TIMEOUTS_OF_VISIBILITY * serverless.timeoutSeconds
    : // Lambda refuses a queue with less than the function's own timeout, though it be off.
      Math.max(LEASES_OF_VISIBILITY * worker.leaseSeconds, 2 * SLOWEST_BATCH_SECONDS, serverless.timeoutSeconds);
}
