/** What holds for every template. */

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { App, Stack } from 'aws-cdk-lib';
import { Bucket } from 'aws-cdk-lib/aws-s3';
import { AwsSolutionsChecks } from 'cdk-nag';
import { describe, expect, it } from 'vitest';

import type { Stacks } from '../lib/build/app.ts';
import { CDK_FOLDER } from '../lib/config/read.ts';
import { text } from './worker-binary.ts';
import { assembly, build, only, type Properties, releaseFolder, shared, template } from './app.ts';

const NAMES: (keyof Stacks)[] = [
  'network',
  'data',
  'events',
  'worker',
  'intent',
  'bulk',
  'serverless',
  'observability',
];
const templates = () =>
  readdirSync(assembly())
    .filter((name) => name.endsWith('.template.json'))
    .map((name) => join(assembly(), name));

/** Every statement of an identity's policy that allows something. */
function allowed(): Properties[] {
  const found = (type: string) => NAMES.flatMap((name) => Object.values(template(name).findResources(type)));
  const documents = [
    ...['AWS::IAM::Policy', 'AWS::IAM::ManagedPolicy'].flatMap(found).map(({ Properties: p }) => p.PolicyDocument),
    ...found('AWS::IAM::Role').flatMap(({ Properties: p }) =>
      (p.Policies ?? []).map((policy: Properties) => policy.PolicyDocument),
    ),
  ];
  return documents.flatMap(({ Statement }) => Statement).filter(({ Effect }) => Effect === 'Allow');
}

/** A policy as IAM gets it, without spaces; references become ARNs of a usual length. */
function resolved(document: Properties): string {
  const isReference = (value: Properties) =>
    ['Ref', 'Fn::GetAtt', 'Fn::Join', 'Fn::ImportValue'].some((key) => key in value);
  return JSON.stringify(document, (_key, value) =>
    typeof value === 'object' && value !== null && isReference(value) ? text(value) : value,
  );
}

/** A new network namespace has no network; not every machine lets one make it. */
const canUnshare = spawnSync('unshare', ['--user', '--map-root-user', '--net', 'true']).status === 0;

