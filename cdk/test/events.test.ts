import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { Match, Template } from 'aws-cdk-lib/assertions';
import { describe, expect, it } from 'vitest';

import { CDK_FOLDER } from '../lib/config/read.ts';
import { CATALOG_DETAIL_TYPES, SLOWEST_BATCH_SECONDS, visibilitySeconds } from '../lib/stacks/events.ts';
import { build, CONFIG, only, type Properties, template } from './app.ts';

const queue = (name: string): Properties =>
  only('events', 'AWS::SQS::Queue', ({ QueueName }) => QueueName === `catalog-labels-test-${name}`);
const WORKED = ['catalog', 'queries', 'bulk'];

describe('events', () => {
  it.each(WORKED)('redrives %s to the dead letters after five receives', (name) => {
    expect(queue(name).RedrivePolicy).toMatchObject({
      maxReceiveCount: 5,
      deadLetterTargetArn: { 'Fn::GetAtt': [expect.stringMatching(/^DeadLetters/), 'Arn'] },
    });
  });

  it.each(WORKED)('keeps a message of %s invisible for longer than a lease', (name) => {
    expect(queue(name).VisibilityTimeout).toBeGreaterThan(2 * CONFIG.worker.leaseSeconds);
  });

  it('keeps a message invisible for longer than the slowest batch, however short the lease', () => {
    const health = readFileSync(join(CDK_FOLDER, '../consumer/src/app/health.rs'), 'utf8');
    const slowest = /fn default\(\) -> Self \{\s*Self \{ device_age_max: Duration::from_secs\((\d+)\)/.exec(
      health,
    )?.[1];
    expect(SLOWEST_BATCH_SECONDS).toBe(Number(slowest));
    for (const leaseSeconds of [10, 60, 3_600])
      expect(visibilitySeconds({ ...CONFIG, worker: { ...CONFIG.worker, leaseSeconds } })).toBeGreaterThan(
        SLOWEST_BATCH_SECONDS,
      );
    for (const name of WORKED) expect(queue(name).VisibilityTimeout).toBe(visibilitySeconds(CONFIG));
  });

  it('keeps a message invisible for six timeouts of the function where that reads the queues', () => {
    const serverless = { ...CONFIG.serverless, enabled: true };
    const { stacks } = build({ ...CONFIG, serverless, worker: { ...CONFIG.worker, chipsMin: 0, chipsMax: 0 } });
    const queues = Object.values(Template.fromStack(stacks.events).findResources('AWS::SQS::Queue')).map(
      (found) => found.Properties,
    );
    const catalog = queues.find(({ QueueName }) => QueueName.endsWith('-catalog'));
    expect(catalog?.VisibilityTimeout).toBeGreaterThanOrEqual(6 * serverless.timeoutSeconds);
  });

  it.each(['dead-letters', 'undelivered'])('keeps %s for at least as long as the queues', (name) => {
    for (const worked of WORKED)
      expect(queue(name).MessageRetentionPeriod).toBeGreaterThanOrEqual(queue(worked).MessageRetentionPeriod);
  });

  it('encrypts every queue and topic, and takes TLS only', () => {
    for (const name of [...WORKED, 'dead-letters', 'undelivered']) expect(queue(name).KmsMasterKeyId).toBeDefined();
    expect(only('events', 'AWS::SNS::Topic').KmsMasterKeyId).toBeDefined();
    const policies = [
      ...Object.values(template('events').findResources('AWS::SQS::QueuePolicy')),
      ...Object.values(template('events').findResources('AWS::SNS::TopicPolicy')),
    ];
    expect(policies).toHaveLength(6);
    for (const policy of policies) {
      expect(policy.Properties.PolicyDocument.Statement).toContainEqual(
        expect.objectContaining({ Effect: 'Deny', Condition: { Bool: { 'aws:SecureTransport': 'false' } } }),
      );
    }
  });

  it('lets bus and topic use the key of the queues that they write to, and no other account', () => {
    const own = only('events', 'AWS::KMS::Key', ({ Description }) => Description.endsWith(': queues'));
    const uses = (service: string) =>
      own.KeyPolicy.Statement.find(({ Principal }: Properties) => Principal.Service === `${service}.amazonaws.com`);
    for (const service of ['events', 'sns'])
      expect(uses(service).Action, service).toEqual(
        expect.arrayContaining(['kms:Decrypt', expect.stringMatching(/^kms:GenerateDataKey/)]),
      );
    expect(uses('events').Condition).toEqual({ StringEquals: { 'aws:SourceAccount': { Ref: 'AWS::AccountId' } } });
    expect(uses('sns').Condition.ArnEquals['aws:SourceArn']).toEqual({ Ref: expect.stringMatching(/^QueryTopic/) });
    // Each may send to its queue, and aside what it cannot deliver.
    const senders = (queue: string) =>
      Object.entries<Properties>(template('events').findResources('AWS::SQS::QueuePolicy'))
        .filter(([id]) => id.startsWith(queue))
        .flatMap(([, { Properties: policy }]) => policy.PolicyDocument.Statement)
        .filter(({ Effect, Action }) => Effect === 'Allow' && [Action].flat().includes('sqs:SendMessage'))
        .map(({ Principal }) => Principal.Service);
    expect(senders('Catalog')).toEqual(['events.amazonaws.com']);
    expect(senders('Queries')).toEqual(['sns.amazonaws.com']);
    expect(senders('Undelivered').sort()).toEqual(['events.amazonaws.com', 'sns.amazonaws.com']);
  });

  it('sends catalog changes to the catalog queue as they are, and what it cannot deliver aside', () => {
    template('events').hasResourceProperties('AWS::Events::Rule', {
      EventPattern: { 'detail-type': CATALOG_DETAIL_TYPES },
      State: 'ENABLED',
      Targets: [
        Match.objectLike({
          Arn: { 'Fn::GetAtt': [Match.stringLikeRegexp('^Catalog'), 'Arn'] },
          InputPath: '$.detail',
          DeadLetterConfig: { Arn: { 'Fn::GetAtt': [Match.stringLikeRegexp('^Undelivered'), 'Arn'] } },
        }),
      ],
    });
  });

  it('takes the types of events that the worker reads', () => {
    const schema = JSON.parse(readFileSync(join(CDK_FOLDER, '../docs/schema/catalog-event.schema.json'), 'utf8'));
    const types = schema.oneOf.map((variant: Properties) => variant.properties.type.const);
    expect([...CATALOG_DETAIL_TYPES].sort()).toEqual([...types].sort());
  });

  it('archives what it takes, for the replay window', () => {
    template('events').hasResourceProperties('AWS::Events::Archive', {
      EventPattern: { 'detail-type': CATALOG_DETAIL_TYPES },
      RetentionDays: CONFIG.retention.archiveDays,
    });
  });

  it('delivers queries from the topic without an envelope', () => {
    template('events').hasResourceProperties('AWS::SNS::Subscription', {
      Protocol: 'sqs',
      RawMessageDelivery: true,
      RedrivePolicy: { deadLetterTargetArn: Match.anyValue() },
    });
  });

  it('survives its stack', () => {
    template('events').allResources('AWS::SQS::Queue', { DeletionPolicy: 'Retain' });
  });
});
