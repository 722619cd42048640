/** The one configuration of a deployment: read from JSON, completed and checked as a whole. */

import { Aws } from 'aws-cdk-lib';
import { z } from 'zod';

import { INF1_SIZES, ONE_CHIP_SIZES } from './inf1.ts';

/** Bounds at which the worker counts events by age. */
const FRESHNESS_SECONDS = [60, 300, 900, 3_600] as const;
/** SQS keeps a message for 14 days at most. */
const SQS_RETENTION_DAYS_MAX = 14;
/** ECS waits this long at most between SIGTERM and SIGKILL on a managed stop of a spot task. */
const ECS_STOP_SECONDS_MAX = 120;
/** A spot instance goes two minutes after its notice. */
const SPOT_NOTICE_SECONDS = 120;

/**
 * An image's id lies in an SSM parameter of the owner's, at a version of it. A parameter
 * named `latest` moves under one's feet, and has no inf1 image any more.
 */
const pinnedImage = (parameter: string) =>
  z
    .strictObject({
      parameter: z
        .string()
        .regex(/^\/[\w./-]+$/, 'is not the name of an SSM parameter, such as /catalog-labels/image/worker')
        .refine((name) => !/latest|recommended/.test(name), 'moves by itself; name a parameter of your own')
        .default(parameter),
      version: z.int().min(1).default(1),
    })
    .prefault({});

