/**
 * Data and events, deployed from their templates to a local CloudFormation; then the worker
 * with the environment of the fleet: from an event on the bus to a label in a table.
 */

import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { CONFIG, type Properties, template } from './app.ts';
import { Ministack, pause } from './ministack.ts';
import { ARTIFACT, binary, fleetEnvironment } from './worker-binary.ts';

/** Far more than a loaded machine needs. */
const PATIENCE_SECONDS = 100;

let engine: Ministack;
let environment: Record<string, string>;

beforeAll(async () => {
  engine = await Ministack.start();
  await engine.json('ssm', 'AmazonSSM.PutParameter', {
    Name: '/cdk-bootstrap/hnb659fds/version',
    Type: 'String',
    Value: '30',
  });
  for (const name of ['data', 'events'] as const) {
    const { Resources, ...rest } = template(name).toJSON() as Properties;
    // The engine knows no archives.
    const known = Object.entries<Properties>(Resources).filter(([_id, { Type }]) => Type !== 'AWS::Events::Archive');
    await engine.createStack(name, JSON.stringify({ ...rest, Resources: Object.fromEntries(known) }));
  }
  // Its CloudFormation leaves the time to live of tables out.
  for (const { Properties: table } of Object.values<Properties>(
    template('data').findResources('AWS::DynamoDB::Table'),
  )) {
    const { TableName, TimeToLiveSpecification } = table;
    if (TimeToLiveSpecification)
      await engine.json('dynamodb', 'DynamoDB_20120810.UpdateTimeToLive', { TableName, TimeToLiveSpecification });
  }
  const exported = await engine.exports();
  environment = {
    ...fleetEnvironment((reference) => exported.get(reference['Fn::ImportValue'])),
    PATH: process.env.PATH as string,
    LD_LIBRARY_PATH: '',
    CATALOG_LABELS_ENDPOINT_URL: engine.url,
    CATALOG_LABELS_ARTIFACT: ARTIFACT,
    CATALOG_LABELS_REPLICAS: '1',
    CATALOG_LABELS_POLL: '1s',
    CATALOG_LABELS_HEALTH_ADDRESS: '127.0.0.1:0',
  };
  // There are no NeuronCores here.
  delete environment.NEURON_RT_VISIBLE_CORES;
});

afterAll(() => (engine as Ministack | undefined)?.stop());

const run = (...words: string[]) => spawnSync(binary(), words, { env: environment, encoding: 'utf8' });

function upsert(product_id: string, title: string) {
  const event = {
    schema_version: 1,
    type: 'upsert',
    product_id,
    version: 1,
    occurred_at: '2026-01-01T00:00:00Z',
    product: { title },
  };
  return {
    EventBusName: `catalog-labels-${CONFIG.stage}`,
    Source: 'catalog',
    DetailType: 'upsert',
    Detail: JSON.stringify(event),
  };
}

describe('the stacks in a local account', () => {
  it('give the worker queues, tables and permissions as it needs them', () => {
    const { stdout, stderr } = run('check', '--json');
    expect(JSON.parse(stdout), stderr).toEqual([]);
  });

  it('carry an event from the bus to a label', async () => {
    const put = await engine.json('events', 'AWSEvents.PutEvents', {
      Entries: [
        upsert('A', 'Brewline QX17 electric kettle 1.7 litre'),
        upsert('B', 'Brewline QX17 electric kettle 1.7 l'),
      ],
    });
    expect(put.FailedEntryCount).toBe(0);
    // Its bucket belongs to a stack that the local account does not deploy.
    const { CATALOG_LABELS_OBJECT_BUCKET: _bucket, ...withoutBucket } = environment;
    const worker = spawn(binary(), ['worker'], {
      env: withoutBucket,
      cwd: mkdtempSync(join(tmpdir(), 'catalog-labels-worker-')),
      stdio: ['ignore', 'inherit', 'pipe'],
    });
    let log = '';
    worker.stderr.on('data', (part) => (log += part));
    const ended = new Promise<number | null>((resolve) => worker.once('exit', resolve));
    try {
      const until = Date.now() + PATIENCE_SECONDS * 1_000;
      const labelled = () => ['A', 'B'].every((id) => run('lookup', 'product', id).status === 0);
      while (!labelled()) {
        if (worker.exitCode !== null || Date.now() > until) throw new Error(`no labels:\n${log}`);
        await pause();
      }
    } finally {
      worker.kill('SIGTERM');
    }
    expect(await ended, log).toBe(0);
    expect(JSON.parse(run('lookup', 'product', 'A', '--json').stdout)).toMatchObject({
      product: 'A',
      version: 1,
      current: true,
    });
  });
});
