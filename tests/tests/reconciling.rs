//! A reconciliation that is killed goes on where it stopped, and ends in the same table.

use std::time::Duration;

use consumer::flow::{Pipeline, Reconciled};
use consumer::store::{Embedded, Reached, Reconciling, Store};
use jiff::Timestamp;
use shared::CatalogEvent;
use tests::converged::assert_converged;
use tests::deliveries::{body, tables};
use tests::fleet::{TextModel, pipeline};
use tests::history::upsert;
use tokio::sync::Notify;

/// Several pages of the table, and products of one code each.
const PRODUCTS: usize = 500;
const GROUP: usize = 3;
/// Where pages do not matter.
const FEW: usize = 60;
/// Products planned until a run is killed: more than one page, and no whole number of them.
const KILLED_AFTER: u64 = 250;

fn history(products: usize) -> Vec<CatalogEvent> {
    // Words that others have would be keys with more products than are read of one.
    let title = |n: usize| format!("qx{:05}z", 20_011 + n / GROUP * 7);
    (0..products).map(|n| upsert(&format!("P{n:03}"), 1, &title(n), 1.0)).collect()
}

/// Products whose states are known and which nobody has labelled.
async fn unlabelled(engine: &Embedded, prefix: &str, products: usize) -> Store {
    let store = tables(engine, prefix).await;
    for event in history(products) {
        let CatalogEvent::Upsert(event) = event else { unreachable!("all are upserts") };
        let change = consumer::decide::state::Change {
            id: event.product_id,
            version: event.version,
            occurred_at: event.occurred_at,
            product: Some(event.product),
        };
        let first = consumer::decide::state::advance(None, &change, 0);
        let consumer::decide::state::Advance::Write(state) = first else { unreachable!("there is no state yet") };
        store.put_state(&state, None).await.expect("writes");
    }
    store
}

/// What a run does until it has planned [`KILLED_AFTER`] products and its process ends: nothing more
/// is sent. None if it came to its end before.
async fn killed(pipeline: &Pipeline) -> Option<Reconciled> {
    let enough = Notify::new();
    let progress = |planned| {
        if planned == KILLED_AFTER {
            enough.notify_one();
        }
    };
    tokio::select! {
        biased;
        () = enough.notified() => None,
        done = pipeline.reconcile(4, &progress) => Some(done.expect("nothing is in its way")),
    }
}

#[tokio::test]
async fn a_killed_run_goes_on_where_it_stopped() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = unlabelled(&engine, "killed-", PRODUCTS).await;
    let model = TextModel::new("m");
    let worker = pipeline(store.clone(), &model);
    let mut kills = 0;
    let last = loop {
        let before = noted(&store, &model).await.map_or(0, |noted| noted.planned);
        match killed(&worker).await {
            Some(done) => break done,
            None => kills += 1,
        }
        let after = noted(&store, &model).await.expect("it noted what it did").planned;
        assert!(after > before, "each run comes further than the one before it");
        assert!(after - before <= KILLED_AFTER, "and notes nothing that is not done");
    };
    assert!(kills > 1, "{kills}");
    assert_eq!(last.planned + last.planned_before, PRODUCTS as u64, "no product was left out");
    assert!(last.planned < KILLED_AFTER, "the last run had the rest to do: {last:?}");
    assert_converged(&store, std::slice::from_ref(&model), &history(PRODUCTS)).await;
    assert_eq!(noted(&store, &model).await, None, "the next run begins anew");
    let again = worker.reconcile(4, &|_| {}).await.expect("nothing is in its way");
    assert_eq!((again.planned, again.planned_before, again.tally.pairs_scored), (PRODUCTS as u64, 0, 0));
}

/// What another run has done counts only under the same key epochs, for a day, and for one model.
#[tokio::test]
async fn what_no_longer_holds_is_not_gone_on_with() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = unlabelled(&engine, "stale-", FEW).await;
    let model = TextModel::new("m");
    let all_done = Reconciling {
        name: Reconciling::name(&model.id),
        key_epoch: 0,
        also_epoch: None,
        refills: false,
        planned: 7,
        overflows: 0,
        saved_at: Timestamp::now(),
        segments: vec![Reached::End, Reached::End],
    };
    let worker = pipeline(store.clone(), &model);
    let planned = async |left: Reconciling| {
        store.save_reconciling(&left).await.expect("writes");
        worker.reconcile(4, &|_| {}).await.expect("nothing is in its way").planned
    };
    assert_eq!(planned(all_done.clone()).await, 0, "everything is done");
    let two_days_ago = Timestamp::now() - Duration::from_secs(2 * 24 * 3_600);
    let all = FEW as u64;
    assert_eq!(planned(Reconciling { key_epoch: 1, ..all_done.clone() }).await, all);
    assert_eq!(planned(Reconciling { also_epoch: Some(1), ..all_done.clone() }).await, all);
    assert_eq!(planned(Reconciling { saved_at: two_days_ago, ..all_done.clone() }).await, all);
    assert_eq!(planned(Reconciling { segments: vec![Reached::End], ..all_done.clone() }).await, all);
    let of_another = Reconciling { name: Reconciling::name(&TextModel::new("other").id), ..all_done.clone() };
    assert_eq!(planned(of_another).await, all);

    store.save_reconciling(&all_done).await.expect("writes");
    worker.reconcile_from_start().await.expect("forgets");
    assert_eq!(worker.reconcile(4, &|_| {}).await.expect("nothing is in its way").planned, all);
}

/// Events go on while a run lies still; what they label is theirs, and the run that goes on leaves it.
#[tokio::test]
async fn events_between_a_kill_and_the_next_run_are_labelled() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = unlabelled(&engine, "live-", PRODUCTS).await;
    let model = TextModel::new("m");
    let worker = pipeline(store.clone(), &model);
    assert_eq!(killed(&worker).await, None);
    let changed: Vec<CatalogEvent> =
        (0..PRODUCTS).step_by(60).map(|n| upsert(&format!("P{n:03}"), 2, "steel lamp mv8835k", 1.0)).collect();
    for event in &changed {
        worker.process(&body(event), 1).await.expect("nothing is in its way");
    }
    worker.reconcile(4, &|_| {}).await.expect("nothing is in its way");
    let history: Vec<CatalogEvent> = history(PRODUCTS).into_iter().chain(changed).collect();
    assert_converged(&store, std::slice::from_ref(&model), &history).await;
}

async fn noted(store: &Store, model: &TextModel) -> Option<Reconciling> {
    store.reconciling(&model.id).await.expect("reads")
}
