import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { type Config, ConfigError, resolveConfig } from './config.ts';

/** The folder `cdk/`. */
export const CDK_FOLDER = join(import.meta.dirname, '../..');

/** Reads `config/<stage>.json`. */
export function readConfig(stage: string): Config {
  const file = join(CDK_FOLDER, 'config', `${stage}.json`);
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch {
    throw new ConfigError([`stage: there is no config/${stage}.json; write one, or name another with -c stage=...`]);
  }
  let input: unknown;
  try {
    input = JSON.parse(text);
  } catch (error) {
    throw new ConfigError([`config/${stage}.json: ${(error as Error).message}`]);
  }
  const config = resolveConfig(input);
  if (config.stage !== stage) throw new ConfigError([`stage: config/${stage}.json says ${config.stage}`]);
  return config;
}
