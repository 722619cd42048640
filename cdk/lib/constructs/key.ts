import { RemovalPolicy } from 'aws-cdk-lib';
import * as kms from 'aws-cdk-lib/aws-kms';
import type { Construct } from 'constructs';

import { type Config, namePrefix } from '../config/config.ts';

/** A key of one stack's, rotated, that survives it: without it nothing could be read again. */
export class StageKey extends kms.Key {
  constructor(scope: Construct, id: string, config: Config, name: string) {
    super(scope, id, {
      alias: `${namePrefix(config)}/${name}`,
      description: `catalog-labels ${config.stage}: ${name}`,
      enableKeyRotation: true,
      removalPolicy: RemovalPolicy.RETAIN,
    });
  }
}
