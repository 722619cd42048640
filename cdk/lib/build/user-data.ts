import { UserData } from 'aws-cdk-lib/aws-ec2';

import type { Config } from '../config/config.ts';
import { intentAgentConfig, intentPrometheusConfig, neuronMonitorConfig } from './agent.ts';
import { ETC, LOGS, NEURON_MONITOR_UNIT } from './paths.ts';
import { intentUnits } from './systemd.ts';

export interface HostBoot {
  /** Zip of the host folder in S3, and the digest of the SHA256SUMS inside. */
  readonly hostUri: string;
  readonly hostSums: string;
  /** What the scripts of the host read. */
  readonly host: Readonly<Record<string, string>>;
  /** What the workers read. */
  readonly worker: Readonly<Record<string, string>>;
}

/**
 * Fetches the host folder, checks every file of it, writes both environments, and installs.
 * Small on purpose: what it starts is tested, and this can only be read.
 */
export function workerUserData({ hostUri, hostSums, host, worker }: HostBoot): UserData {
  const data = UserData.forLinux();
  data.addCommands(
    'set -euo pipefail',
    `install -d -m 0755 ${ETC}`,
    ...environmentFile(`${ETC}/host.env`, host),
    ...environmentFile(`${ETC}/worker.env`, worker),
    // The AWS CLI wants to know the region.
    `set -a && . ${ETC}/host.env && set +a`,
    'boot=/var/lib/catalog-labels-boot',
    'rm -rf "$boot" && mkdir -p "$boot" && cd "$boot"',
    `aws s3 cp --only-show-errors '${hostUri}' host.zip`,
    'python3 -m zipfile -e host.zip host',
    `echo '${hostSums}  host/SHA256SUMS' | sha256sum --check --quiet`,
    '(cd host && sha256sum --check --quiet --strict SHA256SUMS)',
    'bash host/install.sh',
  );
  return data;
}

/**
 * Starts what watches a host of the online service: neuron-monitor and the agent. What fails
 * here is told by an alarm, and keeps no host from joining its cluster.
 */
export function intentUserData({ stage }: Pick<Config, 'stage'>, logGroup: string): UserData {
  const files = {
    [`${ETC}/cloudwatch-agent.json`]: intentAgentConfig(stage, logGroup),
    [`${ETC}/prometheus.yaml`]: intentPrometheusConfig(stage),
    [`${ETC}/neuron-monitor.json`]: neuronMonitorConfig(),
    ...Object.fromEntries(Object.entries(intentUnits()).map(([name, text]) => [`/etc/systemd/system/${name}`, text])),
  };
  const data = UserData.forLinux();
  data.addCommands(
    `install -d -m 0755 ${ETC} ${LOGS}`,
    ...Object.entries(files).flatMap(([path, text]) => file(path, text.trimEnd().split('\n'))),
    'useradd --system --no-create-home --shell /usr/sbin/nologin catalog-labels',
    'systemctl daemon-reload',
    `systemctl enable --now ${NEURON_MONITOR_UNIT}`,
    `amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s -c file:${ETC}/cloudwatch-agent.json`,
  );
  return data;
}

function environmentFile(path: string, values: Readonly<Record<string, string>>): string[] {
  return file(
    path,
    Object.entries(values).map(([name, value]) => `${name}=${value}`),
  );
}

function file(path: string, lines: readonly string[]): string[] {
  return [`cat >${path} <<'END'`, ...lines, 'END'];
}
