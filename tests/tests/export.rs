//! `export` as people run it: what is in the file is what a reader returns.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use consumer::store::{Embedded, Store};
use jiff::Timestamp;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use reader::{LabelReader, Options, PageLabels};
use serde_json::Value;
use shared::item::{IntentItem, LabelItem, PairEntry};
use shared::table::PREFIX_DEFAULT;
use shared::{Intent, ModelId, ProductId, TextHash, Verdict};
use tempfile::TempDir;
use tests::items::{id, label, model};
use tests::worker::binary;

const PRODUCTS: u64 = 60;

fn export(what: &str, tables: &Path, out: &Path) -> Output {
    let mut command = Command::new(binary());
    command.args(["export", what, "--quiet", "--segments", "3"]);
    command.arg("--local").arg(tables).arg("--out").arg(out).output().expect("the binary starts")
}

/// Labels of every kind there is: on both sides or one, about texts that were, of deleted
/// products, of products without labels, of another model.
async fn fill(store: &Store) {
    store.create_tables().await.expect("creates");
    store.set_active_model(&model(), None).await.expect("activates");
    let mut random = Random(7);
    let name = |n: u64| id(&format!("P{n:02}"));
    let text = |n: u64, is_current: bool| TextHash::of(1, &format!("text {n} {is_current}"));
    for n in 0..PRODUCTS {
        let mut item = LabelItem { id: name(n), text_hash: text(n, true), ..label("P", 1) };
        let deleted = n % 9 == 0;
        let other = |random: &mut Random| {
            let other = (n + 1 + random.below(6)) % PRODUCTS;
            let verdict = if random.below(3) == 0 { Verdict::Review } else { Verdict::Duplicate };
            let labelled_at = Timestamp::from_second(random.below(1_000) as i64).expect("in range");
            let other_hash = text(other, random.below(4) > 0);
            let score = random.below(1_000) as f32 / 1_000.0;
            let entry = PairEntry { other_hash, verdict, labelled_at, score, ..label("P", 1).pairs[&id("B")].clone() };
            (name(other), entry)
        };
        item.pairs = (0..4).map(|_| other(&mut random)).filter(|(other, _)| *other != item.id && !deleted).collect();
        item.deleted = deleted;
        store.put_label_item(&item).await.expect("writes");
        let elsewhere = LabelItem { model: ModelId("other".to_owned()), ..item };
        store.put_label_item(&elsewhere).await.expect("writes");
    }
    for n in (1..PRODUCTS).step_by(2) {
        mirror(store, &name(n)).await;
    }
    let now = Timestamp::now();
    for (query, seconds) in [("red kettle", 3_600), ("blue kettle", 60), ("dead kettle", -1)] {
        let expires_at = now.as_second() + seconds;
        let (intent, scores) = (Intent::Media, [0.125, 0.75, 0.0625, 0.0625]);
        let query = query.to_owned();
        let item = IntentItem { query, model: model(), intent, scores, version: 4, labelled_at: now, expires_at };
        store.put_intent(&item).await.expect("writes");
    }
}

/// Writes the other sides of a product's entries.
async fn mirror(store: &Store, owner: &ProductId) {
    let own = store.label_item(owner, &model()).await.expect("reads").expect("written above");
    for (other, entry) in &own.pairs {
        let Some(mut theirs) = store.label_item(other, &model()).await.expect("reads") else { continue };
        theirs.pairs.insert(owner.clone(), PairEntry { other_hash: own.text_hash, ..entry.clone() });
        theirs.revision += 1;
        store.put_label_item(&theirs).await.expect("writes");
    }
}

/// The whole catalog as one page.
async fn page(store: &Store) -> PageLabels {
    let options = Options { consistent: true, deadline: Duration::from_secs(60), ..Options::default() };
    let reader = LabelReader::new(store.client().clone(), store.prefix(), options);
    let ids: Vec<ProductId> = (0..PRODUCTS).map(|n| id(&format!("P{n:02}"))).collect();
    reader.labels_for_page(&ids).await.expect("reads")
}

#[derive(Clone, Debug, PartialEq)]
struct Pair(String, String, Verdict, f32, Timestamp);

fn by_ids(mut pairs: Vec<Pair>) -> Vec<Pair> {
    pairs.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    pairs
}

