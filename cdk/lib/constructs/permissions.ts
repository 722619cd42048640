/** What the binary may do, statement by statement; the fleet and the function share it. */

import { PolicyStatement } from 'aws-cdk-lib/aws-iam';
import type { IKey } from 'aws-cdk-lib/aws-kms';
import type { ILogGroup } from 'aws-cdk-lib/aws-logs';
import type { IQueue } from 'aws-cdk-lib/aws-sqs';
import type { ITable } from 'aws-cdk-lib/aws-dynamodb';

const allow = (sid: string, actions: string[], resources: string[]) => new PolicyStatement({ sid, actions, resources });

/** To take messages from `queues` and to settle them; to park what can't be labelled. */
export function consumeStatements(queues: readonly IQueue[], deadLetters: IQueue): PolicyStatement[] {
  const settings = ['sqs:GetQueueAttributes', 'sqs:GetQueueUrl'];
  return [
    allow(
      'Consume',
      ['sqs:ReceiveMessage', 'sqs:DeleteMessage', 'sqs:ChangeMessageVisibility', ...settings],
      queues.map((queue) => queue.queueArn),
    ),
    allow('Park', ['sqs:SendMessage', ...settings], [deadLetters.queueArn]),
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

/** To look up what the online service reads; it describes every table when it starts. */
export function lookUpStatements(tables: readonly ITable[]): PolicyStatement[] {
  const read = tables.filter(({ node }) => /-(control|intents)$/.test(node.id));
  const arns = (some: readonly ITable[]) => some.map((table) => table.tableArn);
  return [
    allow('LookUp', ['dynamodb:GetItem'], arns(read)),
    allow('Verify', ['dynamodb:DescribeTable', 'dynamodb:DescribeTimeToLive'], arns(tables)),
  ];
}

/** To use keys through the services that encrypt with them. */
export function keyStatements(...keys: readonly IKey[]): PolicyStatement[] {
  return [
    allow(
      'UseKeys',
      ['kms:Decrypt', 'kms:GenerateDataKey'],
      keys.map((key) => key.keyArn),
    ),
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
