//! A model upgrade: both slots are written, one item switches, one item switches back.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use consumer::aws::dynamo::{Limits, local_client};
use consumer::flow::{Outcome, Pipeline};
use consumer::store::{Embedded, Store};
use reader::{LabelReader, Options};
use serde_json::Value;
use shared::table::PREFIX_DEFAULT;
use shared::{ModelId, ProductId};
use tempfile::TempDir;
use tests::events::{delete, query, upsert};
use tests::fleet::{TextModel, mortal, pipeline};
use tests::items::id;
use tests::stage::Stage;
use tests::worker::{artifact, binary};

/// A worker of both models.
fn both(store: &Store, model: &TextModel, next: &TextModel) -> Pipeline {
    Pipeline { next: Some(Box::new(pipeline(store.clone(), next))), ..pipeline(store.clone(), model) }
}

/// Two models that find other pairs in the same catalog.
fn models() -> (TextModel, TextModel) {
    let numbered = |n| TextModel::new(&format!("m{n}"));
    let differs = |next: &TextModel| next.score(TITLES[0], TITLES[1]).1 != numbered(0).score(TITLES[0], TITLES[1]).1;
    (numbered(0), (1..1_000).map(numbered).find(differs).expect("two of three do"))
}

const TITLES: [&str; 3] = ["kettle qx4471z", "steel kettle qx4471z", "large kettle qx4471z"];

async fn process(worker: &Pipeline, event: &Value) -> (Outcome, u64) {
    let processed = worker.process(&event.to_string(), 1).await.expect("labelled");
    (processed.outcome, processed.tally.pairs_scored)
}

/// What one model's slot says, without the times.
async fn slot(store: &Store, model: &ModelId) -> Vec<(ProductId, bool, String)> {
    let mut slot = Vec::new();
    for name in ["A", "B", "C"] {
        let Some(item) = store.label_item(&id(name), model).await.expect("reads") else { continue };
        let pairs = item.pairs.iter().map(|(other, entry)| (other, entry.other_hash, entry.verdict));
        slot.push((item.id.clone(), item.deleted, format!("{:?}", pairs.collect::<Vec<_>>())));
    }
    slot
}

#[tokio::test]
async fn live_events_label_both_slots_as_each_model_alone_would() {
    let (model, next) = models();
    let engine = Embedded::memory().expect("memory needs nothing");
    let mut stores = Vec::new();
    for prefix in ["both-", "model-", "next-"] {
        let store = engine.store(prefix);
        store.create_tables().await.expect("creates");
        stores.push(store);
    }
    let workers =
        [both(&stores[0], &model, &next), pipeline(stores[1].clone(), &model), pipeline(stores[2].clone(), &next)];
    let mut events: Vec<Value> =
        ["A", "B", "C"].into_iter().zip(TITLES).map(|(name, title)| upsert(name, 1, title)).collect();
    events.extend([upsert("B", 2, TITLES[2]), delete("C", 3), upsert("C", 2, TITLES[0]), query("red kettle", 1)]);
    for worker in &workers {
        for event in &events {
            process(worker, event).await;
        }
    }
    for (store, model) in [(&stores[1], &model), (&stores[2], &next)] {
        assert_eq!(slot(&stores[0], &model.id).await, slot(store, &model.id).await, "the slot of {}", model.id);
        assert!(stores[0].intent("red kettle", &model.id).await.expect("reads").is_some());
    }
    assert_ne!(slot(&stores[0], &model.id).await, slot(&stores[0], &next.id).await);
    let again = upsert("B", 2, TITLES[2]);
    assert_eq!(process(&workers[0], &again).await, (Outcome::Unchanged, 0), "both markers stand");
}

#[tokio::test]
async fn a_price_costs_no_inference_of_either_model_and_a_crash_between_them_is_repaired() {
    let (model, next) = models();
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = engine.store("both-");
    store.create_tables().await.expect("creates");
    process(&both(&store, &model, &next), &upsert("A", 1, TITLES[0])).await;
    let event = upsert("B", 1, TITLES[1]);
    let mut requests = 0;
    // Dies one request later each time, until it lives.
    while both(&mortal(&store, requests), &model, &next).process(&event.to_string(), 1).await.is_err() {
        requests += 1;
    }
    for model in [&model, &next] {
        let state = store.product(&id("B")).await.expect("reads").expect("written");
        assert!(state.labelled.contains_key(&model.id), "{state:?}");
        assert!(store.label_item(&id("B"), &model.id).await.expect("reads").is_some());
    }
    let priced = serde_json::json!({"schema_version": 1, "type": "upsert", "product_id": "B", "version": 2,
        "occurred_at": jiff::Timestamp::now(), "product": {"title": TITLES[1], "price": {"amount": 3.5}}});
    assert_eq!(process(&both(&store, &model, &next), &priced).await, (Outcome::Unchanged, 0));
}

