import { Duration, Stack, type StackProps, Tags } from 'aws-cdk-lib';
import * as autoscaling from 'aws-cdk-lib/aws-autoscaling';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as iam from 'aws-cdk-lib/aws-iam';
import { LogGroup, type RetentionDays } from 'aws-cdk-lib/aws-logs';
import { Asset } from 'aws-cdk-lib/aws-s3-assets';
import { StringParameter } from 'aws-cdk-lib/aws-ssm';
import type { Construct } from 'constructs';

import { workerEnvironment } from '../build/environment.ts';
import { workerLogGroup, writeHostFolder } from '../build/host.ts';
import { DRAIN_HOOK, LAUNCH_HOOK } from '../build/paths.ts';
import type { Release } from '../build/release.ts';
import { workerUserData } from '../build/user-data.ts';
import { type Config, modelPointer, namePrefix, objectsArn } from '../config/config.ts';
import { INF1 } from '../config/inf1.ts';
import { acknowledge, acknowledgeResources } from '../constructs/acknowledge.ts';
import { pinnedImage, ROOT_DEVICE } from '../constructs/image.ts';
import {
  consumeStatements,
  fetchStatements,
  keyStatements,
  labelStatements,
  listStatements,
  logStatements,
} from '../constructs/permissions.ts';
import { groupArn, InstanceRefresh } from '../constructs/refresh.ts';
import { FleetScaling } from '../constructs/scaling.ts';
import type { DataStack } from './data.ts';
import type { EventsStack } from './events.ts';

/** Boot, fetch of some 600 MB, and the load of the model on every core. */
const LAUNCH_SECONDS = 1_800;
/** Beyond the drain limit: the notice is polled, and the action is completed. */
const DRAIN_MARGIN_SECONDS = 60;
/** Images, drivers and certificates do not get older than this. */
const INSTANCE_LIFE = Duration.days(30);

export interface WorkerProps extends StackProps {
  readonly vpc: ec2.IVpc;
  readonly data: DataStack;
  readonly events: EventsStack;
  readonly release: Release;
}

/** The fleet: inf1 instances, one worker for each chip. */
export class WorkerStack extends Stack {
  readonly groupName: string;

  constructor(scope: Construct, id: string, config: Config, { vpc, data, events, release, ...props }: WorkerProps) {
    super(scope, id, props);
    this.groupName = `${namePrefix(config)}-workers`;
    const logGroup = new LogGroup(this, 'Log', {
      logGroupName: workerLogGroup(config),
      retention: config.retention.logDays as RetentionDays,
    });
    const assets = this.assets(config, release);
    const pointer = new StringParameter(this, 'ModelPointer', {
      parameterName: modelPointer(config),
      description: 'The model that the fleet runs; publish-model.sh moves it',
      stringValue: JSON.stringify({ id: 'initial', uri: assets.model.s3ObjectUrl, sha256: release.model.sha256 }),
    });
    // Models that are published later; and messages may point to objects of a bulk run.
    const published = [objectsArn(config, 'models', 'models/'), objectsArn(config, 'bulk', 'input/')];
    const role = this.role(data, events, [
      ...fetchStatements(
        ...[assets.host, assets.release, assets.model].map((asset) => objectArn(this, asset)),
        ...published,
      ),
      ...listStatements(data.bulk.bucketArn),
      new iam.PolicyStatement({ sid: 'ReadPointer', actions: ['ssm:GetParameter'], resources: [pointer.parameterArn] }),
      this.fleetStatement(),
      ...logStatements(logGroup),
    ]);
    acknowledgeResources(
      role,
      'the id in the ARN of a group is chosen when it is created',
      groupArn(this, this.groupName),
    );
    acknowledgeResources(role, 'objects are uploaded after the deployment, under this prefix', ...published);
    const urls = {
      catalog: events.catalog.queueUrl,
      queries: events.queries.queueUrl,
      bulk: events.bulk.queueUrl,
      deadLetters: events.deadLetters.queueUrl,
    };
    const template = this.launchTemplate(
      config,
      vpc,
      role,
      workerUserData({
        hostUri: assets.host.s3ObjectUrl,
        hostSums: assets.hostSums,
        host: {
          AWS_DEFAULT_REGION: this.region,
          GROUP: this.groupName,
          LAUNCH_HOOK,
          DRAIN_HOOK,
          MODEL_POINTER: pointer.parameterName,
          RELEASE_URI: assets.release.s3ObjectUrl,
          RELEASE_SHA256: release.host.sha256,
        },
        worker: workerEnvironment(config, this.region, urls),
      }),
    );
    const group = this.group(config, vpc, template);
    const { catalog, queries, bulk } = events;
    new FleetScaling(this, 'Scaling', { config, group, waitedFor: { catalog, queries }, bulk });
    new InstanceRefresh(this, 'Refresh', { group, groupName: this.groupName, template });
  }

  private assets(config: Config, release: Release) {
    const folder = writeHostFolder(config);
    return {
      host: new Asset(this, 'HostFolder', { path: folder.path }),
      hostSums: folder.sums,
      release: new Asset(this, 'Release', { path: release.host.file }),
      model: new Asset(this, 'Model', { path: release.model.file }),
    };
  }

  private role(data: DataStack, events: EventsStack, statements: iam.PolicyStatement[]): iam.Role {
    const role = new iam.Role(this, 'Role', {
      description: 'What a worker host may do',
      assumedBy: new iam.ServicePrincipal('ec2.amazonaws.com'),
    });
    const own = [
      ...consumeStatements([events.catalog, events.queries, events.bulk], events.deadLetters),
      ...labelStatements(data.tables),
      ...keyStatements(data.key, events.key),
    ];
    for (const statement of [...own, ...statements]) role.addToPolicy(statement);
    return role;
  }

