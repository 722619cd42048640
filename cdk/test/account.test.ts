/** From an event on the bus to a label in a table, each with the rights of its role and no other. */

import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { Account, type Actor, type Role } from './account.ts';
import { CONFIG, type Properties } from './app.ts';
import { freePort } from './ministack.ts';

let account: Account;
beforeAll(async () => {
  account = await Account.deploy();
});
afterAll(() => (account as Account | undefined)?.stop());

const TABLE = `catalog-labels-${CONFIG.stage}-`;

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

/** Puts products on the bus and lets the fleet label them. */
async function label(fleet: Actor, products: Record<string, string>): Promise<void> {
  const put = await account.engine.json('events', 'AWSEvents.PutEvents', {
    Entries: Object.entries(products).map(([id, title]) => upsert(id, title)),
  });
  expect(put.FailedEntryCount).toBe(0);
  const areLabelled = async () => {
    for (const id of Object.keys(products)) if ((await fleet.run('lookup', 'product', id)).status !== 0) return false;
    return true;
  };
  const { status, log } = await fleet.runUntil('worker', areLabelled);
  expect(status, log).toBe(0);
}

/** Runs a command that must end well, and gives what it prints. */
async function done(actor: Actor, ...words: string[]): Promise<string> {
  const { status, stdout, stderr } = await actor.run(...words);
  expect(status, `${words.join(' ')}: ${stdout}${stderr}`).toBe(0);
  return stdout;
}

