/** One synthesis of all stacks for all tests: without an account, with a made-up release. */

import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { App, type Stack } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';

import { buildStacks, FLAGS, type Stacks } from '../lib/build/app.ts';
import { type Config, resolveConfig } from '../lib/config/config.ts';

/** A folder as `make bundle` fills it, with other contents. */
export function releaseFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'catalog-labels-dist-'));
  const files = ['host/catalog-labels.tar.gz', 'host/model.tar.gz', 'intent/Dockerfile', 'cpu/Dockerfile'];
  for (const file of files) {
    mkdirSync(join(folder, file, '..'), { recursive: true });
    writeFileSync(join(folder, file), `stands for ${file}\n`);
  }
  return folder;
}

/** Every inf1 size, and spot. */
export const CONFIG: Config = resolveConfig({
  stage: 'test',
  dist: releaseFolder(),
  worker: { sizes: ['inf1.xlarge', 'inf1.2xlarge', 'inf1.6xlarge', 'inf1.24xlarge'], spotPercent: 50, chipsMin: 2 },
  alarms: { email: 'on-call@example.com' },
});

export function build(config: Config = CONFIG): { app: App; stacks: Stacks } {
  const app = new App({
    context: FLAGS,
    analyticsReporting: false,
    outdir: mkdtempSync(join(tmpdir(), 'catalog-labels-cdk-')),
  });
  return { app, stacks: buildStacks(app, config) };
}

let built: ReturnType<typeof build> | undefined;
let folder: string | undefined;
const templates = new Map<keyof Stacks, Template>();

/** The stacks of {@link CONFIG}. */
export function shared(): ReturnType<typeof build> {
  built ??= build();
  return built;
}

/** The folder of their cloud assembly. */
export function assembly(): string {
  folder ??= shared().app.synth().directory;
  return folder;
}

/** The template of one of them. */
export function template(name: keyof Stacks): Template {
  let found = templates.get(name);
  if (found === undefined) {
    assembly();
    found = Template.fromStack(shared().stacks[name] as Stack);
    templates.set(name, found);
  }
  return found;
}

/** One resource with its logical id; there must be no other of the type that fits. */
export function only(
  name: keyof Stacks,
  type: string,
  fits: (properties: Properties) => boolean = () => true,
): Properties {
  const found = Object.values(template(name).findResources(type)).filter((resource) => fits(resource.Properties ?? {}));
  if (found.length !== 1) throw new Error(`${found.length} resources of ${type} fit in ${name}, not one`);
  return found[0]?.Properties;
}

/** Templates are JSON of any shape. */
export type Properties = any;

/** Every statement of every policy of a stack. */
export function statements(name: keyof Stacks): Properties[] {
  return Object.values(template(name).findResources('AWS::IAM::Policy')).flatMap(
    (policy) => policy.Properties.PolicyDocument.Statement,
  );
}
