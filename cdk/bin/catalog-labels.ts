import { App } from 'aws-cdk-lib';

import { buildStacks, FLAGS } from '../lib/build/app.ts';
import { ConfigError } from '../lib/config/config.ts';
import { readConfig } from '../lib/config/read.ts';

const app = new App({ context: FLAGS });
try {
  const config = readConfig(app.node.tryGetContext('stage') ?? 'dev');
  buildStacks(app, { ...config, dist: app.node.tryGetContext('dist') ?? config.dist });
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  console.error(`error: ${error.message}`);
  process.exit(1);
}
