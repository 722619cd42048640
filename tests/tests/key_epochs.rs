//! A key epoch is published, written beside the other, switched to and back: the labels are
//! those of the newest states all along.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use consumer::decide::blocking::{KeyEpoch, KeyEpochs, posting_keys};
use consumer::flow::{EpochFeed, EpochsError, KnownEpochs, Pipeline, drop_postings, published_epoch};
use consumer::store::{Embedded, Store, WriteOutcome};
use shared::table::POSTINGS;
use shared::{CatalogEvent, ProductId, ProductText};
use tempfile::TempDir;
use tests::deliveries::{Message, process, tables};
use tests::fleet::{TextModel, pipeline, stored};
use tests::history::{delete, upsert};
use tests::table_model::{newest, table};
use tests::worker::binary;

const PRODUCTS: usize = 6;
const CODES: [&str; 2] = ["qx4471z", "mv8835k"];

/// An epoch to which "kettle" is common and the codes are rare.
fn built(number: u32) -> Arc<KeyEpoch> {
    let texts: Vec<String> = (0..64).map(|n| format!("kettle steel item{n}")).collect();
    Arc::new(KeyEpoch::build(number, &texts, texts.len()))
}

/// A worker that knows of these epochs.
fn worker(tables: Store, model: &TextModel, epochs: &KeyEpochs) -> Pipeline {
    Pipeline { epochs: KnownEpochs::fixed(epochs.clone()), ..pipeline(tables, model) }
}

/// One round of changes; every product changes its text, and one leaves.
fn round(version: u64) -> Vec<CatalogEvent> {
    let title = |n: usize| format!("steel kettle {} {version}", CODES[(n + version as usize) % CODES.len()]);
    let mut events: Vec<CatalogEvent> =
        (0..PRODUCTS).map(|n| upsert(&format!("P{n}"), version, &title(n), 1.0)).collect();
    events.push(delete("P0", version + 1));
    events
}

async fn postings(store: &Store) -> BTreeSet<(String, String)> {
    let request = store.client().scan().table_name(POSTINGS.physical_name(store.prefix())).consistent_read(true);
    let items = request.send().await.expect("scans").items.unwrap_or_default();
    let text = |item: &std::collections::HashMap<_, aws_sdk_dynamodb::types::AttributeValue>, name: &str| {
        item[name].as_s().expect("a string").clone()
    };
    items.iter().map(|item| (text(item, "key"), text(item, "id"))).collect()
}

