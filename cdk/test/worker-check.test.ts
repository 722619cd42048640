/**
 * The environments that the stacks hand the binary are read by the binary itself: a name that
 * drifted apart would be one that it does not know.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import {
  ARTIFACT,
  binary,
  fleetEnvironment,
  functionEnvironment,
  jobEnvironment,
  REPOSITORY,
  serviceEnvironment,
} from './worker-binary.ts';

interface Answer {
  readonly status: number | null;
  readonly findings: readonly { about: string; problem: string }[];
}

/** `catalog-labels check` of a command, with the shipped model. */
function check(command: readonly string[], environment: Record<string, string>): Answer {
  const env = { ...environment, LD_LIBRARY_PATH: '', CATALOG_LABELS_ARTIFACT: ARTIFACT };
  const { status, stdout, stderr } = spawnSync(binary(), ['check', ...command, '--config-only', '--json'], {
    env,
    encoding: 'utf8',
  });
  if (!stdout.startsWith('[')) throw new Error(`${status}: ${stdout}${stderr}`);
  return { status, findings: JSON.parse(stdout) };
}

describe('the binary itself', () => {
  it.each([
    ['the fleet', [], fleetEnvironment, 12],
    ['the online service', ['serve'], serviceEnvironment, 6],
    ['the function', ['lambda'], functionEnvironment, 6],
    ['the CPU variant of a bulk run', ['reconcile'], jobEnvironment, 5],
  ] as const)('resolves the environment of %s without a finding', (_what, command, environment, variablesMin) => {
    expect(Object.keys(environment()).length).toBeGreaterThan(variablesMin);
    expect(check(command, environment())).toEqual({ status: 0, findings: [] });
  });

  it.each([
    ['the fleet', [], fleetEnvironment, 'CATALOG_LABELS_LEASE', '1s', '--lease: 1s'],
    ['the online service', ['serve'], serviceEnvironment, 'CATALOG_LABELS_ADDRESS', 'nowhere', '--address'],
    [
      'the function',
      ['lambda'],
      functionEnvironment,
      'CATALOG_LABELS_DEAD_LETTER_QUEUE_URL',
      'dead',
      '"dead" is not a URL',
    ],
  ] as const)('refuses a value of %s that it cannot use', (_what, command, environment, name, value, said) => {
    expect(environment()).toHaveProperty(name);
    const { status, findings } = check(command, { ...environment(), [name]: value });
    expect(status).toBe(1);
    expect(findings.map(({ problem }) => problem)).toEqual([expect.stringContaining(said)]);
  });

  it('refuses a copy of the model too many for the CPU variant', () => {
    const { status, findings } = check(['reconcile'], { ...jobEnvironment(), CATALOG_LABELS_REPLICAS: '9999' });
    expect(status).toBe(1);
    expect(findings.map(({ problem }) => problem)).toEqual([expect.stringContaining('--replicas: 9999')]);
  });

  it.each([[], ['serve'], ['lambda'], ['reconcile']])('would say so if a name were wrong (%o)', (...command) => {
    const { status, findings } = check(command, { ...fleetEnvironment(), CATALOG_LABELS_LEASE_SECONDS: '60' });
    expect(status).toBe(1);
    expect(findings.map(({ problem }) => problem)).toEqual(['CATALOG_LABELS_LEASE_SECONDS is no option of this build']);
  });

  it('creates the tables that docs/schema/tables.json defines, and the stack with it', () => {
    const printed = execFileSync(binary(), ['tables'], { encoding: 'utf8' });
    expect(printed).toBe(readFileSync(join(REPOSITORY, 'docs/schema/tables.json'), 'utf8'));
  });
});
