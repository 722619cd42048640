// Labels of a results page and of one query, with the AWS SDK for JavaScript alone.

import {
  type AttributeValue,
  BatchGetItemCommand,
  type BatchGetItemCommandOutput,
  DynamoDBClient,
  GetItemCommand,
  type KeysAndAttributes,
} from "@aws-sdk/client-dynamodb";

const PREFIX = "catalog-labels-";
const ROUNDS_MAX = 4;
// From this score on two products are more likely the same than not.
const RATHER_SAME = 0.5;
// Of so many look-alikes, some were never compared: that there is no label says nothing.
const CROWDED_FROM = 10;
const dynamodb = new DynamoDBClient({});

type Item = Record<string, AttributeValue>;
type Verdict = "duplicate" | "review";
interface Page {
  /** Each list starts with the product to show. */
  groups: string[][];
  missing: string[];
}

/** Groups the page, given in rank order. */
export async function labelsForPage(page: string[]): Promise<Page> {
  const ids = [...new Set(page)];
  const items = await labelItems(ids, await activeModel());
  const groups: string[][] = [];
  for (const id of ids) {
    const group = groups.find(([kept]) => verdict(items.get(kept), items.get(id)) === "duplicate");
    if (group) group.push(id);
    else groups.push([id]);
  }
  return { groups, missing: ids.filter((id) => !items.has(id)) };
}

/** product, media, help or other; null where there is no live label. */
export async function intentFor(query: string): Promise<string | null> {
  const normalised = normalise(query);
  if (normalised === "") return null;
  const item = await get("intents", { query: normalised, model: await activeModel() });
  return item && Number(item.expires_at.N) > Date.now() / 1000 ? item.intent.S! : null;
}

/** The model whose labels count. A service keeps it for 30 seconds, not for ever. */
async function activeModel(): Promise<string> {
  const item = await get("control", { name: "model" });
  if (!item) throw new Error(`no model is active under prefix ${PREFIX}`);
  return item.model.S!;
}

/** What the newer of both sides says. A contested duplicate is for review. */
function verdict(a?: Item, b?: Item): Verdict | undefined {
  // Without the Z, so that a time with fractions comes after the one without.
  const time = (entry: Item) => entry.labelled_at.S!.replace("Z", "");
  const entries = [currentEntry(a, b), currentEntry(b, a)].filter((entry) => entry !== undefined);
  entries.sort((x, y) => (time(x) < time(y) ? 1 : -1));
  const [newest] = entries;
  if (newest?.verdict.S === "duplicate" && isContested(a!, b!, Number(newest.score.N))) return "review";
  return newest?.verdict.S as Verdict | undefined;
}

/** Whether one of the two is more surely the same as a third product, which the other rather is not. */
function isContested(a: Item, b: Item, score: number): boolean {
  const scoreOf = (item: Item, third: string) => Number(item.pairs.M![third].M!.score.N);
  const isToldApart = (item: Item, third: string) =>
    third in item.pairs.M! ? scoreOf(item, third) < RATHER_SAME : Object.keys(item.pairs.M!).length < CROWDED_FROM;
  const contests = (own: Item, other: Item) => (third: string) =>
    third !== other.id.S && scoreOf(own, third) > score && isToldApart(other, third);
  return Object.keys(a.pairs.M!).some(contests(a, b)) || Object.keys(b.pairs.M!).some(contests(b, a));
}

/** What `own` says of `other`, unless one of the two is gone or has another text now. */
function currentEntry(own?: Item, other?: Item): Item | undefined {
  if (!own || !other || own.deleted?.BOOL || other.deleted?.BOOL) return undefined;
  const entry = own.pairs.M![other.id.S!]?.M;
  return entry?.other_hash.S === other.text_hash.S ? entry : undefined;
}

/** By id, at most 100: one BatchGetItem, and more only for what was throttled. */
async function labelItems(ids: string[], model: string): Promise<Map<string, Item>> {
  const table = PREFIX + "labels";
  // `pairs` and `text_hash` are what counts; `distinct` would double the bytes.
  const names = { "#i": "id", "#h": "text_hash", "#d": "deleted", "#p": "pairs" };
  const wanted = {
    Keys: ids.map((id) => ({ id: { S: id }, model: { S: model } })),
    ProjectionExpression: Object.keys(names).join(", "),
    ExpressionAttributeNames: names,
  };
  const found = new Map<string, Item>();
  let request: Record<string, KeysAndAttributes> | undefined = { [table]: wanted };
  for (let attempt = 0; attempt < ROUNDS_MAX; attempt++) {
    const command = new BatchGetItemCommand({ RequestItems: request });
    const answer: BatchGetItemCommandOutput = await dynamodb.send(command);
    for (const item of answer.Responses?.[table] ?? []) found.set(item.id.S!, item);
    request = answer.UnprocessedKeys;
    if (!request || Object.keys(request).length === 0) break;
    await new Promise((wake) => setTimeout(wake, Math.random() * 20 * 2 ** attempt));
  }
  return found;
}

async function get(table: string, key: Record<string, string>): Promise<Item | undefined> {
  const Key = Object.fromEntries(Object.entries(key).map(([name, S]) => [name, { S }]));
  return (await dynamodb.send(new GetItemCommand({ TableName: PREFIX + table, Key }))).Item;
}

/** Compatibility forms folded, lower case letter by letter, single spaces. */
function normalise(query: string): string {
  const folded = [...query.normalize("NFKC")].map((c) => c.toLowerCase()).join("");
  return folded.split(/[\p{White_Space}\p{Cc}]+/u).filter(Boolean).join(" ");
}

const [page, ...queries] = process.argv.slice(2);
if (page !== undefined) {
  const intents = [];
  for (const query of queries) intents.push(await intentFor(query));
  console.log(JSON.stringify({ page: await labelsForPage(page.split(" ").filter(Boolean)), intents }));
}
