//! A history through the real flow in this process, and what it must end in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use consumer::flow::{Pipeline, RunOptions, Share, run};
use consumer::source::{Drained, Parked, Queue, Shutdown, Source, SourceOptions, StopReason};
use consumer::store::Store;

use crate::fleet::{TextModel, stored};
use crate::history::History;
use crate::table_model::{newest, table};

/// Longest wait for the queue to be empty; far more than a slow machine needs.
const PATIENCE: Duration = Duration::from_secs(300);
const DRAIN: Duration = Duration::from_secs(60);
/// Pause between two looks at a queue.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const CONCURRENCY: usize = 16;

/// Runs the flow on `queue` until `is_empty` says so, and drains it.
///
/// # Panics
/// When the flow stops by itself, the queue does not empty, or the drain is not clean.
pub async fn run_until_empty(
    pipeline: Pipeline,
    queue: Arc<dyn Queue>,
    dead_letters: Arc<dyn Queue>,
    options: SourceOptions,
    is_empty: impl AsyncFn() -> bool,
) {
    let shutdown = Shutdown::new();
    let source = Source::start(queue, dead_letters, options, shutdown.clone());
    let options = RunOptions { concurrency: CONCURRENCY, drain: DRAIN };
    let running = tokio::spawn(run(Arc::new(pipeline), Share::whole(source), options, shutdown.clone()));
    let emptied = tokio::time::timeout(PATIENCE, async {
        while !is_empty().await && !shutdown.has_begun() {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    });
    emptied.await.expect("the queue is empty in the end");
    assert_eq!(shutdown.reason(), None, "nothing here is fatal");
    shutdown.begin(StopReason::Finished);
    let drained = running.await.expect("the flow does not panic");
    assert!(drained.iter().all(Drained::is_clean), "{drained:?}");
}

/// The tables are what brute force makes of the history.
///
/// # Panics
/// When they are not.
pub async fn assert_foretold(store: &Store, model: &TextModel, history: &History) {
    let states = newest(&history.events);
    let expected = table(&states, |left, right| model.score(left, right));
    let stored = stored(store, states.keys(), model).await;
    for (id, expected) in &expected {
        assert_eq!(stored.get(id), Some(expected), "{id}");
    }
    assert_eq!(stored.len(), expected.len(), "a deleted product has labels");
    assert!(expected.values().any(|(_, pairs)| !pairs.is_empty()), "a history without duplicates shows nothing");
}

/// The dead letters are the poison that was sent, each as it was sent; gives how many of
/// them are there more than once, which a delivery twice or a lost answer explains.
///
/// # Panics
/// When one is missing, or something else is there.
pub async fn assert_only_poison(dead_letters: &dyn Queue, history: &History) -> usize {
    let (mut parked, mut count) = (BTreeSet::new(), 0);
    loop {
        let messages = dead_letters.receive(10, Duration::from_secs(1)).await.expect("this queue has no faults");
        if messages.is_empty() {
            break;
        }
        let receipts: Vec<_> = messages.iter().map(|message| message.receipt.clone()).collect();
        for message in messages {
            let (_, body) = Parked::unwrap(&message.body).expect("what was parked reads back");
            parked.insert(body);
            count += 1;
        }
        dead_letters.delete(&receipts).await.expect("this queue has no faults");
    }
    assert_eq!(parked, history.poison.iter().cloned().collect::<BTreeSet<_>>());
    count - parked.len()
}
