import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { unitsOf } from '../lib/build/systemd.ts';
import { INF1 } from '../lib/config/inf1.ts';
import { CDK_FOLDER } from '../lib/config/read.ts';
import { ROOT_DEVICE } from '../lib/constructs/image.ts';
import { CONFIG, only, type Properties, statements, template } from './app.ts';

/** As host/drain.sh has it. */
const NOTICE_POLL_SECONDS = 5;

const data = (): Properties => only('worker', 'AWS::EC2::LaunchTemplate').LaunchTemplateData;
const group = (): Properties => only('worker', 'AWS::AutoScaling::AutoScalingGroup');
const hook = (name: string): Properties =>
  group().LifecycleHookSpecificationList.find(({ LifecycleHookName }: Properties) => LifecycleHookName === name);

describe('worker fleet', () => {
  it('asks for instance metadata with a session token, and lets no container near it', () => {
    expect(data().MetadataOptions).toMatchObject({ HttpTokens: 'required', HttpPutResponseHopLimit: 1 });
  });

  it('encrypts every volume', () => {
    for (const { Ebs } of data().BlockDeviceMappings) expect(Ebs.Encrypted).toBe(true);
    expect(data().BlockDeviceMappings.length).toBeGreaterThan(0);
  });

  it('names the root volume of the images, so that no other one is encrypted and sized', () => {
    expect(data().BlockDeviceMappings.map(({ DeviceName }: Properties) => DeviceName)).toEqual([ROOT_DEVICE]);
    const script = readFileSync(join(CDK_FOLDER, 'host/prepare-image.sh'), 'utf8');
    expect(/== (\/dev\/\w+) \]\]/.exec(script)?.[1]).toBe(ROOT_DEVICE);
  });

  it('pins the image to a version of a parameter of the owner', () => {
    const { parameter, version } = CONFIG.images.worker;
    expect(data().ImageId).toBe(`{{resolve:ssm:${parameter}:${version}}}`);
    expect(parameter).not.toMatch(/latest|recommended/);
  });

  it('lets nothing in', () => {
    const security = only('worker', 'AWS::EC2::SecurityGroup');
    expect(security.SecurityGroupIngress).toBeUndefined();
    expect(security.SecurityGroupEgress).toHaveLength(1);
    expect(security.SecurityGroupEgress[0]).toMatchObject({ FromPort: 443, ToPort: 443 });
    template('worker').resourceCountIs('AWS::EC2::SecurityGroupIngress', 0);
  });

  it('counts mixed inf1 sizes in chips, with a floor on demand and spot above it', () => {
    const { Overrides } = group().MixedInstancesPolicy.LaunchTemplate;
    expect(Overrides).toEqual(
      CONFIG.worker.sizes.map((size) => ({ InstanceType: size, WeightedCapacity: String(INF1[size].chips) })),
    );
    expect(group().MixedInstancesPolicy.InstancesDistribution).toMatchObject({
      OnDemandBaseCapacity: CONFIG.worker.chipsMin,
      OnDemandPercentageAboveBaseCapacity: 100 - CONFIG.worker.spotPercent,
    });
    expect(group()).toMatchObject({
      MinSize: String(CONFIG.worker.chipsMin),
      MaxSize: String(CONFIG.worker.chipsMax),
      CapacityRebalance: true,
    });
  });

  it('gives a drain more time than it takes, and holds an instance until it is installed', () => {
    const units = CONFIG.worker.sizes.flatMap((size) => Object.values(unitsOf(size, CONFIG.worker.drainSeconds)));
    const stops = units.flatMap((unit) => [...unit.matchAll(/^TimeoutStopSec=(\d+)$/gm)].map(([, s]) => Number(s)));
    expect(Math.min(...stops)).toBeGreaterThan(CONFIG.worker.drainSeconds);
    expect(hook('drain').HeartbeatTimeout).toBeGreaterThan(Math.max(...stops) + NOTICE_POLL_SECONDS);
    expect(hook('drain')).toMatchObject({
      LifecycleTransition: 'autoscaling:EC2_INSTANCE_TERMINATING',
      DefaultResult: 'CONTINUE',
    });
    expect(hook('install')).toMatchObject({
      LifecycleTransition: 'autoscaling:EC2_INSTANCE_LAUNCHING',
      DefaultResult: 'ABANDON',
    });
  });

  it('protects new instances from scale-in until they say that they hold nothing', () => {
    expect(group().NewInstancesProtectedFromScaleIn).toBe(true);
  });

  it('follows the backlog for each chip', () => {
    const policy = only(
      'worker',
      'AWS::AutoScaling::ScalingPolicy',
      ({ PolicyType }) => PolicyType === 'TargetTrackingScaling',
    );
    const { TargetValue, CustomizedMetricSpecification } = policy.TargetTrackingConfiguration;
    expect(TargetValue).toBe(CONFIG.worker.backlogPerChip);
    const returned = CustomizedMetricSpecification.Metrics.filter(({ ReturnData }: Properties) => ReturnData);
    expect(returned.map(({ Expression }: Properties) => Expression)).toEqual([
      '(FILL(visible0, 0) + FILL(visible1, 0) + FILL(visible2, 0)) / IF(FILL(chips, 0) > 0, FILL(chips, 0), 1)',
    ]);
    const chips = CustomizedMetricSpecification.Metrics.find(({ Id }: Properties) => Id === 'chips').MetricStat.Metric;
    expect(chips).toMatchObject({ Namespace: 'AWS/AutoScaling', MetricName: 'GroupInServiceCapacity' });
    // The group publishes it only when asked to.
    expect(group().MetricsCollection).toEqual([{ Granularity: '1Minute' }]);
  });

  /** The alarms that call for growth, by the metrics that they read. */
  const growth = (metricName: string) =>
    Object.values(template('worker').findResources('AWS::CloudWatch::Alarm'))
      .map(({ Properties: alarm }) => alarm)
      .filter(({ Metrics }) => metricNames(Metrics).has(metricName));
  const metricNames = (metrics: Properties[]) =>
    new Set(metrics.flatMap(({ MetricStat }) => MetricStat?.Metric.MetricName ?? []));

  it('grows, and never shrinks, when labels are late or the oldest event gets too old', () => {
    const policies = Object.values(template('worker').findResources('AWS::AutoScaling::ScalingPolicy'))
      .map(({ Properties: policy }) => policy)
      .filter(({ PolicyType }) => PolicyType === 'StepScaling');
    expect(policies).toHaveLength(3);
    for (const { ScalingAdjustment } of policies.flatMap(({ StepAdjustments }) => StepAdjustments)) {
      expect(ScalingAdjustment).toBeGreaterThan(0);
    }
    const [oldest] = growth('ApproximateAgeOfOldestMessage');
    expect(oldest).toMatchObject({
      Threshold: CONFIG.worker.freshnessSeconds,
      ComparisonOperator: 'GreaterThanOrEqualToThreshold',
    });
  });

  it('grows on the freshness of each lane that somebody waits for, while something waits', () => {
    const alarms = growth('events_by_age_total');
    expect(alarms).toHaveLength(2);
    for (const { Metrics, Threshold } of alarms) {
      expect(Threshold).toBe(1);
      expect(metricNames(Metrics)).toEqual(
        new Set(['events_by_age_total', 'events_total', 'ApproximateNumberOfMessagesVisible']),
      );
      const stats = Metrics.filter(({ MetricStat }: Properties) => MetricStat);
      // CloudWatch takes no more of them in one alarm.
      expect(stats.length).toBeLessThanOrEqual(10);
      const lanes = stats.flatMap(({ MetricStat }: Properties) =>
        (MetricStat.Metric.Dimensions ?? []).filter(({ Name }: Properties) => Name === 'lane'),
      );
      expect(new Set(lanes.map(({ Value }: Properties) => Value)).size).toBe(1);
    }
  });

  it('refreshes its instances when the launch template changes, never below the floor', () => {
    const refresh = JSON.stringify(only('worker', 'Custom::AWS').Update);
    expect(refresh).toContain('startInstanceRefresh');
    expect(refresh).toContain('MinHealthyPercentage\\":100');
    expect(refresh).toContain('LatestVersionNumber');
  });

  it('checks what it installs against digests in the template', () => {
    const userData = JSON.stringify(data().UserData);
    expect(userData).toMatch(/RELEASE_SHA256=[0-9a-f]{64}/);
    expect(userData).toMatch(/echo '[0-9a-f]{64} {2}host\/SHA256SUMS' \| sha256sum --check/);
    const pointer = JSON.stringify(only('worker', 'AWS::SSM::Parameter').Value);
    expect(pointer).toMatch(/sha256[^0-9a-f]+[0-9a-f]{64}/);
  });

  it('may consume its queues, park, label, and nothing else of SQS and DynamoDB', () => {
    const actions = statements('worker').flatMap(({ Action }) => Action);
    const of = (service: string) => actions.filter((action) => action.startsWith(`${service}:`)).sort();
    expect(of('sqs')).toEqual([
      'sqs:ChangeMessageVisibility',
      'sqs:DeleteMessage',
      'sqs:GetQueueAttributes',
      'sqs:GetQueueAttributes',
      'sqs:GetQueueUrl',
      'sqs:GetQueueUrl',
      'sqs:ReceiveMessage',
      'sqs:SendMessage',
    ]);
    expect(of('dynamodb')).not.toContain('dynamodb:CreateTable');
    expect(of('dynamodb')).not.toContain('dynamodb:Scan');
    expect(of('s3')).toEqual(['s3:GetObject', 's3:ListBucket']);
  });
});
