import { Aws } from 'aws-cdk-lib';
import type { IEventBus } from 'aws-cdk-lib/aws-events';
import * as iam from 'aws-cdk-lib/aws-iam';
import type { IKey } from 'aws-cdk-lib/aws-kms';
import type { ITopic } from 'aws-cdk-lib/aws-sns';
import type { Construct } from 'constructs';

import { type Config, namePrefix } from '../config/config.ts';

export interface SenderProps {
  readonly config: Config;
  readonly bus: IEventBus;
  readonly topic: ITopic;
  readonly topicKey: IKey;
}

/**
 * To put catalog changes on the bus and queries on the topic. Attached to nobody; the owner
 * gives it to the roles of catalog and search.
 */
export class SenderPolicy extends iam.ManagedPolicy {
  constructor(scope: Construct, id: string, { config, bus, topic, topicKey }: SenderProps) {
    super(scope, id, {
      managedPolicyName: `${namePrefix(config)}-sender`,
      description: 'To send events to catalog-labels',
      statements: [
        new iam.PolicyStatement({ sid: 'PutEvents', actions: ['events:PutEvents'], resources: [bus.eventBusArn] }),
        new iam.PolicyStatement({ sid: 'Publish', actions: ['sns:Publish'], resources: [topic.topicArn] }),
        new iam.PolicyStatement({
          sid: 'UseTopicKey',
          actions: ['kms:Decrypt', 'kms:GenerateDataKey'],
          resources: [topicKey.keyArn],
          conditions: { StringEquals: { 'kms:ViaService': `sns.${Aws.REGION}.amazonaws.com` } },
        }),
      ],
    });
  }
}
