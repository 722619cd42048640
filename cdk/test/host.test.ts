import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { workerPrometheusConfig } from '../lib/build/agent.ts';
import { writeHostFolder } from '../lib/build/host.ts';
import { intentUnits, unitsOf, visibleCores, workerMemoryMib } from '../lib/build/systemd.ts';
import { INF1, INF1_SIZES } from '../lib/config/inf1.ts';
import { CONFIG } from './app.ts';
import { fleetEnvironment } from './worker-binary.ts';

const DRAIN_SECONDS = 60;
/** Of ten; systemd calls up to 2.0 "OK", its best mark but for "SAFE". */
const EXPOSURE_MAX = 2.0;
const hasSystemd = spawnSync('systemd-analyze', ['--version']).status === 0;

/** Units in a folder, with what they start replaced by something that is there. */
function written(units: Record<string, string>): string[] {
  const folder = mkdtempSync(join(tmpdir(), 'catalog-labels-units-'));
  return Object.entries(units).map(([name, text]) => {
    writeFileSync(
      join(folder, name),
      text.replaceAll(/\/opt\/catalog-labels\/(current\/bin\/catalog-labels|host\/\w+\.sh)/g, '/bin/true'),
    );
    return join(folder, name);
  });
}

describe.each([
  ...INF1_SIZES.map((size) => [`an ${size}`, unitsOf(size, DRAIN_SECONDS)] as const),
  ['a host of the online service', intentUnits()] as const,
])('units of %s', (_host, units) => {
  const services = Object.entries(units).filter(([name]) => name.endsWith('.service'));

  it.skipIf(!hasSystemd)('are accepted by systemd-analyze verify', () => {
    const verified = spawnSync('systemd-analyze', ['verify', ...written(units)], { encoding: 'utf8' });
    expect(verified.stdout + verified.stderr).toBe('');
    expect(verified.status).toBe(0);
  });

  it.skipIf(!hasSystemd)('expose little by systemd-analyze security', () => {
    // The workers differ by their chip only.
    for (const path of written(units).filter((path) => /service$/.test(path) && !/-worker-[1-9]/.test(path))) {
      const arguments_ = ['security', '--offline=true', `--threshold=${EXPOSURE_MAX * 10}`, '--no-pager', path];
      const analysed = spawnSync('systemd-analyze', arguments_, { encoding: 'utf8' });
      expect(analysed.status, analysed.stdout.trim().split('\n').at(-1)).toBe(0);
    }
  });

  it('get no new privileges, a root that they only read, and files under /tmp of their own', () => {
    expect(services.length).toBeGreaterThan(0);
    for (const [name, text] of services) {
      for (const line of ['NoNewPrivileges=yes', 'ProtectSystem=strict', 'PrivateTmp=yes', 'ProtectHome=yes'])
        expect(text.split('\n'), name).toContain(line);
    }
  });

  it('tell the second at which a timer goes off: of itself it may be a minute late', () => {
    for (const [name, text] of Object.entries(units).filter(([name]) => name.endsWith('.timer')))
      expect(text.split('\n'), name).toContain('AccuracySec=1s');
  });

  it('run as a user of their own where they touch a chip, and as root only where they restart others', () => {
    for (const [name, text] of services) {
      const ofScripts = text.includes('/opt/catalog-labels/host/');
      expect(text.includes('\nUser=catalog-labels\n'), name).toBe(!ofScripts);
      expect(text.includes('\nDeviceAllow='), name).toBe(!ofScripts);
    }
  });
});

describe.each(INF1_SIZES)('workers of an %s', (size) => {
  const { chips, memoryMib, vcpus } = INF1[size];
  const workers = Object.entries(unitsOf(size, DRAIN_SECONDS)).filter(([name]) => /-worker-\d+\.service$/.test(name));
  const values = (name: string) =>
    workers.map(([_name, text]) => new RegExp(`^${name}=(.*)$`, 'm').exec(text)?.[1] as string);

  it('start one worker for each chip, on cores and a device of its own', () => {
    expect(workers).toHaveLength(chips);
    expect(values('Environment=NEURON_RT_VISIBLE_CORES')).toEqual(
      Array.from({ length: chips }, (_, chip) => visibleCores(chip)),
    );
    expect(values('DeviceAllow')).toEqual(Array.from({ length: chips }, (_, chip) => `/dev/neuron${chip} rw`));
    expect(new Set(values('Environment=CATALOG_LABELS_HEALTH_ADDRESS')).size).toBe(chips);
    expect(values('CPUAffinity').at(-1)?.split('-')[1]).toBe(String(vcpus - 1));
  });

  it('leave the host memory of its own', () => {
    expect(workerMemoryMib(size) * chips).toBeLessThanOrEqual(memoryMib - 1_024);
    for (const limit of values('MemoryMax')) expect(limit).toBe(`${workerMemoryMib(size)}M`);
  });

  it('wait for a drain before they kill', () => {
    for (const seconds of values('TimeoutStopSec')) expect(Number(seconds)).toBeGreaterThan(DRAIN_SECONDS);
  });

  it('are told their threads, their cores and how many copies of the model fit', () => {
    const told = fleetEnvironment();
    for (const name of ['OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS']) expect(told[name]).toBe('1');
    for (const replicas of values('Environment=CATALOG_LABELS_REPLICAS')) expect(replicas).toBe('4');
    for (const name of ['NEURON_RT_LOG_LOCATION', 'NEURON_RT_LOG_LEVEL'])
      expect(values(`Environment=${name}`)).not.toContain(undefined);
  });

  it('leave the drain hook to one script, which waits for every worker', () => {
    expect(unitsOf(size, DRAIN_SECONDS)['catalog-labels-drain.service']).toContain('/host/drain.sh');
  });

  it('are all scraped', () => {
    const jobs = JSON.parse(workerPrometheusConfig(size, 'test')).scrape_configs;
    const ports = values('Environment=CATALOG_LABELS_HEALTH_ADDRESS');
    expect(jobs[0].static_configs[0]).toEqual({ targets: ports, labels: { stage: 'test', fleet: 'worker' } });
  });
});

describe('the host folder', () => {
  it('has every file in its sums, and comes out the same twice', () => {
    const [first, second] = [writeHostFolder(CONFIG), writeHostFolder(CONFIG)];
    expect(first.sums).toBe(second.sums);
    execFileSync('sha256sum', ['--check', '--quiet', '--strict', 'SHA256SUMS'], { cwd: first.path });
    const listed = readFileSync(join(first.path, 'SHA256SUMS'), 'utf8').trim().split('\n').length;
    expect(listed).toBe(
      Number(execFileSync('sh', ['-c', 'find . -type f | wc -l'], { cwd: first.path, encoding: 'utf8' })) - 1,
    );
  });
});
