//! The snippets of docs/READING.md and docs/FEED.md, run on a local engine, beside the
//! reader that search uses in Rust.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use consumer::store::{Embedded, Store};
use jiff::Timestamp;
use reader::{LabelReader, Options};
use serde_json::{Value, json};
use shared::item::{IntentItem, LabelItem, PairEntry};
use shared::table::PREFIX_DEFAULT;
use shared::{Intent, ModelId, ProductId, Stage, TextHash, Verdict};
use tests::events::{delete, upsert};
use tests::fleet::{TextModel, pipeline};
use tests::items::{id, label};
use tests::table_stub::{Answer, TableStub};
use tests::worker::repository;

fn folder() -> PathBuf {
    repository().join("tests/snippets")
}

fn python() -> Command {
    let python = repository().join(".venv-snippets/bin/python");
    assert!(python.is_file(), "{} is missing: `make test-env` installs it", python.display());
    Command::new(python)
}

/// What the command prints, as JSON; the SDKs find the engine by their environment.
fn printed(command: &mut Command, endpoint_url: &str) -> Value {
    let command = command.current_dir(folder()).env("AWS_ENDPOINT_URL", endpoint_url);
    let command = command.env("AWS_REGION", "us-east-1").env("AWS_DEFAULT_REGION", "us-east-1");
    let command = command.env("AWS_ACCESS_KEY_ID", "local").env("AWS_SECRET_ACCESS_KEY", "local");
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().expect("starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn reader(store: &Store) -> LabelReader {
    let options = Options { consistent: true, deadline: Duration::from_secs(60), ..Options::default() };
    LabelReader::new(store.client().clone(), store.prefix(), options)
}

/// A model that finds a duplicate, a review and a distinct pair among the catalog below, and nothing that contests the
/// duplicate.
fn text_model() -> TextModel {
    let is_good = |model: &TextModel| {
        let verdicts = |title: &str| model.score(KETTLE, title).1;
        let is_surer = model.score(KETTLE, KETTLE_BIG).0 > model.score(KETTLE, KETTLE_AGAIN).0;
        verdicts(KETTLE_AGAIN) == Verdict::Duplicate
            && verdicts(KETTLE_BIG) == Verdict::Review
            && model.score(KETTLE_AGAIN, KETTLE_BIG).1 == Verdict::Distinct
            && !is_surer
    };
    (0..1_000).map(|n| TextModel::new(&format!("m{n}"))).find(is_good).expect("one of some dozens will do")
}

const KETTLE: &str = "kettle qx4471z";
const KETTLE_AGAIN: &str = "steel kettle qx4471z";
const KETTLE_BIG: &str = "large kettle qx4471z";
const LAMP: &str = "lamp tb2296w";

/// An engine with a catalog that the real pipeline has labelled.
async fn catalog(model: &TextModel) -> (Embedded, Store) {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = engine.store(PREFIX_DEFAULT);
    store.create_tables().await.expect("creates");
    store.set_active_model(&model.id, None).await.expect("activates");
    let products = [("A", KETTLE), ("B", KETTLE_AGAIN), ("C", KETTLE_BIG), ("L", LAMP), ("D", KETTLE_AGAIN)];
    for (name, title) in products {
        process(&store, model, &upsert(name, 1, title)).await;
    }
    (engine, store)
}

async fn process(store: &Store, model: &TextModel, event: &Value) {
    pipeline(store.clone(), model).process(&event.to_string(), 1).await.expect("labelled");
}

/// Label items of Q, R and S: Q is R and, less surely, S; R may be S.
fn contested(model: &ModelId) -> [LabelItem; 3] {
    let item = |name: &str, entries: [(&str, f32); 2]| {
        let entries = entries.map(|(other, score)| {
            let verdict = if score < 0.5 { Verdict::Review } else { Verdict::Duplicate };
            let other_hash = TextHash::of(1, "b");
            (id(other), PairEntry { other_hash, score, verdict, ..label(name, 1).pairs[&id("B")].clone() })
        });
        LabelItem { model: model.clone(), text_hash: TextHash::of(1, "b"), pairs: entries.into(), ..label(name, 1) }
    };
    [item("Q", [("R", 0.9), ("S", 0.6)]), item("R", [("Q", 0.9), ("S", 0.4)]), item("S", [("Q", 0.6), ("R", 0.4)])]
}

const PAGE: &str = "C B A X L D A S R Q";
const QUERIES: [&str; 4] = [" ΟΔΟΣ  ｋettle", "dead", "unknown", ""];

#[tokio::test(flavor = "multi_thread")]
async fn snippets_read_what_the_reader_reads() {
    let model = text_model();
    let (engine, store) = catalog(&model).await;
    process(&store, &model, &delete("D", 2)).await;
    // An entry about a text that B no longer has, newer than the right one.
    let mut own = store.label_item(&id("A"), &model.id).await.expect("reads").expect("labelled");
    let stale = own.pairs.get_mut(&id("B")).expect("a duplicate");
    stale.other_hash.0[0] ^= 1;
    stale.labelled_at += jiff::SignedDuration::from_secs(60);
    let own = LabelItem { revision: own.revision + 1, ..own };
    store.put_label_item(&own).await.expect("writes");
    let now = Timestamp::now();
    for (query, seconds) in [("οδοσ kettle", 3_600), ("dead", -60)] {
        let (intent, scores, query) = (Intent::Help, [0.1, 0.1, 0.7, 0.1], query.to_owned());
        let expires_at = now.as_second() + seconds;
        let item = IntentItem {
            query,
            model: model.id.clone(),
            intent,
            scores,
            stage: Stage::CrossEncoder,
            version: 1,
            labelled_at: now,
            expires_at,
        };
        store.put_intent(&item).await.expect("writes");
    }

    for item in contested(&model.id) {
        store.put_label_item(&item).await.expect("writes");
    }

    let reader = reader(&store);
    let ids: Vec<ProductId> = PAGE.split(' ').map(id).collect();
    let page = reader.labels_for_page(&ids).await.expect("reads");
    let group = |group: &reader::Group| json!([vec![group.kept.clone()], group.collapsed.clone()].concat());
    let mut intents = Vec::new();
    for query in QUERIES {
        intents.push(reader.intent_for(query).await.expect("reads").map(|item| item.intent));
    }
    let groups: Vec<Value> = page.groups().iter().map(group).collect();
    let expected = json!({"page": {"groups": groups, "missing": page.missing}, "intents": intents});
    assert_eq!(
        expected["page"],
        json!({"groups": [["C"], ["B", "A"], ["X"], ["L"], ["D"], ["S"], ["R", "Q"]], "missing": ["X"]})
    );
    assert_eq!(expected["intents"], json!(["help", null, null, null]));

    let engine = engine.endpoint_url();
    assert_eq!(printed(python().arg("labels.py").arg(PAGE).args(QUERIES), engine), expected, "Python");
    let mut compiler = Command::new("node");
    let compiler = compiler.current_dir(folder()).args(["node_modules/typescript/bin/tsc", "-p", "."]);
    let compiled = compiler.output().expect("node is installed");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stdout));
    let mut node = Command::new("node");
    assert_eq!(printed(node.arg("dist/labels.js").arg(PAGE).args(QUERIES), engine), expected, "TypeScript");

    // A table that leaves half of each request undone: 7 products take three rounds.
    let python = ("Python", python(), "labels.py");
    let node = ("TypeScript", Command::new("node"), "dist/labels.js");
    for (language, mut command, file) in [python, node] {
        let stub = TableStub::start(|request| match request.operation.as_str() {
            "GetItem" => Answer::Ok(json!({"Item": {"name": {"S": "model"}, "model": {"S": "m"}}})),
            _ => request.batch_get_half(),
        })
        .await;
        let said = printed(command.arg(file).arg("A B C D E F G"), stub.endpoint_url());
        assert_eq!(said["page"]["missing"], json!([]), "{language}");
        assert_eq!(stub.requests(), 1 + 3, "{language}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_keeps_an_index_that_says_what_the_reader_says() {
    let model = text_model();
    let (engine, store) = catalog(&model).await;
    let reader = reader(&store);
    let changes = [
        vec![],
        // Prices: nothing that an index holds.
        vec![upsert("B", 2, KETTLE_AGAIN)],
        vec![upsert("D", 2, LAMP), delete("B", 3)],
        vec![upsert("B", 4, KETTLE_AGAIN)],
    ];
    for events in changes {
        for event in &events {
            process(&store, &model, event).await;
        }
        // From the stream's beginning, so that every record comes again.
        let fed = printed(python().arg("feed_local.py"), engine.endpoint_url());
        assert_eq!(fed["result"], json!({"batchItemFailures": []}), "{fed}");
        for name in ["A", "B", "C", "D", "L"] {
            let found = reader.duplicates_of(&id(name)).await.expect("reads");
            let pairs = found.map(|labels| labels.item.pairs).unwrap_or_default();
            let duplicates = pairs.iter().filter(|(_, entry)| entry.verdict == Verdict::Duplicate);
            let duplicates: Vec<&ProductId> = duplicates.map(|(other, _)| other).collect();
            let indexed = fed["index"][name].get("duplicates").cloned().unwrap_or(json!([]));
            assert_eq!(indexed, json!(duplicates), "{name} after {events:?}");
        }
    }
}

#[test]
fn the_documents_show_the_files_that_run() {
    for (document, language, file) in [
        ("READING.md", "python", "labels.py"),
        ("READING.md", "typescript", "labels.ts"),
        ("FEED.md", "python", "feed.py"),
    ] {
        let document_text = std::fs::read_to_string(repository().join("docs").join(document)).expect("readable");
        let file_text = std::fs::read_to_string(folder().join(file)).expect("readable");
        let shown = format!("```{language}\n{file_text}```\n");
        assert!(document_text.contains(&shown), "docs/{document} does not show tests/snippets/{file} as it is");
    }
}
