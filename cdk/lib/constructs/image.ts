import { CfnDynamicReference, CfnDynamicReferenceService } from 'aws-cdk-lib';
import { type IMachineImage, OperatingSystemType, UserData } from 'aws-cdk-lib/aws-ec2';

/**
 * Root volume of both kinds of images: Debian's and the ECS-optimised ones have it under this
 * name, and prepare-image.sh refuses others. Under another name a second, empty volume would
 * come, and the root would be left as it is.
 */
export const ROOT_DEVICE = '/dev/xvda';

/**
 * The image whose id lies in the given version of an SSM parameter, resolved when the stack
 * is deployed and at no other time.
 */
export function pinnedImage({ parameter, version }: { parameter: string; version: number }): IMachineImage {
  const imageId = new CfnDynamicReference(CfnDynamicReferenceService.SSM, `${parameter}:${version}`).toString();
  return { getImage: () => ({ imageId, osType: OperatingSystemType.LINUX, userData: UserData.forLinux() }) };
}
