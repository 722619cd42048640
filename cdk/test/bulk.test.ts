import jsonata from 'jsonata';
import { describe, expect, it } from 'vitest';

import { ENTRIES, REFUSED } from '../lib/build/bulk-definition.ts';
import { SCHEDULED_KEY } from '../lib/stacks/bulk.ts';
import { CONFIG, only, type Properties, statements, template } from './app.ts';

/** The definition, with every reference in it replaced by a word. */
function definition(): Properties {
  const { DefinitionString } = only('bulk', 'AWS::StepFunctions::StateMachine');
  return JSON.parse(
    DefinitionString['Fn::Join'][1].map((part: unknown) => (typeof part === 'string' ? part : 'reference')).join(''),
  );
}

/** Every state by its name, those of the map included. */
function states(): Record<string, Properties> {
  const outer = definition().States;
  return { ...outer, ...outer.Feed.ItemProcessor.States };
}

/** An expression of a state, evaluated as Step Functions does, with variables bound. */
async function evaluate(expression: string, variables: Record<string, unknown>): Promise<unknown> {
  const bare = expression.replace(/^\{%|%\}$/g, '');
  // Sequences of jsonata carry marks of its own, which JSON drops.
  return JSON.parse(JSON.stringify(await jsonata(bare).evaluate({}, variables)));
}

