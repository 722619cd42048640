/**
 * A folder that stands for a host's root, made anew for each test. AWS,
 * systemd and HTTP are stood in for, by small programs that note how they were called.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

import { writeHostFolder } from '../lib/build/host.ts';
import { sha256 } from '../lib/build/release.ts';
import { CONFIG } from './app.ts';

const STANDINS: Record<string, string> = {
  // The CLI asks for the region, and knows none of itself.
  aws: `[[ -n \${AWS_DEFAULT_REGION:-\${AWS_REGION:-}} ]] || exit 253
echo "aws $*" >>"$ROOT/calls"
case "$1 $2" in
  's3 cp') cp "$ROOT/bucket/\${4#s3://}" "$5" ;;
  'ssm get-parameter') cat "$ROOT/pointer" ;;
  'ssm get-parameter-history') echo '{"id":"before"}' ;;
  'sts get-caller-identity') echo 123456789012 ;;
esac`,
  // A worker is ready unless the model it runs says that it breaks.
  curl: `case "$*" in
  *api/token*) echo token ;;
  *instance-type*) cat "$ROOT/instance-type" ;;
  *instance-id*) echo i-1 ;;
  *target-lifecycle-state*) [[ -e $ROOT/scale-in ]] && echo Terminated || exit 22 ;;
  *spot/instance-action*) [[ -e $ROOT/spot ]] ;;
  *readyz*) [[ ! -e $ROOT/var/lib/catalog-labels/model/breaks ]] ;;
  *metrics*) cat "$ROOT/metrics" ;;
  *) exit 22 ;;
esac`,
  // Units under failed/ were started too often; what a roll-out of a model is at is told line by line.
  systemctl: `case "$*" in
  '--quiet is-failed '*) [[ -e $ROOT/failed/$3 ]]; exit ;;
  'show --property ActiveState --value catalog-labels-model.service')
    head -n 1 "$ROOT/rollout" 2>/dev/null || echo inactive
    sed -i 1d "$ROOT/rollout" 2>/dev/null; exit 0 ;;
esac
echo "systemctl $*" >>"$ROOT/calls"
case "$1" in
  reset-failed) rm -f "$ROOT/failed/$2" ;;
  restart)
    [[ ! -e $ROOT/failed/$2 ]] || { echo "$2: start request repeated too quickly" >&2; exit 1; }
    [[ ! -e $ROOT/var/lib/catalog-labels/model/breaks ]] || { mkdir -p "$ROOT/failed"; >"$ROOT/failed/$2"; } ;;
esac`,
  'amazon-cloudwatch-agent-ctl': 'echo "agent $*" >>"$ROOT/calls"',
  id: 'exit 0',
};

/** Says its version, and accepts a model that has a manifest on a host that has every right and device. */
export const BINARY = `#!/bin/bash
case "$1" in
  --version) echo 'catalog-labels 0.1.0' ;;
  check)
    [[ -e $CATALOG_LABELS_ARTIFACT/manifest.json && -n $CATALOG_LABELS_REGION ]] || exit 1
    [[ $2 == --config-only ]] || { [[ ! -e $ROOT/denied ]] && echo "looked at cores $NEURON_RT_VISIBLE_CORES"; } ;;
esac
`;

export const PATIENCE_MS = 60_000;

/** A good model, other than the first. */
export const OTHER = { 'manifest.json': '{"model_id": "other"}' };

export let root: string;

export function write(path: string, text: string, mode = 0o644): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), text);
  chmodSync(join(root, path), mode);
}

/** An archive in the bucket with these files; gives its digest. */
export function upload(name: string, files: Record<string, string>): string {
  for (const [path, text] of Object.entries(files)) write(`archives/${name}/${path}`, text, 0o755);
  mkdirSync(join(root, 'bucket/b'), { recursive: true });
  const archive = join(root, 'bucket/b', name);
  execFileSync('tar', ['--sort=name', '--mtime=@0', '-cf', `${archive}.tar`, '-C', join(root, 'archives', name), '.']);
  writeFileSync(archive, execFileSync('gzip', ['-nc', `${archive}.tar`]));
  return sha256(readFileSync(archive));
}

export function publish(name: string, files: Record<string, string>): string {
  const digest = upload(name, files);
  write('pointer', JSON.stringify({ id: name, uri: `s3://b/${name}`, sha256: digest }));
  return join(root, 'var/lib/catalog-labels/models', digest);
}

export function run(script: string, ...more: string[]): { status: number | null; output: string } {
  const env = {
    PATH: `${join(root, 'bin')}:${process.env.PATH}`,
    ROOT: root,
    READY_SECONDS: existsSync(join(root, 'patient')) ? '3600' : '0',
    POLL_SECONDS: '0.01',
  };
  // One that waits for what never comes fails, and does not hang.
  const { status, stdout, stderr } = spawnSync('bash', [join(root, 'boot', script), ...more], {
    env,
    encoding: 'utf8',
    timeout: PATIENCE_MS,
  });
  return { status, output: stdout + stderr };
}

export const calls = (): string[] =>
  existsSync(join(root, 'calls')) ? readFileSync(join(root, 'calls'), 'utf8').trim().split('\n') : [];
export const model = () => readlinkSync(join(root, 'var/lib/catalog-labels/model'));

/** To be called before each test. */
export function makeRoot(): void {
  root = mkdtempSync(join(tmpdir(), 'catalog-labels-root-'));
  for (const [name, body] of Object.entries(STANDINS)) write(`bin/${name}`, `#!/bin/bash\n${body}\n`, 0o755);
  cpSync(writeHostFolder(CONFIG).path, join(root, 'boot'), { recursive: true });
  write('instance-type', 'inf1.6xlarge');
  write('metrics', '');
  write('etc/catalog-labels/worker.env', 'CATALOG_LABELS_REGION=eu-west-1\n');
  const release = upload('release.tar.gz', { 'bin/catalog-labels': BINARY });
  const host = {
    AWS_DEFAULT_REGION: 'eu-west-1',
    GROUP: 'g',
    LAUNCH_HOOK: 'install',
    DRAIN_HOOK: 'drain',
    MODEL_POINTER: '/p',
    RELEASE_URI: 's3://b/release.tar.gz',
    RELEASE_SHA256: release,
  };
  write(
    'etc/catalog-labels/host.env',
    Object.entries(host)
      .map(([name, value]) => `${name}=${value}\n`)
      .join(''),
  );
}
