/**
 * Data and events, deployed from their templates to a local CloudFormation; then the binary
 * with the environments and the rights that the stacks hand it: from an event on the bus to a
 * label in a table, and an answer of the online service.
 */

import { execFile, spawn } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { CONFIG, type Properties, template } from './app.ts';
import { Gate, type Statement } from './gate.ts';
import { freePort, Ministack, pause } from './ministack.ts';
import {
  ARTIFACT,
  binary,
  fleetEnvironment,
  functionEnvironment,
  type Resolve,
  serviceEnvironment,
  text,
} from './worker-binary.ts';

/** Far more than a loaded machine needs. */
const PATIENCE_SECONDS = 100;

let engine: Ministack;
let resolve: Resolve;
const gates: Gate[] = [];

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
  resolve = (reference) =>
    reference.Ref === 'AWS::AccountId' ? '000000000000' : exported.get(reference['Fn::ImportValue']);
});

afterAll(() => {
  for (const gate of gates) gate.stop();
  (engine as Ministack | undefined)?.stop();
});

/** What a role's own policy allows; `role` begins its logical id. */
function rights(stack: 'worker' | 'intent' | 'serverless', role: string): Statement[] {
  const policies = Object.entries<Properties>(template(stack).findResources('AWS::IAM::Policy'));
  const own = policies.filter(([id]) => id.startsWith(role)).flatMap(([, { Properties: p }]) => p.PolicyDocument);
  return own.flatMap(({ Statement: statements }) =>
    statements.map(({ Action, Resource }: Properties) => ({
      actions: [Action].flat(),
      resources: [Resource].flat().map((resource) => text(resource, resolve)),
    })),
  );
}

/** One of the binary's roles: its environment here, behind a gate of its rights. */
async function behindGate(environment: Record<string, string>, statements: Statement[]) {
  const gate = await Gate.start(engine.url, statements);
  gates.push(gate);
  const here: Record<string, string> = {
    ...environment,
    PATH: process.env.PATH as string,
    LD_LIBRARY_PATH: '',
    AWS_ACCESS_KEY_ID: 'local',
    AWS_SECRET_ACCESS_KEY: 'local',
    CATALOG_LABELS_ENDPOINT_URL: gate.url,
    CATALOG_LABELS_ARTIFACT: ARTIFACT,
    CATALOG_LABELS_REPLICAS: '1',
    CATALOG_LABELS_ONLINE_REPLICAS: '1',
  };
  // There are no NeuronCores here.
  delete here.NEURON_RT_VISIBLE_CORES;
  delete here.NEURON_RT_NUM_CORES;
  return { gate, environment: here };
}

const asWorker = () => behindGate(fleetEnvironment(resolve), rights('worker', 'RoleDefaultPolicy'));
const asService = () => behindGate(serviceEnvironment(resolve), rights('intent', 'TaskTaskRole'));
const asFunction = () => behindGate(functionEnvironment(resolve), rights('serverless', 'RoleDefaultPolicy'));

/** Runs the binary to its end. The gate is in this process, so that it must not block. */
function run(env: Record<string, string>, ...words: string[]): Promise<{ status: number | null; stdout: string }> {
  return new Promise((done) => {
    execFile(binary(), words, { env }, (error, stdout, stderr) => {
      done({ status: error === null ? 0 : ((error.code as number | undefined) ?? null), stdout: stdout || stderr });
    });
  });
}

/** Starts the binary, waits until `isDone`, stops it, and gives how it ended and what it said. */
async function runUntil(env: Record<string, string>, command: string, isDone: () => Promise<boolean>) {
  const cwd = mkdtempSync(join(tmpdir(), 'catalog-labels-run-'));
  const child = spawn(binary(), [command], { env, cwd, stdio: ['ignore', 'inherit', 'pipe'] });
  let log = '';
  child.stderr.on('data', (part) => (log += part));
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
  try {
    const until = Date.now() + PATIENCE_SECONDS * 1_000;
    while (!(await isDone())) {
      if (child.exitCode !== null || Date.now() > until) throw new Error(`${command} did not get there:\n${log}`);
      await pause();
    }
  } finally {
    child.kill('SIGTERM');
  }
  return { status: await ended, log };
}

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
  it.each([
    ['the fleet', [], asWorker],
    ['the online service', ['serve'], asService],
    ['the function', ['lambda'], asFunction],
  ] as const)('give %s the queues, tables, buckets and rights that it needs', async (_what, command, role) => {
    const { environment } = await role();
    const { stdout } = await run(environment, 'check', ...command, '--json');
    expect(JSON.parse(stdout), stdout).toEqual([]);
  });

  it('would be found to lack a right', async () => {
    const { environment } = await behindGate(fleetEnvironment(resolve), rights('intent', 'TaskTaskRole'));
    const findings: Properties[] = JSON.parse((await run(environment, 'check', '--json')).stdout);
    const told = findings.map(({ fix }) => fix).join();
    for (const right of ['dynamodb:PutItem', 's3:ListBucket', 'sqs:GetQueueAttributes']) expect(told).toContain(right);
  });

  it('carry an event from the bus to a label', async () => {
    const put = await engine.json('events', 'AWSEvents.PutEvents', {
      Entries: [
        upsert('A', 'Brewline QX17 electric kettle 1.7 litre'),
        upsert('B', 'Brewline QX17 electric kettle 1.7 l'),
      ],
    });
    expect(put.FailedEntryCount).toBe(0);
    const { environment, gate } = await asWorker();
    const env = { ...environment, CATALOG_LABELS_POLL: '1s', CATALOG_LABELS_HEALTH_ADDRESS: '127.0.0.1:0' };
    const isLabelled = async (id: string) => (await run(environment, 'lookup', 'product', id)).status === 0;
    const { status, log } = await runUntil(env, 'worker', async () => (await isLabelled('A')) && isLabelled('B'));
    expect(status, log).toBe(0);
    expect(gate.refused).toEqual([]);
    expect(JSON.parse((await run(environment, 'lookup', 'product', 'A', '--json')).stdout)).toMatchObject({
      product: 'A',
      version: 1,
      current: true,
    });
  });

  it('let the online service answer', async () => {
    const { environment, gate } = await asService();
    const address = `127.0.0.1:${await freePort()}`;
    const answer = (path: string, init?: RequestInit) => fetch(`http://${address}${path}`, init).catch(() => undefined);
    let intents: Response | undefined;
    const { status, log } = await runUntil({ ...environment, CATALOG_LABELS_ADDRESS: address }, 'serve', async () => {
      if ((await answer('/readyz'))?.status !== 200) return false;
      const body = JSON.stringify({ query: 'electric kettle' });
      intents = await answer('/v1/intent', { method: 'POST', body, headers: { 'content-type': 'application/json' } });
      return true;
    });
    expect(status, log).toBe(0);
    expect(intents?.status, await intents?.text()).toBe(200);
    expect(gate.refused).toEqual([]);
  });
});