  /** To answer lifecycle hooks, and to protect or give up itself: the instances of this group only. */
  private fleetStatement(): iam.PolicyStatement {
    return new iam.PolicyStatement({
      sid: 'Fleet',
      actions: [
        'autoscaling:CompleteLifecycleAction',
        'autoscaling:SetInstanceHealth',
        'autoscaling:SetInstanceProtection',
      ],
      resources: [groupArn(this, this.groupName)],
    });
  }

  private launchTemplate(config: Config, vpc: ec2.IVpc, role: iam.IRole, userData: ec2.UserData): ec2.LaunchTemplate {
    const securityGroup = new ec2.SecurityGroup(this, 'Security', {
      vpc,
      description: 'Workers: nothing comes in; out to AWS over TLS',
      allowAllOutbound: false,
    });
    securityGroup.addEgressRule(ec2.Peer.anyIpv4(), ec2.Port.tcp(443), 'Endpoints of the VPC; it has no way further');
    const template = new ec2.LaunchTemplate(this, 'Template', {
      launchTemplateName: this.groupName,
      machineImage: pinnedImage(config.images.worker),
      instanceType: new ec2.InstanceType(config.worker.sizes[0] as string),
      role,
      userData,
      securityGroup,
      requireImdsv2: true,
      httpPutResponseHopLimit: 1,
      httpTokens: ec2.LaunchTemplateHttpTokens.REQUIRED,
      instanceMetadataTags: false,
      detailedMonitoring: true,
      ebsOptimized: true,
      blockDevices: [
        {
          deviceName: ROOT_DEVICE,
          volume: ec2.BlockDeviceVolume.ebs(30, {
            encrypted: true,
            volumeType: ec2.EbsDeviceVolumeType.GP3,
            deleteOnTermination: true,
          }),
        },
      ],
    });
    Tags.of(template).add('Name', this.groupName);
    return template;
  }

  private group(config: Config, vpc: ec2.IVpc, launchTemplate: ec2.LaunchTemplate): autoscaling.AutoScalingGroup {
    const { sizes, chipsMin, chipsMax, spotPercent, drainSeconds } = config.worker;
    const group = new autoscaling.AutoScalingGroup(this, 'Group', {
      autoScalingGroupName: this.groupName,
      vpc,
      vpcSubnets: { subnetType: ec2.SubnetType.PRIVATE_ISOLATED },
      minCapacity: chipsMin,
      maxCapacity: chipsMax,
      mixedInstancesPolicy: {
        launchTemplate,
        // Counted in chips: a size is worth as many as it has.
        launchTemplateOverrides: sizes.map((size) => ({
          instanceType: new ec2.InstanceType(size),
          weightedCapacity: INF1[size].chips,
        })),
        instancesDistribution: {
          onDemandBaseCapacity: chipsMin,
          onDemandPercentageAboveBaseCapacity: 100 - spotPercent,
          onDemandAllocationStrategy: autoscaling.OnDemandAllocationStrategy.LOWEST_PRICE,
          spotAllocationStrategy: autoscaling.SpotAllocationStrategy.PRICE_CAPACITY_OPTIMIZED,
        },
      },
      capacityRebalance: spotPercent > 0,
      newInstancesProtectedFromScaleIn: true,
      groupMetrics: [autoscaling.GroupMetrics.all()],
      defaultInstanceWarmup: Duration.minutes(5),
      maxInstanceLifetime: INSTANCE_LIFE,
      terminationPolicies: [
        autoscaling.TerminationPolicy.OLDEST_LAUNCH_TEMPLATE,
        autoscaling.TerminationPolicy.DEFAULT,
      ],
      healthChecks: autoscaling.HealthChecks.ec2({ gracePeriod: Duration.seconds(LAUNCH_SECONDS) }),
    });
    const cfn = group.node.defaultChild as autoscaling.CfnAutoScalingGroup;
    // Part of the group, so that no instance starts before its hooks are there.
    cfn.lifecycleHookSpecificationList = [
      {
        lifecycleHookName: LAUNCH_HOOK,
        lifecycleTransition: 'autoscaling:EC2_INSTANCE_LAUNCHING',
        heartbeatTimeout: LAUNCH_SECONDS,
        defaultResult: 'ABANDON',
      },
      {
        lifecycleHookName: DRAIN_HOOK,
        lifecycleTransition: 'autoscaling:EC2_INSTANCE_TERMINATING',
        heartbeatTimeout: drainSeconds + DRAIN_MARGIN_SECONDS,
        defaultResult: 'CONTINUE',
      },
    ];
    cfn.instanceMaintenancePolicy = { minHealthyPercentage: 100, maxHealthyPercentage: 150 };
    acknowledge(
      group,
      'cdk-nag does not look into a mixed policy; the launch template encrypts its volumes',
      'AwsSolutions-EC26',
    );
    acknowledge(group, 'alarms watch the group; it sends no notifications of its own', 'AwsSolutions-AS3');
    return group;
  }
}

/** Of an asset that was staged as one object. */
function objectArn(stack: Stack, asset: Asset): string {
  return stack.formatArn({
    service: 's3',
    region: '',
    account: '',
    resource: asset.s3BucketName,
    resourceName: asset.s3ObjectKey,
  });
}
