import { UserData } from 'aws-cdk-lib/aws-ec2';

import { ETC } from './paths.ts';

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

function environmentFile(path: string, values: Readonly<Record<string, string>>): string[] {
  const lines = Object.entries(values).map(([name, value]) => `${name}=${value}`);
  return [`cat >${path} <<'END'`, ...lines, 'END'];
}
