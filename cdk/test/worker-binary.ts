/** The worker's binary, and the environments that the templates hand it. */

import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import { unitsOf } from '../lib/build/systemd.ts';
import { CDK_FOLDER } from '../lib/config/read.ts';
import { CONFIG, only, type Properties } from './app.ts';

export const REPOSITORY = join(CDK_FOLDER, '..');

const artifacts = join(REPOSITORY, 'models/artifacts');
/** The shipped model; on the machines that run these environments it lies elsewhere. */
export const ARTIFACT = join(artifacts, readdirSync(artifacts)[0] as string);

/** The binary that `make test` has built, or the one named by CATALOG_LABELS_BINARY. */
export function binary(): string {
  const built = ['release', 'debug'].map((profile) => join(REPOSITORY, 'target', profile, 'catalog-labels'));
  const found = [process.env.CATALOG_LABELS_BINARY, ...built].find((path) => path !== undefined && existsSync(path));
  if (found === undefined) throw new Error('there is no catalog-labels; make build builds it');
  return found;
}

/** Says what a reference of a template stands for; undefined leaves it to a made-up URL. */
export type Resolve = (reference: Properties) => string | undefined;

/** Text of a template value. */
export function text(value: Properties, resolve: Resolve = () => undefined): string {
  if (typeof value === 'string') return value;
  if (value['Fn::Join']) return value['Fn::Join'][1].map((part: Properties) => text(part, resolve)).join('');
  if (value['Fn::Base64']) return text(value['Fn::Base64'], resolve);
  const known = resolve(value);
  if (known !== undefined) return known;
  if (value.Ref === 'AWS::Region') return 'us-east-1';
  if (value.Ref === 'AWS::Partition') return 'aws';
  if (value.Ref === 'AWS::AccountId') return '123456789012';
  return `https://sqs.us-east-1.amazonaws.com/123456789012/${JSON.stringify(value)
    .replace(/[^A-Za-z0-9]/g, '')
    .slice(-40)}`;
}

/** The environment of the one container of a task that is named `serve`. */
export function serviceEnvironment(resolve?: Resolve): Record<string, string> {
  const containers: Properties[] = only('intent', 'AWS::ECS::TaskDefinition').ContainerDefinitions;
  const { Environment } = containers.find(({ Name }) => Name === 'serve');
  return Object.fromEntries(Environment.map(({ Name, Value }: Properties) => [Name, text(Value, resolve)]));
}

export function functionEnvironment(resolve?: Resolve): Record<string, string> {
  const isOurs = ({ ImageConfig }: Properties) => ImageConfig !== undefined;
  const { Variables } = only('serverless', 'AWS::Lambda::Function', isOurs).Environment;
  return Object.fromEntries(Object.entries(Variables).map(([name, value]) => [name, text(value, resolve)]));
}

/** The environment of the SageMaker job that is the CPU variant of a bulk run. */
export function jobEnvironment(resolve?: Resolve): Record<string, string> {
  const definition = text(only('bulk', 'AWS::StepFunctions::StateMachine').DefinitionString, resolve);
  return JSON.parse(definition).States.Process.Arguments.Environment;
}

/** The worker's environment as user data writes it and the unit of an inf1.xlarge adds to it. */
export function fleetEnvironment(resolve?: Resolve): Record<string, string> {
  const userData = text(only('worker', 'AWS::EC2::LaunchTemplate').LaunchTemplateData.UserData, resolve);
  const file = /worker\.env <<'END'\n([\s\S]*?)\nEND/.exec(userData)?.[1] ?? '';
  const unit = unitsOf('inf1.xlarge', CONFIG.worker.drainSeconds)['catalog-labels-worker-0.service'] as string;
  const lines = [...file.split('\n'), ...[...unit.matchAll(/^Environment=(.*)$/gm)].map(([, line]) => line as string)];
  return Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]));
}
