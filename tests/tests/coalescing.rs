//! Versions of one product that wait in one process: the newest is labelled, and the others
//! cost a read each.

use consumer::flow::Outcome;
use consumer::store::Embedded;
use futures::future::join_all;
use shared::CatalogEvent;
use tests::deliveries::{body, tables};
use tests::fleet::{TextModel, pipeline, stored};
use tests::history::{delete, upsert};
use tests::items::id;
use tests::table_model::{newest, table};

const VERSIONS: u64 = 12;

fn title(version: u64) -> String {
    format!("steel kettle qx4471z number {version}")
}

#[tokio::test]
async fn of_versions_that_wait_together_only_the_newest_is_scored() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "burst-").await;
    let model = TextModel::new("m");
    let worker = pipeline(store.clone(), &model);
    let other = upsert("B", 1, "large kettle qx4471z", 1.0);
    worker.process(&body(&other), 1).await.expect("nothing is in its way");
    // The first to come has nothing to wait for; the rest come in no order.
    let order = [1, 7, 3, 12, 5, 2, 9, 4, 11, 6, 10, 8];
    let burst: Vec<CatalogEvent> = order.map(|version| upsert("A", version, &title(version), 1.0)).to_vec();
    let done = join_all(burst.iter().map(async |event| worker.process(&body(event), 1).await)).await;
    let done: Vec<_> = done.into_iter().map(|done| done.expect("nothing is in its way")).collect();

    let labelled: Vec<u64> =
        (0..order.len()).filter(|n| done[*n].outcome != Outcome::Stale).map(|n| order[n]).collect();
    assert_eq!(labelled, [1, VERSIONS]);
    assert_eq!(model.pairs_scored(), 2, "one pair, under the first text and the last");
    assert_eq!(done.iter().map(|done| done.tally.superseded).sum::<u64>(), VERSIONS - 2);
    let history: Vec<CatalogEvent> = burst.into_iter().chain([other]).collect();
    let states = newest(&history);
    let expected = table(&states, |left, right| model.score(left, right));
    assert_eq!(stored(&store, states.keys(), &model).await, expected);
}

#[tokio::test]
async fn a_delete_among_them_wins_if_it_is_the_newest() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "gone-").await;
    let model = TextModel::new("m");
    let worker = pipeline(store.clone(), &model);
    let events = [upsert("A", 1, &title(1), 1.0), upsert("A", 2, &title(2), 1.0), delete("A", 3)];
    for done in join_all(events.iter().map(async |event| worker.process(&body(event), 1).await)).await {
        done.expect("nothing is in its way");
    }
    assert!(store.product(&id("A")).await.expect("reads").expect("is remembered").deleted);
}
