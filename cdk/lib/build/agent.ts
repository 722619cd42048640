/**
 * Configuration of the CloudWatch agent and of neuron-monitor. On a worker host the agent
 * scrapes the workers and neuron-monitor, beside the online service it scrapes that; it writes
 * embedded metrics into one log group each.
 */

import { INF1, type Inf1Size } from '../config/inf1.ts';
import {
  type Declaration,
  NAMESPACE,
  NEURON_DECLARATIONS,
  NEURON_METRICS,
  SERVICE_DECLARATIONS,
  WORKER_DECLARATIONS,
} from './metrics.ts';
import { ETC, INTENT_PORT, LOGS, NEURON_MONITOR_PORT, WORKER_PORT } from './paths.ts';

const SCRAPE_SECONDS = 60;

/** What the agent of a worker host is told, as JSON. */
export function agentConfig(stage: string, logGroup: string): string {
  const jobs = { worker: WORKER_DECLARATIONS, neuron: NEURON_DECLARATIONS };
  return json({
    agent: { metrics_collection_interval: SCRAPE_SECONDS },
    logs: {
      metrics_collected: { prometheus: scraped(stage, logGroup, `${ETC}/prometheus.yaml`, jobs) },
      logs_collected: {
        files: {
          collect_list: [
            {
              file_path: `${LOGS}/*.log`,
              log_group_name: logGroup,
              log_stream_name: '{instance_id}/workers',
            },
          ],
        },
      },
    },
  });
}

/** What the agent beside a task of the online service is told, as the variables that its image reads. */
export function serviceAgentEnvironment(stage: string, logGroup: string): Record<string, string> {
  const jobs = { serve: SERVICE_DECLARATIONS };
  return {
    CW_CONFIG_CONTENT: json({
      agent: { metrics_collection_interval: SCRAPE_SECONDS },
      logs: {
        metrics_collected: { prometheus: scraped(stage, logGroup, 'env:PROMETHEUS_CONFIG_CONTENT', jobs) },
      },
    }),
    // The containers of a task share one network.
    PROMETHEUS_CONFIG_CONTENT: scrapeConfig(stage, { serve: [`127.0.0.1:${INTENT_PORT}`] }),
  };
}

/** Which metrics of which scraped job the agent publishes. */
function scraped(
  stage: string,
  logGroup: string,
  prometheusConfigPath: string,
  jobs: Readonly<Record<string, readonly Declaration[]>>,
) {
  return {
    cluster_name: `catalog-labels-${stage}`,
    log_group_name: logGroup,
    prometheus_config_path: prometheusConfigPath,
    emf_processor: {
      metric_namespace: NAMESPACE,
      metric_declaration: Object.entries(jobs).flatMap(([job, declarations]) =>
        declarations.map(({ dimensions, metrics }) => ({
          source_labels: ['job'],
          label_matcher: `^${job}$`,
          dimensions: [dimensions],
          metric_selectors: metrics.map((metric) => `^${metric}$`),
        })),
      ),
    },
  };
}

/** What the agent scrapes on a host of this size. */
export function prometheusConfig(size: Inf1Size, stage: string): string {
  const { chips } = INF1[size];
  const workers = Array.from({ length: chips }, (_, chip) => `127.0.0.1:${WORKER_PORT + chip}`);
  return scrapeConfig(stage, { worker: workers, neuron: [`127.0.0.1:${NEURON_MONITOR_PORT}`] });
}

/** Prometheus's own configuration: addresses by job. JSON is YAML. */
function scrapeConfig(stage: string, jobs: Readonly<Record<string, readonly string[]>>): string {
  return json({
    global: { scrape_interval: `${SCRAPE_SECONDS}s`, scrape_timeout: '10s' },
    scrape_configs: Object.entries(jobs).map(([job, targets]) => ({
      job_name: job,
      static_configs: [{ targets, labels: { stage } }],
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
