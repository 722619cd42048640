//! Several queues in one process, under paused time.

use std::sync::Arc;

use tokio::time::sleep;

use super::*;
use crate::source::in_process::{InProcessOptions, InProcessQueue};
use crate::source::intake::SourceOptions;
use crate::source::settle::Disposition;
use crate::source::{Outgoing, Shutdown, StopReason};

const PERMITS: u32 = 40;

/// A queue of this name with so many messages, and its share of the process.
async fn share(name: &str, messages: usize, weight: u32, shutdown: &Shutdown) -> (InProcessQueue, Share) {
    let queue = InProcessQueue::new(InProcessOptions::new(name));
    for number in 0..messages {
        queue.send_when_room(Outgoing::new(number.to_string())).await.expect("short messages are taken");
    }
    let dead_letters = Arc::new(InProcessQueue::new(InProcessOptions::new("dead")));
    let options = SourceOptions { permits: PERMITS, ..SourceOptions::default() };
    let source = Source::start(Arc::new(queue.clone()), dead_letters, options, shutdown.clone());
    (queue, Share { source, weight })
}

/// Names of the queues that the next `count` messages come from; each is deleted.
async fn take(sources: &mut Sources, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        // As if each took a while, so that receives keep up.
        sleep(Duration::from_millis(50)).await;
        let delivery = sources.next().await.expect("no shutdown yet");
        names.push(delivery.queue.to_string());
        drop(delivery.settle(Disposition::Delete));
    }
    names
}

fn count(names: &[String], name: &str) -> usize {
    names.iter().filter(|known| *known == name).count()
}

#[tokio::test(start_paused = true)]
async fn a_bulk_backlog_takes_its_weight_and_no_more() {
    let shutdown = Shutdown::new();
    let (_catalog, first) = share("catalog", 800, 4, &shutdown).await;
    let (_bulk, second) = share("bulk", 800, 1, &shutdown).await;
    let mut sources = Sources::new(vec![first, second]);
    let names = take(&mut sources, 500).await;
    assert_eq!((count(&names, "catalog"), count(&names, "bulk")), (400, 100));
    assert!(sources.drain(Duration::from_secs(1)).await.iter().all(Drained::is_clean));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_into_a_bulk_backlog_is_next() {
    let shutdown = Shutdown::new();
    let (catalog, first) = share("catalog", 0, 1, &shutdown).await;
    let (_bulk, second) = share("bulk", 500, 1, &shutdown).await;
    let mut sources = Sources::new(vec![first, second]);
    assert_eq!(count(&take(&mut sources, 100).await, "bulk"), 100, "nobody leaves capacity unused");
    catalog.send_when_room(Outgoing::new("now")).await.expect("there is room");
    let names = take(&mut sources, 3).await;
    assert_eq!(count(&names, "catalog"), 1, "{names:?}");
    assert!(sources.drain(Duration::from_secs(1)).await.iter().all(Drained::is_clean));
}

#[tokio::test(start_paused = true)]
async fn a_stop_releases_the_messages_of_every_queue() {
    let shutdown = Shutdown::new();
    let (catalog, first) = share("catalog", 25, 1, &shutdown).await;
    let (bulk, second) = share("bulk", 30, 1, &shutdown).await;
    let mut sources = Sources::new(vec![first, second]);
    sleep(Duration::from_secs(1)).await;
    shutdown.begin(StopReason::Signal("SIGTERM"));
    assert!(sources.next().await.is_none());
    let released: Vec<usize> =
        sources.drain(Duration::from_secs(1)).await.iter().map(|drained| drained.released).collect();
    assert_eq!(released, [25, 30]);
    assert_eq!((catalog.counts().visible, bulk.counts().visible), (25, 30));
}
