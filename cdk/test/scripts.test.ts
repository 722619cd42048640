/**
 * The scripts of a host, run for real in a folder that stands for its root; only AWS, systemd
 * and HTTP are stood in for, by small programs that note how they were called.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

import { beforeEach, describe, expect, it } from 'vitest';

import { writeHostFolder } from '../lib/build/host.ts';
import { sha256 } from '../lib/build/release.ts';
import { ROOT_DEVICE } from '../lib/constructs/image.ts';
import { intentUnits, unitsOf } from '../lib/build/systemd.ts';
import { CDK_FOLDER } from '../lib/config/read.ts';
import { CONFIG, only } from './app.ts';
import { text } from './worker-binary.ts';

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
const BINARY = `#!/bin/bash
case "$1" in
  --version) echo 'catalog-labels 0.1.0' ;;
  check)
    [[ -e $CATALOG_LABELS_ARTIFACT/manifest.json && -n $CATALOG_LABELS_REGION ]] || exit 1
    [[ $2 == --config-only ]] || { [[ ! -e $ROOT/denied ]] && echo "looked at cores $NEURON_RT_VISIBLE_CORES"; } ;;
esac
`;

const PATIENCE_MS = 60_000;

/** A good model, other than the first. */
const OTHER = { 'manifest.json': '{"model_id": "other"}' };

let root: string;

function write(path: string, text: string, mode = 0o644): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), text);
  chmodSync(join(root, path), mode);
}

/** An archive in the bucket with these files; gives its digest. */
function upload(name: string, files: Record<string, string>): string {
  for (const [path, text] of Object.entries(files)) write(`archives/${name}/${path}`, text, 0o755);
  mkdirSync(join(root, 'bucket/b'), { recursive: true });
  const archive = join(root, 'bucket/b', name);
  execFileSync('tar', ['--sort=name', '--mtime=@0', '-cf', `${archive}.tar`, '-C', join(root, 'archives', name), '.']);
  writeFileSync(archive, execFileSync('gzip', ['-nc', `${archive}.tar`]));
  return sha256(readFileSync(archive));
}

function publish(name: string, files: Record<string, string>): string {
  const digest = upload(name, files);
  write('pointer', JSON.stringify({ id: name, uri: `s3://b/${name}`, sha256: digest }));
  return join(root, 'var/lib/catalog-labels/models', digest);
}