describe('every template', () => {
  it('has no finding of cdk-nag that is not acknowledged with a reason', () => {
    const { app } = shared();
    const { violations } = new AwsSolutionsChecks(app).validateScope(app);
    expect(violations.map(({ ruleName, violatingResources }) => [ruleName, violatingResources])).toEqual([]);
  });

  it('would not pass cdk-nag with an open bucket', () => {
    const app = new App({ outdir: mkdtempSync(join(tmpdir(), 'catalog-labels-nag-')) });
    new Bucket(new Stack(app, 'Careless'), 'Bucket');
    const { violations } = new AwsSolutionsChecks(app).validateScope(app);
    expect(violations.map(({ ruleName }) => ruleName)).toContain('AwsSolutions-S10');
  });

  it('is clean for cfn-lint', () => {
    const linted = spawnSync(join(CDK_FOLDER, '../.venv-cdk/bin/cfn-lint'), templates(), {
      cwd: CDK_FOLDER,
      encoding: 'utf8',
    });
    expect(linted.error).toBeUndefined();
    expect(linted.stdout + linted.stderr).toBe('');
    expect(templates()).toHaveLength(NAMES.length);
  });

  it('fits any account and region', () => {
    for (const path of templates()) expect(readFileSync(path, 'utf8')).not.toMatch(/\b\d{12}\b/);
  });

  it.skipIf(!canUnshare)('is synthesised by `cdk synth` without a network, credentials or an account', () => {
    const out = mkdtempSync(join(tmpdir(), 'catalog-labels-synth-'));
    const cdk = [
      join(CDK_FOLDER, 'node_modules/.bin/cdk'),
      'synth',
      '--quiet',
      '--output',
      out,
      '-c',
      'stage=prod',
      '-c',
      `dist=${releaseFolder()}`,
    ];
    const env = { PATH: process.env.PATH, HOME: out };
    execFileSync('unshare', ['--user', '--map-root-user', '--net', ...cdk], { cwd: CDK_FOLDER, env, stdio: 'pipe' });
    const made = readdirSync(out).filter((name) => name.endsWith('.template.json'));
    expect(made.sort()).toEqual(NAMES.map((name) => `catalog-labels-prod-${name}.template.json`).sort());
  });

  it('comes out the same twice', () => {
    const { app } = build();
    const again = app.synth();
    for (const path of templates()) {
      const name = path.slice(assembly().length + 1);
      expect(readFileSync(join(again.directory, name), 'utf8')).toBe(readFileSync(path, 'utf8'));
    }
  });

  it('gives wildcards for these actions only, which know no resources', () => {
    const known = new Set([
      'ecr:GetAuthorizationToken',
      'ecs:DiscoverPollEndpoint',
      'logs:CreateLogDelivery',
      // The CDK lets hosts of ECS write logs of tasks whose groups it does not know.
      'logs:CreateLogStream',
      'logs:PutLogEvents',
      'logs:DeleteLogDelivery',
      'logs:DescribeLogGroups',
      'logs:DescribeResourcePolicies',
      'logs:GetLogDelivery',
      'logs:ListLogDeliveries',
      'logs:PutResourcePolicy',
      'logs:UpdateLogDelivery',
      'xray:GetSamplingRules',
      'xray:GetSamplingTargets',
      'xray:PutTelemetryRecords',
      'xray:PutTraceSegments',
    ]);
    const wild = allowed()
      .filter(({ Resource, Condition }) => [Resource].flat().includes('*') && !Condition)
      .flatMap(({ Action }) => Action as string);
    expect(wild.filter((action) => !known.has(action))).toEqual([]);
    expect(wild.length).toBeGreaterThan(0);
  });

  it('leaves a part of these resources open only, which is chosen after the deployment', () => {
    const resources = allowed().flatMap(({ Resource }) => [Resource].flat().map((resource) => text(resource)));
    const open = resources.filter((resource) => resource.includes('*') && resource !== '*');
    const here = 'us-east-1:123456789012';
    expect([...new Set(open)].sort()).toEqual([
      `arn:aws:autoscaling:${here}:autoScalingGroup:*:autoScalingGroupName/catalog-labels-test-intent`,
      `arn:aws:autoscaling:${here}:autoScalingGroup:*:autoScalingGroupName/catalog-labels-test-workers`,
      `arn:aws:events:${here}:replay/catalog-labels-test-*`,
      `arn:aws:logs:${here}:log-group:/aws/sagemaker/ProcessingJobs:*`,
      'arn:aws:s3:::catalog-labels-test-bulk-123456789012-us-east-1/input/*',
      'arn:aws:s3:::catalog-labels-test-bulk-123456789012-us-east-1/reports/*',
      'arn:aws:s3:::catalog-labels-test-models-123456789012-us-east-1/models/*',
      `arn:aws:sagemaker:${here}:processing-job/catalog-labels-*`,
      `arn:aws:states:${here}:execution:catalog-labels-test-bulk/*`,
      `arn:aws:states:${here}:mapRun:catalog-labels-test-bulk/*`,
    ]);
  });

  it('lets keys be used only through the services that encrypt with them', () => {
    const uses = allowed().filter(({ Action }) => [Action].flat().some((action) => action.startsWith('kms:')));
    const isBound = ({ Condition }: Properties) =>
      Condition?.StringEquals?.['kms:ViaService'] ?? Condition?.Bool?.['kms:GrantIsForAWSResource'];
    expect(uses.filter(isBound).length).toBeGreaterThan(5);
    // The CDK's own, for the function to read its queues.
    expect(uses.filter((statement) => !isBound(statement)).map(({ Action }) => Action)).toEqual(['kms:Decrypt']);
  });

  it('stays within what IAM takes: 10,240 characters of a role, 6,144 of a managed policy', () => {
    const size = (document: Properties) => text(document).length;
    const ofRoles = new Map<string, number>();
    for (const name of NAMES) {
      for (const { Properties: policy } of Object.values(template(name).findResources('AWS::IAM::Policy'))) {
        for (const { Ref } of policy.Roles) {
          const role = `${name}/${Ref}`;
          ofRoles.set(role, (ofRoles.get(role) ?? 0) + size(resolved(policy.PolicyDocument)));
        }
      }
      for (const { Properties: policy } of Object.values(template(name).findResources('AWS::IAM::ManagedPolicy')))
        expect(size(resolved(policy.PolicyDocument)), policy.ManagedPolicyName).toBeLessThan(6_144);
    }
    expect(ofRoles.size).toBeGreaterThan(5);
    for (const [role, characters] of ofRoles) expect(characters, role).toBeLessThan(10_240);
  });

  it('hands EC2 user data within its 16 KB', () => {
    for (const name of ['worker', 'intent'] as const) {
      const { LaunchTemplateData } = only(name, 'AWS::EC2::LaunchTemplate');
      expect(Buffer.byteLength(text(LaunchTemplateData.UserData)), name).toBeLessThan(16_384);
    }
  });

  it('gives any resource of one cluster only to these actions', () => {
    const conditional = allowed().filter(({ Resource, Condition }) => [Resource].flat().includes('*') && Condition);
    for (const { Condition } of conditional) expect(Object.keys(Condition.ArnEquals)).toEqual(['ecs:cluster']);
    expect([...new Set(conditional.flatMap(({ Action }) => Action as string))].sort()).toEqual([
      'ecs:Poll',
      'ecs:StartTelemetrySession',
    ]);
  });

  it('keeps the logical ids of what has state: a new id is a new, empty resource', () => {
    const stateful = [
      'AWS::DynamoDB::Table',
      'AWS::S3::Bucket',
      'AWS::KMS::Key',
      'AWS::SQS::Queue',
      'AWS::Events::EventBus',
      'AWS::Events::Archive',
      'AWS::SNS::Topic',
      'AWS::SSM::Parameter',
    ];
    const ids = NAMES.flatMap((name) =>
      stateful.flatMap((type) => Object.keys(template(name).findResources(type)).map((id) => `${name}/${id}`)),
    );
    expect(ids).toEqual([
      'data/TableproductsC04140DF',
      'data/Tablepostings67B2451E',
      'data/Tablelabels0E5041DC',
      'data/TableintentsFA9AD7BA',
      'data/Tablecontrol761A3300',
      'data/Logs6819BB44',
      'data/ModelsC55D3500',
      'data/Bulk4B159F23',
      'data/Key961B73FD',
      'events/Key961B73FD',
      'events/TopicKeyB2E0C9CB',
      'events/DeadLettersBBF8BAAB',
      'events/UndeliveredF3CF66A9',
      'events/Catalog742F25FD',
      'events/QueriesDB6EF58A',
      'events/BulkQueueC6016202',
      'events/BusEA82B648',
      'events/BusArchiveD76499E2',
      'events/QueryTopic0E827C37',
      'worker/ModelPointer45182CCA',
      'observability/Key961B73FD',
      'observability/Alarms04B5A0BF',
    ]);
  });
});