/// The catalog is labelled again by the next model while search reads the first one's labels and an
/// event comes; then one item switches all readers, and back.
#[tokio::test]
async fn a_bulk_run_fills_its_own_slot_while_readers_see_the_other() {
    let (model, next) = models();
    let engine = Embedded::memory().expect("memory needs nothing");
    let [store, alone] = ["bulk-", "alone-"].map(|prefix| engine.store(prefix));
    for store in [&store, &alone] {
        store.create_tables().await.expect("creates");
    }
    store.set_active_model(&model.id, None).await.expect("activates");
    let catalog: Vec<Value> =
        ["A", "B", "C"].into_iter().zip(TITLES).map(|(name, title)| upsert(name, 1, title)).collect();
    let change = upsert("B", 2, TITLES[2]);
    for event in &catalog {
        process(&pipeline(store.clone(), &model), event).await;
    }
    for event in catalog.iter().chain([&change]) {
        process(&pipeline(alone.clone(), &next), event).await;
    }
    let options = Options {
        consistent: true,
        pointer_ttl: Duration::ZERO,
        deadline: Duration::from_secs(60),
        ..Options::default()
    };
    let reader = LabelReader::new(store.client().clone(), store.prefix(), options);
    let ids = ["A", "B", "C"].map(id);
    let page = async || reader.labels_for_page(&ids).await.expect("reads");

    let (before, old) = (page().await, slot(&store, &model.id).await);
    let bulk = pipeline(store.clone(), &next);
    let done = bulk.reconcile(2, &|_| {}).await.expect("nothing is in its way");
    assert_eq!((done.planned, done.failed), (3, 0));
    assert!(done.tally.pairs_scored > 0, "the next model had not seen them");
    assert_eq!((page().await, slot(&store, &model.id).await), (before, old), "search sees none of it");
    process(&both(&store, &model, &next), &change).await;
    assert_eq!(slot(&store, &next.id).await, slot(&alone, &next.id).await, "as if it had labelled all along");

    let of_first = page().await;
    let known = store.active_model().await.expect("reads");
    store.set_active_model(&next.id, known.as_ref()).await.expect("switches");
    let of_next = page().await;
    assert_eq!(of_next.model, next.id);
    assert_ne!(of_next.pairs, of_first.pairs, "the two models find other pairs");
    let known = store.active_model().await.expect("reads");
    store.set_active_model(&model.id, known.as_ref()).await.expect("switches back");
    assert_eq!(page().await, of_first);
}

/// The shipped model under another name, as a new one would lie beside it.
fn renamed_artifact(folder: &Path, name: &str) {
    for entry in std::fs::read_dir(artifact()).expect("the artifact is there").flatten() {
        std::os::unix::fs::symlink(entry.path(), folder.join(entry.file_name())).expect("a link");
    }
    let path = folder.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).expect("readable")).expect("JSON");
    manifest["model_id"] = name.into();
    std::fs::remove_file(&path).expect("a link");
    std::fs::write(&path, manifest.to_string()).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_two_artifacts_labels_both_slots_and_readers_see_one() {
    let folder = TempDir::new().expect("a folder");
    renamed_artifact(folder.path(), "next-model");
    let next = folder.path().to_str().expect("UTF-8");
    let stage = Stage::start(&["--next-artifact", next, "--replicas", "1"]).await;
    let title = "Soundmark Aria 300 wireless over-ear headphones black SM-A300";
    stage.send_events([upsert("H1", 1, title), upsert("H2", 1, title), query("red kettle", 1)]).await;
    stage.drained().await;
    let client = local_client(&stage.target.endpoint_url, &Limits::default());
    let model = Some(ModelId("next-model".to_owned()));
    let options = Options { model, consistent: true, deadline: Duration::from_secs(60), ..Options::default() };
    let of_next = LabelReader::new(client, &stage.target.table_prefix, options);
    let ids = [id("H1"), id("H2")];
    for reader in [&stage.reader, &of_next] {
        assert_eq!(reader.labels_for_page(&ids).await.expect("reads").pairs.len(), 1);
        assert!(reader.intent_for("red kettle").await.expect("reads").is_some());
    }
    // What an earlier worker of the first model alone would have left.
    let third = TempDir::new().expect("a folder");
    renamed_artifact(third.path(), "third-model");
    let relabelled = Command::new(binary())
        .args(["model", "relabel-queries", "--replicas", "1", "--region", "us-east-1", "--artifact"])
        .arg(third.path())
        .args(["--endpoint-url", &stage.target.endpoint_url, "--table-prefix", &stage.target.table_prefix])
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&relabelled.stdout).into_owned();
    assert!(said.starts_with("1 queries of "), "{said}{}", String::from_utf8_lossy(&relabelled.stderr));
    assert!(said.trim_end().ends_with("labelled by third-model"), "{said}");
    assert_ne!(stage.reader.active_model().await.expect("reads").0, "next-model");
    assert!(stage.stop().await.success());
}

