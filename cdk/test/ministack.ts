/** A ministack of one's own, and the few calls that the CDK would make. */

import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { join } from 'node:path';

import { REPOSITORY } from './worker-binary.ts';

const START_SECONDS_MAX = 60;

export class Ministack {
  private constructor(
    private readonly child: ChildProcess,
    readonly url: string,
  ) {}

  static async start(): Promise<Ministack> {
    const port = await freePort();
    const program = process.env.CATALOG_LABELS_MINISTACK ?? join(REPOSITORY, '.venv-ministack/bin/ministack');
    const env = { ...process.env, BIND_HOST: '127.0.0.1', GATEWAY_PORT: String(port), LOG_LEVEL: 'ERROR' };
    const engine = new Ministack(spawn(program, { env, stdio: 'ignore' }), `http://127.0.0.1:${port}`);
    const until = Date.now() + START_SECONDS_MAX * 1_000;
    while (
      !(await fetch(`${engine.url}/_ministack/health`).then(
        (answer) => answer.ok,
        () => false,
      ))
    ) {
      if (Date.now() > until || engine.child.exitCode !== null)
        throw new Error(`${program} does not come up; make test-env installs it`);
      await pause();
    }
    return engine;
  }

  stop(): void {
    this.child.kill();
  }

  /** A call of a service that speaks JSON, such as `AmazonSSM.PutParameter`. */
  async json(service: string, target: string, body: unknown): Promise<Record<string, unknown>> {
    const headers = { ...signed(service), 'content-type': 'application/x-amz-json-1.0', 'x-amz-target': target };
    return JSON.parse(await this.post(headers, JSON.stringify(body)));
  }

  /** Creates a stack, and returns when it is complete. */
  async createStack(name: string, template: string): Promise<void> {
    await this.cloudFormation({ Action: 'CreateStack', StackName: name, TemplateBody: template });
    for (;;) {
      const status = /<StackStatus>(.*?)</.exec(
        await this.cloudFormation({ Action: 'DescribeStacks', StackName: name }),
      )?.[1];
      if (status === 'CREATE_COMPLETE') return;
      if (status !== 'CREATE_IN_PROGRESS') throw new Error(`${name} is ${status}`);
      await pause();
    }
  }

  /** What the stacks export, by name. */
  async exports(): Promise<Map<string, string>> {
    const answer = await this.cloudFormation({ Action: 'ListExports' });
    return new Map(
      [...answer.matchAll(/<Name>(.*?)<\/Name><Value>(.*?)<\/Value>/g)].map(([, name, value]) => [
        name as string,
        value as string,
      ]),
    );
  }

  private cloudFormation(parameters: Record<string, string>): Promise<string> {
    const headers = { ...signed('cloudformation'), 'content-type': 'application/x-www-form-urlencoded' };
    return this.post(headers, new URLSearchParams({ Version: '2010-05-15', ...parameters }).toString());
  }

  private async post(headers: Record<string, string>, body: string): Promise<string> {
    const answer = await fetch(this.url, { method: 'POST', headers, body });
    const said = await answer.text();
    if (!answer.ok) throw new Error(`${answer.status}: ${said}`);
    return said;
  }
}

/** Between two looks at something that says by itself when it is there. */
export function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 50));
}

/** The engine reads the service off the signature, and checks nothing else of it. */
function signed(service: string): Record<string, string> {
  return {
    authorization: `AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/${service}/aws4_request, SignedHeaders=host, Signature=0`,
  };
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() =>
        typeof address === 'object' && address ? resolve(address.port) : reject(new Error('no port')),
      );
    });
  });
}
