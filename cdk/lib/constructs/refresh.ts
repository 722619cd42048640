import { Stack } from 'aws-cdk-lib';
import type * as autoscaling from 'aws-cdk-lib/aws-autoscaling';
import type * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as resources from 'aws-cdk-lib/custom-resources';
import { Construct } from 'constructs';

import { acknowledge, acknowledgeResources } from './acknowledge.ts';

export interface RefreshProps {
  readonly group: autoscaling.AutoScalingGroup;
  /** As it is known before the group is there. */
  readonly groupName: string;
  readonly template: ec2.LaunchTemplate;
}

/**
 * A new launch template (image, release, units, environment) replaces the instances of a group,
 * few at a time: new ones come before old ones go.
 */
export class InstanceRefresh extends Construct {
  constructor(scope: Construct, id: string, { group, groupName, template }: RefreshProps) {
    super(scope, id);
    const arn = groupArn(this, groupName);
    const call: resources.AwsSdkCall = {
      service: 'auto-scaling',
      action: 'startInstanceRefresh',
      parameters: {
        AutoScalingGroupName: groupName,
        Preferences: {
          MinHealthyPercentage: 100,
          MaxHealthyPercentage: 150,
          SkipMatching: true,
          ScaleInProtectedInstances: 'Refresh',
        },
      },
      physicalResourceId: resources.PhysicalResourceId.of(`refresh-${template.latestVersionNumber}`),
      // One that runs already takes the newest version with it, or is started again by hand.
      ignoreErrorCodesMatching: 'InstanceRefreshInProgress',
    };
    // Called when the group is made as well: then every instance matches, and nothing happens.
    const refresh = new resources.AwsCustomResource(this, 'Call', {
      onUpdate: call,
      installLatestAwsSdk: false,
      policy: resources.AwsCustomResourcePolicy.fromStatements([
        new iam.PolicyStatement({ actions: ['autoscaling:StartInstanceRefresh'], resources: [arn] }),
      ]),
    });
    refresh.node.addDependency(group);
    acknowledgeResources(refresh, 'the id in the ARN of a group is chosen when it is created', arn);
    const provider = Stack.of(this).node.findChild(
      `AWS${resources.AwsCustomResource.PROVIDER_FUNCTION_UUID.replaceAll('-', '')}`,
    );
    const logging =
      'AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole]';
    acknowledge(provider, 'the function that CDK brings for single API calls writes its log', logging);
  }
}

/** The id in a group's ARN is chosen when it is created, so only the name is given. */
export function groupArn(scope: Construct, groupName: string): string {
  return Stack.of(scope).formatArn({
    service: 'autoscaling',
    resource: 'autoScalingGroup:*:autoScalingGroupName',
    resourceName: groupName,
  });
}
