/**
 * Configuration of the CloudWatch agent and of neuron-monitor. The agent of a host scrapes what
 * runs there (workers, or the online service) and neuron-monitor, and writes embedded metrics
 * into one log group.
 */

import { INF1, type Inf1Size } from '../config/inf1.ts';
import {
  type Declaration,
  type Fleet,
  NAMESPACE,
  NEURON_DECLARATIONS,
  NEURON_METRICS,
  SERVICE_DECLARATIONS,
  WORKER_DECLARATIONS,
} from './metrics.ts';
import { ETC, HOST_LOG, INSTALL_LOG, INTENT_PORT, NEURON_MONITOR_PORT, WORKER_PORT, workerLog } from './paths.ts';

const SCRAPE_SECONDS = 60;

/** What the agent of a worker host of this size is told, as JSON. */
export function workerAgentConfig(size: Inf1Size, stage: string, logGroup: string): string {
  const workers = Array.from({ length: INF1[size].chips }, (_, chip) => [`worker-${chip}`, workerLog(chip)] as const);
  const logs = { install: INSTALL_LOG, host: HOST_LOG, ...Object.fromEntries(workers) };
  return agentConfig(stage, logGroup, { worker: WORKER_DECLARATIONS }, logs);
}

/** What the agent of a host of the online service is told; ECS collects the logs of its task. */
export function intentAgentConfig(stage: string, logGroup: string): string {
  const logs = { install: INSTALL_LOG, host: HOST_LOG, ecs: '/var/log/ecs/ecs-agent.log' };
  return agentConfig(stage, logGroup, { serve: SERVICE_DECLARATIONS }, logs);
}

/**
 * The metrics of the scraped jobs that are published, those of the device among them, and the
 * log files by stream. Hosts take no logins, so that what is not collected cannot be read. Each
 * file is named: of the files that fit a pattern the agent sends the newest only.
 */
function agentConfig(
  stage: string,
  logGroup: string,
  jobs: Readonly<Record<string, readonly Declaration[]>>,
  logs: Readonly<Record<string, string>>,
): string {
  const declarations = Object.entries({ ...jobs, neuron: NEURON_DECLARATIONS }).flatMap(([job, published]) =>
    published.map(({ dimensions, metrics }) => ({
      source_labels: ['job'],
      label_matcher: `^${job}$`,
      dimensions: [dimensions],
      metric_selectors: metrics.map((metric) => `^${metric}$`),
    })),
  );
  const prometheus = {
    cluster_name: `catalog-labels-${stage}`,
    log_group_name: logGroup,
    prometheus_config_path: `${ETC}/prometheus.yaml`,
    emf_processor: { metric_namespace: NAMESPACE, metric_declaration: declarations },
  };
  const collected = Object.entries(logs).map(([stream, path]) => ({
    file_path: path,
    log_group_name: logGroup,
    log_stream_name: `{instance_id}/${stream}`,
  }));
  return json({
    agent: { metrics_collection_interval: SCRAPE_SECONDS },
    logs: { metrics_collected: { prometheus }, logs_collected: { files: { collect_list: collected } } },
  });
}

/** What the agent scrapes on a worker host of this size. */
export function workerPrometheusConfig(size: Inf1Size, stage: string): string {
  const { chips } = INF1[size];
  const workers = Array.from({ length: chips }, (_, chip) => `127.0.0.1:${WORKER_PORT + chip}`);
  return prometheusConfig(stage, 'worker', { worker: workers });
}

/** What the agent scrapes on a host of the online service. */
export function intentPrometheusConfig(stage: string): string {
  return prometheusConfig(stage, 'intent', { serve: [`127.0.0.1:${INTENT_PORT}`] });
}

/** Prometheus's own configuration: addresses by job. JSON is YAML. */
function prometheusConfig(stage: string, fleet: Fleet, jobs: Readonly<Record<string, readonly string[]>>): string {
  const targets = Object.entries({ ...jobs, neuron: [`127.0.0.1:${NEURON_MONITOR_PORT}`] });
  return json({
    global: { scrape_interval: `${SCRAPE_SECONDS}s`, scrape_timeout: '10s' },
    scrape_configs: targets.map(([job, addresses]) => ({
      job_name: job,
      static_configs: [{ targets: addresses, labels: { stage, fleet } }],
    })),
  });
}

/** The groups of neuron-monitor's report that the published metrics are made of, of every process. */
export function neuronMonitorConfig(): string {
  const metrics = Object.keys(NEURON_METRICS).map((type) => ({ type }));
  return json({
    period: '10s',
    neuron_runtimes: [{ tag_filter: '.*', metrics }],
    system_metrics: [{ type: 'neuron_hw_counters' }],
  });
}

function json(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}
