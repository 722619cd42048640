//! `export` as people run it: what is in the file is what a reader returns.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use consumer::store::{Embedded, Store};
use jiff::Timestamp;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, RowAccessor};
use reader::{LabelReader, Options, PageLabels};
use serde_json::Value;
use shared::item::{IntentItem, LabelItem, PairEntry};
use shared::table::PREFIX_DEFAULT;
use shared::{Intent, ModelId, ProductId, Stage, TextHash, Verdict};
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
        let mut item = LabelItem { id: name(n), text_hash: text(n, true), version: 100 + n, ..label("P", 1) };
        let deleted = n % 9 == 0;
        let other = |random: &mut Random| {
            let other = (n + 1 + random.below(6)) % PRODUCTS;
            let verdict = if random.below(3) == 0 { Verdict::Review } else { Verdict::Duplicate };
            let labelled_at = Timestamp::from_second(random.below(1_000) as i64).expect("in range");
            let other_hash = text(other, random.below(4) > 0);
            let score = random.below(1_000) as f32 / 1_000.0;
            let stage = if random.below(2) == 0 { Stage::Cascade } else { Stage::CrossEncoder };
            let other_version = 100 + other;
            let entry = PairEntry { other_hash, other_version, verdict, stage, labelled_at, score };
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
        let item = IntentItem {
            query,
            model: model(),
            intent,
            scores,
            stage: Stage::CrossEncoder,
            version: 4,
            labelled_at: now,
            expires_at,
        };
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

/// A row of either format: its columns by name, each as text.
type Row = BTreeMap<String, String>;

fn by_ids(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(|row| (row["first"].clone(), row["second"].clone()));
    rows
}

/// What a reader is given, with the texts and versions that the items of both sides are about.
async fn expected(store: &Store) -> Vec<Row> {
    let page = page(store).await;
    let mut rows = Vec::new();
    for pair in &page.pairs {
        let [first, second] = [&pair.first, &pair.second].map(|id| store.label_item(id, &page.model));
        let [first, second] = [first.await, second.await].map(|item| item.expect("reads").expect("written above"));
        let columns = [
            ("model", page.model.to_string()),
            ("first", pair.first.to_string()),
            ("second", pair.second.to_string()),
            ("score", pair.score.to_string()),
            ("verdict", pair.verdict.as_str().to_owned()),
            ("contested_by", pair.contested_by.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("stage", pair.stage.as_str().to_owned()),
            ("first_text_hash", first.text_hash.to_hex()),
            ("second_text_hash", second.text_hash.to_hex()),
            ("first_version", first.version.to_string()),
            ("second_version", second.version.to_string()),
            ("labelled_at", pair.labelled_at.to_string()),
        ];
        rows.push(columns.map(|(name, value)| (name.to_owned(), value)).into());
    }
    by_ids(rows)
}

#[tokio::test]
async fn an_export_is_what_a_reader_would_return() {
    let folder = TempDir::new().expect("a folder");
    let engine = Embedded::open(folder.path()).expect("opens");
    let store = engine.store(PREFIX_DEFAULT);
    fill(&store).await;
    let expected = expected(&store).await;
    engine.stop().await.expect("stops");
    assert!(expected.len() > 30, "the fixture has pairs");
    assert!(expected.iter().any(|row| !row["contested_by"].is_empty()), "and some are contested");

    for file in ["pairs.ndjson", "pairs.parquet"] {
        let out = folder.path().join(file);
        std::fs::write(&out, "an earlier export").expect("written");
        let said = export("pairs", folder.path(), &out);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let rows = if file.ends_with("ndjson") { rows_of_ndjson(&out) } else { rows_of_parquet(&out) };
        assert_eq!(by_ids(rows), expected, "{file}");
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

fn rows_of_ndjson(path: &Path) -> Vec<Row> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        // As wide as the score that was written.
        Value::Number(number) if number.is_f64() => (number.as_f64().expect("a number") as f32).to_string(),
        other => other.to_string(),
    };
    let row = |line: &Value| {
        let columns = line.as_object().expect("each line is an object").iter();
        columns.map(|(name, value)| (name.clone(), text(value))).collect()
    };
    lines(path).iter().map(row).collect()
}

fn rows_of_parquet(path: &Path) -> Vec<Row> {
    let file = SerializedFileReader::new(File::open(path).expect("opens")).expect("is Parquet");
    let text = |field: &Field| match field {
        Field::Str(text) => text.clone(),
        Field::Float(score) => score.to_string(),
        Field::ULong(number) => number.to_string(),
        Field::TimestampMicros(micros) => Timestamp::from_microsecond(*micros).expect("in range").to_string(),
        other => panic!("{other:?}"),
    };
    let row =
        |row: parquet::record::Row| row.get_column_iter().map(|(name, field)| (name.clone(), text(field))).collect();
    file.get_row_iter(None).expect("has rows").map(|found| row(found.expect("readable"))).collect()
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
