/** Each call of AWS that scripts and pages name is permitted to those who make it. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { HOST_SCRIPTS } from '../lib/build/host.ts';
import { CDK_FOLDER } from '../lib/config/read.ts';
import { only, type Properties, statements } from './app.ts';

describe('calls of AWS', () => {
  const right = (service: string, operation: string, copies: string) =>
    service === 's3'
      ? `s3:${copies}`
      : `${service}:${operation.replace(/(^|-)(\w)/g, (_, _dash, c) => c.toUpperCase())}`;
  /** Rights that the scripts' calls need; a copy from or to S3 says which by its direction. */
  const needed = (copies: string, ...scripts: string[]) => {
    const calls = scripts.flatMap((script) => [...script.matchAll(/^[^#]*?\baws (\w+) ([\w-]+)/gm)]);
    const rights = new Set(
      calls.map(([, service, operation]) => right(service as string, operation as string, copies)),
    );
    // Anybody may ask who they are.
    rights.delete('sts:GetCallerIdentity');
    return [...rights].sort();
  };
  const page = (name: string) => readFileSync(join(CDK_FOLDER, '../docs', name), 'utf8');
  const operator = () => allows(only('bulk', 'AWS::IAM::ManagedPolicy').PolicyDocument.Statement);
  const script = (name: string) => readFileSync(join(CDK_FOLDER, 'host', name), 'utf8');
  const allows = (statements: Properties[]) => statements.flatMap(({ Action }) => Action as string);

  it('that a worker host makes are permitted to it', () => {
    const onHost = HOST_SCRIPTS.map(script);
    const rights = needed('GetObject', ...onHost);
    expect(rights).toEqual([
      'autoscaling:CompleteLifecycleAction',
      'autoscaling:SetInstanceHealth',
      'autoscaling:SetInstanceProtection',
      's3:GetObject',
      'ssm:GetParameter',
    ]);
    expect(allows(statements('worker'))).toEqual(expect.arrayContaining(rights));
  });

  it('that moving the model pointer makes are permitted to an operator', () => {
    const rights = needed('PutObject', script('publish-model.sh'));
    expect(rights).toEqual(['s3:PutObject', 'ssm:GetParameterHistory', 'ssm:PutParameter']);
    expect(operator()).toEqual(expect.arrayContaining(rights));
  });

  it('that the runbook names are permitted to an operator', () => {
    const named = [...page('RUNBOOK.md').matchAll(/`aws (\w+) ([\w-]+)/g)].map(([, service, operation]) =>
      right(service as string, operation as string, 'PutObject'),
    );
    // What is only looked at, ReadOnlyAccess permits.
    const changes = named.filter((action) => !/:(Describe|Get|List)/.test(action));
    expect(changes.length).toBeGreaterThan(2);
    expect(operator()).toEqual(expect.arrayContaining(changes));
  });

  it('that DEPLOY.md names to send an event are permitted to a sender', () => {
    const sent = [...page('DEPLOY.md').matchAll(/^ +aws (events) (put-events) /gm)].map(([, service, operation]) =>
      right(service as string, operation as string, 'PutObject'),
    );
    expect(sent).toEqual(['events:PutEvents']);
    const { Statement } = only('events', 'AWS::IAM::ManagedPolicy').PolicyDocument;
    expect(allows(Statement)).toEqual(
      expect.arrayContaining([...sent, 'sns:Publish', 'kms:GenerateDataKey', 'kms:Decrypt']),
    );
  });
});
