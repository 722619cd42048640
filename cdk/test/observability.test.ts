import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import {
  intentAgentConfig,
  intentPrometheusConfig,
  neuronMonitorConfig,
  workerAgentConfig,
  workerPrometheusConfig,
} from '../lib/build/agent.ts';
import { AGES, NAMESPACE, NEURON_METRICS, SERVICE_DECLARATIONS, WORKER_DECLARATIONS } from '../lib/build/metrics.ts';
import { intentUnits, unitsOf } from '../lib/build/systemd.ts';
import { INF1_SIZES } from '../lib/config/inf1.ts';
import { CDK_FOLDER } from '../lib/config/read.ts';
import { CONFIG, only, type Properties, template } from './app.ts';
import { text } from './worker-binary.ts';

const doc = (name: string) => readFileSync(join(CDK_FOLDER, '../docs', name), 'utf8');
const alarms = (): Properties[] =>
  Object.values(template('observability').findResources('AWS::CloudWatch::Alarm')).map((alarm) => alarm.Properties);
const alarm = (name: string): Properties =>
  only('observability', 'AWS::CloudWatch::Alarm', ({ AlarmName }) => AlarmName === `catalog-labels-test-${name}`);
const metricsOf = (watch: Properties): Properties[] =>
  watch.Metrics?.flatMap(({ MetricStat }: Properties) => MetricStat?.Metric ?? []) ?? [watch];

/** Kind and labels of each metric in the worker's typed list, of which docs/METRICS.md is the page. */
function typedList(): Map<string, { kind: string; what: string }> {
  const rows = doc('METRICS.md').matchAll(/^\| `(\w+)` \| (\w+) \| \w+ \| \w+ \| (.*) \|$/gm);
  return new Map(
    [...rows].map(([, name, kind, what]) => [name as string, { kind: kind as string, what: what as string }]),
  );
}

/** Headings of the runbook as links name them. */
function sections(): string[] {
  return [...doc('RUNBOOK.md').matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    (heading as string)
      .toLowerCase()
      .replace(/[^\w\s-]/g, '')
      .trim()
      .replace(/\s/g, '-'),
  );
}

