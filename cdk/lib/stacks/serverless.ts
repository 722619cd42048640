import { Duration, Stack, type StackProps } from 'aws-cdk-lib';
import { Platform } from 'aws-cdk-lib/aws-ecr-assets';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import { SqsEventSource } from 'aws-cdk-lib/aws-lambda-event-sources';
import { LogGroup, type RetentionDays } from 'aws-cdk-lib/aws-logs';
import type { Construct } from 'constructs';

import { functionEnvironment } from '../build/environment.ts';
import type { Release } from '../build/release.ts';
import { type Config, namePrefix, objectsArn } from '../config/config.ts';
import { acknowledgeResources } from '../constructs/acknowledge.ts';
import {
  consumeStatements,
  fetchStatements,
  keyStatements,
  labelStatements,
  listStatements,
  logStatements,
} from '../constructs/permissions.ts';
import type { DataStack } from './data.ts';
import type { EventsStack } from './events.ts';

/** Messages that are told one by one whether they succeeded. */
const BATCH = 10;

export interface ServerlessProps extends StackProps {
  readonly data: DataStack;
  readonly events: EventsStack;
  readonly release: Release;
}

/**
 * The variant without a fleet: one function reads the queues. Its event sources are off
 * unless the configuration turns them on, which needs a fleet of size zero.
 */
export class ServerlessStack extends Stack {
  readonly function: lambda.DockerImageFunction;

  constructor(scope: Construct, id: string, config: Config, { data, events, release, ...props }: ServerlessProps) {
    super(scope, id, props);
    const { enabled, memoryMib, timeoutSeconds, concurrencyMax } = config.serverless;
    const name = `${namePrefix(config)}-consumer`;
    const logGroup = new LogGroup(this, 'Log', {
      logGroupName: `/${namePrefix(config)}/function`,
      retention: config.retention.logDays as RetentionDays,
    });
    const role = new iam.Role(this, 'Role', {
      description: 'What the function may do',
      assumedBy: new iam.ServicePrincipal('lambda.amazonaws.com'),
    });
    const statements = [
      ...consumeStatements([events.catalog, events.queries, events.bulk], events.deadLetters),
      ...labelStatements(data.tables),
      ...keyStatements(data.key, events.key),
      ...logStatements(logGroup),
      ...fetchStatements(objectsArn(config, 'bulk', 'input/')),
      ...listStatements(data.bulk.bucketArn),
    ];
    for (const statement of statements) role.addToPolicy(statement);
    this.function = new lambda.DockerImageFunction(this, 'Function', {
      functionName: name,
      description: 'Labels what comes on the queues, without a fleet',
      code: lambda.DockerImageCode.fromImageAsset(release.cpuImage, {
        platform: Platform.LINUX_AMD64,
        cmd: ['lambda'],
      }),
      role,
      logGroup,
      memorySize: memoryMib,
      timeout: Duration.seconds(timeoutSeconds),
      tracing: lambda.Tracing.ACTIVE,
      environment: functionEnvironment(config, this.region, {
        catalog: events.catalog.queueUrl,
        queries: events.queries.queueUrl,
        bulk: events.bulk.queueUrl,
        deadLetters: events.deadLetters.queueUrl,
      }),
    });
    // Bulk runs too: without a fleet nobody else reads them.
    for (const queue of [events.catalog, events.queries, events.bulk]) {
      this.function.addEventSource(
        new SqsEventSource(queue, {
          enabled,
          batchSize: BATCH,
          maxConcurrency: concurrencyMax,
          // A poison message never costs its neighbours another run.
          reportBatchItemFailures: true,
        }),
      );
    }
    acknowledgeResources(role, 'tracing knows no resources', '*');
    acknowledgeResources(
      role,
      'objects of a bulk run are named by whoever uploads them',
      objectsArn(config, 'bulk', 'input/'),
    );
  }
}
