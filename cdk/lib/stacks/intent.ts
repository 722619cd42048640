import { Duration, Stack, type StackProps } from 'aws-cdk-lib';
import * as appscaling from 'aws-cdk-lib/aws-applicationautoscaling';
import * as autoscaling from 'aws-cdk-lib/aws-autoscaling';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import { DockerImageAsset, Platform } from 'aws-cdk-lib/aws-ecr-assets';
import * as ecs from 'aws-cdk-lib/aws-ecs';
import * as elb from 'aws-cdk-lib/aws-elasticloadbalancingv2';
import * as iam from 'aws-cdk-lib/aws-iam';
import { LogGroup, type RetentionDays } from 'aws-cdk-lib/aws-logs';
import type { Construct } from 'constructs';

import { intentEnvironment } from '../build/environment.ts';
import { INTENT_PORT } from '../build/paths.ts';
import type { Release } from '../build/release.ts';
import { intentUserData } from '../build/user-data.ts';
import { type Config, namePrefix } from '../config/config.ts';
import { INF1 } from '../config/inf1.ts';
import { acknowledge, acknowledgeResources } from '../constructs/acknowledge.ts';
import { pinnedImage, ROOT_DEVICE } from '../constructs/image.ts';
import { keyStatements, logStatements, lookUpStatements } from '../constructs/permissions.ts';
import { InstanceRefresh } from '../constructs/refresh.ts';
import { type DataStack, LOAD_BALANCER_LOGS } from './data.ts';

/** Kept for the kernel, the agents, and neuron-monitor. */
const HOST_MEMORY_MIB = 1_536;
/** Beyond the drain: the last answers are written, and the process exits. */
const STOP_MARGIN_SECONDS = 15;

export interface IntentProps extends StackProps {
  readonly vpc: ec2.IVpc;
  readonly data: DataStack;
  readonly release: Release;
}

/**
 * The online service: one task for each chip, on instances of one chip, behind an internal
 * load balancer. ECS gives a task the device that its definition names, so that several
 * chips of one instance could not be told apart.
 */
export class IntentStack extends Stack {
  readonly loadBalancer: elb.ApplicationLoadBalancer;
  readonly targets: elb.ApplicationTargetGroup;

  constructor(scope: Construct, id: string, config: Config, { vpc, data, release, ...props }: IntentProps) {
    super(scope, id, props);
    const logGroup = new LogGroup(this, 'Log', {
      logGroupName: `/${namePrefix(config)}/intent`,
      retention: config.retention.logDays as RetentionDays,
    });
    const cluster = new ecs.Cluster(this, 'Cluster', {
      clusterName: `${namePrefix(config)}-intent`,
      vpc,
      containerInsightsV2: ecs.ContainerInsights.ENABLED,
    });
    const capacity = this.capacity(config, vpc, logGroup);
    cluster.addAsgCapacityProvider(capacity);
    const task = this.task(config, data, release, logGroup);
    const balancer = this.balancer(config, vpc, data);
    this.loadBalancer = balancer;
    // The CDK opens hosts by itself only where it makes their group.
    balancer.connections.allowTo(capacity.autoScalingGroup, ec2.Port.tcp(INTENT_PORT), 'The task of a host');
    const service = this.service(config, cluster, capacity, task);
    const listener = balancer.addListener('Listener', listenerProps(config));
    this.targets = listener.addTargets('Tasks', {
      targets: [service],
      port: INTENT_PORT,
      protocol: elb.ApplicationProtocol.HTTP,
      // Requests under way are answered; nothing new comes.
      deregistrationDelay: Duration.seconds(config.intent.drainSeconds),
      loadBalancingAlgorithmType: elb.TargetGroupLoadBalancingAlgorithmType.LEAST_OUTSTANDING_REQUESTS,
      healthCheck: {
        path: '/readyz',
        interval: Duration.seconds(10),
        healthyThresholdCount: 2,
        unhealthyThresholdCount: 2,
      },
    });
    this.scale(config, service);
  }

