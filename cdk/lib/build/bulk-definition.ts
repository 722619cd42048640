/**
 * The bulk run as a state machine: every line of an NDJSON object in S3 becomes a message on
 * the bulk queue, which the fleet reads on its own lane. Input: {"key": "input/products.ndjson"}
 * or {"variant": "processing"}.
 */

export interface BulkParts {
  readonly bucket: string;
  readonly queueUrl: string;
  readonly linesPerRequest: number;
  readonly requestsAtOnce: number;
  /** Arguments of the SageMaker job that is the CPU variant, less its name. */
  readonly processingJob: Readonly<Record<string, unknown>>;
}

/** A batch of lines as entries of SendMessageBatch. */
export const ENTRIES =
  "$map($items, function($line, $index) { {'Id': $string($index), 'MessageBody': $string($line)} })[]";
/** Entries of the answer that SQS refused. */
export const REFUSED = '$count($states.result.Failed)';

/** SQS takes 262,144 bytes in a request; the rest is for what JSON adds to a line. */
const REQUEST_BYTES_MAX = 200_000;
const SENDS_MAX = 5;
const RETRY = [
  { ErrorEquals: ['States.ALL'], IntervalSeconds: 2, MaxAttempts: 6, BackoffRate: 2, JitterStrategy: 'FULL' },
];
const evaluate = (expression: string) => `{% ${expression} %}`;

export function bulkDefinition(parts: BulkParts) {
  return {
    Comment: 'Feeds a bulk run into the bulk queue, or runs it on CPU, and reports',
    QueryLanguage: 'JSONata',
    StartAt: 'Choose',
    States: {
      Choose: {
        Type: 'Choice',
        Choices: [{ Condition: evaluate("$states.input.variant = 'processing'"), Next: 'Process' }],
        Default: 'Feed',
      },
      Feed: feed(parts),
      Count: {
        Type: 'Task',
        Resource: 'arn:aws:states:::aws-sdk:sfn:describeMapRun',
        Arguments: { MapRunArn: evaluate('$states.input.MapRunArn') },
        Output: {
          variant: 'queue',
          batches: evaluate('$states.result.ExecutionCounts'),
          lines: evaluate('$states.result.ItemCounts'),
        },
        Retry: RETRY,
        Next: 'Report',
      },
      Process: process(parts),
      Report: {
        Type: 'Task',
        Resource: 'arn:aws:states:::aws-sdk:s3:putObject',
        Arguments: {
          Bucket: parts.bucket,
          Key: evaluate("'reports/' & $states.context.Execution.Name & '/report.json'"),
          ContentType: 'application/json',
          Body: evaluate(
            "$merge([$states.input, {'input': $states.context.Execution.Input, 'started_at': $states.context.Execution.StartTime, 'finished_at': $now()}])",
          ),
        },
        Retry: RETRY,
        Output: evaluate('$states.input'),
        Next: 'Reported',
      },
      Reported: {
        Type: 'Choice',
        Choices: [{ Condition: evaluate('$exists($states.input.error)'), Next: 'Failed' }],
        Default: 'Succeeded',
      },
      Failed: {
        Type: 'Fail',
        Error: evaluate('$states.input.error.Error'),
        Cause: evaluate('$states.input.error.Cause'),
      },
      Succeeded: { Type: 'Succeed' },
    },
  };
}

/** A run that fails is reported as well, and then fails. */
function reportFailure(variant: string) {
  return [{ ErrorEquals: ['States.ALL'], Output: { variant, error: evaluate('$states.errorOutput') }, Next: 'Report' }];
}

function feed({ bucket, queueUrl, linesPerRequest, requestsAtOnce }: BulkParts) {
  return {
    Type: 'Map',
    ItemReader: {
      Resource: 'arn:aws:states:::s3:getObject',
      ReaderConfig: { InputType: 'JSONL' },
      Arguments: { Bucket: bucket, Key: evaluate('$states.input.key') },
    },
    ItemBatcher: { MaxItemsPerBatch: linesPerRequest, MaxInputBytesPerBatch: REQUEST_BYTES_MAX },
    MaxConcurrency: requestsAtOnce,
    ToleratedFailurePercentage: 0,
    ItemProcessor: {
      ProcessorConfig: { Mode: 'DISTRIBUTED', ExecutionType: 'EXPRESS' },
      StartAt: 'Batch',
      States: {
        Batch: { Type: 'Pass', Assign: { items: evaluate('$states.input.Items'), sends: 0 }, Next: 'Send' },
        Send: {
          Type: 'Task',
          Resource: 'arn:aws:states:::aws-sdk:sqs:sendMessageBatch',
          Arguments: { QueueUrl: queueUrl, Entries: evaluate(ENTRIES) },
          Assign: { sends: evaluate('$sends + 1'), refused: evaluate(REFUSED) },
          Retry: RETRY,
          Next: 'Sent',
        },
        // A batch that was taken in part is an answer without an error. To send its lines
        // again is harmless: an event that was labelled costs nothing.
        Sent: {
          Type: 'Choice',
          Choices: [
            { Condition: evaluate('$refused = 0'), Next: 'Done' },
            { Condition: evaluate(`$sends < ${SENDS_MAX}`), Next: 'Wait' },
          ],
          Default: 'Refused',
        },
        Wait: { Type: 'Wait', Seconds: evaluate('$power(2, $sends)'), Next: 'Send' },
        Refused: {
          Type: 'Fail',
          Error: 'Refused',
          Cause: evaluate("$string($refused) & ' lines were refused by the queue'"),
        },
        Done: { Type: 'Succeed' },
      },
    },
    ResultWriter: {
      Resource: 'arn:aws:states:::s3:putObject',
      WriterConfig: { OutputType: 'JSON', Transformation: 'NONE' },
      Arguments: { Bucket: bucket, Prefix: evaluate("'reports/' & $states.context.Execution.Name") },
    },
    Catch: reportFailure('queue'),
    Next: 'Count',
  };
}

function process({ processingJob }: BulkParts) {
  return {
    Type: 'Task',
    Resource: 'arn:aws:states:::sagemaker:createProcessingJob.sync',
    Arguments: {
      ...processingJob,
      // At most 63 characters; an execution's name may have 80.
      ProcessingJobName: evaluate("'catalog-labels-' & $substring($states.context.Execution.Name, 0, 48)"),
    },
    Output: {
      variant: 'processing',
      job: evaluate('$states.result.ProcessingJobName'),
      status: evaluate('$states.result.ProcessingJobStatus'),
    },
    Catch: reportFailure('processing'),
    Next: 'Report',
  };
}