fn model_command(folder: &Path, words: &[&str]) -> Result<String, String> {
    let mut command = Command::new(binary());
    let output = command.arg("model").args(words).arg("--local").arg(folder).output().expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[tokio::test]
async fn the_switch_and_the_way_back_are_one_item_each() {
    let (model, next) = models();
    let folder = TempDir::new().expect("a folder");
    let command = |words: &[&str]| model_command(folder.path(), words);
    let active = async || {
        let engine = Embedded::open(folder.path()).expect("opens");
        let store = engine.store(PREFIX_DEFAULT);
        let reader = LabelReader::new(
            store.client().clone(),
            store.prefix(),
            Options { consistent: true, ..Options::default() },
        );
        let model = reader.active_model().await.expect("one is active");
        engine.stop().await.expect("stops");
        model
    };
    let engine = Embedded::open(folder.path()).expect("opens");
    let store = engine.store(PREFIX_DEFAULT);
    store.create_tables().await.expect("creates");
    engine.stop().await.expect("stops");
    assert!(command(&["rollback"]).expect_err("nothing is active").contains("no model is active"));

    let engine = Embedded::open(folder.path()).expect("opens");
    let store = engine.store(PREFIX_DEFAULT);
    store.set_active_model(&model.id, None).await.expect("activates");
    for (name, title) in ["A", "B", "C"].into_iter().zip(TITLES) {
        process(&pipeline(store.clone(), &model), &upsert(name, 1, title)).await;
    }
    let mut brief = pipeline(store.clone(), &model);
    for text in ["red kettle", "blue kettle"] {
        process(&brief, &query(text, 1)).await;
    }
    brief.intent_ttl = Duration::ZERO;
    process(&brief, &query("dead kettle", 1)).await;
    process(&both(&store, &model, &next), &upsert("A", 2, TITLES[2])).await;
    process(&both(&store, &model, &next), &delete("C", 2)).await;
    engine.stop().await.expect("stops");

    let refused = command(&["activate", &next.id.0]).expect_err("B is not labelled by it");
    assert!(refused.contains("has labelled 1 of 2 products"), "{refused}");
    assert!(command(&["rollback"]).expect_err("there was no other").contains("nothing to roll back to"));
    let status: Value = serde_json::from_str(&command(&["status", "--json"]).expect("shows")).expect("JSON");
    assert_eq!(status["labelled"], serde_json::json!({&model.id.0: 2, &next.id.0: 1}), "{status}");
    assert_eq!((&status["active"], &status["previous"]), (&serde_json::json!(model.id), &Value::Null));

    let engine = Embedded::open(folder.path()).expect("opens");
    process(&pipeline(engine.store(PREFIX_DEFAULT), &next), &upsert("B", 2, TITLES[1])).await;
    engine.stop().await.expect("stops");
    let refused = command(&["activate", &next.id.0]).expect_err("no query is labelled by it");
    assert!(refused.contains("has labelled 0 queries, and the active one 2"), "{refused}");
    let engine = Embedded::open(folder.path()).expect("opens");
    let worker = pipeline(engine.store(PREFIX_DEFAULT), &next);
    for scored in [2, 0] {
        let tally = worker.relabel_queries(&model.id, 8).await.expect("labels");
        assert_eq!(tally.queries_scored, scored, "a second run finds all done");
    }
    engine.stop().await.expect("stops");
    // B's new version came by a worker of the next model alone; its text is labelled by both.
    command(&["activate", &next.id.0]).expect("all are labelled");
    assert_eq!(active().await, next.id);
    assert!(command(&["activate", &next.id.0]).expect_err("it is").contains("active already"));
    command(&["rollback"]).expect("goes back");
    assert_eq!(active().await, model.id);
    let text = command(&["status"]).expect("shows");
    assert!(text.contains(&format!("active    {} (switch 3)", model.id)), "{text}");
    command(&["activate", "elsewhere", "--unchecked"]).expect("is not looked at");
    assert_eq!(active().await.0, "elsewhere");
}
