import { Stack } from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import type { StateMachine } from 'aws-cdk-lib/aws-stepfunctions';
import type { Construct } from 'constructs';

import { type Config, modelPointer, namePrefix, objectsArn } from '../config/config.ts';
import type { DataStack } from '../stacks/data.ts';
import type { EventsStack } from '../stacks/events.ts';
import { acknowledgeResources } from './acknowledge.ts';
import { groupArn } from './refresh.ts';
import { keyStatements, labelStatements, listStatements, walkStatements } from './permissions.ts';

export interface OperatorProps {
  readonly config: Config;
  readonly data: DataStack;
  readonly events: EventsStack;
  readonly bulkRun: StateMachine;
}

/**
 * What people need for the commands of docs/DEPLOY.md and the runbook once a stage is
 * deployed: to look labels up and export them, to roll models and key epochs out and back, to
 * reconcile and to back-fill; at night to send dead letters again, to replay events and to
 * replace instances. Attached to nobody; the owner gives it to a role of theirs, with AWS's
 * ReadOnlyAccess for what is only looked at.
 */
export class OperatorPolicy extends iam.ManagedPolicy {
  constructor(scope: Construct, id: string, { config, data, events, bulkRun }: OperatorProps) {
    const uploads = [objectsArn(config, 'models', 'models/'), objectsArn(config, 'bulk', 'input/')];
    const pointer = Stack.of(scope).formatArn({
      service: 'ssm',
      resource: 'parameter',
      resourceName: modelPointer(config).slice(1),
    });
    const groups = ['workers', 'intent'].map((name) => groupArn(scope, `${namePrefix(config)}-${name}`));
    const replays = Stack.of(scope).formatArn({
      service: 'events',
      resource: 'replay',
      resourceName: `${namePrefix(config)}-*`,
    });
    const queues = [events.catalog, events.queries, events.bulk].map((queue) => queue.queueArn);
    const dead = [events.deadLetters, events.undelivered].map((queue) => queue.queueArn);
    const allow = (sid: string, actions: string[], resources: string[]) =>
      new iam.PolicyStatement({ sid, actions, resources });
    super(scope, id, {
      managedPolicyName: `${namePrefix(config)}-operator`,
      description: 'To operate catalog-labels by its own commands',
      statements: [
        ...labelStatements(data.tables),
        ...walkStatements(data.tables, ['products', 'intents', 'labels']),
        allow('Feed', ['sqs:SendMessage', 'sqs:GetQueueAttributes', 'sqs:GetQueueUrl'], queues),
        allow(
          'Redrive',
          [
            'sqs:ChangeMessageVisibility',
            'sqs:DeleteMessage',
            'sqs:GetQueueAttributes',
            'sqs:GetQueueUrl',
            'sqs:ReceiveMessage',
            'sqs:StartMessageMoveTask',
          ],
          dead,
        ),
        allow('Replay', ['events:StartReplay'], [events.archive.archiveArn, replays]),
        allow(
          'ReplaceInstances',
          ['autoscaling:SetDesiredCapacity', 'autoscaling:TerminateInstanceInAutoScalingGroup'],
          groups,
        ),
        ...keyStatements(data.key, events.key),
        ...listStatements(data.bulk.bucketArn),
        allow('Upload', ['s3:PutObject'], uploads),
        allow('MovePointer', ['ssm:GetParameter', 'ssm:GetParameterHistory', 'ssm:PutParameter'], [pointer]),
        allow('StartBulkRun', ['states:StartExecution'], [bulkRun.stateMachineArn]),
      ],
    });
    acknowledgeResources(this, 'the id in the ARN of a group is chosen when it is created', ...groups);
    acknowledgeResources(this, 'a replay is named by whoever starts it', replays);
    acknowledgeResources(this, 'models and inputs are named by whoever uploads them', ...uploads);
  }
}
