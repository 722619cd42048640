/** What the binary may do, statement by statement; the fleet and the function share it. */

import { PolicyStatement } from 'aws-cdk-lib/aws-iam';
import type { IKey } from 'aws-cdk-lib/aws-kms';
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

/** To look labels up and to keep new ones of queries, as the online service does. */
export function lookUpStatements(tables: readonly ITable[]): PolicyStatement[] {
  const actions = [
    'dynamodb:BatchGetItem',
    'dynamodb:DescribeTable',
    'dynamodb:DescribeTimeToLive',
    'dynamodb:GetItem',
    'dynamodb:Query',
  ];
  return [
    allow(
      'LookUp',
      actions,
      tables.map((table) => table.tableArn),
    ),
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