describe('bulk run', () => {
  it('reads lines of an object, ten to a request, some requests at once', () => {
    const { ItemReader, ItemBatcher, MaxConcurrency, ToleratedFailurePercentage, ItemProcessor } = states().Feed;
    expect(ItemReader).toMatchObject({
      Resource: 'arn:aws:states:::s3:getObject',
      ReaderConfig: { InputType: 'JSONL' },
    });
    expect(ItemBatcher.MaxItemsPerBatch).toBe(CONFIG.bulk.linesPerRequest);
    // A request that SQS refuses for its size would end the run.
    expect(ItemBatcher.MaxInputBytesPerBatch).toBeLessThan(262_144);
    expect(MaxConcurrency).toBe(CONFIG.bulk.requestsAtOnce);
    expect(ToleratedFailurePercentage).toBe(0);
    expect(ItemProcessor.ProcessorConfig.Mode).toBe('DISTRIBUTED');
  });

  it('makes a message of each line, whatever is in it', async () => {
    const lines = [
      { type: 'upsert', product_id: 'A', product: { title: 'Kettle "1.7 l" ☕' } },
      { type: 'delete', product_id: 'B' },
    ];
    for (const items of [lines, lines.slice(0, 1)]) {
      const entries = (await evaluate(ENTRIES, { items })) as Properties[];
      expect(entries.map(({ Id }) => Id)).toEqual(items.map((_, index) => String(index)));
      expect(entries.map(({ MessageBody }) => JSON.parse(MessageBody))).toEqual(items);
    }
  });

  it('sends a batch again that was taken in part, and fails after five times', async () => {
    const refused = (Failed: unknown) => evaluate(REFUSED, { states: { result: { Failed } } });
    expect(await refused([])).toBe(0);
    expect(await refused([{ Id: '3' }])).toBe(1);
    const { Choices, Default } = states().Sent;
    const next = async (variables: { refused: number; sends: number }) => {
      for (const { Condition, Next } of Choices) if (await evaluate(Condition, variables)) return Next;
      return Default;
    };
    expect(await next({ refused: 0, sends: 1 })).toBe('Done');
    expect(await next({ refused: 1, sends: 4 })).toBe('Wait');
    expect(await next({ refused: 1, sends: 5 })).toBe('Refused');
    expect(states().Wait.Next).toBe('Send');
    expect(states().Refused.Type).toBe('Fail');
  });

  it('writes a report at the end, of either variant', async () => {
    expect([states().Count.Next, states().Process.Next]).toEqual(['Report', 'Report']);
    const { Bucket, Body } = states().Report.Arguments;
    expect(Bucket).toBeDefined();
    const context = { Execution: { Name: 'run', Input: { key: SCHEDULED_KEY }, StartTime: '2026-11-24T02:00:00Z' } };
    const report = await evaluate(Body, { states: { input: { variant: 'queue', lines: { Total: 3 } }, context } });
    expect(report).toMatchObject({
      variant: 'queue',
      lines: { Total: 3 },
      input: { key: SCHEDULED_KEY },
      started_at: '2026-11-24T02:00:00Z',
    });
  });

  it('writes a report of a run that fails too, and then fails', async () => {
    for (const name of ['Feed', 'Process']) {
      const [caught] = states()[name].Catch;
      expect(caught).toMatchObject({ ErrorEquals: ['States.ALL'], Next: 'Report' });
      expect(await evaluate(caught.Output.error, { states: { errorOutput: { Error: 'E', Cause: 'C' } } })).toEqual({
        Error: 'E',
        Cause: 'C',
      });
    }
    const { Next, Output } = states().Report;
    expect(Next).toBe('Reported');
    const input = { variant: 'queue', error: { Error: 'E', Cause: 'C' } };
    expect(await evaluate(Output, { states: { input } })).toEqual(input);
    const { Choices, Default } = states().Reported;
    expect(await evaluate(Choices[0].Condition, { states: { input } })).toBe(true);
    expect(await evaluate(Choices[0].Condition, { states: { input: { variant: 'queue' } } })).toBe(false);
    expect([states()[Choices[0].Next].Type, states()[Default].Type]).toEqual(['Fail', 'Succeed']);
    expect(await evaluate(states().Failed.Cause, { states: { input } })).toBe('C');
  });

  it('has a CPU variant, chosen by its input', async () => {
    const { Choices, Default } = states().Choose;
    expect(await evaluate(Choices[0].Condition, { states: { input: { variant: 'processing' } } })).toBe(true);
    expect([Choices[0].Next, Default]).toEqual(['Process', 'Feed']);
    const { Arguments, Resource } = states().Process;
    expect(Resource).toBe('arn:aws:states:::sagemaker:createProcessingJob.sync');
    expect(Arguments.AppSpecification.ContainerEntrypoint).toEqual(['catalog-labels', 'reconcile', '--quiet']);
    const name = (await evaluate(Arguments.ProcessingJobName, {
      states: { context: { Execution: { Name: 'x'.repeat(80) } } },
    })) as string;
    expect(name.length).toBeLessThanOrEqual(63);
  });

  it('goes only to states that exist, and every state is reached', () => {
    const { States, StartAt } = definition();
    for (const machine of [{ States, StartAt }, States.Feed.ItemProcessor]) {
      const targets = Object.values<Properties>(machine.States).flatMap((state) => [
        state.Next,
        state.Default,
        ...(state.Catch ?? []).map(({ Next }: Properties) => Next),
        ...(state.Choices ?? []).map(({ Next }: Properties) => Next),
      ]);
      expect(new Set([machine.StartAt, ...targets.filter(Boolean)])).toEqual(new Set(Object.keys(machine.States)));
    }
  });

  it('runs by a schedule that the configuration turns on', () => {
    template('bulk').hasResourceProperties('AWS::Events::Rule', {
      ScheduleExpression: CONFIG.bulk.schedule,
      State: 'DISABLED',
    });
    expect(JSON.stringify(only('bulk', 'AWS::Events::Rule').Targets)).toContain(SCHEDULED_KEY);
  });

  it('keeps lines of the catalog out of its logs', () => {
    expect(only('bulk', 'AWS::StepFunctions::StateMachine').LoggingConfiguration).toMatchObject({
      IncludeExecutionData: false,
      Level: 'ALL',
    });
  });

  it('may write and read back what its map run reports', () => {
    const report = statements('bulk').find(({ Sid }) => Sid === 'Report');
    // As AWS's guide for the results of a Distributed Map has it.
    expect([...report.Action].sort()).toEqual([
      's3:AbortMultipartUpload',
      's3:GetObject',
      's3:ListMultipartUploadParts',
      's3:PutObject',
    ]);
  });

  it('lets SageMaker encrypt the volume of its job with the key of the data, in the name of its role', () => {
    const grant = statements('bulk').find(({ Action }) => Action === 'kms:CreateGrant');
    expect(grant.Condition).toEqual({ Bool: { 'kms:GrantIsForAWSResource': 'true' } });
    const { ClusterConfig } = states().Process.Arguments.ProcessingResources;
    expect(ClusterConfig.VolumeKmsKeyId).toBe('reference');
  });

  it('may hand its job role to SageMaker only', () => {
    const pass = statements('bulk').find(({ Action }) => Action === 'iam:PassRole');
    expect(pass.Condition).toEqual({ StringEquals: { 'iam:PassedToService': 'sagemaker.amazonaws.com' } });
  });
});