  private capacity(config: Config, vpc: ec2.IVpc, logGroup: LogGroup): ecs.AsgCapacityProvider {
    const name = `${namePrefix(config)}-intent`;
    const role = new iam.Role(this, 'InstanceRole', {
      description: 'What an ECS host of the online service may do',
      assumedBy: new iam.ServicePrincipal('ec2.amazonaws.com'),
    });
    for (const statement of logStatements(logGroup)) role.addToPolicy(statement);
    const securityGroup = new ec2.SecurityGroup(this, 'InstanceSecurity', {
      vpc,
      description: 'Hosts of the online service: only what the load balancer sends comes in',
      allowAllOutbound: false,
    });
    securityGroup.addEgressRule(ec2.Peer.anyIpv4(), ec2.Port.tcp(443), 'Endpoints of the VPC; it has no way further');
    const launchTemplate = new ec2.LaunchTemplate(this, 'Template', {
      launchTemplateName: name,
      machineImage: pinnedImage(config.images.ecs),
      instanceType: new ec2.InstanceType(config.intent.size),
      role,
      securityGroup,
      userData: intentUserData(config, logGroup.logGroupName),
      requireImdsv2: true,
      httpTokens: ec2.LaunchTemplateHttpTokens.REQUIRED,
      httpPutResponseHopLimit: 1,
      detailedMonitoring: true,
      ebsOptimized: true,
      blockDevices: [
        {
          deviceName: ROOT_DEVICE,
          volume: ec2.BlockDeviceVolume.ebs(40, { encrypted: true, volumeType: ec2.EbsDeviceVolumeType.GP3 }),
        },
      ],
    });
    const group = new autoscaling.AutoScalingGroup(this, 'Group', {
      autoScalingGroupName: name,
      vpc,
      vpcSubnets: { subnetType: ec2.SubnetType.PRIVATE_ISOLATED },
      launchTemplate,
      minCapacity: 0,
      // A deployment runs new tasks beside the old ones, each on a chip of its own.
      maxCapacity: 2 * config.intent.tasksMax,
      newInstancesProtectedFromScaleIn: true,
      groupMetrics: [autoscaling.GroupMetrics.all()],
    });
    acknowledgeResources(
      role,
      'the ECS agent finds its endpoint and logs in to ECR: neither action knows resources',
      '*',
    );
    acknowledge(
      role,
      'the ECS agent reports states of tasks and containers of its own cluster',
      'AwsSolutions-IAM5[Action::ecs:Submit*]',
    );
    new InstanceRefresh(this, 'Refresh', { group, groupName: name, template: launchTemplate });
    acknowledge(group, 'alarms watch the service; the group sends no notifications of its own', 'AwsSolutions-AS3');
    return new ecs.AsgCapacityProvider(this, 'Capacity', {
      autoScalingGroup: group,
      enableManagedTerminationProtection: true,
      enableManagedDraining: true,
    });
  }

  private task(config: Config, data: DataStack, release: Release, logGroup: LogGroup): ecs.Ec2TaskDefinition {
    const { intent } = config;
    const task = new ecs.Ec2TaskDefinition(this, 'Task', {
      family: `${namePrefix(config)}-intent`,
      // With a port of the host's, which the agent of the host scrapes; a chip has one task anyway.
      networkMode: ecs.NetworkMode.BRIDGE,
    });
    for (const statement of [
      ...lookUpStatements(data.tables),
      ...keyStatements(data.key),
      ...logStatements(logGroup),
    ]) {
      task.addToTaskRolePolicy(statement);
    }
    const linuxParameters = new ecs.LinuxParameters(this, 'Linux', { initProcessEnabled: true });
    linuxParameters.addDevices({
      hostPath: '/dev/neuron0',
      permissions: [ecs.DevicePermission.READ, ecs.DevicePermission.WRITE],
    });
    linuxParameters.addTmpfs({
      containerPath: '/tmp',
      size: 64,
      mountOptions: [ecs.TmpfsMountOption.NOEXEC, ecs.TmpfsMountOption.NOSUID],
    });
    linuxParameters.dropCapabilities(ecs.Capability.ALL);
    const image = new DockerImageAsset(this, 'Image', {
      directory: release.intentImage,
      platform: Platform.LINUX_AMD64,
    });
    task.addContainer('serve', {
      image: ecs.ContainerImage.fromDockerImageAsset(image),
      command: ['serve'],
      environment: intentEnvironment(config, this.region),
      memoryLimitMiB: INF1[intent.size].memoryMib - HOST_MEMORY_MIB,
      cpu: INF1[intent.size].vcpus * 1_024,
      user: '10001',
      readonlyRootFilesystem: true,
      dockerSecurityOptions: ['no-new-privileges'],
      linuxParameters,
      stopTimeout: Duration.seconds(intent.drainSeconds + STOP_MARGIN_SECONDS),
      portMappings: [{ containerPort: INTENT_PORT, hostPort: INTENT_PORT }],
      logging: ecs.LogDrivers.awsLogs({ logGroup, streamPrefix: 'serve' }),
    });
    acknowledgeResources(task, 'the login to ECR knows no resources', '*');
    acknowledge(task, 'the environment names tables and limits; nothing in it is secret', 'AwsSolutions-ECS2');
    return task;
  }

