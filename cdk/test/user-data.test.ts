/** What a host runs at its first start, and what makes its image, in a folder that stands for its root. */

import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { beforeEach, describe, expect, it } from 'vitest';

import { sha256 } from '../lib/build/release.ts';
import { intentUnits } from '../lib/build/systemd.ts';
import { CDK_FOLDER } from '../lib/config/read.ts';
import { ROOT_DEVICE } from '../lib/constructs/image.ts';
import { only } from './app.ts';
import { calls, makeRoot, root, write } from './host-root.ts';
import { text } from './worker-binary.ts';

beforeEach(makeRoot);

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
