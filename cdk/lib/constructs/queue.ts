import { Duration, RemovalPolicy } from 'aws-cdk-lib';
import type { IKey } from 'aws-cdk-lib/aws-kms';
import * as sqs from 'aws-cdk-lib/aws-sqs';
import type { Construct } from 'constructs';

/**
 * Receives after which SQS moves a message away. A count of one turns each deploy into
 * dead letters.
 */
export const RECEIVES_MAX = 5;

export interface QueueProps {
  readonly queueName: string;
  readonly key: IKey;
  readonly retention: Duration;
  /** How long a received message stays with its receiver when it says nothing. */
  readonly visibility?: Duration;
  /** None for the dead-letter queue itself. */
  readonly deadLetters?: sqs.IQueue;
}

/** An encrypted queue, over TLS only, that survives its stack. */
export class Queue extends sqs.Queue {
  constructor(scope: Construct, id: string, { key, visibility, retention, deadLetters, queueName }: QueueProps) {
    super(scope, id, {
      queueName,
      encryption: sqs.QueueEncryption.KMS,
      encryptionMasterKey: key,
      // A data key an hour instead of one a request.
      dataKeyReuse: Duration.hours(1),
      enforceSSL: true,
      retentionPeriod: retention,
      visibilityTimeout: visibility,
      receiveMessageWaitTime: Duration.seconds(20),
      deadLetterQueue: deadLetters && { queue: deadLetters, maxReceiveCount: RECEIVES_MAX },
      removalPolicy: RemovalPolicy.RETAIN,
    });
  }
}
