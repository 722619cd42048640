//! Intake under paused time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::*;
use crate::source::in_process::{Counts, InProcessOptions, InProcessQueue};
use crate::source::watched::{Operation, Upset, Watched};

fn start(queue: &Arc<Watched>, options: SourceOptions) -> Source {
    let dead_letters = Arc::new(InProcessQueue::new(InProcessOptions::new("dead")));
    Source::start(queue.clone(), dead_letters, options, Shutdown::new())
}

fn queue() -> Arc<Watched> {
    Arc::new(Watched::new(InProcessOptions::new("q")))
}

#[tokio::test(start_paused = true)]
async fn no_more_messages_are_in_the_process_than_there_are_permits() {
    let queue = queue();
    queue.fill(100).await;
    let mut source = start(&queue, SourceOptions { permits: 7, ..SourceOptions::default() });
    for _ in 0..100 {
        sleep(Duration::from_secs(1)).await;
        let in_flight = queue.inner.counts().in_flight;
        assert!(in_flight <= 7, "{in_flight}");
        assert_eq!(source.next().await.expect("no shutdown").settle(Disposition::Delete).await, Settlement::Deleted);
    }
    assert_eq!(queue.inner.counts(), Counts { visible: 0, in_flight: 0 });
    assert!(source.drain(Duration::from_secs(1)).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn concurrency_is_not_bound_to_the_batch_of_ten() {
    let queue = queue();
    queue.fill(200).await;
    let mut source = start(&queue, SourceOptions { permits: 200, ..SourceOptions::default() });
    let mut taken = Vec::new();
    for _ in 0..200 {
        taken.push(source.next().await.expect("no shutdown"));
    }
    assert_eq!(queue.inner.counts(), Counts { visible: 0, in_flight: 200 });
}

#[tokio::test(start_paused = true)]
async fn one_receive_waits_on_an_idle_queue() {
    let queue = queue();
    let _source = start(&queue, SourceOptions::default());
    // The thirtieth long poll ends after 600 s.
    sleep(Duration::from_secs(601)).await;
    assert_eq!(queue.receiving_most(), 1);
    assert_eq!(queue.calls(Operation::Receive).len(), 30);
}

#[tokio::test(start_paused = true)]
async fn full_batches_call_for_several_receives_and_an_empty_one_for_one() {
    let queue = queue();
    queue.always(Operation::Receive, Upset::Slow(Duration::from_millis(50)));
    queue.fill(500).await;
    let mut source = start(&queue, SourceOptions { permits: 500, receives_max: 4, ..SourceOptions::default() });
    for _ in 0..500 {
        drop(source.next().await.expect("no shutdown").settle(Disposition::Delete));
    }
    assert_eq!(queue.receiving_most(), 4);
    sleep(Duration::from_secs(60)).await;
    let before = queue.calls(Operation::Receive).len();
    sleep(Duration::from_secs(200)).await;
    assert!(queue.calls(Operation::Receive).len() - before <= 10, "one long poll after the other");
}

/// SQS often gives less than a batch of what there is.
#[tokio::test(start_paused = true)]
async fn receives_that_bring_little_call_for_more() {
    let queue = queue();
    let mut source = start(&queue, SourceOptions { receives_max: 4, ..SourceOptions::default() });
    for _ in 0..6 {
        sleep(Duration::from_millis(100)).await;
        queue.fill(1).await;
        drop(source.next().await.expect("no shutdown").settle(Disposition::Delete));
    }
    assert_eq!(queue.receiving_most(), 4);
    sleep(Duration::from_secs(60)).await;
    let before = queue.calls(Operation::Receive).len();
    sleep(Duration::from_secs(200)).await;
    assert!(queue.calls(Operation::Receive).len() - before <= 10, "one long poll after the other");
}

#[tokio::test(start_paused = true)]
async fn under_full_load_an_event_costs_less_than_a_quarter_of_a_request() {
    let queue = queue();
    queue.fill(1_000).await;
    let mut source = start(&queue, SourceOptions { permits: 100, ..SourceOptions::default() });
    for _ in 0..1_000 {
        let delivery = source.next().await.expect("no shutdown");
        sleep(Duration::from_millis(1)).await;
        drop(delivery.settle(Disposition::Delete));
    }
    let permits = source.permits().clone();
    assert!(source.drain(Duration::from_secs(60)).await.is_clean());
    assert_eq!((queue.inner.counts().in_flight, permits.taken()), (0, 0));
    let operations = [Operation::Receive, Operation::Delete, Operation::ChangeVisibility];
    let requests: usize = operations.into_iter().map(|operation| queue.calls(operation).len()).sum();
    assert!(requests <= 250, "{requests} requests for 1,000 events");
}

#[tokio::test(start_paused = true)]
async fn prefetched_messages_keep_their_leases() {
    let queue = queue();
    queue.fill(30).await;
    let mut source = start(&queue, SourceOptions::default());
    sleep(Duration::from_secs(10 * 60)).await;
    assert_eq!(queue.inner.counts(), Counts { visible: 0, in_flight: 30 });
    for _ in 0..30 {
        let delivery = source.next().await.expect("no shutdown");
        assert!(!delivery.is_lost());
        assert_eq!(delivery.message.receive_count, 1);
        drop(delivery.settle(Disposition::Delete));
    }
}

#[tokio::test(start_paused = true)]
async fn failing_receives_back_off_and_the_first_success_ends_it() {
    let queue = queue();
    for _ in 0..12 {
        queue.once(Operation::Receive, Upset::Unavailable);
    }
    queue.fill(1).await;
    let began_at = Instant::now();
    let mut source = start(&queue, SourceOptions::default());
    let delivery = source.next().await.expect("a passing fault is not fatal");
    assert_eq!(delivery.settle(Disposition::Delete).await, Settlement::Deleted);
    let calls = queue.calls(Operation::Receive);
    assert_eq!(calls.iter().filter(|call| call.entries > 0).count(), calls.len());
    // Twelve full-jitter pauses under ceilings of 0.5 s doubling to 30 s: 211.5 s at most.
    assert!(began_at.elapsed() > Duration::from_secs(5), "{:?}", began_at.elapsed());
    assert!(began_at.elapsed() < Duration::from_secs(212), "{:?}", began_at.elapsed());
    assert!(calls.windows(2).all(|calls| calls[0].ended_at <= calls[1].began_at), "one after the other: {calls:?}");
}

#[tokio::test(start_paused = true)]
async fn permits_of_receives_that_fail_or_give_little_come_home() {
    let queue = queue();
    queue.once(Operation::Receive, Upset::Unavailable);
    let mut source = start(&queue, SourceOptions { permits: 20, ..SourceOptions::default() });
    let permits = source.permits().clone();
    queue.fill(3).await;
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(source.next().await.expect("a passing fault is not fatal"));
    }
    sleep(Duration::from_secs(60)).await;
    // Three messages, and the room of the poll that waits.
    assert_eq!(permits.taken(), 3 + BATCH_MAX);
    for delivery in taken {
        drop(delivery.settle(Disposition::Delete));
    }
    sleep(Duration::from_secs(2)).await;
    assert_eq!(permits.taken(), BATCH_MAX);
    assert!(source.drain(Duration::from_secs(1)).await.is_clean());
    assert_eq!(permits.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_fatal_fault_stops_intake() {
    let queue = queue();
    queue.always(Operation::Receive, Upset::NoSuchQueue);
    let mut source = start(&queue, SourceOptions::default());
    assert!(source.next().await.is_none());
    let reason = source.shutdown.reason().cloned();
    assert!(matches!(reason, Some(crate::source::StopReason::Fatal(_))), "{reason:?}");
    assert_eq!(queue.calls(Operation::Receive).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_brake_holds_back_receives_for_its_time() {
    let queue = queue();
    let brake = Brake::default();
    let mut source = start(&queue, SourceOptions { brake: brake.clone(), ..SourceOptions::default() });
    sleep(Duration::from_secs(1)).await;
    let pressed_at = Instant::now();
    brake.press(Duration::from_secs(10));
    brake.press(Duration::from_secs(3));
    // The receive under way is not held back; the next one is.
    queue.fill(1).await;
    source.next().await.expect("no shutdown");
    assert_eq!(pressed_at.elapsed(), Duration::ZERO);
    queue.fill(1).await;
    source.next().await.expect("no shutdown");
    assert_eq!(pressed_at.elapsed(), Duration::from_secs(10));
    brake.press(Duration::from_secs(24 * 60 * 60));
    queue.fill(2).await;
    source.next().await.expect("no shutdown");
    source.next().await.expect("no shutdown");
    assert!(pressed_at.elapsed() <= Duration::from_secs(10) + BRAKE_MAX);
}
