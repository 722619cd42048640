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
    template('serverless').resourceCountIs('AWS::Lambda::EventSourceMapping', 2);
    template('serverless').allResourcesProperties('AWS::Lambda::EventSourceMapping', {
      FunctionResponseTypes: ['ReportBatchItemFailures'],
      ScalingConfig: { MaximumConcurrency: CONFIG.serverless.concurrencyMax },
    });
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
