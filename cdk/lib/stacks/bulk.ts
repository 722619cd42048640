import { ArnFormat, Stack, type StackProps } from 'aws-cdk-lib';
import { DockerImageAsset, Platform } from 'aws-cdk-lib/aws-ecr-assets';
import * as events from 'aws-cdk-lib/aws-events';
import { SfnStateMachine } from 'aws-cdk-lib/aws-events-targets';
import * as iam from 'aws-cdk-lib/aws-iam';
import { LogGroup, type RetentionDays } from 'aws-cdk-lib/aws-logs';
import * as sfn from 'aws-cdk-lib/aws-stepfunctions';
import type { Construct } from 'constructs';

import { bulkDefinition } from '../build/bulk-definition.ts';
import { reconcileEnvironment } from '../build/environment.ts';
import type { Release } from '../build/release.ts';
import { bucketName, type Config, namePrefix, objectsArn } from '../config/config.ts';
import { acknowledgeResources } from '../constructs/acknowledge.ts';
import { OperatorPolicy } from '../constructs/operator.ts';
import { keyStatements, labelStatements, walkStatements } from '../constructs/permissions.ts';
import type { DataStack } from './data.ts';
import type { EventsStack } from './events.ts';

/** What a scheduled run reads. */
export const SCHEDULED_KEY = 'input/products.ndjson';
const PROCESSING_INSTANCE = 'ml.c6i.4xlarge';
const PROCESSING_SECONDS_MAX = 12 * 60 * 60;

export interface BulkProps extends StackProps {
  readonly data: DataStack;
  readonly events: EventsStack;
  readonly release: Release;
}

/**
 * The periodic run: lines of an NDJSON object in S3 go to the bulk queue, which the fleet
 * reads. SageMaker Processing has no inf1, so its job is a CPU variant: `reconcile`. Beside it,
 * what people may do who start such runs by hand.
 */
export class BulkStack extends Stack {
  readonly stateMachine: sfn.StateMachine;
  readonly schedule: events.Rule;

  constructor(scope: Construct, id: string, config: Config, { data, events: queues, release, ...props }: BulkProps) {
    super(scope, id, props);
    const name = `${namePrefix(config)}-bulk`;
    const image = new DockerImageAsset(this, 'Image', { directory: release.cpuImage, platform: Platform.LINUX_AMD64 });
    const jobRole = this.jobRole(data, image);
    const role = new iam.Role(this, 'Role', {
      description: 'What a bulk run may do',
      assumedBy: new iam.ServicePrincipal('states.amazonaws.com'),
    });
    const definition = bulkDefinition({
      bucket: bucketName(config, 'bulk'),
      queueUrl: queues.bulk.queueUrl,
      linesPerRequest: config.bulk.linesPerRequest,
      requestsAtOnce: config.bulk.requestsAtOnce,
      processingJob: this.processingJob(config, image, jobRole, data),
    });
    for (const statement of [
      ...this.statements(config, name, queues, jobRole),
      ...keyStatements(data.key, queues.key),
    ]) {
      role.addToPolicy(statement);
    }
    this.stateMachine = new sfn.StateMachine(this, 'Run', {
      stateMachineName: name,
      definitionBody: sfn.DefinitionBody.fromString(this.toJsonString(definition)),
      role,
      tracingEnabled: true,
      logs: {
        destination: new LogGroup(this, 'Log', {
          logGroupName: `/aws/vendedlogs/states/${name}`,
          retention: config.retention.logDays as RetentionDays,
        }),
        level: sfn.LogLevel.ALL,
        // Lines of the catalog stay out of the logs.
        includeExecutionData: false,
      },
    });
    new OperatorPolicy(this, 'Operator', { config, data, events: queues, bulkRun: this.stateMachine });
    this.schedule = new events.Rule(this, 'Schedule', {
      description: 'The periodic bulk run',
      enabled: config.bulk.scheduleEnabled,
      schedule: events.Schedule.expression(config.bulk.schedule),
      targets: [
        new SfnStateMachine(this.stateMachine, {
          input: events.RuleTargetInput.fromObject({ key: SCHEDULED_KEY }),
        }),
      ],
    });
    const { partition, region, account } = this;
    const runs = ['execution', 'mapRun'].map(
      (kind) => `arn:${partition}:states:${region}:${account}:${kind}:${name}/*`,
    );
    acknowledgeResources(role, 'ids of runs are chosen by the service', ...runs);
    acknowledgeResources(
      role,
      'jobs are named after their run',
      `arn:${partition}:sagemaker:${region}:${account}:processing-job/catalog-labels-*`,
    );
    acknowledgeResources(
      role,
      'what is read and written is named by run and uploader',
      ...['input/', 'reports/'].map((prefix) => objectsArn(config, 'bulk', prefix)),
    );
    acknowledgeResources(role, 'tracing and the delivery of logs know no resources', '*');
    acknowledgeResources(
      jobRole,
      'streams are named after the job; the login to ECR knows no resources',
      this.jobLogs(),
      '*',
    );
  }

