/** The folder of scripts, units and configuration that a host unpacks. */

import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

import { type Config, namePrefix } from '../config/config.ts';
import { CDK_FOLDER } from '../config/read.ts';
import { neuronMonitorConfig, workerAgentConfig, workerPrometheusConfig } from './agent.ts';
import { LOGS } from './paths.ts';
import { sha256 } from './release.ts';
import { unitsOf } from './systemd.ts';

/** Scripts that run on a host; the others of `cdk/host` are for people. */
export const HOST_SCRIPTS = ['drain.sh', 'host.sh', 'install.sh', 'model.sh', 'protect.sh', 'unhealthy.sh'];

export interface HostFolder {
  readonly path: string;
  /** Of SHA256SUMS, which has the digests of all other files. */
  readonly sums: string;
}

export function workerLogGroup(config: Pick<Config, 'stage'>): string {
  return `/${namePrefix(config)}/workers`;
}

/** Writes the folder anew, in a temporary place. The same configuration gives the same bytes. */
export function writeHostFolder(config: Config): HostFolder {
  const { stage, worker } = config;
  const path = mkdtempSync(join(tmpdir(), 'catalog-labels-host-'));
  const files: Record<string, string> = {
    'neuron-monitor.json': neuronMonitorConfig(),
    // The worker keeps its file open, so it is copied and cut.
    'logrotate.conf': `${LOGS}/*.log {\n  size 100M\n  rotate 3\n  copytruncate\n  missingok\n  compress\n}\n`,
  };
  for (const size of worker.sizes) {
    files[`${size}/cloudwatch-agent.json`] = workerAgentConfig(size, stage, workerLogGroup(config));
    files[`${size}/prometheus.yaml`] = workerPrometheusConfig(size, stage);
    for (const [name, text] of Object.entries(unitsOf(size, worker.drainSeconds)))
      files[`${size}/units/${name}`] = text;
  }
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(path, name)), { recursive: true });
    writeFileSync(join(path, name), text);
  }
  for (const script of HOST_SCRIPTS) cpSync(join(CDK_FOLDER, 'host', script), join(path, script));
  const sums = readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(path.length + 1))
    .sort()
    .map((name) => `${sha256(readFileSync(join(path, name)))}  ${name}\n`)
    .join('');
  writeFileSync(join(path, 'SHA256SUMS'), sums);
  return { path, sums: sha256(sums) };
}