describe('the stacks in a local account', () => {
  it.each<[string, string[], Role]>([
    ['the fleet', [], 'fleet'],
    ['the online service', ['serve'], 'service'],
    ['the function', ['lambda'], 'function'],
    ['the CPU variant of a bulk run', ['reconcile'], 'job'],
    ['people who operate it', ['reconcile'], 'operator'],
  ])('give %s the queues, tables, buckets and rights that it needs', async (_what, command, role) => {
    const { stdout, stderr } = await (await account.as(role)).run('check', ...command, '--json');
    expect(JSON.parse(stdout || '{}'), stderr).toEqual([]);
  });

  it.each<[Role, string[], string[]]>([
    ['fleet', [], ['dynamodb:PutItem', 's3:ListBucket', 'sqs:GetQueueAttributes']],
    ['job', ['reconcile'], ['dynamodb:PutItem', 'dynamodb:Scan', 'dynamodb:Query']],
  ])('would be found to lack a right (%s)', async (role, command, lacking) => {
    const { stdout } = await (await account.as(role, 'service')).run('check', ...command, '--json');
    const findings: Properties[] = JSON.parse(stdout);
    const told = findings.map(({ fix }) => fix).join();
    for (const right of lacking) expect(told).toContain(right);
  });

  it('carry an event from the bus to a label', async () => {
    const fleet = await account.as('fleet');
    await label(fleet, { A: 'Brewline QX17 electric kettle 1.7 litre', B: 'Brewline QX17 electric kettle 1.7 l' });
    expect(JSON.parse(await done(fleet, 'lookup', 'product', 'A', '--json'))).toMatchObject({
      product: 'A',
      version: 1,
      current: true,
    });
    expect(fleet.gate.refused).toEqual([]);
  });

  it('let the online service answer', async () => {
    const service = await account.as('service');
    const address = `127.0.0.1:${await freePort()}`;
    const answer = (path: string, init?: RequestInit) => fetch(`http://${address}${path}`, init).catch(() => undefined);
    let intents: Response | undefined;
    const isAnswered = async () => {
      if ((await answer('/readyz'))?.status !== 200) return false;
      const body = JSON.stringify({ query: 'electric kettle' });
      intents = await answer('/v1/intent', { method: 'POST', body, headers: { 'content-type': 'application/json' } });
      return true;
    };
    const { status, log } = await service.runUntil('serve', isAnswered, { CATALOG_LABELS_ADDRESS: address });
    expect(status, log).toBe(0);
    expect(intents?.status, await intents?.text()).toBe(200);
    expect(service.gate.refused).toEqual([]);
  });

  it('let people roll a key epoch out, the fleet take part, and the job fill it', async () => {
    const [operator, fleet, job] = [await account.as('operator'), await account.as('fleet'), await account.as('job')];
    const step = (...words: string[]) => done(operator, 'key-epoch', ...words);
    await label(fleet, { C: 'Northgate 500 W hand blender', D: 'Northgate hand blender, 500 W' });
    const file = join(mkdtempSync(join(tmpdir(), 'catalog-labels-epoch-')), '7.txt');
    writeFileSync(file, await step('build', '--number', '7', '--from-tables'));
    await step('publish', file);
    await step('begin', '7');
    await label(fleet, { E: 'Ostrava enamel pot 3 litre' });
    expect(await epochsOfPostings('E')).toEqual(['0', '7']);
    expect(await epochsOfPostings('C')).toEqual(['0']);
    await tenMinutesLater();
    await done(job, 'reconcile', '--quiet');
    expect(await epochsOfPostings('C')).toEqual(['0', '7']);
    await step('switch');
    await done(job, 'reconcile', '--quiet');
    await tenMinutesLater();
    await step('end');
    await tenMinutesLater();
    await step('drop', '0');
    expect(await step('status')).toContain('look-ups read key epoch 7');
    for (const product of ['C', 'E']) expect(await epochsOfPostings(product)).toEqual(['7']);
    for (const { gate } of [operator, fleet, job]) expect(gate.refused).toEqual([]);
  });

  it('let people switch models, export, reconcile and back-fill', async () => {
    const [operator, fleet] = [await account.as('operator'), await account.as('fleet')];
    await label(fleet, { F: 'Calder cast iron pan 28 cm' });
    const { active } = JSON.parse(await done(operator, 'model', 'status', '--json'));
    await done(operator, 'model', 'activate', 'another', '--unchecked');
    await done(operator, 'model', 'rollback');
    expect(JSON.parse(await done(operator, 'model', 'status', '--json'))).toMatchObject({ active });
    const folder = mkdtempSync(join(tmpdir(), 'catalog-labels-export-'));
    for (const what of ['pairs', 'intents'])
      await done(operator, 'export', what, '--out', join(folder, `${what}.ndjson`));
    await done(operator, 'reconcile', '--quiet');

    const rows = join(folder, 'rows.ndjson');
    writeFileSync(rows, `${upsert('G', 'Calder cast iron skillet, 28 cm').Detail}\n`);
    const bulkQueue = fleet.environment.CATALOG_LABELS_BULK_QUEUE_URL as string;
    await done(operator, 'backfill', rows, '--bulk-queue-url', bulkQueue);
    expect(JSON.parse(readFileSync(`${rows}.backfill.json`, 'utf8'))).toMatchObject({ sent: 1, finished: true });
    expect(operator.gate.refused).toEqual([]);
  });
});

/** Takes the last step of a roll-out back in time, so that the next one may come. */
async function tenMinutesLater(): Promise<void> {
  await account.engine.json('dynamodb', 'DynamoDB_20120810.UpdateItem', {
    TableName: `${TABLE}control`,
    Key: { name: { S: 'key-epoch' } },
    UpdateExpression: 'SET since = :since',
    ConditionExpression: 'attribute_exists(since)',
    ExpressionAttributeValues: { ':since': { S: new Date(Date.now() - 11 * 60_000).toISOString() } },
  });
}

/** Numbers of the key epochs under which a product has postings. */
async function epochsOfPostings(product: string): Promise<string[]> {
  const { Items } = (await account.engine.json('dynamodb', 'DynamoDB_20120810.Scan', {
    TableName: `${TABLE}postings`,
    ConsistentRead: true,
  })) as { Items: Properties[] };
  const own = Items.filter(({ id }) => id.S === product).map(({ key }) => String(key.S).split(':')[0] as string);
  return [...new Set(own)].sort();
}