  private statements(config: Config, name: string, queues: EventsStack, jobRole: iam.IRole): iam.PolicyStatement[] {
    const allow = (sid: string, actions: string[], resources: string[], conditions?: Record<string, unknown>) =>
      new iam.PolicyStatement({ sid, actions, resources, conditions });
    const arn = (service: string, resource: string, resourceName: string, arnFormat = ArnFormat.SLASH_RESOURCE_NAME) =>
      this.formatArn({ service, resource, resourceName, arnFormat });
    const states = (resource: string, resourceName: string) =>
      arn('states', resource, resourceName, ArnFormat.COLON_RESOURCE_NAME);
    const jobs = arn('sagemaker', 'processing-job', 'catalog-labels-*');
    return [
      allow('Read', ['s3:GetObject'], [objectsArn(config, 'bulk', 'input/')]),
      allow(
        'Report',
        ['s3:GetObject', 's3:PutObject', 's3:AbortMultipartUpload', 's3:ListMultipartUploadParts'],
        [objectsArn(config, 'bulk', 'reports/')],
      ),
      allow('Feed', ['sqs:SendMessage'], [queues.bulk.queueArn]),
      allow('RunMap', ['states:StartExecution'], [states('stateMachine', name)]),
      allow('FollowMap', ['states:DescribeExecution', 'states:StopExecution'], [states('execution', `${name}/*`)]),
      allow('CountMap', ['states:DescribeMapRun'], [states('mapRun', `${name}/*`)]),
      allow(
        'Process',
        [
          'sagemaker:CreateProcessingJob',
          'sagemaker:DescribeProcessingJob',
          'sagemaker:StopProcessingJob',
          'sagemaker:AddTags',
        ],
        [jobs],
      ),
      allow(
        'AwaitJob',
        ['events:PutTargets', 'events:PutRule', 'events:DescribeRule'],
        [arn('events', 'rule', 'StepFunctionsGetEventsForSageMakerProcessingJobsRule')],
      ),
      allow('HandOver', ['iam:PassRole'], [jobRole.roleArn], {
        StringEquals: { 'iam:PassedToService': 'sagemaker.amazonaws.com' },
      }),
    ];
  }

  /** SageMaker writes the logs of every job into this group, and names it itself. */
  private jobLogs(): string {
    return `arn:${this.partition}:logs:${this.region}:${this.account}:log-group:/aws/sagemaker/ProcessingJobs:*`;
  }

  private jobRole(data: DataStack, image: DockerImageAsset): iam.Role {
    const role = new iam.Role(this, 'JobRole', {
      description: 'What the CPU variant of a bulk run may do',
      assumedBy: new iam.ServicePrincipal('sagemaker.amazonaws.com'),
    });
    for (const statement of [
      ...labelStatements(data.tables),
      ...walkStatements(data.tables, ['products', 'intents']),
      ...keyStatements(data.key),
    ]) {
      role.addToPolicy(statement);
    }
    role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'Log',
        actions: ['logs:CreateLogGroup', 'logs:CreateLogStream', 'logs:PutLogEvents', 'logs:DescribeLogStreams'],
        resources: [this.jobLogs()],
      }),
    );
    // SageMaker encrypts the volume of a job in the name of its role.
    role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'EncryptVolume',
        actions: ['kms:CreateGrant'],
        resources: [data.key.keyArn],
        conditions: { Bool: { 'kms:GrantIsForAWSResource': 'true' } },
      }),
    );
    image.repository.grantPull(role);
    return role;
  }

  private processingJob(
    config: Config,
    image: DockerImageAsset,
    role: iam.IRole,
    data: DataStack,
  ): Record<string, unknown> {
    return {
      AppSpecification: { ImageUri: image.imageUri, ContainerEntrypoint: ['catalog-labels', 'reconcile', '--quiet'] },
      Environment: reconcileEnvironment(config, this.region),
      ProcessingResources: {
        ClusterConfig: {
          InstanceCount: 1,
          InstanceType: PROCESSING_INSTANCE,
          VolumeSizeInGB: 30,
          VolumeKmsKeyId: data.key.keyArn,
        },
      },
      RoleArn: role.roleArn,
      StoppingCondition: { MaxRuntimeInSeconds: PROCESSING_SECONDS_MAX },
    };
  }
}