function run(script: string, ...more: string[]): { status: number | null; output: string } {
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

const calls = (): string[] =>
  existsSync(join(root, 'calls')) ? readFileSync(join(root, 'calls'), 'utf8').trim().split('\n') : [];
const model = () => readlinkSync(join(root, 'var/lib/catalog-labels/model'));

beforeEach(() => {
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
});

describe('install.sh', () => {
  it('puts release, model and units in place, waits for every worker, and answers the hook', () => {
    const folder = publish('first', { 'manifest.json': '{}' });
    const { status, output } = run('install.sh');
    expect(status, output).toBe(0);
    expect(model()).toBe(folder);
    expect(existsSync(join(root, 'opt/catalog-labels/current/bin/catalog-labels'))).toBe(true);
    expect(existsSync(join(root, 'etc/systemd/system/catalog-labels-worker-3.service'))).toBe(true);
    expect(calls()).toContain('systemctl enable --now catalog-labels.target');
    // All that the workers need was looked at, with the devices of the whole host.
    expect(output).toContain('looked at cores 0-15');
    expect(calls().at(-1)).toContain(
      'complete-lifecycle-action --lifecycle-action-result CONTINUE --instance-id i-1 --lifecycle-hook-name install',
    );
  });

  it('makes the folders of the logs of every unit, which systemd opens before it would make them', () => {
    publish('first', { 'manifest.json': '{}' });
    expect(run('install.sh').status).toBe(0);
    const units = readdirSync(join(root, 'etc/systemd/system')).map((name) =>
      readFileSync(join(root, 'etc/systemd/system', name), 'utf8'),
    );
    const logs = units.flatMap((unit) => [...unit.matchAll(/^Standard\w+=append:(.*)$/gm)].map(([, path]) => path));
    expect(new Set(logs).size).toBe(5);
    for (const path of logs) expect(existsSync(join(root, dirname(path as string))), path).toBe(true);
  });

  it.each([
    ['a right, a queue or a device that is missing', () => write('denied', '')],
    [
      'a release that is not the one of the template',
      () => upload('release.tar.gz', { 'bin/catalog-labels': '#!/bin/sh\n' }),
    ],
    ['a model that is not the one of the pointer', () => upload('first', OTHER)],
    ['a model that the binary refuses', () => publish('second', { README: 'no manifest' })],
    ['a size that it has no units for', () => write('instance-type', 'm5.large')],
    ['a worker that does not become ready', () => publish('third', { 'manifest.json': '{}', breaks: '' })],
  ])('gives the instance up at %s', (what, change) => {
    publish('first', { 'manifest.json': '{}' });
    change();
    const { status, output } = run('install.sh');
    expect(status, output).not.toBe(0);
    expect(output.includes('refused')).toBe(/that is not the one/.test(what));
    expect(calls().at(-1)).toContain('--lifecycle-action-result ABANDON');
    expect(calls().join()).not.toContain('CONTINUE');
    // What it said can be read although it goes; only of a size without units nothing is known.
    const agent = calls().findIndex((call) => call.startsWith('agent -a fetch-config'));
    const first = calls().findIndex((call) => call.startsWith('aws s3 cp'));
    if (first >= 0) expect(agent).toBeLessThan(first);
    expect(agent >= 0).toBe(readFileSync(join(root, 'instance-type'), 'utf8') !== 'm5.large');
  });
});

describe('waiting for a worker', () => {
  it('ends when systemd has given it up, however much time is left', () => {
    publish('first', { 'manifest.json': '{}', breaks: '' });
    write('failed/catalog-labels-worker-0.service', '');
    write('patient', '');
    const { status, output } = run('install.sh');
    expect(status).not.toBe(0);
    expect(output).toContain('catalog-labels-worker-0.service stays down');
  });
});

describe('model.sh', () => {
  let first: string;
  beforeEach(() => {
    first = publish('first', { 'manifest.json': '{}' });
    expect(run('install.sh').status).toBe(0);
    write('calls', '');
  });

  it('does nothing while the pointer stays', () => {
    expect(run('model.sh', 'follow').status).toBe(0);
    expect(calls().filter((call) => call.startsWith('systemctl'))).toEqual([]);
  });

  it('rolls a moved pointer out, one worker at a time', () => {
    const second = publish('second', OTHER);
    expect(run('model.sh', 'follow').status).toBe(0);
    expect(model()).toBe(second);
    expect(calls().filter((call) => call.startsWith('systemctl restart'))).toEqual(
      [0, 1, 2, 3].map((chip) => `systemctl restart catalog-labels-worker-${chip}.service`),
    );
  });

  it('rolls back a model with which a worker does not become ready, and does not try it again', () => {
    publish('bad', { 'manifest.json': '{}', breaks: '' });
    const { status, output } = run('model.sh', 'follow');
    expect(status).not.toBe(0);
    expect(output).toContain(`rolling back to ${first}`);
    expect(model()).toBe(first);
    expect(output).not.toContain('the previous model is not ready either');
    // The first worker met it until systemd gave it up, and came back; the others were restarted on the old model.
    expect(calls().filter((call) => call.startsWith('systemctl restart'))).toHaveLength(5);
    write('calls', '');
    expect(run('model.sh', 'follow').output).toContain('move the pointer');
    expect(calls().filter((call) => call.startsWith('systemctl'))).toEqual([]);
  });

  it('keeps the model before the one that runs, and no other', () => {
    const folders = ['second', 'third', 'fourth'].map((name) => {
      const folder = publish(name, { 'manifest.json': `{"model_id": "${name}"}` });
      expect(run('model.sh', 'follow').status).toBe(0);
      return folder;
    });
    const kept = readdirSync(join(root, 'var/lib/catalog-labels/models'));
    expect(kept.sort()).toEqual(
      folders
        .slice(1)
        .map((folder) => folder.split('/').at(-1))
        .sort(),
    );
  });

  it('goes back with the pointer', () => {
    publish('second', OTHER);
    expect(run('model.sh', 'follow').status).toBe(0);
    publish('first', { 'manifest.json': '{}' });
    expect(run('model.sh', 'follow').status).toBe(0);
    expect(model()).toBe(first);
  });

  it('keeps what runs where the new one is broken on the way', () => {
    publish('second', OTHER);
    upload('second', { 'manifest.json': '{"model_id": "swapped"}' });
    expect(run('model.sh', 'follow').status).not.toBe(0);
    expect(model()).toBe(first);
    expect(calls().filter((call) => call.startsWith('systemctl'))).toEqual([]);
  });
});

describe('publish-model.sh', () => {
  const publishModel = (...more: string[]) => {
    const env = { PATH: `${join(root, 'bin')}:${process.env.PATH}`, ROOT: root, AWS_REGION: 'eu-west-1' };
    return spawnSync('bash', [join(CDK_FOLDER, 'host/publish-model.sh'), ...more], { env, encoding: 'utf8' });
  };
  const put = () => calls().filter((call) => call.startsWith('aws ssm put-parameter'));

  it('uploads the artifact, and points to it by digest', () => {
    write('artifact/manifest.json', '{"model_id": "minilm"}');
    mkdirSync(join(root, 'bucket/catalog-labels-dev-models-123456789012-eu-west-1/models'), { recursive: true });
    write(
      'bin/aws',
      `#!/bin/bash\necho "aws $*" >>"$ROOT/calls"\ncase "$1 $2" in\n  's3 cp') cp "$4" "$ROOT/bucket/\${5#s3://}" ;;\n  'sts get-caller-identity') echo 123456789012 ;;\nesac\n`,
      0o755,
    );
    const { status, stderr } = publishModel('dev', join(root, 'artifact'));
    expect(status, stderr).toBe(0);
    const value = JSON.parse(/--value (\{.*\})$/.exec(put()[0] as string)?.[1] as string);
    const uploaded = readFileSync(join(root, 'bucket', value.uri.slice('s3://'.length)));
    expect(value).toMatchObject({ id: 'minilm', sha256: sha256(uploaded) });
    expect(put()[0]).toContain('--name /catalog-labels-dev/model ');
  });

  it('goes back to what the pointer named before', () => {
    const { status, stderr } = publishModel('dev', '--back');
    expect(status, stderr).toBe(0);
    expect(put()[0]).toContain('--value {"id":"before"}');
  });
});

describe('protect.sh', () => {
  const held = (count: number) =>
    write(
      'metrics',
      `# TYPE queue_leases_held gauge\nqueue_leases_held{queue="catalog"} ${count}\nqueue_leases_lost_total 7\n`,
    );
  const told = () =>
    calls()
      .filter((call) => call.includes('set-instance-protection'))
      .map((call) => call.split(' ').at(-1));

  it('tells the group only of changes: free when nothing is held, protected when something is', () => {
    for (const unit of [0, 1]) write(`etc/systemd/system/catalog-labels-worker-${unit}.service`, '');
    mkdirSync(join(root, 'var/lib/catalog-labels'), { recursive: true });
    for (const count of [3, 0, 0, 2, 2]) {
      held(count);
      const { status, output } = run('protect.sh');
      expect(status, output).toBe(0);
    }
    expect(told()).toEqual(['--no-protected-from-scale-in', '--protected-from-scale-in']);
  });
});

describe('unhealthy.sh', () => {
  const worker = 'catalog-labels-worker-1.service';
  beforeEach(() => {
    for (const unit of [0, 1]) write(`etc/systemd/system/catalog-labels-worker-${unit}.service`, '');
  });

  it('has the instance replaced when a worker stays down', () => {
    write(`failed/${worker}`, '');
    const { status, output } = run('unhealthy.sh');
    expect(status, output).toBe(0);
    expect(output).toContain(`${worker} stays down`);
    expect(calls()).toEqual([
      expect.stringMatching(/^aws autoscaling set-instance-health --instance-id i-1 --health-status Unhealthy /),
    ]);
  });

  it('leaves an instance whose workers are up again', () => {
    expect(run('unhealthy.sh').status).toBe(0);
    expect(calls()).toEqual([]);
  });

  it('leaves it to a roll-out of a model to go back, and judges after it', () => {
    write(`failed/${worker}`, '');
    write('rollout', 'activating\nactivating\n');
    // The roll-out ends while it is waited for, and starts the worker again.
    write('bin/sleep', `#!/bin/bash\n[[ -s $ROOT/rollout ]] || rm -f "$ROOT/failed/${worker}"\n`, 0o755);
    expect(run('unhealthy.sh').status).toBe(0);
    expect(readFileSync(join(root, 'rollout'), 'utf8')).toBe('');
    expect(calls()).toEqual([]);
  });

  it('is started by every worker that systemd gives up', () => {
    for (const [name, unit] of Object.entries(unitsOf('inf1.6xlarge', 60)).filter(([name]) => /-worker-/.test(name)))
      expect(unit.split('\n'), name).toContain('OnFailure=catalog-labels-unhealthy.service');
    expect(unitsOf('inf1.6xlarge', 60)['catalog-labels-unhealthy.service']).toContain('/host/unhealthy.sh\n');
  });
});

describe('drain.sh', () => {
  it.each(['scale-in', 'spot'])('stops every worker at a notice of %s, and answers the hook after that', (notice) => {
    for (const unit of [0, 1]) write(`etc/systemd/system/catalog-labels-worker-${unit}.service`, '');
    write(notice, '');
    const { status, output } = run('drain.sh');
    expect(status, output).toBe(0);
    expect(calls()).toEqual([
      'systemctl stop catalog-labels-worker-0.service catalog-labels-worker-1.service',
      expect.stringContaining('--lifecycle-action-result CONTINUE --instance-id i-1 --lifecycle-hook-name drain'),
    ]);
  });
});

describe('user data of an ECS host', () => {
  it('writes what the agent and neuron-monitor are told, and starts both', () => {
    const script = text(only('intent', 'AWS::EC2::LaunchTemplate').LaunchTemplateData.UserData);
    const here = script.replaceAll('/etc/', `${root}/etc/`).replaceAll('/var/log/', `${root}/var/log/`);
    mkdirSync(join(root, 'etc/systemd/system'), { recursive: true });
    mkdirSync(join(root, 'etc/ecs'), { recursive: true });
    write('bin/useradd', '#!/bin/bash\n', 0o755);
    const env = { PATH: `${join(root, 'bin')}:${process.env.PATH}`, ROOT: root };
    const { status, stderr } = spawnSync('bash', ['-c', here], { env, encoding: 'utf8' });
    expect(status, stderr).toBe(0);
    for (const name of ['cloudwatch-agent.json', 'prometheus.yaml', 'neuron-monitor.json'])
      expect(JSON.parse(readFileSync(join(root, 'etc/catalog-labels', name), 'utf8'))).toBeTypeOf('object');
    const unit = readFileSync(join(root, 'etc/systemd/system/catalog-labels-neuron-monitor.service'), 'utf8');
    expect(unit.replaceAll(root, '')).toBe(intentUnits()['catalog-labels-neuron-monitor.service']);
    const log = /^StandardError=append:(.*)$/m.exec(unit)?.[1] as string;
    expect(existsSync(dirname(log)), log).toBe(true);
    expect(readFileSync(join(root, 'etc/ecs/ecs.config'), 'utf8')).toContain('ECS_CLUSTER=');
    expect(calls()).toEqual([
      'systemctl daemon-reload',
      'systemctl enable --now catalog-labels-neuron-monitor.service',
      expect.stringMatching(
        /^agent -a fetch-config -m ec2 -s -c file:\S+\/etc\/catalog-labels\/cloudwatch-agent\.json$/,
      ),
    ]);
  });
});

describe('user data of a worker host', () => {
  /** The script, with the folders of a host and the digest of another host folder in it. */
  const boot = (change: (folder: string) => void) => {
    const folder = join(root, 'host');
    cpSync(join(root, 'boot'), folder, { recursive: true });
    // What the folder would start is another test's concern.
    writeFileSync(join(folder, 'install.sh'), 'echo installed >>"$ROOT/calls"\n');
    const sums = readFileSync(join(folder, 'SHA256SUMS'), 'utf8');
    const digest = sha256(readFileSync(join(folder, 'install.sh')));
    writeFileSync(join(folder, 'SHA256SUMS'), sums.replace(/[0-9a-f]{64}(?= {2}install\.sh)/, digest));
    const pinned = sha256(readFileSync(join(folder, 'SHA256SUMS')));
    change(folder);
    mkdirSync(join(root, 'bucket/assets'), { recursive: true });
    execFileSync('python3', ['-m', 'zipfile', '-c', join(root, 'bucket/assets/host.zip'), ...readdirSync(folder)], {
      cwd: folder,
    });
    const script = text(only('worker', 'AWS::EC2::LaunchTemplate').LaunchTemplateData.UserData)
      .replaceAll('/etc/', `${root}/etc/`)
      .replaceAll('/var/lib/', `${root}/var/lib/`)
      .replace(/(?<=--only-show-errors )'[^']*'/, "'s3://assets/host.zip'")
      .replace(/'[0-9a-f]{64}(?= {2}host\/SHA256SUMS')/, `'${pinned}`);
    const env = { PATH: `${join(root, 'bin')}:${process.env.PATH}`, ROOT: root };
    return spawnSync('bash', ['-c', script], { env, encoding: 'utf8' });
  };
  const isInstalled = () => calls().includes('installed');

  it('installs from a folder that is the one of the template', () => {
    const { status, stderr } = boot(() => {});
    expect(status, stderr).toBe(0);
    expect(isInstalled()).toBe(true);
    expect(readFileSync(join(root, 'etc/catalog-labels/worker.env'), 'utf8')).toContain('CATALOG_LABELS_REGION=');
  });

  it.each([
    [
      'a script',
      (folder: string) => writeFileSync(join(folder, 'install.sh'), 'echo installed >>"$ROOT/calls" # other\n'),
    ],
    [
      'a file and its sum',
      (folder: string) => {
        writeFileSync(join(folder, 'drain.sh'), 'true\n');
        const sums = readFileSync(join(folder, 'SHA256SUMS'), 'utf8');
        const digest = sha256('true\n');
        writeFileSync(join(folder, 'SHA256SUMS'), sums.replace(/[0-9a-f]{64}(?= {2}drain\.sh)/, digest));
      },
    ],
  ])('runs nothing of a folder in which somebody has changed %s', (_what, change) => {
    const { status, stdout, stderr } = boot(change);
    expect(status).not.toBe(0);
    expect(stdout + stderr).toMatch(/computed checksum did NOT match/);
    expect(isInstalled()).toBe(false);
  });
});

