import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { openRelease } from '../lib/build/release.ts';
import { CDK_FOLDER } from '../lib/config/read.ts';

const tool = (name: string) => join(CDK_FOLDER, '../.venv-cdk/bin', name);
const files = (folder: string, end: string) =>
  readdirSync(join(CDK_FOLDER, folder))
    .filter((name) => name.endsWith(end))
    .map((name) => join(CDK_FOLDER, folder, name));

describe('recipes', () => {
  it('for images are clean for hadolint; they were never built here', () => {
    const recipes = files('containers', '.Dockerfile');
    expect(recipes.length).toBeGreaterThan(0);
    const linted = spawnSync(tool('hadolint'), recipes, { encoding: 'utf8' });
    expect(linted.error).toBeUndefined();
    expect(linted.stdout + linted.stderr).toBe('');
  });

  it('for images begin with a base that is named by its digest', () => {
    for (const path of files('containers', '.Dockerfile')) {
      const bases = [...readFileSync(path, 'utf8').matchAll(/^FROM (.*)$/gm)].map(([, base]) => base);
      expect(bases.length, path).toBeGreaterThan(0);
      for (const base of bases) expect(base).toMatch(/^[^ ]+:[^ ]+@sha256:[0-9a-f]{64}$/);
    }
  });

  it('name what scripts/bundle.sh puts beside them, and it lists what is missing', () => {
    const work = mkdtempSync(join(tmpdir(), 'catalog-labels-bundle-'));
    const bundle = (more: Record<string, string>) =>
      spawnSync('bash', [join(CDK_FOLDER, '../scripts/bundle.sh')], {
        env: { PATH: process.env.PATH, DIST: join(work, 'dist'), ...more },
        encoding: 'utf8',
      });
    const refused = bundle({ CPU_BINARY: '/nonexistent' });
    expect(refused.status).toBe(1);
    for (const name of ['INF1_BINARY', 'INF1_LIBS', 'INF1_MODEL', 'CPU_BINARY'])
      expect(refused.stderr).toContain(`missing: ${name}=`);

    for (const file of ['bin', 'libs/libtorch_cpu.so', 'libs/libtorchneuron.so', 'model/manifest.json']) {
      mkdirSync(join(work, file, '..'), { recursive: true });
      writeFileSync(join(work, file), file);
    }
    const inputs = {
      INF1_BINARY: join(work, 'bin'),
      INF1_LIBS: join(work, 'libs'),
      INF1_MODEL: join(work, 'model'),
      CPU_BINARY: join(work, 'bin'),
    };
    const [first, second] = [bundle(inputs), bundle(inputs)];
    expect(first.status, first.stderr).toBe(0);
    expect(first.stdout).toBe(second.stdout);
    const { intentImage, cpuImage } = openRelease(join(work, 'dist'));
    for (const context of [intentImage, cpuImage]) {
      const recipe = readFileSync(join(context, 'Dockerfile'), 'utf8');
      const copied = [...recipe.matchAll(/^(?:COPY|ADD) (\S+) /gm)].map(([, name]) => name as string);
      expect(copied.length).toBeGreaterThan(1);
      for (const name of copied) expect(readdirSync(context)).toContain(name);
    }
  });

  it('for hosts are clean for shellcheck', () => {
    const linted = spawnSync(tool('shellcheck'), files('host', '.sh'), {
      cwd: join(CDK_FOLDER, 'host'),
      encoding: 'utf8',
    });
    expect(linted.error).toBeUndefined();
    expect(linted.stdout + linted.stderr).toBe('');
  });
});
