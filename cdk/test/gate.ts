/**
 * Stands between the binary and a local engine, which lets everybody do everything: refuses
 * what the policy of a role does not allow, as IAM would.
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

import type { Properties } from './app.ts';

/** A right that a request needs. */
interface Need {
  readonly action: string;
  readonly arn: string;
}

/** One statement of a policy, with its references resolved. */
export interface Statement {
  readonly actions: readonly string[];
  readonly resources: readonly string[];
}

/** Of the engine. */
const WHERE = 'us-east-1:000000000000';
/** Actions of IAM that are not named as their operation is. */
const ACTIONS: Record<string, string> = {
  SendMessageBatch: 'SendMessage',
  DeleteMessageBatch: 'DeleteMessage',
  ChangeMessageVisibilityBatch: 'ChangeMessageVisibility',
};
/** Entries of TransactWriteItems by the action that each needs. */
const TRANSACTED = { Put: 'PutItem', Update: 'UpdateItem', Delete: 'DeleteItem', ConditionCheck: 'ConditionCheckItem' };

export class Gate {
  /** What was asked for and refused. */
  readonly refused: Need[] = [];

  private constructor(
    private readonly server: Server,
    readonly url: string,
  ) {}

  static async start(engineUrl: string, statements: readonly Statement[]): Promise<Gate> {
    const server = createServer((request, response) => {
      pass(request, response, engineUrl, statements, gate.refused).catch((error: unknown) => {
        response.writeHead(502).end(String(error));
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const gate = new Gate(server, `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    return gate;
  }

  stop(): void {
    this.server.closeAllConnections();
    this.server.close();
  }
}

async function pass(
  request: IncomingMessage,
  response: ServerResponse,
  engineUrl: string,
  statements: readonly Statement[],
  refused: Need[],
): Promise<void> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts);
  const denied = needsOf(request, body).filter((need) => !statements.some((statement) => allows(statement, need)));
  if (denied.length > 0) {
    refused.push(...denied);
    const { action, arn } = denied[0] as Need;
    const said = { __type: 'AccessDeniedException', message: `not authorized to perform ${action} on ${arn}` };
    const status = action.startsWith('s3:') ? 403 : 400;
    response.writeHead(status, { 'content-type': 'application/x-amz-json-1.0' }).end(JSON.stringify(said));
    return;
  }
  const { host: _host, connection: _connection, 'content-length': _length, ...headers } = request.headers;
  const answer = await fetch(engineUrl + request.url, {
    method: request.method as string,
    headers: headers as Record<string, string>,
    ...(body.length > 0 && { body }),
  });
  const {
    'content-encoding': _encoding,
    'transfer-encoding': _transfer,
    ...answered
  } = Object.fromEntries(answer.headers);
  response.writeHead(answer.status, answered).end(Buffer.from(await answer.arrayBuffer()));
}

/** The rights that a request of DynamoDB, SQS or S3 needs; throws where it is of another kind. */
function needsOf(request: IncomingMessage, body: Buffer): Need[] {
  const target = request.headers['x-amz-target'];
  if (target === undefined) {
    const [bucket, ...key] = new URL(request.url as string, 'http://s3').pathname.slice(1).split('/');
    const object = key.join('/');
    if (object === '') return [{ action: 's3:ListBucket', arn: `arn:aws:s3:::${bucket}` }];
    return [{ action: 's3:GetObject', arn: `arn:aws:s3:::${bucket}/${object}` }];
  }
  const [service, operation] = String(target).split('.') as [string, string];
  const asked: Properties = JSON.parse(body.toString());
  if (service === 'AmazonSQS') {
    const queue = (asked.QueueUrl ?? asked.QueueName).split('/').at(-1);
    return [{ action: `sqs:${ACTIONS[operation] ?? operation}`, arn: `arn:aws:sqs:${WHERE}:${queue}` }];
  }
  const on = (table: string, action: string) => ({
    action: `dynamodb:${action}`,
    arn: `arn:aws:dynamodb:${WHERE}:table/${table}`,
  });
  if (operation === 'TransactWriteItems') {
    return asked.TransactItems.flatMap((item: Properties) =>
      Object.entries(TRANSACTED).flatMap(([kind, action]) => (item[kind] ? [on(item[kind].TableName, action)] : [])),
    );
  }
  const tables: string[] = asked.RequestItems ? Object.keys(asked.RequestItems) : [asked.TableName];
  return tables.map((table) => on(table, operation));
}

function allows({ actions, resources }: Statement, { action, arn }: Need): boolean {
  const covers = (pattern: string) => (pattern.endsWith('*') ? arn.startsWith(pattern.slice(0, -1)) : arn === pattern);
  return actions.includes(action) && resources.some(covers);
}
