/** What a stage costs in a day on which nothing happens, counted in its templates. */

import type { Config } from '../config/config.ts';
import type { Stacks } from './app.ts';
import {
  AGES,
  type Declaration,
  FLEETS,
  NEURON_DECLARATIONS,
  SERVICE_DECLARATIONS,
  WORKER_DECLARATIONS,
} from './metrics.ts';

/**
 * Dollars on demand in us-east-1, as AWS's price pages have them; the page is the path on
 * aws.amazon.com. They change: look before you rely on them.
 */
const PRICES = {
  inf1XlargeHour: { dollars: 0.228, page: 'ec2/pricing/on-demand' },
  inf12xlargeHour: { dollars: 0.362, page: 'ec2/pricing/on-demand' },
  endpointHour: { dollars: 0.01, page: 'privatelink/pricing' },
  balancerHour: { dollars: 0.0225, page: 'elasticloadbalancing/pricing' },
  keyMonth: { dollars: 1, page: 'kms/pricing' },
  publishedMetricMonth: { dollars: 0.3, page: 'cloudwatch/pricing' },
  alarmMetricMonth: { dollars: 0.1, page: 'cloudwatch/pricing' },
  dashboardMonth: { dollars: 3, page: 'cloudwatch/pricing' },
  volumeGbMonth: { dollars: 0.08, page: 'ebs/pricing' },
  queueMillionRequests: { dollars: 0.4, page: 'sqs/pricing' },
} as const;

/** Values of a label that metrics are published by, as docs/METRICS.md lists them; of statuses, the usual ones. */
const VALUES: Readonly<Record<string, number>> = {
  stage: 1,
  fleet: FLEETS.length,
  lane: 3,
  age: Object.keys(AGES).length,
  fault: 3,
  settlement: 6,
  status: 4,
  result: 3,
};

const HOURS = 24;
const DAYS_OF_MONTH = 30;
/** A long poll of a queue that stays empty lasts 20 s. */
const POLLS_A_DAY = (HOURS * 3_600) / 20;

export interface Row {
  readonly what: string;
  readonly count: number;
  readonly dollars: number;
  readonly page: string;
}

/** Properties of the resources of a type in a stack; templates are JSON of any shape. */
export type Find = (stack: keyof Stacks, type: string) => readonly any[];

export function idleDay(config: Config, find: Find): Row[] {
  const { worker, intent } = config;
  const row = (
    what: string,
    count: number,
    { dollars, page }: { dollars: number; page: string },
    perDay: number,
  ): Row => ({
    what: `${what} at $${dollars}`,
    count,
    dollars: count * dollars * perDay,
    page,
  });
  const everywhere: (keyof Stacks)[] = ['data', 'events', 'worker', 'intent', 'observability'];
  const all = (type: string) => everywhere.flatMap((stack) => find(stack, type));
  const endpoints = find('network', 'AWS::EC2::VPCEndpoint').filter(
    ({ VpcEndpointType }) => VpcEndpointType === 'Interface',
  );
  const metrics = all('AWS::CloudWatch::Alarm').map(
    ({ Metrics }) => Metrics?.filter((metric: { MetricStat?: unknown }) => metric.MetricStat).length ?? 1,
  );
  const gigabytes = (stack: 'worker' | 'intent') =>
    find(stack, 'AWS::EC2::LaunchTemplate')[0].LaunchTemplateData.BlockDeviceMappings.reduce(
      (sum: number, { Ebs }: { Ebs: { VolumeSize: number } }) => sum + Ebs.VolumeSize,
      0,
    );
  const intentHour = intent.size === 'inf1.xlarge' ? PRICES.inf1XlargeHour : PRICES.inf12xlargeHour;
  const hosts = { worker: worker.chipsMin, intent: intent.tasksMin };
  return [
    row('worker chips at the floor, each an inf1.xlarge hour', hosts.worker, PRICES.inf1XlargeHour, HOURS),
    row(`tasks of the online service at the floor, each an ${intent.size} hour`, hosts.intent, intentHour, HOURS),
    row(
      'interface endpoints, each in one zone, an hour',
      endpoints.reduce((sum, { SubnetIds }) => sum + SubnetIds.length, 0),
      PRICES.endpointHour,
      HOURS,
    ),
    row(
      'load balancer without load, an hour',
      find('intent', 'AWS::ElasticLoadBalancingV2::LoadBalancer').length,
      PRICES.balancerHour,
      HOURS,
    ),
    row('keys, a month', all('AWS::KMS::Key').length, PRICES.keyMonth, 1 / DAYS_OF_MONTH),
    row(
      'metrics that agents publish, a month',
      seriesMax([...WORKER_DECLARATIONS, ...NEURON_DECLARATIONS, ...SERVICE_DECLARATIONS]),
      PRICES.publishedMetricMonth,
      1 / DAYS_OF_MONTH,
    ),
    row(
      'metrics that alarms read, a month',
      metrics.reduce((sum, count) => sum + count, 0),
      PRICES.alarmMetricMonth,
      1 / DAYS_OF_MONTH,
    ),
    row('dashboard, a month', all('AWS::CloudWatch::Dashboard').length, PRICES.dashboardMonth, 1 / DAYS_OF_MONTH),
    row(
      'GB of volumes, a month',
      hosts.worker * gigabytes('worker') + hosts.intent * gigabytes('intent'),
      PRICES.volumeGbMonth,
      1 / DAYS_OF_MONTH,
    ),
    row(
      'polls of three empty queues by each worker, a million',
      hosts.worker * 3 * POLLS_A_DAY,
      PRICES.queueMillionRequests,
      1e-6,
    ),
  ];
}

/** Metrics of CloudWatch, one for each combination of values; on an idle day there are fewer. */
function seriesMax(declarations: readonly Declaration[]): number {
  const combinations = (dimensions: readonly string[]) =>
    dimensions.reduce((product, label) => product * (VALUES[label] as number), 1);
  return declarations.reduce((sum, { dimensions, metrics }) => sum + metrics.length * combinations(dimensions), 0);
}

/** As a table of Markdown, with the sum. */
export function idleDayTable(rows: readonly Row[]): string {
  const cents = (dollars: number) => `$${dollars.toFixed(2)}`;
  const lines = rows.map(
    ({ what, count, dollars, page }) =>
      `| ${what} | ${count.toLocaleString('en')} | ${cents(dollars)} | aws.amazon.com/${page} |`,
  );
  const sum = rows.reduce((total, { dollars }) => total + dollars, 0);
  return [
    '| what | count | a day | price from |',
    '|---|---|---|---|',
    ...lines,
    `| **together** | | **${cents(sum)}** | |`,
  ].join('\n');
}