/// Labels and postings are what brute force says, the postings under each of `epochs`.
async fn assert_converged(store: &Store, model: &TextModel, history: &[CatalogEvent], epochs: &[&Arc<KeyEpoch>]) {
    let states = newest(history);
    let expected = table(&states, |left, right| model.score(left, right));
    assert_eq!(stored(store, states.keys(), model).await, expected);
    let live = states.iter().filter_map(|(id, product)| Some((id, ProductText::of(product.as_ref()?).text)));
    let keys_of = |(id, text): (&ProductId, String)| {
        let keys = epochs.iter().flat_map(|epoch| posting_keys(&text, epoch)).collect::<Vec<_>>();
        keys.into_iter().map(|key| (key, id.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(postings(store).await, live.flat_map(keys_of).collect::<BTreeSet<_>>());
}

/// Workers of two neighbouring steps process a round together, then every product is planned
/// under the later step, as the roll-out asks for.
async fn step(store: &Store, model: &TextModel, events: &[CatalogEvent], knows: [&KeyEpochs; 2]) {
    let message = |(n, event): (usize, &CatalogEvent)| Message { fleet: n % 2, ..Message::of(event) };
    let messages = events.iter().enumerate().map(message).collect();
    process(store, |tables, fleet| worker(tables, model, knows[fleet]), messages).await;
    let done = worker(store.clone(), model, knows[1]).reconcile(2, &|_| {}).await.expect("nothing is in its way");
    assert_eq!(done.failed, 0);
}

#[tokio::test]
async fn labels_converge_across_a_switch_and_back() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "epochs-").await;
    let model = TextModel::new("m");
    let (old, new) = (KeyEpoch::shipped().clone(), built(7));
    let alone = KeyEpochs::new(old.clone(), None);
    let both = KeyEpochs::new(old.clone(), Some(new.clone()));
    let switched = KeyEpochs::new(new.clone(), Some(old.clone()));
    let ended = KeyEpochs::new(new.clone(), None);
    let mut history = Vec::new();
    let steps = [
        ([&alone, &alone], vec![&old]),
        ([&alone, &both], vec![&old, &new]),
        ([&both, &switched], vec![&old, &new]),
        ([&switched, &both], vec![&old, &new]),
        ([&both, &switched], vec![&old, &new]),
    ];
    for (number, (knows, epochs)) in steps.into_iter().enumerate() {
        let events = round(10 * (number as u64 + 1));
        history.extend(events.clone());
        step(&store, &model, &events, knows).await;
        assert_converged(&store, &model, &history, &epochs).await;
    }
    let scored = model.pairs_scored();
    worker(store.clone(), &model, &both).reconcile(2, &|_| {}).await.expect("nothing is in its way");
    worker(store.clone(), &model, &switched).reconcile(2, &|_| {}).await.expect("nothing is in its way");
    assert_eq!(model.pairs_scored(), scored, "a switch costs no inference where the candidates are the same");
    worker(store.clone(), &model, &ended).reconcile(2, &|_| {}).await.expect("nothing is in its way");
    let dropped = drop_postings(&store, &old, 2, &|_| {}).await.expect("deletes");
    assert_eq!(dropped, PRODUCTS as u64);
    assert_converged(&store, &model, &history, &[&new]).await;
}

#[tokio::test]
async fn an_epoch_is_published_once_and_found_by_workers() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "published-").await;
    let epoch = built(3);
    let missing = published_epoch(&store, 3).await.expect_err("nobody published it");
    assert!(matches!(missing, EpochsError::Unpublished { number: 3 }), "{missing}");
    let file = epoch.to_string();
    assert_eq!(store.put_key_epoch_file(3, &file).await.expect("writes"), WriteOutcome::Written);
    assert_eq!(store.put_key_epoch_file(3, &file).await.expect("the same again"), WriteOutcome::Written);
    let other = built(3).to_string().replace("kettle", "pot");
    assert_eq!(store.put_key_epoch_file(3, &other).await.expect("is refused"), WriteOutcome::Conflict);
    assert_eq!(published_epoch(&store, 3).await.expect("reads"), *epoch);

    let begun = consumer::decide::rollout::begin(&consumer::decide::rollout::shipped(), 3, jiff::Timestamp::now());
    assert_eq!(
        store.put_key_epochs(&begun.expect("nothing is rolled out")).await.expect("writes"),
        WriteOutcome::Written
    );
    let (_feed, known) = EpochFeed::start(store.clone()).await.expect("reads");
    let worker = Pipeline { epochs: known, ..pipeline(store.clone(), &TextModel::new("m")) };
    let event = upsert("A", 1, "steel kettle qx4471z", 1.0);
    worker.process(&tests::deliveries::body(&event), 1).await.expect("nothing is in its way");
    let keys = postings(&store).await;
    assert!(keys.iter().any(|(key, _)| key.starts_with("0:")) && keys.iter().any(|(key, _)| key.starts_with("3:")));
}

fn run(folder: &Path, words: &[&str]) -> Result<String, String> {
    let mut command = Command::new(binary());
    let output = command.args(words).arg("--local").arg(folder).output().expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[tokio::test]
async fn the_command_builds_publishes_and_begins_and_refuses_steps_out_of_turn() {
    let folder = TempDir::new().expect("a folder");
    let command = |words: &[&str]| run(folder.path(), &[&["key-epoch"], words].concat());
    let engine = Embedded::open(folder.path()).expect("opens");
    let store = engine.store(shared::table::PREFIX_DEFAULT);
    store.create_tables().await.expect("creates");
    let worker = pipeline(store.clone(), &TextModel::new("m"));
    for event in round(1) {
        worker.process(&tests::deliveries::body(&event), 1).await.expect("nothing is in its way");
    }
    engine.stop().await.expect("stops");

    assert_eq!(command(&["status"]).expect("shows").split(',').next(), Some("look-ups read key epoch 0"));
    assert!(command(&["begin", "5"]).expect_err("is unknown").contains("never published"));
    let file = folder.path().join("epoch5.txt");
    let built = command(&["build", "--number", "5", "--from-tables"]).expect("counts");
    assert!(built.lines().any(|line| line == "epoch 5"), "{built}");
    std::fs::write(&file, built).expect("written");
    command(&["publish", file.to_str().expect("UTF-8")]).expect("is new");
    assert!(command(&["switch"]).expect_err("nothing was begun").contains("begin"));
    assert!(command(&["begin", "5"]).expect("is published").contains("under 5 as well"));
    assert!(command(&["switch"]).expect_err("workers may not know").contains("wait until"));
    // The configuration takes it for an artifact; no model could be loaded from it.
    std::fs::write(folder.path().join("manifest.json"), "{}").expect("written");
    let artifact = folder.path().to_str().expect("UTF-8");
    let reconciled = run(folder.path(), &["reconcile", "--quiet", "--artifact", artifact]);
    assert!(reconciled.expect_err("it would not complete the roll-out").contains("wait until"));
    assert!(command(&["drop", "5"]).expect_err("it is written").contains("is in use"));
}
