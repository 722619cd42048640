/** What the binary may do, statement by statement; the fleet and the function share it. */

import { Aws } from 'aws-cdk-lib';
import { PolicyStatement } from 'aws-cdk-lib/aws-iam';
import type { IKey } from 'aws-cdk-lib/aws-kms';
import type { ILogGroup } from 'aws-cdk-lib/aws-logs';
import type { IQueue } from 'aws-cdk-lib/aws-sqs';
import type { ITable } from 'aws-cdk-lib/aws-dynamodb';

const allow = (sid: string, actions: string[], resources: string[]) => new PolicyStatement({ sid, actions, resources });

const SETTINGS = ['sqs:GetQueueAttributes', 'sqs:GetQueueUrl'];

/** To take messages from `queues` and to settle them; to park what can't be labelled. */
export function consumeStatements(queues: readonly IQueue[], deadLetters: IQueue): PolicyStatement[] {
  return [
    allow(
      'Consume',
      ['sqs:ReceiveMessage', 'sqs:DeleteMessage', 'sqs:ChangeMessageVisibility', ...SETTINGS],
      queues.map((queue) => queue.queueArn),
    ),
    allow('Park', ['sqs:SendMessage', ...SETTINGS], [deadLetters.queueArn]),
  ];
}

/** To read and write every table, and to look at how it is made. */
export function labelStatements(tables: readonly ITable[]): PolicyStatement[] {
  const actions = [
    'dynamodb:BatchGetItem',
    'dynamodb:BatchWriteItem',
    'dynamodb:ConditionCheckItem',
    'dynamodb:DeleteItem',
    'dynamodb:DescribeTable',
    'dynamodb:DescribeTimeToLive',
    'dynamodb:GetItem',
    'dynamodb:PutItem',
    'dynamodb:Query',
    'dynamodb:UpdateItem',
  ];
  return [
    allow(
      'Label',
      actions,
      tables.map((table) => table.tableArn),
    ),
  ];
}

/** To read the tables of these names from one end to the other. */
export function walkStatements(tables: readonly ITable[], names: readonly string[]): PolicyStatement[] {
  return [allow('Walk', ['dynamodb:Scan'], arnsOf(tables, names))];
}

/** To look up what the online service reads; it describes every table when it starts. */
export function lookUpStatements(tables: readonly ITable[]): PolicyStatement[] {
  const arns = tables.map((table) => table.tableArn);
  return [
    allow('LookUp', ['dynamodb:GetItem'], arnsOf(tables, ['control', 'intents'])),
    allow('Verify', ['dynamodb:DescribeTable', 'dynamodb:DescribeTimeToLive'], arns),
  ];
}

/** What DynamoDB asks for of a table's key; SQS and S3 need two of them. */
const USES_OF_KEYS = [
  'kms:Decrypt',
  'kms:DescribeKey',
  'kms:Encrypt',
  'kms:GenerateDataKey',
  'kms:GenerateDataKeyWithoutPlaintext',
  'kms:ReEncryptFrom',
  'kms:ReEncryptTo',
];

/** To use keys through the services that encrypt with them, and in no other way. */
export function keyStatements(...keys: readonly IKey[]): PolicyStatement[] {
  const services = ['dynamodb', 's3', 'sqs'].map((service) => `${service}.${Aws.REGION}.amazonaws.com`);
  return [
    new PolicyStatement({
      sid: 'UseKeys',
      actions: USES_OF_KEYS,
      resources: keys.map((key) => key.keyArn),
      conditions: { StringEquals: { 'kms:ViaService': services } },
    }),
  ];
}

/** To fetch single objects. */
export function fetchStatements(...objectArns: readonly string[]): PolicyStatement[] {
  return [allow('Fetch', ['s3:GetObject'], [...objectArns])];
}

/** To see that a bucket is there: without this right a missing object looks like a denied one. */
export function listStatements(bucketArn: string): PolicyStatement[] {
  return [allow('List', ['s3:ListBucket'], [bucketArn])];
}

/** To write into one log group. */
export function logStatements(logGroup: ILogGroup): PolicyStatement[] {
  return [
    allow('Log', ['logs:CreateLogStream', 'logs:DescribeLogStreams', 'logs:PutLogEvents'], [logGroup.logGroupArn]),
  ];
}

/** Tables end in their names, which are those of docs/schema/tables.json. */
function arnsOf(tables: readonly ITable[], names: readonly string[]): string[] {
  return tables
    .filter(({ node }) => names.some((name) => node.id.endsWith(`-${name}`)))
    .map(({ tableArn }) => tableArn);
}