/** A cron of EventBridge has six fields, and a question mark for one kind of day. */
function isSchedule(text: string): boolean {
  const fields = /^cron\((.*)\)$/.exec(text)?.[1]?.split(' ');
  if (fields === undefined) return /^rate\((1 (minute|hour|day)|([2-9]|[1-9]\d+) (minutes|hours|days))\)$/.test(text);
  const known = fields.every((field) => /^([\dA-Z*,/LW#-]+|\?)$/.test(field));
  return fields.length === 6 && known && [fields[2], fields[4]].filter((field) => field === '?').length === 1;
}

const network = z
  .strictObject({
    cidr: z
      .string()
      .regex(/^\d+\.\d+\.\d+\.\d+\/(1[6-9]|2[0-2])$/, 'is not an IPv4 range of /16 to /22, such as 10.42.0.0/16')
      .default('10.42.0.0/16'),
    /** How many, or which: not every zone of a region has inf1. */
    availabilityZones: z
      .union(
        [
          z.int().min(2).max(3),
          z
            .array(z.string().regex(/^[a-z]{2}(-[a-z]+)+-\d[a-z]$/))
            .min(2)
            .max(3),
        ],
        'is neither 2 or 3, nor a list of as many zones, such as ["eu-west-1a", "eu-west-1c"]',
      )
      .default(2),
  })
  .prefault({});

const retention = z
  .strictObject({
    queueDays: z.int().min(1).max(SQS_RETENTION_DAYS_MAX).default(4),
    deadLetterDays: z.int().min(1).max(SQS_RETENTION_DAYS_MAX).default(14),
    /** How far back events can be replayed from the archive. */
    archiveDays: z.int().min(1).max(365).default(14),
    logDays: z.union([z.literal(7), z.literal(30), z.literal(90), z.literal(365)]).default(90),
  })
  .prefault({});

const worker = z
  .strictObject({
    sizes: z.array(z.enum(INF1_SIZES)).min(1).default(['inf1.xlarge', 'inf1.6xlarge']),
    /** The fleet is counted in chips: an inf1.6xlarge is four. */
    chipsMin: z.int().min(0).max(1000).default(1),
    chipsMax: z.int().min(0).max(1000).default(16),
    /** Share of the fleet above the floor that is spot. */
    spotPercent: z.int().min(0).max(100).default(0),
    /** Visible messages for each chip that the fleet is scaled towards. */
    backlogPerChip: z.int().min(1).default(2_000),
    /** Labels of events older than this are late; late labels and older messages make the fleet grow. */
    freshnessSeconds: z.union(FRESHNESS_SECONDS.map((seconds) => z.literal(seconds))).default(300),
    leaseSeconds: z.int().min(10).max(3_600).default(60),
    drainSeconds: z.int().min(5).max(3_600).default(60),
    concurrency: z.int().min(1).max(4_096).default(64),
  })
  .prefault({});

const intent = z
  .strictObject({
    size: z.enum(ONE_CHIP_SIZES).default('inf1.xlarge'),
    tasksMin: z.int().min(0).max(200).default(2),
    tasksMax: z.int().min(0).max(200).default(8),
    requestsPerTaskPerMinute: z.int().min(1).default(12_000),
    p99Milliseconds: z.int().min(1).max(10_000).default(50),
    /** Share of requests that may be answered 429 before somebody is told. */
    refusedPercentMax: z.number().min(0).max(100).default(1),
    drainSeconds: z
      .int()
      .min(5)
      .max(ECS_STOP_SECONDS_MAX - 20)
      .default(30),
    /** With it the load balancer speaks TLS; without it plain HTTP inside the VPC. */
    certificateArn: z.string().startsWith('arn:').optional(),
  })
  .prefault({});

const bulk = z
  .strictObject({
    schedule: z
      .string()
      .refine(
        isSchedule,
        'is no schedule of EventBridge, such as cron(0 2 ? * SUN *), with six fields, or rate(7 days)',
      )
      .default('cron(0 2 ? * SUN *)'),
    scheduleEnabled: z.boolean().default(false),
    /** SQS takes ten messages in a request. */
    linesPerRequest: z.int().min(1).max(10).default(10),
    requestsAtOnce: z.int().min(1).max(1_000).default(20),
  })
  .prefault({});

const serverless = z
  .strictObject({
    /** The function reads the queues in place of the workers. */
    enabled: z.boolean().default(false),
    memoryMib: z.int().min(1_769).max(10_240).default(3_538),
    timeoutSeconds: z.int().min(30).max(900).default(120),
    concurrencyMax: z.int().min(2).max(1_000).default(10),
  })
  .prefault({});

const alarms = z
  .strictObject({
    email: z.email().optional(),
    /** Page whose sections the alarms link to. */
    runbookUrl: z.url().default('https://example.com/catalog-labels/docs/RUNBOOK.md'),
    stalePercentMax: z.number().min(0).max(100).default(1),
    dollarsPerMillionLabelsMax: z.number().positive().default(50),
    /** On-demand price of one chip-hour; inf1.xlarge in us-east-1 unless given. */
    dollarsPerChipHour: z.number().positive().default(0.228),
  })
  .prefault({});

const schema = z
  .strictObject({
    stage: z.string().regex(/^[a-z][a-z0-9]{1,11}$/, 'is not 2 to 12 lower-case letters and digits, a letter first'),
    /** Without it the templates fit any account and region. */
    environment: z
      .strictObject({
        account: z.string().regex(/^\d{12}$/, 'is not 12 digits'),
        region: z.string().regex(/^[a-z]{2}(-[a-z]+)+-\d$/, 'is not a region, such as eu-west-1'),
      })
      .optional(),
    /** Folder that `make bundle` fills, relative to `cdk/`. */
    dist: z.string().min(1).default('../dist'),
    images: z
      .strictObject({
        worker: pinnedImage('/catalog-labels/image/worker'),
        ecs: pinnedImage('/catalog-labels/image/ecs'),
      })
      .prefault({}),
    network,
    retention,
    worker,
    intent,
    bulk,
    serverless,
    alarms,
  })
  .superRefine((config, context) => {
    const problem = (path: string[], message: string) => context.addIssue({ code: 'custom', path, message });
    const { worker, intent, serverless, retention, environment } = config;
    const { availabilityZones: zones } = config.network;
    if (environment && typeof zones !== 'number' && zones.some((zone) => !zone.startsWith(environment.region))) {
      problem(['network', 'availabilityZones'], `are not all in ${environment.region}`);
    }
    if (retention.deadLetterDays < retention.queueDays) {
      problem(['retention', 'deadLetterDays'], 'is less than queueDays: SQS counts from when a message was first sent');
    }
    if (worker.chipsMin > worker.chipsMax) problem(['worker', 'chipsMin'], 'is more than worker.chipsMax');
    if (intent.tasksMin > intent.tasksMax) problem(['intent', 'tasksMin'], 'is more than intent.tasksMax');
    if (worker.spotPercent > 0 && worker.drainSeconds > SPOT_NOTICE_SECONDS - 10) {
      problem(['worker', 'drainSeconds'], `leaves less than 10 s of a spot notice's ${SPOT_NOTICE_SECONDS} s`);
    }
    if (serverless.enabled && worker.chipsMax > 0) {
      problem(['serverless', 'enabled'], 'needs worker.chipsMax 0: function and workers would share the queues');
    }
    if (new Set(worker.sizes).size < worker.sizes.length) problem(['worker', 'sizes'], 'names a size twice');
  });

export type Config = z.infer<typeof schema>;

/** Everything that is wrong with a configuration. */
export class ConfigError extends Error {
  constructor(readonly problems: readonly string[]) {
    const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`;
    super(`the configuration has ${count}:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`);
    this.name = 'ConfigError';
  }
}

/** Completes `input` with the defaults. Throws a {@link ConfigError} with every problem. */
export function resolveConfig(input: unknown): Config {
  const parsed = schema.safeParse(input);
  if (parsed.success) return parsed.data;
  throw new ConfigError(
    parsed.error.issues.map(({ path, message }) => `${path.join('.') || 'configuration'}: ${message}`),
  );
}

/** How long the worker remembers a deleted product: longer than any event of it can come back. */
export function tombstoneDays({ retention }: Config): number {
  return Math.max(retention.queueDays + retention.deadLetterDays, retention.archiveDays);
}

/**
 * Name of a bucket, which is unique in the world: 62 characters of 63 for the longest stage
 * and region. A name that is known beforehand lets policies of other stacks name objects.
 */
export function bucketName(config: Pick<Config, 'stage'>, what: 'models' | 'bulk' | 'logs'): string {
  return `${namePrefix(config)}-${what}-${Aws.ACCOUNT_ID}-${Aws.REGION}`;
}

/** ARN of the objects under `prefix` of a bucket. */
export function objectsArn(config: Pick<Config, 'stage'>, what: 'models' | 'bulk', prefix: string): string {
  return `arn:${Aws.PARTITION}:s3:::${bucketName(config, what)}/${prefix}*`;
}

/** Name of the SSM parameter that says which model the fleet runs; cdk/host/publish-model.sh moves it. */
export function modelPointer(config: Pick<Config, 'stage'>): string {
  return `/${namePrefix(config)}/model`;
}

/** Precedes every name that the stacks choose. */
export function namePrefix({ stage }: Pick<Config, 'stage'>): string {
  return `catalog-labels-${stage}`;
}