describe('metrics', () => {
  it.each(
    [...WORKER_DECLARATIONS, ...SERVICE_DECLARATIONS].flatMap(({ metrics, dimensions }) =>
      metrics.map((metric) => [metric, dimensions] as const),
    ),
  )('%s by %s is in the typed list, and the agent publishes its kind', (metric, dimensions) => {
    const entry = typedList().get(metric);
    expect(entry, `${metric} is not in docs/METRICS.md`).toBeDefined();
    // The CloudWatch agent drops histograms.
    expect(['Counter', 'Gauge']).toContain(entry?.kind);
    for (const label of dimensions.filter((name) => name !== 'stage')) expect(entry?.what).toContain(label);
  });

  it('are declared to the agent under the names that alarms and dashboard read', () => {
    const configs = [workerAgentConfig('inf1.6xlarge', 'test', '/log'), intentAgentConfig('test', '/log')];
    const processors = configs.map((config) => JSON.parse(config).logs.metrics_collected.prometheus.emf_processor);
    for (const { metric_namespace } of processors) expect(metric_namespace).toBe(NAMESPACE);
    const declared = new Set(
      processors
        .flatMap(({ metric_declaration }: Properties) => metric_declaration)
        .flatMap(({ metric_selectors, dimensions }: Properties) =>
          metric_selectors.map((selector: string) => `${selector.slice(1, -1)} by ${[...dimensions[0]].sort()}`),
        ),
    );
    const own = alarms()
      .flatMap(metricsOf)
      .filter(({ Namespace }) => Namespace === NAMESPACE);
    expect(own.length).toBeGreaterThan(4);
    for (const { MetricName, Dimensions } of own) {
      expect(declared).toContain(`${MetricName} by ${Dimensions.map(({ Name }: Properties) => Name).sort()}`);
    }
    const dashboard = JSON.stringify(only('observability', 'AWS::CloudWatch::Dashboard').DashboardBody);
    const shown = [...dashboard.matchAll(/\\"CatalogLabels\\",\\"(\w+)\\"/g)].map(([, name]) => name);
    expect(shown.length).toBeGreaterThan(4);
    const names = new Set([...declared].map((declaration) => String(declaration).split(' by ')[0]));
    for (const name of shown) expect(names).toContain(name);
  });

  it('count ages at the bounds that the worker names', () => {
    const what = typedList().get('events_by_age_total')?.what;
    expect(/\(([^)]*)\)/.exec(what ?? '')?.[1]?.split(', ')).toEqual(Object.keys(AGES));
    // An alarm reads ten metrics at most.
    for (const watch of alarms()) expect(metricsOf(watch).length).toBeLessThanOrEqual(10);
  });

  it('of workers and of the online service do not add up to one number', () => {
    const names = (declarations: typeof WORKER_DECLARATIONS) =>
      new Set(declarations.flatMap(({ metrics, dimensions }) => metrics.map((metric) => `${metric} by ${dimensions}`)));
    const [ofWorkers, ofService] = [names(WORKER_DECLARATIONS), names(SERVICE_DECLARATIONS)];
    expect([...ofService].filter((name) => ofWorkers.has(name))).toEqual([]);
  });

  it.each([
    [
      'worker',
      unitsOf('inf1.6xlarge', 60),
      workerPrometheusConfig('inf1.6xlarge', 'test'),
      workerAgentConfig('inf1.6xlarge', 'test', '/log'),
    ],
    ['intent', intentUnits(), intentPrometheusConfig('test'), intentAgentConfig('test', '/log')],
  ] as const)('of the chips of %s hosts are asked of neuron-monitor, scraped and published', (...parts) => {
    const [fleet, units, prometheus, agentConfig] = parts;
    const monitored = JSON.parse(neuronMonitorConfig()).neuron_runtimes[0];
    expect(monitored.metrics.map(({ type }: Properties) => type)).toEqual(Object.keys(NEURON_METRICS));
    const unit = units['catalog-labels-neuron-monitor.service'] as string;
    const port = /neuron-monitor -c (\S+) \| \S+\/neuron-monitor-prometheus\.py --port (\d+)/.exec(unit);
    expect(port?.[1]).toBe('/etc/catalog-labels/neuron-monitor.json');
    const jobs: Properties[] = JSON.parse(prometheus).scrape_configs;
    const job = jobs.find(({ static_configs }) => static_configs[0].targets.includes(`127.0.0.1:${port?.[2]}`));
    expect(job?.static_configs[0].labels).toEqual({ stage: 'test', fleet });
    const { metric_declaration } = JSON.parse(agentConfig).logs.metrics_collected.prometheus.emf_processor;
    const published: Properties[] = metric_declaration.filter(
      ({ label_matcher }: Properties) => label_matcher === `^${job?.job_name}$`,
    );
    expect(published.map(({ metric_selectors, dimensions }) => [metric_selectors, dimensions])).toEqual([
      [Object.values(NEURON_METRICS).map((name) => `^${name}$`), [['stage', 'fleet']]],
    ]);
  });
});

