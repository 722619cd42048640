import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { Template } from 'aws-cdk-lib/assertions';
import { expect, it } from 'vitest';

import { idleDay, idleDayTable } from '../lib/build/idle-day.ts';
import { CDK_FOLDER, readConfig } from '../lib/config/read.ts';
import { build, CONFIG } from './app.ts';

const PAGE = join(CDK_FOLDER, '../docs/DEPLOY.md');
const TABLE = /\| what \| count \| a day \|[\s\S]*?\| \*\*together\*\* .*/;

/** `UPDATE_IDLE_DAY=1 npx vitest run test/idle-day.test.ts` writes it anew. */
it('the cost of an idle day in docs/DEPLOY.md is counted in the templates of prod', () => {
  const config = { ...readConfig('prod'), dist: CONFIG.dist };
  const { stacks } = build(config);
  const rows = idleDay(config, (stack, type) =>
    Object.values(Template.fromStack(stacks[stack]).findResources(type)).map((resource) => resource.Properties ?? {}),
  );
  expect(rows.every(({ count }) => count > 0)).toBe(true);
  const page = readFileSync(PAGE, 'utf8');
  if (process.env.UPDATE_IDLE_DAY)
    writeFileSync(
      PAGE,
      page.replace(TABLE, () => idleDayTable(rows)),
    );
  expect(TABLE.exec(readFileSync(PAGE, 'utf8'))?.[0]).toBe(idleDayTable(rows));
});