  private balancer(config: Config, vpc: ec2.IVpc, data: DataStack): elb.ApplicationLoadBalancer {
    const securityGroup = new ec2.SecurityGroup(this, 'BalancerSecurity', {
      vpc,
      description: 'The online service: from inside the VPC',
      allowAllOutbound: false,
    });
    const { port } = listenerProps(config);
    securityGroup.addIngressRule(ec2.Peer.ipv4(vpc.vpcCidrBlock), ec2.Port.tcp(port), 'Search, inside the VPC');
    acknowledge(securityGroup, 'the source is the VPC itself; cdk-nag cannot read a reference', 'AwsSolutions-EC23');
    const balancer = new elb.ApplicationLoadBalancer(this, 'Balancer', {
      vpc,
      vpcSubnets: { subnetType: ec2.SubnetType.PRIVATE_ISOLATED },
      internetFacing: false,
      securityGroup,
      dropInvalidHeaderFields: true,
      deletionProtection: true,
      idleTimeout: Duration.seconds(60),
    });
    // logAccessLogs() wants to know the region; the bucket's policy takes any.
    balancer.setAttribute('access_logs.s3.enabled', 'true');
    balancer.setAttribute('access_logs.s3.bucket', data.logs.bucketName);
    balancer.setAttribute('access_logs.s3.prefix', LOAD_BALANCER_LOGS);
    return balancer;
  }

  private service(
    config: Config,
    cluster: ecs.Cluster,
    capacity: ecs.AsgCapacityProvider,
    taskDefinition: ecs.Ec2TaskDefinition,
  ): ecs.Ec2Service {
    const service = new ecs.Ec2Service(this, 'Service', {
      serviceName: `${namePrefix(config)}-intent`,
      cluster,
      taskDefinition,
      // Left to the scaling: each deployment would set it back to the floor under load.
      ...(config.intent.tasksMin === 0 && { desiredCount: 0 }),
      capacityProviderStrategies: [{ capacityProvider: capacity.capacityProviderName, weight: 1 }],
      placementConstraints: [ecs.PlacementConstraint.distinctInstances()],
      minHealthyPercent: 100,
      maxHealthyPercent: 200,
      // A task that does not become ready rolls the deployment back.
      circuitBreaker: { rollback: true },
      healthCheckGracePeriod: Duration.minutes(10),
    });
    // And with it the cluster's tie to its capacity: made before the service, and gone after it.
    service.node.addDependency(cluster);
    return service;
  }

  private scale(config: Config, service: ecs.Ec2Service): void {
    const { tasksMin, tasksMax, requestsPerTaskPerMinute, p99Milliseconds } = config.intent;
    const tasks = service.autoScaleTaskCount({ minCapacity: tasksMin, maxCapacity: tasksMax });
    tasks.scaleOnRequestCount('Requests', {
      requestsPerTarget: requestsPerTaskPerMinute,
      targetGroup: this.targets,
      scaleOutCooldown: Duration.minutes(1),
      scaleInCooldown: Duration.minutes(10),
    });
    const p99Seconds = p99Milliseconds / 1_000;
    tasks.scaleOnMetric('P99', {
      metric: this.targets.metrics.targetResponseTime({ statistic: 'p99', period: Duration.minutes(1) }),
      adjustmentType: appscaling.AdjustmentType.CHANGE_IN_CAPACITY,
      evaluationPeriods: 2,
      cooldown: Duration.minutes(3),
      scalingSteps: [
        // It never shrinks the service; the requests do.
        { upper: p99Seconds, change: 0 },
        { lower: p99Seconds, upper: 2 * p99Seconds, change: 1 },
        { lower: 2 * p99Seconds, change: 3 },
      ],
    });
  }
}

function listenerProps({ intent }: Config) {
  return intent.certificateArn === undefined
    ? { port: 80, protocol: elb.ApplicationProtocol.HTTP, open: false }
    : {
        port: 443,
        protocol: elb.ApplicationProtocol.HTTPS,
        certificates: [elb.ListenerCertificate.fromArn(intent.certificateArn)],
        sslPolicy: elb.SslPolicy.RECOMMENDED_TLS,
        open: false,
      };
}
