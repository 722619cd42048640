/** The one place that knows every stack, in the order in which they need each other. */

import { type App, type Environment, Tags } from 'aws-cdk-lib';

import { type Config, namePrefix } from '../config/config.ts';
import { BulkStack } from '../stacks/bulk.ts';
import { DataStack } from '../stacks/data.ts';
import { EventsStack } from '../stacks/events.ts';
import { IntentStack } from '../stacks/intent.ts';
import { NetworkStack } from '../stacks/network.ts';
import { ObservabilityStack } from '../stacks/observability.ts';
import { ServerlessStack } from '../stacks/serverless.ts';
import { WorkerStack } from '../stacks/worker.ts';
import { openRelease } from './release.ts';

/** Behaviour of the CDK that newer projects get by themselves. */
export const FLAGS = {
  '@aws-cdk/core:enablePartitionLiterals': true,
  '@aws-cdk/aws-iam:minimizePolicies': true,
  '@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy': true,
  '@aws-cdk/aws-autoscaling:generateLaunchTemplateInsteadOfLaunchConfig': true,
  '@aws-cdk/aws-ecs:disableExplicitDeploymentControllerForCircuitBreaker': true,
  '@aws-cdk/aws-ecs:arnFormatIncludesClusterName': true,
  '@aws-cdk/aws-ecs:removeDefaultDeploymentAlarm': true,
  '@aws-cdk/aws-ecs:reduceEc2FargateCloudWatchPermissions': true,
  '@aws-cdk/aws-ecs:disableEcsImdsBlocking': true,
  '@aws-cdk/aws-events:eventsTargetQueueSameAccount': true,
  '@aws-cdk/aws-sns-subscriptions:restrictSqsDescryption': true,
  '@aws-cdk/aws-stepfunctions:useDistributedMapResultWriterV2': true,
  '@aws-cdk/customresources:installLatestAwsSdkDefault': false,
};

/** CloudFormation knows no tags of these, though the CDK writes them. */
const UNTAGGED = [
  'AWS::ApplicationAutoScaling::ScalableTarget',
  'AWS::CloudWatch::Dashboard',
  'AWS::ElasticLoadBalancingV2::Listener',
];

export interface Stacks {
  readonly network: NetworkStack;
  readonly data: DataStack;
  readonly events: EventsStack;
  readonly worker: WorkerStack;
  readonly intent: IntentStack;
  readonly bulk: BulkStack;
  readonly serverless: ServerlessStack;
  readonly observability: ObservabilityStack;
}

/** Throws a ConfigError where the release is not there. */
export function buildStacks(app: App, config: Config): Stacks {
  const release = openRelease(config.dist);
  const id = (name: string) => `${namePrefix(config)}-${name}`;
  const env: Environment | undefined = config.environment;
  const props = (description: string) => ({ env, description: `catalog-labels ${config.stage}: ${description}` });
  const lasting = (description: string) => ({ ...props(description), terminationProtection: true });

  const network = new NetworkStack(app, id('network'), config, props('network'));
  const { vpc } = network;
  const data = new DataStack(app, id('data'), config, lasting('keys, tables, buckets'));
  const events = new EventsStack(app, id('events'), config, lasting('bus, topic, queues'));
  const worker = new WorkerStack(app, id('worker'), config, { ...props('worker fleet'), vpc, data, events, release });
  const intent = new IntentStack(app, id('intent'), config, { ...props('online service'), vpc, data, release });
  const bulk = new BulkStack(app, id('bulk'), config, { ...props('bulk runs'), data, events, release });
  const serverless = new ServerlessStack(app, id('serverless'), config, {
    ...props('function'),
    data,
    events,
    release,
  });
  const observability = new ObservabilityStack(app, id('observability'), config, {
    ...props('dashboard and alarms'),
    events,
    worker,
    intent,
    bulk,
    serverless,
  });
  for (const [key, value] of [
    ['application', 'catalog-labels'],
    ['stage', config.stage],
  ] as const) {
    Tags.of(app).add(key, value, { excludeResourceTypes: UNTAGGED });
  }
  return { network, data, events, worker, intent, bulk, serverless, observability };
}
