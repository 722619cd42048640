//! What a delete leaves: a state and label items that DynamoDB removes by TTL, and that count for as
//! long as they are there.

use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, TimeToLiveStatus};
use consumer::flow::{Outcome, Pipeline};
use consumer::store::{Embedded, Store};
use jiff::Timestamp;
use reader::{LabelReader, Options};
use shared::table::{LABELS, PRODUCTS, Table};
use shared::{CatalogEvent, ModelId, ProductText, Verdict};
use tests::deliveries::{body, tables};
use tests::fleet::{TextModel, pipeline};
use tests::history::{delete, upsert};
use tests::items::id;

/// The workers' clock, and what they remember deletes for.
const NOW: i64 = 2_000_000_000;
const TTL: Duration = Duration::from_secs(28 * 24 * 3_600);

/// A worker of this model at [`NOW`].
fn worker(store: &Store, model: &TextModel) -> Pipeline {
    let clock = || Timestamp::from_second(NOW).expect("a time");
    Pipeline { clock, tombstone_ttl: TTL, ..pipeline(store.clone(), model) }
}

/// The same long after every tombstone should be gone.
fn worker_after_ttl(store: &Store, model: &TextModel) -> Pipeline {
    let clock = || Timestamp::from_second(NOW).expect("a time") + TTL + TTL;
    Pipeline { clock, tombstone_ttl: TTL, ..pipeline(store.clone(), model) }
}

async fn process(worker: &Pipeline, event: &CatalogEvent) -> Outcome {
    worker.process(&body(event), 1).await.expect("nothing is in its way").outcome
}

fn first_x() -> CatalogEvent {
    upsert("X", 1, "kettle qx4471z", 1.0)
}

/// Tables with X and Y, duplicates of each other under both models.
async fn two_duplicates(engine: &Embedded, prefix: &str) -> (Store, [TextModel; 2]) {
    let store = tables(engine, prefix).await;
    let y = upsert("Y", 1, "steel kettle qx4471z", 1.0);
    let texts = [&first_x(), &y].map(|event| match event {
        CatalogEvent::Upsert(event) => ProductText::of(&event.product).text,
        _ => unreachable!("both are upserts"),
    });
    let says_duplicate = |model: &TextModel| model.score(&texts[0], &texts[1]).1 == Verdict::Duplicate;
    let mut models = (0..).map(|n| TextModel::new(&format!("model {n}"))).filter(says_duplicate);
    let models = [(); 2].map(|()| models.next().expect("one in three does"));
    for model in &models {
        for event in [&first_x(), &y] {
            process(&worker(&store, model), event).await;
        }
        assert_eq!(pairs_of_page(&store, model).await, 1, "they are duplicates");
    }
    (store, models)
}

/// The attribute that TTL reads of X's item, as it lies in the table.
async fn expiry(store: &Store, table: &Table, model: Option<&ModelId>) -> Option<AttributeValue> {
    let request = store.client().get_item().table_name(table.physical_name(store.prefix())).consistent_read(true);
    let request = request.key("id", AttributeValue::S("X".to_owned()));
    let request = match model {
        Some(model) => request.key("model", AttributeValue::S(model.0.clone())),
        None => request,
    };
    let mut item = request.send().await.expect("reads").item.expect("X is there");
    item.remove(table.ttl_attribute.expect("deletes of this table expire"))
}

/// What TTL does to X once it gets to it.
async fn remove(store: &Store, table: &Table, model: Option<&ModelId>) {
    let request = store.client().delete_item().table_name(table.physical_name(store.prefix()));
    let request = request.key("id", AttributeValue::S("X".to_owned()));
    let request = match model {
        Some(model) => request.key("model", AttributeValue::S(model.0.clone())),
        None => request,
    };
    request.send().await.expect("deletes");
}

fn reader(store: &Store, model: &TextModel) -> LabelReader {
    let options = Options {
        model: Some(model.id.clone()),
        consistent: true,
        deadline: Duration::from_secs(60),
        ..Options::default()
    };
    LabelReader::new(store.client().clone(), store.prefix(), options)
}

