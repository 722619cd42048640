/**
 * The environments that the stacks hand the binary are read by the binary itself: a name that
 * drifted apart would be one that it does not know.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { unitsOf } from '../lib/build/systemd.ts';
import { CDK_FOLDER } from '../lib/config/read.ts';
import { CONFIG, only, type Properties } from './app.ts';

const repository = join(CDK_FOLDER, '..');

/** The binary that `make test` has built, or the one named by CATALOG_LABELS_BINARY. */
function binary(): string {
  const built = ['release', 'debug'].map((profile) => join(repository, 'target', profile, 'catalog-labels'));
  const found = [process.env.CATALOG_LABELS_BINARY, ...built].find((path) => path !== undefined && existsSync(path));
  if (found === undefined) throw new Error('there is no catalog-labels; make build builds it');
  return found;
}

const ARTIFACT = readdirSync(join(repository, 'models/artifacts'))[0] as string;

/** Text of a template value; a reference becomes a URL, which is all that the binary looks at. */
function text(value: Properties): string {
  if (typeof value === 'string') return value;
  if (value['Fn::Join']) return value['Fn::Join'][1].map(text).join('');
  if (value['Fn::Base64']) return text(value['Fn::Base64']);
  if (value.Ref === 'AWS::Region') return 'eu-west-1';
  return `https://sqs.eu-west-1.amazonaws.com/123456789012/${JSON.stringify(value).replace(/[^A-Za-z0-9]/g, '').slice(-40)}`;
}

/** The worker's environment as user data writes it and the unit of the last chip adds to it. */
function fleetEnvironment(): Record<string, string> {
  const userData = text(only('worker', 'AWS::EC2::LaunchTemplate').LaunchTemplateData.UserData);
  const file = /worker\.env <<'END'\n([\s\S]*?)\nEND/.exec(userData)?.[1] ?? '';
  const unit = unitsOf('inf1.xlarge', CONFIG.worker.drainSeconds)['catalog-labels-worker-0.service'] as string;
  const lines = [...file.split('\n'), ...[...unit.matchAll(/^Environment=(.*)$/gm)].map(([, line]) => line as string)];
  return Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]));
}

function serviceEnvironment(): Record<string, string> {
  const { Environment } = only('intent', 'AWS::ECS::TaskDefinition').ContainerDefinitions[0];
  return Object.fromEntries(Environment.map(({ Name, Value }: Properties) => [Name, text(Value)]));
}

function functionEnvironment(): Record<string, string> {
  const { Variables } = only('serverless', 'AWS::Lambda::Function', ({ ImageConfig }) => ImageConfig !== undefined).Environment;
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

/** `catalog-labels check`; models lie elsewhere on the machines that run these environments. */
function check(environment: Record<string, string>): Answer {
  const env = { ...environment, LD_LIBRARY_PATH: '', CATALOG_LABELS_ARTIFACT: join(repository, 'models/artifacts', ARTIFACT) };
  const { status, stdout, stderr } = spawnSync(binary(), ['check', '--config-only', '--json'], { env, encoding: 'utf8' });
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
    expect(printed).toBe(readFileSync(join(repository, 'docs/schema/tables.json'), 'utf8'));
  });
});
