/**
 * Configuration of the CloudWatch agent and of neuron-monitor. The agent scrapes the
 * workers and neuron-monitor, and writes embedded metrics into one log group.
 */

import { INF1, type Inf1Size } from '../config/inf1.ts';
import { type Declaration, NAMESPACE, NEURON_DECLARATIONS, WORKER_DECLARATIONS } from './metrics.ts';
import { ETC, LOGS, NEURON_MONITOR_PORT, WORKER_PORT } from './paths.ts';

const SCRAPE_SECONDS = 60;

/** What the agent is told for one stage, as JSON. */
export function agentConfig(stage: string, logGroup: string): string {
  const declare = (job: string, declarations: readonly Declaration[]) =>
    declarations.map(({ dimensions, metrics }) => ({
      source_labels: ['job'],
      label_matcher: `^${job}$`,
      dimensions: [dimensions],
      metric_selectors: metrics.map((metric) => `^${metric}$`),
    }));
  return json({
    agent: { metrics_collection_interval: SCRAPE_SECONDS },
    logs: {
      metrics_collected: {
        prometheus: {
          cluster_name: `catalog-labels-${stage}`,
          log_group_name: logGroup,
          prometheus_config_path: `${ETC}/prometheus.yaml`,
          emf_processor: {
            metric_namespace: NAMESPACE,
            metric_declaration: [...declare('worker', WORKER_DECLARATIONS), ...declare('neuron', NEURON_DECLARATIONS)],
          },
        },
      },
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

/** What the agent scrapes on a host of this size. JSON is YAML. */
export function prometheusConfig(size: Inf1Size, stage: string): string {
  const { chips } = INF1[size];
  const workers = Array.from({ length: chips }, (_, chip) => `127.0.0.1:${WORKER_PORT + chip}`);
  const job = (name: string, targets: string[]) => ({
    job_name: name,
    static_configs: [{ targets, labels: { stage } }],
  });
  return json({
    global: { scrape_interval: `${SCRAPE_SECONDS}s`, scrape_timeout: '10s' },
    scrape_configs: [job('worker', workers), job('neuron', [`127.0.0.1:${NEURON_MONITOR_PORT}`])],
  });
}

/** Every group of neuron-monitor's metrics that the agent reads, of every process. */
export function neuronMonitorConfig(): string {
  const metrics = ['neuroncore_counters', 'memory_used', 'execution_stats'].map((type) => ({ type }));
  return json({
    period: '10s',
    neuron_runtimes: [{ tag_filter: '.*', metrics }],
    system_metrics: [{ type: 'neuron_hw_counters' }],
  });
}

function json(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}
