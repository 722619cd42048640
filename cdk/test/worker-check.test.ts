/**
 * The environments that the stacks hand the binary are read by the binary itself: a name that
 * drifted apart would be one that it does not know.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { only, type Properties } from './app.ts';
import { ARTIFACT, binary, fleetEnvironment, REPOSITORY, text } from './worker-binary.ts';

function serviceEnvironment(): Record<string, string> {
  const { Environment } = only('intent', 'AWS::ECS::TaskDefinition').ContainerDefinitions[0];
  return Object.fromEntries(Environment.map(({ Name, Value }: Properties) => [Name, text(Value)]));
}

function functionEnvironment(): Record<string, string> {
  const { Variables } = only(
    'serverless',
    'AWS::Lambda::Function',
    ({ ImageConfig }) => ImageConfig !== undefined,
  ).Environment;
  return Object.fromEntries(Object.entries(Variables).map(([name, value]) => [name, text(value)]));
}

function jobEnvironment(): Record<string, string> {
  const definition = text(only('bulk', 'AWS::StepFunctions::StateMachine').DefinitionString);
  return JSON.parse(definition).States.Process.Arguments.Environment;
}

interface Answer {
  readonly status: number | null;
  readonly findings: readonly { about: string; problem: string }[];
}

/** `catalog-labels check`, with the shipped model. */
function check(environment: Record<string, string>): Answer {
  const env = { ...environment, LD_LIBRARY_PATH: '', CATALOG_LABELS_ARTIFACT: ARTIFACT };
  const { status, stdout, stderr } = spawnSync(binary(), ['check', '--config-only', '--json'], {
    env,
    encoding: 'utf8',
  });
  if (!stdout.startsWith('[')) throw new Error(`${status}: ${stdout}${stderr}`);
  return { status, findings: JSON.parse(stdout) };
}

describe('the worker itself', () => {
  it('reads the environment of the fleet without a finding', () => {
    expect(Object.keys(fleetEnvironment()).length).toBeGreaterThan(12);
    expect(check(fleetEnvironment())).toEqual({ status: 0, findings: [] });
  });

  it.each([
    ['the online service', serviceEnvironment],
    ['the function', functionEnvironment],
    ['the CPU variant of the bulk run', jobEnvironment],
  ])('knows every option in the environment of %s', (_what, environment) => {
    expect(Object.keys(environment()).length).toBeGreaterThan(4);
    const unknown = check(environment()).findings.filter(({ problem }) => problem.includes('is no option'));
    expect(unknown).toEqual([]);
  });

  it('would say so if a name were wrong', () => {
    const { status, findings } = check({ ...fleetEnvironment(), CATALOG_LABELS_LEASE_SECONDS: '60' });
    expect(status).toBe(1);
    expect(findings.map(({ problem }) => problem)).toEqual(['CATALOG_LABELS_LEASE_SECONDS is no option of this build']);
  });

  it('creates the tables that docs/schema/tables.json defines, and the stack with it', () => {
    const printed = execFileSync(binary(), ['tables'], { encoding: 'utf8' });
    expect(printed).toBe(readFileSync(join(REPOSITORY, 'docs/schema/tables.json'), 'utf8'));
  });
});
