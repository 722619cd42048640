/** The scripts of a host, run for real in a folder that stands for its root. */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { beforeEach, describe, expect, it } from 'vitest';

import { sha256 } from '../lib/build/release.ts';
import { unitsOf } from '../lib/build/systemd.ts';
import { CDK_FOLDER } from '../lib/config/read.ts';
import { OTHER, calls, makeRoot, model, publish, root, run, upload, write } from './host-root.ts';

beforeEach(makeRoot);

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
