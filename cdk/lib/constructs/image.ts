import { CfnDynamicReference, CfnDynamicReferenceService } from 'aws-cdk-lib';
import { type IMachineImage, OperatingSystemType, UserData } from 'aws-cdk-lib/aws-ec2';

/**
 * The image whose id lies in the given version of an SSM parameter, resolved when the stack
 * is deployed and at no other time.
 */
export function pinnedImage({ parameter, version }: { parameter: string; version: number }): IMachineImage {
  const imageId = new CfnDynamicReference(CfnDynamicReferenceService.SSM, `${parameter}:${version}`).toString();
  return { getImage: () => ({ imageId, osType: OperatingSystemType.LINUX, userData: UserData.forLinux() }) };
}
