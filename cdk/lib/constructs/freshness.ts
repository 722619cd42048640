import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';

import { AGES, NAMESPACE } from '../build/metrics.ts';
import type { Config } from '../config/config.ts';
import { MINUTE } from './alarms.ts';

/** Lanes that somebody waits for; nobody waits for bulk. */
export const LANES = ['catalog', 'queries'] as const;
export type Lane = (typeof LANES)[number];

/** A metric that the agent publishes; the sum over a minute unless `statistic` says otherwise. */
export function published(
  stage: string,
  metricName: string,
  dimensions: Record<string, string> = {},
  statistic = 'Sum',
  period = MINUTE,
): cloudwatch.Metric {
  return new cloudwatch.Metric({
    namespace: NAMESPACE,
    metricName,
    dimensionsMap: { stage, ...dimensions },
    statistic,
    period,
    label: metricName,
  });
}

/**
 * Of the events of a lane, those that were older than the goal when they were labelled, in
 * percent: the worker's freshness histogram from the goal's bound on, as the counters that the
 * agent publishes of it (docs/adr/0014). No value in a minute that labelled none.
 */
export function stalePercent(config: Config, lane: Lane): cloudwatch.MathExpression {
  const late = Object.entries(AGES).filter(([_age, boundSeconds]) => boundSeconds > config.worker.freshnessSeconds);
  const byAge = late.map(
    ([age]) => [`${lane}_${age}`, published(config.stage, 'events_by_age_total', { lane, age })] as const,
  );
  return new cloudwatch.MathExpression({
    expression: `100 * (${byAge.map(([id]) => `FILL(${id}, 0)`).join(' + ')}) / ${lane}_events`,
    usingMetrics: {
      ...Object.fromEntries(byAge),
      [`${lane}_events`]: published(config.stage, 'events_total', { lane }),
    },
    period: MINUTE,
    label: `${lane} events labelled late (%)`,
  });
}
