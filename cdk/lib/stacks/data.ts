import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { Duration, RemovalPolicy, Stack, type StackProps } from 'aws-cdk-lib';
import * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import { PolicyStatement, ServicePrincipal } from 'aws-cdk-lib/aws-iam';
import type * as kms from 'aws-cdk-lib/aws-kms';
import * as s3 from 'aws-cdk-lib/aws-s3';
import type { Construct } from 'constructs';

import { tablePrefix } from '../build/environment.ts';
import { bucketName, type Config } from '../config/config.ts';
import { CDK_FOLDER } from '../config/read.ts';
import { StageKey } from '../constructs/key.ts';

/** One table as the worker defines it: docs/schema/tables.json is what `catalog-labels tables` prints. */
export interface TableDefinition {
  readonly name: string;
  readonly partition_key: string;
  readonly sort_key: string | null;
  readonly ttl_attribute: string | null;
  readonly stream: boolean;
}

export const TABLES: readonly TableDefinition[] = JSON.parse(
  readFileSync(join(CDK_FOLDER, '../docs/schema/tables.json'), 'utf8'),
);

/** Prefix of access logs of the load balancer in the log bucket. */
export const LOAD_BALANCER_LOGS = 'load-balancer';

/** What outlives everything else: tables, buckets, and the key of both. */
export class DataStack extends Stack {
  readonly key: kms.Key;
  readonly tables: readonly dynamodb.Table[];
  readonly models: s3.Bucket;
  readonly bulk: s3.Bucket;
  readonly logs: s3.Bucket;

  constructor(scope: Construct, id: string, config: Config, props: StackProps) {
    super(scope, id, props);
    this.key = new StageKey(this, 'Key', config, 'data');
    this.tables = TABLES.map((table) => this.table(config, table));
    this.logs = new s3.Bucket(this, 'Logs', {
      bucketName: bucketName(config, 'logs'),
      ...BUCKET,
      // Load balancers deliver to no bucket with a key of one's own.
      encryption: s3.BucketEncryption.S3_MANAGED,
      lifecycleRules: [{ expiration: Duration.days(config.retention.logDays) }],
      serverAccessLogsPrefix: 'access/logs/',
    });
    this.logs.addToResourcePolicy(
      new PolicyStatement({
        sid: 'LoadBalancerLogs',
        principals: [new ServicePrincipal('logdelivery.elasticloadbalancing.amazonaws.com')],
        actions: ['s3:PutObject'],
        resources: [this.logs.arnForObjects(`${LOAD_BALANCER_LOGS}/AWSLogs/${this.account}/*`)],
      }),
    );
    this.models = this.bucket('Models', bucketName(config, 'models'), 'access/models/');
    this.bulk = this.bucket('Bulk', bucketName(config, 'bulk'), 'access/bulk/', [
      { prefix: 'reports/', expiration: Duration.days(config.retention.logDays) },
    ]);
  }

  private table(config: Config, table: TableDefinition): dynamodb.Table {
    const key = (name: string) => ({ name, type: dynamodb.AttributeType.STRING });
    return new dynamodb.Table(this, `Table-${table.name}`, {
      tableName: `${tablePrefix(config)}${table.name}`,
      partitionKey: key(table.partition_key),
      sortKey: table.sort_key === null ? undefined : key(table.sort_key),
      timeToLiveAttribute: table.ttl_attribute ?? undefined,
      stream: table.stream ? dynamodb.StreamViewType.NEW_AND_OLD_IMAGES : undefined,
      billingMode: dynamodb.BillingMode.PAY_PER_REQUEST,
      encryption: dynamodb.TableEncryption.CUSTOMER_MANAGED,
      encryptionKey: this.key,
      pointInTimeRecoverySpecification: { pointInTimeRecoveryEnabled: true },
      deletionProtection: true,
      removalPolicy: RemovalPolicy.RETAIN,
    });
  }

  private bucket(
    id: string,
    name: string,
    serverAccessLogsPrefix: string,
    lifecycleRules: s3.LifecycleRule[] = [],
  ): s3.Bucket {
    return new s3.Bucket(this, id, {
      bucketName: name,
      ...BUCKET,
      versioned: true,
      encryption: s3.BucketEncryption.KMS,
      encryptionKey: this.key,
      bucketKeyEnabled: true,
      lifecycleRules: [
        ...lifecycleRules,
        { noncurrentVersionExpiration: Duration.days(90), abortIncompleteMultipartUploadAfter: Duration.days(7) },
      ],
      serverAccessLogsBucket: this.logs,
      serverAccessLogsPrefix,
    });
  }
}

const BUCKET = {
  blockPublicAccess: s3.BlockPublicAccess.BLOCK_ALL,
  enforceSSL: true,
  removalPolicy: RemovalPolicy.RETAIN,
} as const;
