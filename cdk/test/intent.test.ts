import { describe, expect, it } from 'vitest';

import { intentPrometheusConfig } from '../lib/build/agent.ts';
import { INF1 } from '../lib/config/inf1.ts';
import { ROOT_DEVICE } from '../lib/constructs/image.ts';
import { CONFIG, only, type Properties, template } from './app.ts';
import { serviceEnvironment } from './worker-binary.ts';

const containers = (): Properties[] => only('intent', 'AWS::ECS::TaskDefinition').ContainerDefinitions;
const container = (): Properties => containers()[0];
const attribute = (attributes: Properties[], key: string) => attributes.find(({ Key }) => Key === key)?.Value;

describe('online service', () => {
  it('gives a task the one chip of its instance', () => {
    expect(container().LinuxParameters.Devices).toEqual([{ HostPath: '/dev/neuron0', Permissions: ['read', 'write'] }]);
    expect(only('intent', 'AWS::ECS::Service').PlacementConstraints).toEqual([{ Type: 'distinctInstance' }]);
    expect(only('intent', 'AWS::EC2::LaunchTemplate').LaunchTemplateData.InstanceType).toBe(CONFIG.intent.size);
  });

  it('runs without rights: no root, no new privileges, nothing to write to', () => {
    expect(container()).toMatchObject({
      User: '10001',
      ReadonlyRootFilesystem: true,
      DockerSecurityOptions: ['no-new-privileges'],
    });
    expect(container().LinuxParameters.Capabilities.Drop).toEqual(['ALL']);
    expect(container().Privileged ?? false).toBe(false);
  });

  it('pins the image of its hosts, encrypts them, and guards their metadata', () => {
    const { LaunchTemplateData } = only('intent', 'AWS::EC2::LaunchTemplate');
    expect(LaunchTemplateData.ImageId).toBe(
      `{{resolve:ssm:${CONFIG.images.ecs.parameter}:${CONFIG.images.ecs.version}}}`,
    );
    expect(LaunchTemplateData.MetadataOptions).toMatchObject({ HttpTokens: 'required', HttpPutResponseHopLimit: 1 });
    expect(LaunchTemplateData.BlockDeviceMappings).toMatchObject([
      { DeviceName: ROOT_DEVICE, Ebs: { Encrypted: true } },
    ]);
  });

  it('is reached from inside the VPC only', () => {
    expect(only('intent', 'AWS::ElasticLoadBalancingV2::LoadBalancer').Scheme).toBe('internal');
    const balancer = only('intent', 'AWS::EC2::SecurityGroup', ({ GroupDescription }) =>
      GroupDescription.startsWith('The online service'),
    );
    expect(balancer.SecurityGroupIngress).toHaveLength(1);
    expect(JSON.stringify(balancer.SecurityGroupIngress[0].CidrIp)).toContain('CidrBlock');
  });

  it('writes access logs, drops bad headers, and cannot be deleted by accident', () => {
    const { LoadBalancerAttributes } = only('intent', 'AWS::ElasticLoadBalancingV2::LoadBalancer');
    expect(attribute(LoadBalancerAttributes, 'access_logs.s3.enabled')).toBe('true');
    expect(attribute(LoadBalancerAttributes, 'routing.http.drop_invalid_header_fields.enabled')).toBe('true');
    expect(attribute(LoadBalancerAttributes, 'deletion_protection.enabled')).toBe('true');
  });

  it('drains: no new requests, then the answers, then the stop', () => {
    const { TargetGroupAttributes, HealthCheckPath } = only('intent', 'AWS::ElasticLoadBalancingV2::TargetGroup');
    const delay = Number(attribute(TargetGroupAttributes, 'deregistration_delay.timeout_seconds'));
    expect(delay).toBe(CONFIG.intent.drainSeconds);
    expect(container().StopTimeout).toBeGreaterThan(delay);
    // After SIGTERM the service ends by itself, before it is killed.
    const drain = /^(\d+)s$/.exec(serviceEnvironment().CATALOG_LABELS_DRAIN as string)?.[1];
    expect(Number(drain)).toBe(CONFIG.intent.drainSeconds);
    expect(container().StopTimeout).toBeGreaterThanOrEqual(Number(drain) + 10);
    expect(HealthCheckPath).toBe('/readyz');
  });

  it('never has fewer tasks than its floor, deployments included', () => {
    expect(only('intent', 'AWS::ApplicationAutoScaling::ScalableTarget')).toMatchObject({
      MinCapacity: CONFIG.intent.tasksMin,
      MaxCapacity: CONFIG.intent.tasksMax,
    });
    expect(only('intent', 'AWS::ECS::Service').DeploymentConfiguration).toMatchObject({
      MinimumHealthyPercent: 100,
      DeploymentCircuitBreaker: { Enable: true, Rollback: true },
    });
    // A count in the template would set the service back to it with each deployment, under load too.
    expect(only('intent', 'AWS::ECS::Service').DesiredCount).toBeUndefined();
    // New tasks run beside the old ones, on chips of their own.
    expect(Number(only('intent', 'AWS::AutoScaling::AutoScalingGroup').MaxSize)).toBe(2 * CONFIG.intent.tasksMax);
  });

  it('is made after the capacity of its cluster, and so gone before it', () => {
    const [[association]] = Object.entries(
      template('intent').findResources('AWS::ECS::ClusterCapacityProviderAssociations'),
    ) as [[string, Properties]];
    const [service] = Object.values<Properties>(template('intent').findResources('AWS::ECS::Service'));
    expect(service?.DependsOn).toContain(association);
  });

  it('replaces its hosts when their launch template changes, tasks drained', () => {
    const refresh = JSON.stringify(only('intent', 'Custom::AWS').Update);
    for (const part of [
      'startInstanceRefresh',
      'catalog-labels-test-intent',
      'LatestVersionNumber',
      'MinHealthyPercentage\\":100',
    ])
      expect(refresh).toContain(part);
    expect(only('intent', 'AWS::ECS::CapacityProvider').AutoScalingGroupProvider).toMatchObject({
      ManagedDraining: 'ENABLED',
      ManagedTerminationProtection: 'ENABLED',
    });
  });

  it('scales on requests for each task, and up on P99', () => {
    const requests = only(
      'intent',
      'AWS::ApplicationAutoScaling::ScalingPolicy',
      ({ PolicyType }) => PolicyType === 'TargetTrackingScaling',
    );
    expect(requests.TargetTrackingScalingPolicyConfiguration).toMatchObject({
      TargetValue: CONFIG.intent.requestsPerTaskPerMinute,
      PredefinedMetricSpecification: { PredefinedMetricType: 'ALBRequestCountPerTarget' },
    });
    const steps = only(
      'intent',
      'AWS::ApplicationAutoScaling::ScalingPolicy',
      ({ PolicyType }) => PolicyType === 'StepScaling',
    );
    for (const { ScalingAdjustment } of steps.StepScalingPolicyConfiguration.StepAdjustments)
      expect(ScalingAdjustment).toBeGreaterThan(0);
    expect(
      only('intent', 'AWS::CloudWatch::Alarm', ({ MetricName }) => MetricName === 'TargetResponseTime'),
    ).toMatchObject({
      ExtendedStatistic: 'p99',
      Threshold: CONFIG.intent.p99Milliseconds / 1_000,
    });
  });

  it("is scraped by the agent of its host, at a port that is the host's", () => {
    expect(only('intent', 'AWS::ECS::TaskDefinition').NetworkMode).toBe('bridge');
    const { ContainerPort, HostPort } = container().PortMappings[0];
    expect(HostPort).toBe(ContainerPort);
    const scrape: Properties[] = JSON.parse(intentPrometheusConfig(CONFIG.stage)).scrape_configs;
    expect(scrape.map(({ job_name, static_configs }) => [job_name, static_configs[0].targets])).toEqual([
      ['serve', [`127.0.0.1:${HostPort}`]],
      ['neuron', ['127.0.0.1:9190']],
    ]);
    const address = serviceEnvironment().CATALOG_LABELS_ADDRESS as string;
    expect(address).toBe(`0.0.0.0:${ContainerPort}`);
  });

  it('is reached on its host by the load balancer only, and there at the port of the task', () => {
    const hosts = only('intent', 'AWS::EC2::SecurityGroup', ({ GroupDescription }) =>
      GroupDescription.startsWith('Hosts'),
    );
    expect(hosts.SecurityGroupIngress).toBeUndefined();
    const ingress = only('intent', 'AWS::EC2::SecurityGroupIngress');
    expect(ingress).toMatchObject({ FromPort: 8080, ToPort: 8080, IpProtocol: 'tcp' });
    expect(JSON.stringify(ingress.SourceSecurityGroupId)).toContain('BalancerSecurity');
    expect(hosts.SecurityGroupEgress.map(({ FromPort, ToPort }: Properties) => [FromPort, ToPort])).toEqual([
      [443, 443],
    ]);
  });

  it('loads one replica for each core, of both lanes together', () => {
    const told = serviceEnvironment();
    const [online, pairs, cores] = [
      'CATALOG_LABELS_ONLINE_REPLICAS',
      'CATALOG_LABELS_REPLICAS',
      'NEURON_RT_NUM_CORES',
    ].map((name) => Number(told[name])) as [number, number, number];
    expect(online + pairs).toBe(cores);
    // 0 would mean one for each vCPU.
    expect(Math.min(online, pairs)).toBeGreaterThan(0);
  });

  it('leaves its host memory for the agents', () => {
    const { vcpus, memoryMib } = INF1[CONFIG.intent.size];
    expect(containers()).toHaveLength(1);
    expect(container().Cpu).toBe(vcpus * 1_024);
    expect(container().Memory).toBeLessThanOrEqual(memoryMib - 1_024);
  });

  it('reads labels and writes none', () => {
    const policies = Object.entries(template('intent').findResources('AWS::IAM::Policy')).filter(([id]) =>
      id.startsWith('TaskTaskRole'),
    );
    const actions = policies.flatMap(([, policy]) =>
      policy.Properties.PolicyDocument.Statement.flatMap(({ Action }: Properties) => Action),
    );
    expect(actions).toContain('dynamodb:GetItem');
    expect(actions.filter((action: string) => /dynamodb:.*(Put|Update|Delete|Write|Query|Scan)/.test(action))).toEqual(
      [],
    );
  });
});
