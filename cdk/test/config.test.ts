import { describe, expect, it } from 'vitest';

import { openRelease } from '../lib/build/release.ts';
import { ConfigError, resolveConfig, tombstoneDays } from '../lib/config/config.ts';
import { readConfig } from '../lib/config/read.ts';

function problems(input: unknown): readonly string[] {
  try {
    resolveConfig(input);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
  throw new Error('the configuration was accepted');
}

describe('configuration', () => {
  it.each(['dev', 'prod'])('config/%s.json is complete', (stage) => {
    expect(readConfig(stage).stage).toBe(stage);
  });

  it('lists every problem at once, each with its field', () => {
    const found = problems({
      stage: 'Production!',
      colour: 'red',
      network: { cidr: '10.0.0.0/30' },
      images: { worker: { parameter: '/aws/service/ami/latest' } },
      worker: { sizes: ['inf2.xlarge'], leaseSeconds: 1 },
      intent: { size: 'inf1.6xlarge' },
    });
    for (const field of [
      'stage',
      'network.cidr',
      'images.worker.parameter',
      'worker.sizes.0',
      'worker.leaseSeconds',
      'intent.size',
      'colour',
    ]) {
      expect(
        found.some((problem) => problem.includes(field)),
        `${field} in ${found.join('\n')}`,
      ).toBe(true);
    }
  });

  it('refuses what contradicts itself', () => {
    const found = problems({
      stage: 'dev',
      worker: { chipsMin: 5, chipsMax: 2, spotPercent: 10, drainSeconds: 119, sizes: ['inf1.xlarge', 'inf1.xlarge'] },
      intent: { tasksMin: 3, tasksMax: 2 },
      serverless: { enabled: true },
    });
    expect(found.map((problem) => problem.split(':')[0])).toEqual([
      'worker.chipsMin',
      'intent.tasksMin',
      'worker.drainSeconds',
      'serverless.enabled',
      'worker.sizes',
    ]);
  });

  it.each([
    ['cron(0 2 ? * SUN *)', true],
    ['cron(15 10 L * ? 2026-2030)', true],
    ['rate(7 days)', true],
    ['rate(1 hour)', true],
    // Five fields, as elsewhere; no or two kinds of days left open; a plural of one.
    ['cron(0 2 * * 0)', false],
    ['cron(0 2 * * * *)', false],
    ['cron(0 2 ? * ? *)', false],
    ['rate(1 hours)', false],
    ['every day', false],
  ])('takes %s for a schedule: %s', (schedule, isTaken) => {
    const input = { stage: 'dev', bulk: { schedule } };
    if (isTaken) expect(resolveConfig(input).bulk.schedule).toBe(schedule);
    else expect(problems(input)).toEqual([expect.stringContaining('bulk.schedule: is no schedule of EventBridge')]);
  });

  it('refuses zones that it cannot use, and dead letters that go before their queue', () => {
    const environment = { account: '123456789012', region: 'eu-west-1' };
    for (const availabilityZones of [['eu-west-1a'], ['us-east-1a', 'us-east-1b'], ['west', 'east'], 4])
      expect(problems({ stage: 'dev', environment, network: { availabilityZones } }).join()).toContain(
        'network.availabilityZones',
      );
    expect(problems({ stage: 'dev', retention: { queueDays: 14, deadLetterDays: 4 } }).join()).toContain(
      'retention.deadLetterDays',
    );
  });

  it('names the stage that has no file', () => {
    expect(() => readConfig('nowhere')).toThrow(/there is no config\/nowhere.json/);
  });

  it('remembers deletes for longer than any event can come late', () => {
    const config = resolveConfig({ stage: 'dev', retention: { queueDays: 10, deadLetterDays: 14, archiveDays: 30 } });
    expect(tombstoneDays(config)).toBe(30);
    expect(tombstoneDays({ ...config, retention: { ...config.retention, archiveDays: 1 } })).toBe(24);
  });

  it('says how to make a release that is missing', () => {
    expect(() => openRelease('/nonexistent')).toThrow(/host\/catalog-labels.tar.gz does not exist; run make bundle/);
  });
});
