import { Match, Template } from 'aws-cdk-lib/assertions';
import { describe, expect, it } from 'vitest';

import { visibilitySeconds } from '../lib/stacks/events.ts';
import { build, CONFIG, only, template } from './app.ts';

describe('function', () => {
  it('is off while there is a fleet, and on where the configuration says so', () => {
    template('serverless').allResourcesProperties('AWS::Lambda::EventSourceMapping', { Enabled: false });
    const serverless = { ...CONFIG.serverless, enabled: true };
    const { stacks } = build({ ...CONFIG, serverless, worker: { ...CONFIG.worker, chipsMin: 0, chipsMax: 0 } });
    Template.fromStack(stacks.serverless).allResourcesProperties('AWS::Lambda::EventSourceMapping', { Enabled: true });
  });

  it('answers for each message, so that a poison one costs its neighbours nothing', () => {
    template('serverless').allResourcesProperties('AWS::Lambda::EventSourceMapping', {
      FunctionResponseTypes: ['ReportBatchItemFailures'],
      ScalingConfig: { MaximumConcurrency: CONFIG.serverless.concurrencyMax },
    });
  });

  it('reads every queue, that of bulk runs too: without a fleet nobody else does', () => {
    const sources = Object.values(template('serverless').findResources('AWS::Lambda::EventSourceMapping'));
    const queues = sources.map(({ Properties: source }) => JSON.stringify(source.EventSourceArn));
    for (const name of ['Catalog', 'Queries', 'BulkQueue'])
      expect(
        queues.filter((queue) => queue.includes(`GetAtt${name}`)),
        name,
      ).toHaveLength(1);
    expect(queues).toHaveLength(3);
  });

  it('may be made beside queues of a fleet: Lambda refuses a source with less than its own timeout', () => {
    for (const timeoutSeconds of [30, 900]) {
      const serverless = { ...CONFIG.serverless, timeoutSeconds };
      expect(visibilitySeconds({ ...CONFIG, serverless })).toBeGreaterThanOrEqual(timeoutSeconds);
    }
  });

  it('ends before its messages come back', () => {
    const { Timeout } = only('serverless', 'AWS::Lambda::Function');
    expect(
      visibilitySeconds({ ...CONFIG, serverless: { ...CONFIG.serverless, enabled: true } }),
    ).toBeGreaterThanOrEqual(6 * Timeout);
  });

  it('runs the worker of the CPU image', () => {
    template('serverless').hasResourceProperties('AWS::Lambda::Function', {
      PackageType: 'Image',
      ImageConfig: { Command: ['lambda'] },
      TracingConfig: { Mode: 'Active' },
      MemorySize: Match.anyValue(),
    });
  });
});
