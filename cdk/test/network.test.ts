import { Match, Template } from 'aws-cdk-lib/assertions';
import { describe, expect, it } from 'vitest';

import { build, CONFIG, only, template } from './app.ts';

describe('network', () => {
  it('has no way out: no internet gateway, no NAT, no public address', () => {
    for (const type of ['AWS::EC2::InternetGateway', 'AWS::EC2::NatGateway', 'AWS::EC2::EIP'])
      template('network').resourceCountIs(type, 0);
    template('network').allResourcesProperties('AWS::EC2::Subnet', { MapPublicIpOnLaunch: false });
  });

  it('reaches tables and buckets through gateways, which cost nothing', () => {
    const gateways = template('network').findResources('AWS::EC2::VPCEndpoint', {
      Properties: { VpcEndpointType: 'Gateway' },
    });
    const services = Object.values(gateways).map((endpoint) => JSON.stringify(endpoint.Properties.ServiceName));
    expect(services.some((name) => name.includes('.dynamodb'))).toBe(true);
    expect(services.some((name) => name.includes('.s3'))).toBe(true);
  });

  it.each(['sqs', 'ssm', 'logs', 'autoscaling', 'ecr.api', 'ecr.dkr', 'ecs', 'ecs-agent', 'ecs-telemetry'])(
    'reaches %s through an endpoint',
    (service) => {
      const endpoint = only(
        'network',
        'AWS::EC2::VPCEndpoint',
        (properties) =>
          properties.VpcEndpointType === 'Interface' &&
          JSON.stringify(properties.ServiceName).endsWith(`.${service}"]]}`),
      );
      expect(endpoint.PrivateDnsEnabled).toBe(true);
    },
  );

  it('lets endpoints be reached over TLS from inside only', () => {
    const { SecurityGroupIngress } = only('network', 'AWS::EC2::SecurityGroup');
    expect(SecurityGroupIngress).toHaveLength(1);
    expect(SecurityGroupIngress[0]).toMatchObject({
      FromPort: 443,
      ToPort: 443,
      CidrIp: { 'Fn::GetAtt': [expect.stringMatching(/^Vpc/), 'CidrBlock'] },
    });
  });

  it('lies in the zones that the configuration names, since not every zone has inf1', () => {
    const environment = { account: '123456789012', region: 'eu-west-1' };
    for (const place of [{}, { environment }]) {
      const network = { ...CONFIG.network, availabilityZones: ['eu-west-1a', 'eu-west-1c'] };
      const { stacks } = build({ ...CONFIG, ...place, network });
      const subnets = Object.values(Template.fromStack(stacks.network).findResources('AWS::EC2::Subnet'));
      expect(subnets.map(({ Properties: subnet }) => subnet.AvailabilityZone)).toEqual(['eu-west-1a', 'eu-west-1c']);
    }
  });

  it('logs refused flows', () => {
    template('network').hasResourceProperties('AWS::EC2::FlowLog', {
      TrafficType: 'REJECT',
      LogDestinationType: 'cloud-watch-logs',
    });
    template('network').hasResourceProperties('AWS::Logs::LogGroup', { RetentionInDays: Match.anyValue() });
  });
});
