import { Stack, type StackProps } from 'aws-cdk-lib';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import { LogGroup, RetentionDays } from 'aws-cdk-lib/aws-logs';
import type { Construct } from 'constructs';

import { type Config, namePrefix } from '../config/config.ts';
import { acknowledge } from '../constructs/acknowledge.ts';

/** Services that the hosts speak to, each through an endpoint: there is no way out of the VPC. */
const INTERFACES = {
  Sqs: ec2.InterfaceVpcEndpointAwsService.SQS,
  Ssm: ec2.InterfaceVpcEndpointAwsService.SSM,
  Logs: ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
  AutoScaling: ec2.InterfaceVpcEndpointAwsService.AUTOSCALING,
  EcrApi: ec2.InterfaceVpcEndpointAwsService.ECR,
  EcrDocker: ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
  Ecs: ec2.InterfaceVpcEndpointAwsService.ECS,
  EcsAgent: ec2.InterfaceVpcEndpointAwsService.ECS_AGENT,
  EcsTelemetry: ec2.InterfaceVpcEndpointAwsService.ECS_TELEMETRY,
} as const;

/** A VPC without an internet gateway or NAT; every subnet is isolated. */
export class NetworkStack extends Stack {
  readonly vpc: ec2.Vpc;

  constructor(scope: Construct, id: string, config: Config, props: StackProps) {
    super(scope, id, props);
    const { availabilityZones: zones } = config.network;
    this.vpc = new ec2.Vpc(this, 'Vpc', {
      vpcName: namePrefix(config),
      ipAddresses: ec2.IpAddresses.cidr(config.network.cidr),
      ...(typeof zones === 'number' ? { maxAzs: zones } : { availabilityZones: [...zones] }),
      natGateways: 0,
      subnetConfiguration: [{ name: 'isolated', subnetType: ec2.SubnetType.PRIVATE_ISOLATED, cidrMask: 24 }],
      restrictDefaultSecurityGroup: false,
      gatewayEndpoints: {
        S3: { service: ec2.GatewayVpcEndpointAwsService.S3 },
        DynamoDb: { service: ec2.GatewayVpcEndpointAwsService.DYNAMODB },
      },
    });
    const security = new ec2.SecurityGroup(this, 'EndpointSecurity', {
      vpc: this.vpc,
      description: 'Interface endpoints: TLS from inside the VPC',
      allowAllOutbound: false,
    });
    security.addIngressRule(ec2.Peer.ipv4(this.vpc.vpcCidrBlock), ec2.Port.tcp(443), 'TLS from inside the VPC');
    // cdk-nag cannot read a range that is a reference.
    acknowledge(security, 'the source is the VPC itself', 'AwsSolutions-EC23');
    for (const [name, service] of Object.entries(INTERFACES)) {
      this.vpc.addInterfaceEndpoint(name, { service, securityGroups: [security], open: false });
    }
    this.vpc.addFlowLog('FlowLog', {
      trafficType: ec2.FlowLogTrafficType.REJECT,
      destination: ec2.FlowLogDestination.toCloudWatchLogs(
        new LogGroup(this, 'FlowLogs', {
          logGroupName: `/${namePrefix(config)}/flow`,
          retention: config.retention.logDays as RetentionDays,
        }),
      ),
    });
  }
}
