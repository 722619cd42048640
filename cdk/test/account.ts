/**
 * Data and events, deployed from their templates to a local CloudFormation, and the binary with
 * the environments and the rights that the stacks hand it.
 */

import { execFile, spawn } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { Stacks } from '../lib/build/app.ts';
import { type Properties, template } from './app.ts';
import { Gate, type Statement } from './gate.ts';
import { Ministack, pause } from './ministack.ts';
import {
  ARTIFACT,
  binary,
  fleetEnvironment,
  functionEnvironment,
  jobEnvironment,
  type Resolve,
  serviceEnvironment,
  text,
} from './worker-binary.ts';

/** Far more than a loaded machine needs. */
const PATIENCE_SECONDS = 100;

/** Each one that runs the binary: its stack, the beginning of its policy's logical id, its environment. */
const ROLES = {
  fleet: ['worker', 'RoleDefaultPolicy', fleetEnvironment],
  service: ['intent', 'TaskTaskRole', serviceEnvironment],
  function: ['serverless', 'RoleDefaultPolicy', functionEnvironment],
  job: ['bulk', 'JobRoleDefaultPolicy', jobEnvironment],
  // People are told the same as the job that reconciles.
  operator: ['bulk', 'Operator', jobEnvironment],
} as const;
export type Role = keyof typeof ROLES;

/** One that runs the binary: behind a gate of its rights. */
export class Actor {
  constructor(
    readonly environment: Record<string, string>,
    readonly gate: Gate,
  ) {}

  /** Runs the binary to its end. The gate is in this process, so that it must not block. */
  run(...words: string[]): Promise<{ status: number | null; stdout: string; stderr: string }> {
    return new Promise((done) => {
      execFile(binary(), words, { env: this.environment }, (error, stdout, stderr) => {
        done({ status: error === null ? 0 : ((error.code as number | undefined) ?? null), stdout, stderr });
      });
    });
  }

  /** Starts the binary, waits until `isDone`, stops it, and gives how it ended and what it said. */
  async runUntil(command: string, isDone: () => Promise<boolean>, more: Record<string, string> = {}) {
    const cwd = mkdtempSync(join(tmpdir(), 'catalog-labels-run-'));
    const env = { ...this.environment, ...more };
    const child = spawn(binary(), [command], { env, cwd, stdio: ['ignore', 'inherit', 'pipe'] });
    let log = '';
    child.stderr.on('data', (part) => (log += part));
    const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
    try {
      const until = Date.now() + PATIENCE_SECONDS * 1_000;
      while (!(await isDone())) {
        if (child.exitCode !== null || Date.now() > until) throw new Error(`${command} did not get there:\n${log}`);
        await pause();
      }
    } finally {
      child.kill('SIGTERM');
    }
    return { status: await ended, log };
  }
}

export class Account {
  private readonly gates: Gate[] = [];

  private constructor(
    readonly engine: Ministack,
    private readonly resolve: Resolve,
  ) {}

  static async deploy(): Promise<Account> {
    const engine = await Ministack.start();
    await engine.json('ssm', 'AmazonSSM.PutParameter', {
      Name: '/cdk-bootstrap/hnb659fds/version',
      Type: 'String',
      Value: '30',
    });
    for (const name of ['data', 'events'] as const) {
      const { Resources, ...rest } = template(name).toJSON() as Properties;
      // The engine knows no archives.
      const known = Object.entries<Properties>(Resources).filter(([_id, { Type }]) => Type !== 'AWS::Events::Archive');
      await engine.createStack(name, JSON.stringify({ ...rest, Resources: Object.fromEntries(known) }));
    }
    // Its CloudFormation leaves the time to live of tables out.
    for (const { Properties: table } of Object.values<Properties>(
      template('data').findResources('AWS::DynamoDB::Table'),
    )) {
      const { TableName, TimeToLiveSpecification } = table;
      if (TimeToLiveSpecification)
        await engine.json('dynamodb', 'DynamoDB_20120810.UpdateTimeToLive', { TableName, TimeToLiveSpecification });
    }
    const exported = await engine.exports();
    return new Account(engine, (reference) =>
      reference.Ref === 'AWS::AccountId' ? '000000000000' : exported.get(reference['Fn::ImportValue']),
    );
  }

  stop(): void {
    for (const gate of this.gates) gate.stop();
    this.engine.stop();
  }

  /** A role with its own environment and, unless others are given, its own rights. */
  async as(role: Role, rightsOf: Role = role): Promise<Actor> {
    const [, , environmentOf] = ROLES[role];
    const gate = await Gate.start(this.engine.url, this.rights(rightsOf));
    this.gates.push(gate);
    const environment: Record<string, string> = {
      ...environmentOf(this.resolve),
      PATH: process.env.PATH as string,
      LD_LIBRARY_PATH: '',
      AWS_ACCESS_KEY_ID: 'local',
      AWS_SECRET_ACCESS_KEY: 'local',
      CATALOG_LABELS_ENDPOINT_URL: gate.url,
      CATALOG_LABELS_ARTIFACT: ARTIFACT,
      CATALOG_LABELS_REPLICAS: '1',
      CATALOG_LABELS_ONLINE_REPLICAS: '1',
      CATALOG_LABELS_POLL: '1s',
      CATALOG_LABELS_HEALTH_ADDRESS: '127.0.0.1:0',
    };
    // There are no NeuronCores here.
    delete environment.NEURON_RT_VISIBLE_CORES;
    delete environment.NEURON_RT_NUM_CORES;
    return new Actor(environment, gate);
  }

  /** What a role's own policy allows. */
  private rights(role: Role): Statement[] {
    const [stack, policyId] = ROLES[role];
    return policies(stack, policyId).flatMap(({ PolicyDocument }) =>
      PolicyDocument.Statement.map(({ Action, Resource }: Properties) => ({
        actions: [Action].flat(),
        resources: [Resource].flat().map((resource) => text(resource, this.resolve)),
      })),
    );
  }
}

/** The policies of a stack whose logical ids begin so. */
function policies(stack: keyof Stacks, id: string): Properties[] {
  const found = ['AWS::IAM::Policy', 'AWS::IAM::ManagedPolicy'].flatMap((type) =>
    Object.entries<Properties>(template(stack).findResources(type)),
  );
  return found.filter(([found]) => found.startsWith(id)).map(([, policy]) => policy.Properties);
}
