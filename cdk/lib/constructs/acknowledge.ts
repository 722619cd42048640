import { Stack, Validations } from 'aws-cdk-lib';
import { flattenCfnReference } from 'cdk-nag/lib/utils/flatten-cfn-reference.js';
import type { IConstruct } from 'constructs';

/** Accepts findings of cdk-nag on a construct and what is below it, by id, for one reason. */
export function acknowledge(scope: IConstruct, reason: string, ...ids: string[]): void {
  Validations.of(scope).acknowledge(...ids.map((id) => ({ id, reason })));
}

/** Accepts resources with a wildcard in the policies of a construct, each for the same reason. */
export function acknowledgeResources(scope: IConstruct, reason: string, ...resources: string[]): void {
  const ids = resources.map((resource) => flattenCfnReference(Stack.of(scope).resolve(resource)));
  acknowledge(scope, reason, ...ids.map((id) => `AwsSolutions-IAM5[Resource::${id}]`));
}
