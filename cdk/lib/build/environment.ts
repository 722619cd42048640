/**
 * The environment that the stacks hand the binary, by the names of its own options
 * (docs/CONFIGURATION.md). A test lets the binary parse each of them.
 */

import { bucketName, type Config, namePrefix, tombstoneDays } from '../config/config.ts';
import { CORES_PER_CHIP, INF1 } from '../config/inf1.ts';
import { INTENT_PORT } from './paths.ts';

/** Replicas bring their own threads; two levels of them halve the speed. */
const ONE_THREAD = { OMP_NUM_THREADS: '1', OPENBLAS_NUM_THREADS: '1' };

/** Queues by URL; a token of the CDK, or a string. */
export interface QueueUrls {
  readonly catalog: string;
  readonly queries: string;
  readonly bulk: string;
  readonly deadLetters: string;
}

/** Precedes every table name. */
export function tablePrefix(config: Pick<Config, 'stage'>): string {
  return `${namePrefix(config)}-`;
}

/** What every command that reads or writes labels is told. */
export function tableEnvironment(config: Config, region: string): Record<string, string> {
  return {
    CATALOG_LABELS_REGION: region,
    CATALOG_LABELS_TABLE_PREFIX: tablePrefix(config),
    CATALOG_LABELS_INTENT_TTL: '30d',
    ...ONE_THREAD,
  };
}

/** What every worker of the fleet is told; what differs by chip stands in its unit. */
export function workerEnvironment(config: Config, region: string, urls: QueueUrls): Record<string, string> {
  const { worker } = config;
  return {
    ...tableEnvironment(config, region),
    CATALOG_LABELS_CATALOG_QUEUE_URL: urls.catalog,
    CATALOG_LABELS_QUERY_QUEUE_URL: urls.queries,
    CATALOG_LABELS_BULK_QUEUE_URL: urls.bulk,
    CATALOG_LABELS_DEAD_LETTER_QUEUE_URL: urls.deadLetters,
    // Messages may point to objects of a bulk run.
    CATALOG_LABELS_OBJECT_BUCKET: bucketName(config, 'bulk'),
    CATALOG_LABELS_CONCURRENCY: String(worker.concurrency),
    CATALOG_LABELS_LEASE: `${worker.leaseSeconds}s`,
    CATALOG_LABELS_DRAIN: `${worker.drainSeconds}s`,
    CATALOG_LABELS_POLL: `${pollSeconds(worker.drainSeconds)}s`,
    CATALOG_LABELS_TOMBSTONE_TTL: `${tombstoneDays(config)}d`,
  };
}

/** NeuronCores of a task that score pairs; no lane shares a core with the one of queries. */
const PAIR_CORES = 1;

/** What a task of the online service is told: one chip, whatever its number on the host. */
export function intentEnvironment(config: Config, region: string): Record<string, string> {
  return {
    ...tableEnvironment(config, region),
    CATALOG_LABELS_DRAIN: `${config.intent.drainSeconds}s`,
    CATALOG_LABELS_ADDRESS: `0.0.0.0:${INTENT_PORT}`,
    CATALOG_LABELS_ONLINE_REPLICAS: String(CORES_PER_CHIP - PAIR_CORES),
    CATALOG_LABELS_REPLICAS: String(PAIR_CORES),
    // The copies of the model compute on the chip, and leave the host to HTTP.
    CATALOG_LABELS_HTTP_THREADS: String(INF1[config.intent.size].vcpus),
    NEURON_RT_NUM_CORES: String(CORES_PER_CHIP),
  };
}

/** What the function is told; Lambda polls the queues itself. */
export function functionEnvironment(config: Config, region: string, urls: QueueUrls): Record<string, string> {
  return {
    ...tableEnvironment(config, region),
    CATALOG_LABELS_DEAD_LETTER_QUEUE_URL: urls.deadLetters,
    // Messages may point to objects of a bulk run.
    CATALOG_LABELS_OBJECT_BUCKET: bucketName(config, 'bulk'),
    CATALOG_LABELS_TOMBSTONE_TTL: `${tombstoneDays(config)}d`,
  };
}

/** What the CPU variant of a bulk run is told: `reconcile` in the CPU image. */
export function reconcileEnvironment(config: Config, region: string): Record<string, string> {
  return {
    ...tableEnvironment(config, region),
    CATALOG_LABELS_TOMBSTONE_TTL: `${tombstoneDays(config)}d`,
  };
}

/** The longest poll that leaves a stop most of its time: SQS waits for 20 s at most. */
function pollSeconds(drainSeconds: number): number {
  return Math.max(1, Math.min(20, Math.floor(drainSeconds / 3)));
}