describe('prepare-image.sh', () => {
  const TOOLS = ['/opt/aws/neuron/bin/neuron-monitor', '/opt/aws/neuron/bin/neuron-monitor-prometheus.py'];
  /** Runs it as root of a machine on which these programs are found, one package manager among them. */
  const prepare = (what: string, found: string[], rootDevice: string = ROOT_DEVICE, systemd = 252) => {
    write('tools/systemctl', `#!/bin/bash\n[[ $1 != --version ]] || echo "systemd ${systemd} (${systemd}.1)"\n`, 0o755);
    write(
      'tools/curl',
      `#!/bin/bash\ncase "$*" in *token) echo token ;; *mapping/root) echo ${rootDevice} ;; esac\n`,
      0o755,
    );
    for (const name of found)
      write(join('tools', name), '#!/bin/bash\necho "$(basename "$0") $*" >>"$ROOT/calls"\n', 0o755);
    const script = readFileSync(join(CDK_FOLDER, 'host/prepare-image.sh'), 'utf8')
      .replaceAll('/opt/aws/', `${root}/tools/opt/aws/`)
      .replaceAll('/dev/neuron0', root)
      .replace('((EUID == 0))', 'true');
    for (const name of ['uname', 'ls', 'bash', 'env', 'basename', 'sed']) {
      if (!existsSync(join(root, 'tools', name))) symlinkSync(`/bin/${name}`, join(root, 'tools', name));
    }
    return spawnSync('/bin/bash', ['-c', script, 'prepare-image.sh', what], {
      env: { PATH: join(root, 'tools'), ROOT: root },
      encoding: 'utf8',
    });
  };

  it.each([
    ['worker', 'apt-get', ['apt-mark', 'aws']],
    ['ecs', 'dnf', ['python3', 'docker']],
  ])('makes the image of a %s host by %s, on the last line of the driver that knows inf1', (what, manager, more) => {
    const found = [manager, 'amazon-cloudwatch-agent-ctl', ...TOOLS, ...more];
    const { status, stdout, stderr } = prepare(what, found);
    expect(status, stderr).toBe(0);
    expect(calls().some((call) => call.startsWith(manager) && /aws-neuronx-dkms[=-]2\.24\./.test(call))).toBe(true);
    expect(stdout).toContain(`/catalog-labels/image/${what}`);
  });

  it('refuses an image whose root volume the templates would not find', () => {
    const { status, stderr } = prepare('worker', ['apt-get', 'apt-mark'], '/dev/sda1');
    expect(status).toBe(1);
    expect(stderr).toContain('the root volume of this image is /dev/sda1');
  });

  it('refuses an image whose systemd is too old for the units', () => {
    // Amazon Linux 2.
    const { status, stderr } = prepare('ecs', ['dnf', 'python3'], ROOT_DEVICE, 219);
    expect(status).toBe(1);
    expect(stderr).toContain('systemd 219');
  });

  it('says what is missing', () => {
    const { status, stderr } = prepare('worker', ['apt-get', 'apt-mark', 'aws']);
    expect(status).toBe(1);
    expect(stderr).toMatch(
      /still missing: amazon-cloudwatch-agent-ctl \S+neuron-monitor \S+neuron-monitor-prometheus.py/,
    );
  });
});
