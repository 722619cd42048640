/** What `make bundle` leaves, and what is deployed of it. */

import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';

import { ConfigError } from '../config/config.ts';
import { CDK_FOLDER } from '../config/read.ts';

/** A file and its digest, which the host checks. */
export interface Bundle {
  readonly file: string;
  /** Lower-case hexadecimal. */
  readonly sha256: string;
}

export interface Release {
  /** bin/ and lib/ for inf1: binary, libtorch 1.13.1, the Neuron op library. */
  readonly host: Bundle;
  /** The artifact compiled for inf1: manifest.json and the files that it names. */
  readonly model: Bundle;
  /** Docker contexts. */
  readonly intentImage: string;
  readonly cpuImage: string;
}

/** Opens the folder, relative to `cdk/`. Throws a {@link ConfigError} that names all that is missing. */
export function openRelease(dist: string): Release {
  const folder = isAbsolute(dist) ? dist : join(CDK_FOLDER, dist);
  const at = (path: string) => join(folder, path);
  const paths = ['host/catalog-labels.tar.gz', 'host/model.tar.gz', 'intent/Dockerfile', 'cpu/Dockerfile'];
  const missing = paths.filter((path) => !existsSync(at(path)));
  if (missing.length > 0) {
    throw new ConfigError(missing.map((path) => `dist: ${join(dist, path)} does not exist; run make bundle first`));
  }
  const bundle = (path: string) => ({ file: at(path), sha256: sha256(readFileSync(at(path))) });
  return {
    host: bundle('host/catalog-labels.tar.gz'),
    model: bundle('host/model.tar.gz'),
    intentImage: at('intent'),
    cpuImage: at('cpu'),
  };
}

/** In lower-case hexadecimal. */
export function sha256(bytes: Buffer | string): string {
  return createHash('sha256').update(bytes).digest('hex');
}
