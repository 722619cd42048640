import { Stack } from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import type { StateMachine } from 'aws-cdk-lib/aws-stepfunctions';
import type { Construct } from 'constructs';

import { type Config, modelPointer, namePrefix, objectsArn } from '../config/config.ts';
import type { DataStack } from '../stacks/data.ts';
import type { EventsStack } from '../stacks/events.ts';
import { acknowledgeResources } from './acknowledge.ts';
import { feedStatements, keyStatements, labelStatements, listStatements, walkStatements } from './permissions.ts';

export interface OperatorProps {
  readonly config: Config;
  readonly data: DataStack;
  readonly events: EventsStack;
  readonly bulkRun: StateMachine;
}

/**
 * What people need for the commands of docs/DEPLOY.md and the runbook once a stage is
 * deployed: to look labels up and export them, to roll models and key epochs out and back, to
 * reconcile and to back-fill. Attached to nobody; the owner gives it to a role of theirs.
 */
export class OperatorPolicy extends iam.ManagedPolicy {
  constructor(scope: Construct, id: string, { config, data, events, bulkRun }: OperatorProps) {
    const uploads = [objectsArn(config, 'models', 'models/'), objectsArn(config, 'bulk', 'input/')];
    const pointer = Stack.of(scope).formatArn({
      service: 'ssm',
      resource: 'parameter',
      resourceName: modelPointer(config).slice(1),
    });
    const allow = (sid: string, actions: string[], resources: string[]) =>
      new iam.PolicyStatement({ sid, actions, resources });
    super(scope, id, {
      managedPolicyName: `${namePrefix(config)}-operator`,
      description: 'To operate catalog-labels by its own commands',
      statements: [
        ...labelStatements(data.tables),
        ...walkStatements(data.tables, ['products', 'intents', 'labels']),
        ...feedStatements(events.bulk),
        ...keyStatements(data.key, events.key),
        ...listStatements(data.bulk.bucketArn),
        allow('Upload', ['s3:PutObject'], uploads),
        allow('MovePointer', ['ssm:GetParameter', 'ssm:GetParameterHistory', 'ssm:PutParameter'], [pointer]),
        allow('StartBulkRun', ['states:StartExecution'], [bulkRun.stateMachineArn]),
      ],
    });
    acknowledgeResources(this, 'models and inputs are named by whoever uploads them', ...uploads);
  }
}