async fn pairs_of_page(store: &Store, model: &TextModel) -> usize {
    let page = reader(store, model).labels_for_page(&["X", "Y"].map(id)).await.expect("reads");
    page.pairs.len()
}

#[tokio::test]
async fn a_delete_leaves_a_ttl_on_its_state_and_in_every_models_slot() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let (store, models) = two_duplicates(&engine, "ttl-").await;
    assert_eq!(process(&worker(&store, &models[0]), &delete("X", 2)).await, Outcome::Written);
    // Epoch seconds as a number, in the attribute that the table's TTL names.
    let expected = Some(AttributeValue::N((NOW + TTL.as_secs() as i64).to_string()));
    assert_eq!(expiry(&store, &PRODUCTS, None).await, expected);
    for model in &models {
        assert_eq!(expiry(&store, &LABELS, Some(&model.id)).await, expected, "{}", model.id);
    }
    for table in [PRODUCTS, LABELS] {
        let request = store.client().describe_time_to_live().table_name(table.physical_name(store.prefix()));
        let ttl = request.send().await.expect("answers").time_to_live_description.expect("has one");
        assert_eq!(ttl.attribute_name(), table.ttl_attribute);
        assert_eq!(ttl.time_to_live_status(), Some(&TimeToLiveStatus::Enabled));
    }
}

#[tokio::test]
async fn a_reader_sees_no_pair_of_a_tombstone_before_or_after_its_ttl() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let (store, models) = two_duplicates(&engine, "seen-").await;
    process(&worker(&store, &models[0]), &delete("X", 2)).await;
    // There, whatever its time; then removed state first, then slot by slot, in TTL's own time.
    for step in 0..4 {
        match step {
            0 => {}
            1 => remove(&store, &PRODUCTS, None).await,
            slot => remove(&store, &LABELS, Some(&models[slot - 2].id)).await,
        }
        for model in &models {
            assert_eq!(pairs_of_page(&store, model).await, 0, "{}, step {step}", model.id);
            let reader = reader(&store, model);
            assert_eq!(reader.duplicates_of(&id("X")).await.expect("reads"), None);
            let other = reader.duplicates_of(&id("Y")).await.expect("reads").expect("Y is in the catalog");
            assert!(other.item.pairs.is_empty() && other.outdated == 0, "{other:?}");
        }
    }
}

/// DynamoDB removes what has expired within days, not at once.
#[tokio::test]
async fn a_tombstone_counts_for_as_long_as_it_is_there() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let (store, models) = two_duplicates(&engine, "late-").await;
    process(&worker(&store, &models[0]), &delete("X", 3)).await;
    let late = worker_after_ttl(&store, &models[0]);
    assert_eq!(process(&late, &upsert("X", 2, "kettle qx4471z", 1.0)).await, Outcome::Stale);
    assert_eq!(pairs_of_page(&store, &models[0]).await, 0);
}

/// Otherwise TTL would take a living product away.
#[tokio::test]
async fn a_re_creation_takes_the_ttl_away() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let (store, models) = two_duplicates(&engine, "again-").await;
    process(&worker(&store, &models[0]), &delete("X", 2)).await;
    for model in &models {
        process(&worker(&store, model), &upsert("X", 3, "kettle qx4471z", 1.0)).await;
        assert_eq!(expiry(&store, &PRODUCTS, None).await, None);
        assert_eq!(expiry(&store, &LABELS, Some(&model.id)).await, None, "{}", model.id);
        assert_eq!(pairs_of_page(&store, model).await, 1);
    }
}

/// Where the promise about deletes ends: an upsert that was late by more than the TTL is a new
/// product, and its labels are right for it.
#[tokio::test]
async fn once_a_tombstone_is_removed_a_late_upsert_is_a_new_product() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let (store, models) = two_duplicates(&engine, "end-").await;
    process(&worker(&store, &models[0]), &delete("X", 3)).await;
    remove(&store, &PRODUCTS, None).await;
    for model in &models {
        remove(&store, &LABELS, Some(&model.id)).await;
    }
    assert_eq!(process(&worker_after_ttl(&store, &models[0]), &first_x()).await, Outcome::Written);
    assert_eq!(pairs_of_page(&store, &models[0]).await, 1);
}
