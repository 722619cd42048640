import { describe, expect, it } from 'vitest';

import { TABLES } from '../lib/stacks/data.ts';
import { CONFIG, only, type Properties, template } from './app.ts';

const tables = () =>
  Object.values(template('data').findResources('AWS::DynamoDB::Table')).map((table) => table.Properties);

/** What the worker's definition says, read off a table of the template. */
function definitionOf(table: Properties) {
  const key = (type: string) =>
    table.KeySchema.find((part: Properties) => part.KeyType === type)?.AttributeName ?? null;
  const types = new Set(table.AttributeDefinitions.map((attribute: Properties) => attribute.AttributeType));
  expect([...types]).toEqual(['S']);
  return {
    name: table.TableName.replace(`catalog-labels-${CONFIG.stage}-`, ''),
    partition_key: key('HASH'),
    sort_key: key('RANGE'),
    ttl_attribute: table.TimeToLiveSpecification?.Enabled ? table.TimeToLiveSpecification.AttributeName : null,
    stream: table.StreamSpecification?.StreamViewType === 'NEW_AND_OLD_IMAGES',
  };
}

describe('data', () => {
  it('has the tables that the worker defines, and no other', () => {
    expect(tables().map(definitionOf)).toEqual(TABLES);
  });

  it('keeps every table: point-in-time recovery, deletion protection, retained with its stack', () => {
    template('data').allResources('AWS::DynamoDB::Table', { DeletionPolicy: 'Retain', UpdateReplacePolicy: 'Retain' });
    for (const table of tables()) {
      expect(table).toMatchObject({
        BillingMode: 'PAY_PER_REQUEST',
        DeletionProtectionEnabled: true,
        PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true },
      });
    }
  });

  it('encrypts tables and buckets with its own rotated key', () => {
    for (const table of tables()) {
      expect(table.SSESpecification).toMatchObject({
        SSEEnabled: true,
        SSEType: 'KMS',
        KMSMasterKeyId: { 'Fn::GetAtt': [expect.stringMatching(/^Key/), 'Arn'] },
      });
    }
    expect(only('data', 'AWS::KMS::Key').EnableKeyRotation).toBe(true);
    for (const name of ['models', 'bulk']) {
      const { BucketEncryption } = bucket(name);
      expect(BucketEncryption.ServerSideEncryptionConfiguration[0]).toMatchObject({
        BucketKeyEnabled: true,
        ServerSideEncryptionByDefault: { SSEAlgorithm: 'aws:kms' },
      });
    }
    expect(
      bucket('logs').BucketEncryption.ServerSideEncryptionConfiguration[0].ServerSideEncryptionByDefault.SSEAlgorithm,
    ).toBe('AES256');
  });

  it('keeps buckets private, retained, over TLS only, and their accesses logged', () => {
    template('data').allResources('AWS::S3::Bucket', { DeletionPolicy: 'Retain' });
    for (const name of ['models', 'bulk', 'logs']) {
      expect(bucket(name)).toMatchObject({
        PublicAccessBlockConfiguration: {
          BlockPublicAcls: true,
          BlockPublicPolicy: true,
          IgnorePublicAcls: true,
          RestrictPublicBuckets: true,
        },
        LoggingConfiguration: { LogFilePrefix: `access/${name}/` },
      });
    }
    const policies = Object.values(template('data').findResources('AWS::S3::BucketPolicy'));
    expect(policies).toHaveLength(3);
    for (const policy of policies) {
      expect(policy.Properties.PolicyDocument.Statement).toContainEqual(
        expect.objectContaining({ Effect: 'Deny', Condition: { Bool: { 'aws:SecureTransport': 'false' } } }),
      );
    }
  });

  it('keeps earlier models for a roll-back', () => {
    expect(bucket('models').VersioningConfiguration.Status).toBe('Enabled');
  });
});

function bucket(what: string): Properties {
  return only('data', 'AWS::S3::Bucket', (properties) => JSON.stringify(properties.BucketName).includes(`-${what}-`));
}