describe('logs', () => {
  it.each(INF1_SIZES)('of every unit of an %s are collected, each file into a stream of its own', (size) => {
    const { collect_list } = JSON.parse(workerAgentConfig(size, 'test', '/log')).logs.logs_collected.files;
    const paths: string[] = collect_list.map(({ file_path }: Properties) => file_path);
    const written = Object.values(unitsOf(size, 60)).flatMap((unit) =>
      [...unit.matchAll(/^Standard\w+=append:(.*)$/gm)].map(([, path]) => path as string),
    );
    // Of the files that fit a pattern the agent sends the newest only.
    expect(paths.join()).not.toContain('*');
    expect(new Set(paths)).toEqual(new Set([...written, '/var/log/cloud-init-output.log']));
    const streams = collect_list.map(({ log_stream_name }: Properties) => log_stream_name);
    expect(new Set(streams).size).toBe(paths.length);
    for (const stream of streams) expect(stream).toMatch(/^\{instance_id\}\//);
  });

  it('of what a host of the online service installs are collected', () => {
    const { collect_list } = JSON.parse(intentAgentConfig('test', '/log')).logs.logs_collected.files;
    const paths = collect_list.map(({ file_path }: Properties) => file_path);
    expect(paths).toEqual([
      '/var/log/cloud-init-output.log',
      '/var/log/catalog-labels/host.log',
      '/var/log/ecs/ecs-agent.log',
    ]);
  });
});

describe('the dashboard', () => {
  it.each([
    ['the age of the oldest message', 'Age of the oldest message (s)', 'ApproximateAgeOfOldestMessage'],
    ['messages not visible against the cap', 'Messages in flight, of 120000', 'ApproximateNumberOfMessagesNotVisible'],
    ['dead letters', 'Dead letters', 'ApproximateNumberOfMessagesVisible'],
    ['stale labels', 'Stale labels (% of events)', 'events_by_age_total'],
    ['P99', 'Online service: P99 (s)', 'TargetResponseTime'],
    ['the cost of a million labels', 'Dollars per million labels', 'label_items_written_total'],
    ['chips in use', 'NeuronCores in use', 'neuroncore_utilization_ratio'],
  ])('shows %s', (_what, title, metric) => {
    const { DashboardBody } = only('observability', 'AWS::CloudWatch::Dashboard');
    const { widgets } = JSON.parse(text(DashboardBody, () => 'reference'));
    const graph = widgets.find(({ properties }: Properties) => properties.title === title);
    expect(JSON.stringify(graph?.properties.metrics)).toContain(`"${metric}"`);
  });
});

describe('alarms', () => {
  it('each say what they mean and link to a section of the runbook that exists', () => {
    expect(alarms().length).toBeGreaterThan(12);
    for (const { AlarmDescription, AlarmName } of alarms()) {
      const section = /^[A-Z].*\. https:\/\/\S+#(\S+)$/.exec(AlarmDescription)?.[1];
      expect(sections(), `${AlarmName}: ${AlarmDescription}`).toContain(section);
    }
  });

  it('each tell somebody, when they begin and when they end', () => {
    for (const { AlarmActions, OKActions } of alarms()) expect([AlarmActions.length, OKActions.length]).toEqual([1, 1]);
    expect(only('observability', 'AWS::SNS::Subscription')).toMatchObject({
      Protocol: 'email',
      Endpoint: CONFIG.alarms.email,
    });
  });

  it.each([
    ['catalog-oldest-message', 'ApproximateAgeOfOldestMessage', 2 * CONFIG.worker.freshnessSeconds],
    ['queries-oldest-message', 'ApproximateAgeOfOldestMessage', 2 * CONFIG.worker.freshnessSeconds],
    ['catalog-in-flight', 'ApproximateNumberOfMessagesNotVisible', 96_000],
    ['queries-in-flight', 'ApproximateNumberOfMessagesNotVisible', 96_000],
    ['bulk-in-flight', 'ApproximateNumberOfMessagesNotVisible', 96_000],
    ['dead-letters', 'ApproximateNumberOfMessagesVisible', 0],
    ['undelivered', 'ApproximateNumberOfMessagesVisible', 0],
    ['catalog-stale', 'events_by_age_total', CONFIG.alarms.stalePercentMax],
    ['queries-stale', 'events_by_age_total', CONFIG.alarms.stalePercentMax],
    ['fatal-faults', 'event_failures_total', 0],
    ['leases-lost', 'queue_leases_lost_total', 0],
    ['worker-device-errors', 'execution_errors_total', 0],
    ['intent-device-errors', 'execution_errors_total', 0],
    ['worker-unwatched', 'neuroncore_utilization_ratio', 1],
    ['intent-unwatched', 'neuroncore_utilization_ratio', 1],
    ['fleet-below-floor', 'GroupInServiceCapacity', CONFIG.worker.chipsMin],
    ['intent-p99', 'TargetResponseTime', CONFIG.intent.p99Milliseconds / 1_000],
    ['intent-errors', 'HTTPCode_Target_5XX_Count', 10],
    ['intent-errors', 'HTTPCode_ELB_5XX_Count', 10],
    ['intent-below-floor', 'HealthyHostCount', CONFIG.intent.tasksMin],
    ['bulk-not-started', 'FailedInvocations', 0],
    ['intent-refused', 'http_requests_total', CONFIG.intent.refusedPercentMax],
    ['intent-look-ups-failed', 'intent_lookups_total', 0],
    ['cost-per-million-labels', 'label_items_written_total', CONFIG.alarms.dollarsPerMillionLabelsMax],
    ['bulk-failed', 'ExecutionsFailed', 0],
    ['function-errors', 'Errors', 0],
  ])('%s watches %s at %d', (name, metric, threshold) => {
    const found = alarm(name);
    expect(metricsOf(found).map(({ MetricName }) => MetricName)).toContain(metric);
    expect(found.Threshold).toBe(threshold);
  });

  it.each([
    // 2 chips for an hour at the configured price, over 4,000 labels.
    ['cost-per-million-labels', { chips: 2, labels: 4_000 }, (2 * CONFIG.alarms.dollarsPerChipHour * 1e6) / 4_000],
    ['intent-refused', { refused: 3, requests: 300 }, 1],
    ['intent-refused', { requests: 300 }, 0],
    ['intent-errors', { own: 7, balancer: 5 }, 12],
    ['intent-errors', { balancer: 5 }, 5],
    // Older than the goal of 300 s are the ages beyond 5 minutes.
    ['catalog-stale', { catalog_to_15m: 2, catalog_over_1d: 1, catalog_events: 100 }, 3],
  ])('%s computes from %o what it means: %d', (name, values, expected) => {
    const watch = alarm(name);
    const { Expression } = watch.Metrics.find(({ Expression }: Properties) => Expression);
    const known: Record<string, number | undefined> = values;
    const filled = Expression.replaceAll(/FILL\((\w+), 0\)/g, (_: string, id: string) => String(known[id] ?? 0));
    const arithmetic = filled.replaceAll(/[a-z]\w*/g, (id: string) => String(known[id]));
    expect(arithmetic).toMatch(/^[\d.\s()+*/-]+$/);
    expect(new Function(`return ${arithmetic}`)()).toBeCloseTo(expected);
    for (const id of Object.keys(known)) expect(watch.Metrics.map(({ Id }: Properties) => Id)).toContain(id);
  });

  it('take silence of a fleet with a floor for a failure, and other silence for rest', () => {
    for (const name of ['fleet-below-floor', 'intent-below-floor', 'worker-unwatched', 'intent-unwatched'])
      expect(alarm(name).TreatMissingData).toBe('breaching');
    expect(alarm('dead-letters').TreatMissingData).toBe('notBreaching');
  });

  it('go to a topic that is encrypted with a key that CloudWatch may use', () => {
    expect(only('observability', 'AWS::SNS::Topic').KmsMasterKeyId).toBeDefined();
    const statements: Properties[] = only('observability', 'AWS::KMS::Key').KeyPolicy.Statement;
    const ofCloudWatch = statements.find(({ Principal }) => Principal.Service === 'cloudwatch.amazonaws.com');
    expect(ofCloudWatch.Action).toEqual(['kms:Decrypt', 'kms:GenerateDataKey*']);
    const published: Properties[] = only('observability', 'AWS::SNS::TopicPolicy').PolicyDocument.Statement;
    expect(published).toContainEqual(
      expect.objectContaining({ Action: 'sns:Publish', Principal: { Service: 'cloudwatch.amazonaws.com' } }),
    );
  });
});