#[tokio::test]
async fn an_export_is_what_a_reader_would_return() {
    let folder = TempDir::new().expect("a folder");
    let engine = Embedded::open(folder.path()).expect("opens");
    let store = engine.store(PREFIX_DEFAULT);
    fill(&store).await;
    let page = page(&store).await;
    engine.stop().await.expect("stops");
    let expected = page.pairs.iter().map(|pair| {
        let (first, second) = (pair.first.to_string(), pair.second.to_string());
        Pair(first, second, pair.verdict, pair.score, pair.labelled_at)
    });
    let expected = by_ids(expected.collect());
    assert!(expected.len() > 30, "the fixture has pairs");

    for file in ["pairs.ndjson", "pairs.parquet"] {
        let out = folder.path().join(file);
        std::fs::write(&out, "an earlier export").expect("written");
        let said = export("pairs", folder.path(), &out);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let pairs = if file.ends_with("ndjson") { pairs_of_ndjson(&out) } else { pairs_of_parquet(&out) };
        assert_eq!(by_ids(pairs), expected, "{file}");
    }
    let out = folder.path().join("intents.ndjson");
    assert!(export("intents", folder.path(), &out).status.success());
    let mut queries: Vec<Value> = lines(&out).into_iter().map(|row| row["query"].clone()).collect();
    queries.sort_by_key(Value::to_string);
    assert_eq!(queries, ["blue kettle", "red kettle"], "the dead one is left out");
    let out = folder.path().join("intents.parquet");
    assert!(export("intents", folder.path(), &out).status.success());
    let file = SerializedFileReader::new(File::open(&out).expect("opens")).expect("is Parquet");
    let row = file.get_row_iter(None).expect("has rows").next().expect("a row").expect("readable");
    assert_eq!((row.get_string(2).expect("intent").as_str(), row.get_float(4).expect("score")), ("media", 0.75));
}

#[tokio::test]
async fn an_export_that_cannot_be_written_says_why_and_leaves_nothing() {
    let folder = TempDir::new().expect("a folder");
    let engine = Embedded::open(folder.path()).expect("opens");
    engine.store(PREFIX_DEFAULT).create_tables().await.expect("creates");
    engine.stop().await.expect("stops");
    let refused = |out: &str| {
        let said = export("pairs", folder.path(), &folder.path().join(out));
        assert!(!said.status.success());
        String::from_utf8_lossy(&said.stderr).into_owned()
    };
    assert!(refused("pairs.csv").contains("--out: "), "an unknown ending");
    assert!(refused("pairs.ndjson").contains("no model is active under prefix catalog-labels-"));
    let files: Vec<_> = std::fs::read_dir(folder.path()).expect("is there").flatten().map(|e| e.file_name()).collect();
    let is_tables = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with("tables.sqlite");
    assert_eq!(files.iter().find(|name| !is_tables(name)), None, "no half file is left");
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("the export is there");
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn pairs_of_ndjson(path: &Path) -> Vec<Pair> {
    let text = |row: &Value, name: &str| row[name].as_str().expect("text").to_owned();
    let pair = |row: &Value| {
        let verdict = serde_json::from_value(row["verdict"].clone()).expect("a verdict");
        let score = row["score"].as_f64().expect("a number") as f32;
        let labelled_at = text(row, "labelled_at").parse().expect("a time");
        Pair(text(row, "first"), text(row, "second"), verdict, score, labelled_at)
    };
    lines(path).iter().map(pair).collect()
}

fn pairs_of_parquet(path: &Path) -> Vec<Pair> {
    let file = SerializedFileReader::new(File::open(path).expect("opens")).expect("is Parquet");
    let names: Vec<String> =
        file.metadata().file_metadata().schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
    let at = |name: &str| names.iter().position(|known| known == name).expect("the column is there");
    let rows = file.get_row_iter(None).expect("has rows").map(|row| {
        let row = row.expect("readable");
        let text = |name| row.get_string(at(name)).expect("text").clone();
        let verdict = serde_json::from_value(text("verdict").into()).expect("a verdict");
        let score = row.get_float(at("score")).expect("a number");
        let micros = row.get_timestamp_micros(at("labelled_at")).expect("a time");
        Pair(text("first"), text("second"), verdict, score, Timestamp::from_microsecond(micros).expect("in range"))
    });
    rows.collect()
}

/// Numbers that look random and are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // The multiplier and increment of Knuth's MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
