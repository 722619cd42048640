/**
 * The metrics that dashboards and alarms read. Those of the worker come from its typed
 * list (docs/METRICS.md, which a test compares); the CloudWatch agent scrapes them and
 * drops histograms, so all of these are counters and gauges (docs/adr/0014).
 */

/** The two kinds of hosts with chips. */
export const FLEETS = ['worker', 'intent'] as const;
export type Fleet = (typeof FLEETS)[number];

/** CloudWatch namespace of everything that the agent publishes. */
export const NAMESPACE = 'CatalogLabels';

/** Which metrics are published with which labels as dimensions. Sums over the other labels. */
export interface Declaration {
  readonly dimensions: readonly string[];
  readonly metrics: readonly string[];
}

/** Of the worker, by Prometheus name. */
export const WORKER_DECLARATIONS: readonly Declaration[] = [
  {
    dimensions: ['stage'],
    metrics: [
      'queue_messages_received_total',
      'queue_leases_held',
      'queue_leases_lost_total',
      'queue_permits_taken',
      'events_total',
      'event_failures_total',
      'pairs_scored_total',
      'pairs_skipped_total',
      'queries_scored_total',
      'label_items_written_total',
    ],
  },
  { dimensions: ['stage', 'lane'], metrics: ['events_total'] },
  { dimensions: ['stage', 'lane', 'age'], metrics: ['events_by_age_total'] },
  { dimensions: ['stage', 'fault'], metrics: ['event_failures_total'] },
  { dimensions: ['stage', 'settlement'], metrics: ['queue_messages_settled_total'] },
];

/** Of the online service. What a worker publishes as well is left out: it would add up to one number. */
export const SERVICE_DECLARATIONS: readonly Declaration[] = [
  { dimensions: ['stage'], metrics: ['http_requests_total', 'http_requests_in_work', 'intents_known_total'] },
  { dimensions: ['stage', 'status'], metrics: ['http_requests_total'] },
  { dimensions: ['stage', 'result'], metrics: ['intent_lookups_total'] },
];

/** Ages of `events_by_age_total` by their upper bound in seconds, as the worker counts them. */
export const AGES = { to_1m: 60, to_5m: 300, to_15m: 900, to_1h: 3_600, to_1d: 86_400, over_1d: Infinity } as const;

/**
 * Of neuron-monitor-prometheus.py, which comes with the Neuron tools: its metrics by the group
 * of neuron-monitor's report that they are made of. The CloudWatch agent's own list of Neuron
 * metrics has the same names (github.com/aws/amazon-cloudwatch-agent, containerinsights).
 */
export const NEURON_METRICS = {
  neuroncore_counters: 'neuroncore_utilization_ratio',
  memory_used: 'neuron_runtime_memory_used_bytes',
  execution_stats: 'execution_errors_total',
} as const;

export const NEURON_DECLARATIONS: readonly Declaration[] = [
  { dimensions: ['stage', 'fleet'], metrics: Object.values(NEURON_METRICS) },
];
