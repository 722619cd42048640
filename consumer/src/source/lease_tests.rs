//! The heartbeat under paused time.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::source::in_process::{Counts, InProcessOptions};
use crate::source::watched::{Operation, Upset, Watched};

const VISIBILITY: Duration = Duration::from_secs(30);

fn queue() -> Arc<Watched> {
    Arc::new(Watched::new(InProcessOptions { visibility_timeout: VISIBILITY, ..InProcessOptions::new("q") }))
}

fn is_lost(lease: &Lease) -> bool {
    lease.lost().is_cancelled()
}

async fn hold(queue: &Arc<Watched>, leases: &Leases, messages: usize) -> Vec<Lease> {
    queue.fill(messages).await;
    let mut held = Vec::new();
    while held.len() < messages {
        for message in queue.receive(BATCH_MAX, Duration::ZERO).await.expect("this queue has no faults") {
            held.push(leases.hold(message.receipt, Instant::now()));
        }
    }
    held
}

#[tokio::test(start_paused = true)]
async fn extends_every_message_in_batches_for_as_long_as_it_is_held() {
    let queue = queue();
    let (leases, _heartbeat) = Leases::start(queue.clone(), Pulse::default());
    let held = hold(&queue, &leases, 25).await;
    sleep(VISIBILITY * 10 + Duration::from_secs(1)).await;
    assert_eq!(queue.inner.counts(), Counts { visible: 0, in_flight: 25 });
    assert!(held.iter().all(|lease| !is_lost(lease)));
    let extensions = queue.calls(Operation::ChangeVisibility);
    assert!(extensions.iter().all(|call| call.entries <= BATCH_MAX));
    // Three requests carry 25 messages, every third of the timeout.
    assert_eq!(extensions.len(), 3 * 30);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_is_not_extended_and_its_message_returns() {
    let queue = queue();
    let (leases, _heartbeat) = Leases::start(queue.clone(), Pulse::default());
    let mut held = hold(&queue, &leases, 2).await;
    drop(held.pop());
    sleep(VISIBILITY + Duration::from_secs(1)).await;
    assert_eq!(queue.inner.counts(), Counts { visible: 1, in_flight: 1 });
}

#[tokio::test(start_paused = true)]
async fn stop_waits_for_an_extension_under_way() {
    let queue = queue();
    queue.always(Operation::ChangeVisibility, Upset::Slow(Duration::from_secs(4)));
    let (leases, _heartbeat) = Leases::start(queue.clone(), Pulse::default());
    let lease = hold(&queue, &leases, 1).await.remove(0);
    // The extension begins after 10 s and ends after 14 s.
    sleep(Duration::from_secs(12)).await;
    let began_at = Instant::now();
    lease.stop().await;
    assert_eq!(began_at.elapsed(), Duration::from_secs(2));
    sleep(VISIBILITY * 3).await;
    assert_eq!(queue.calls(Operation::ChangeVisibility).len(), 1, "a stopped lease is not extended again");
}

#[tokio::test(start_paused = true)]
async fn stop_does_not_wait_for_the_extensions_of_others() {
    let queue = queue();
    queue.always(Operation::ChangeVisibility, Upset::Slow(Duration::from_secs(9)));
    let (leases, _heartbeat) = Leases::start(queue.clone(), Pulse::default());
    let _first = hold(&queue, &leases, 1).await;
    sleep(Duration::from_secs(9)).await;
    let second = hold(&queue, &leases, 1).await.remove(0);
    sleep(Duration::from_secs(2)).await;
    let began_at = Instant::now();
    second.stop().await;
    assert_eq!(began_at.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_somebody_else_received_is_lost_to_us() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let queue = queue();
    let (leases, _heartbeat) = Leases::start(queue.clone(), Pulse::default());
    queue.fill(1).await;
    let message = queue.receive(1, Duration::ZERO).await.expect("this queue has no faults").remove(0);
    let lease = leases.hold(message.receipt.clone(), Instant::now());
    let release = VisibilityChange { receipt: message.receipt, timeout: Duration::ZERO };
    queue.inner.change_visibility(&[release]).await.expect("a batch of one").remove(0).expect("it is in flight");
    queue.inner.receive(1, Duration::ZERO).await.expect("this queue has no faults");
    assert!(!is_lost(&lease), "nobody has told us yet");
    let began_at = Instant::now();
    lease.lost().cancelled().await;
    assert_eq!(began_at.elapsed(), VISIBILITY / 3);
    drop(lease);
    let text = recorder.handle().render();
    for line in ["queue_leases_held{queue=\"q\"} 0", "queue_leases_lost_total{queue=\"q\"} 1"] {
        assert!(text.lines().any(|rendered| rendered == line), "{line} is missing in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_extensions_are_tried_again_and_lost_only_when_the_timeout_ends() {
    let queue = queue();
    queue.once(Operation::ChangeVisibility, Upset::Unavailable);
    queue.once(Operation::ChangeVisibility, Upset::Entry(0));
    let (leases, _heartbeat) = Leases::start(queue.clone(), Pulse::default());
    let lease = hold(&queue, &leases, 1).await.remove(0);
    sleep(VISIBILITY * 2).await;
    assert!(!is_lost(&lease));
    assert_eq!(queue.inner.counts(), Counts { visible: 0, in_flight: 1 });

    queue.always(Operation::ChangeVisibility, Upset::Unavailable);
    lease.lost().cancelled().await;
    assert_eq!(queue.inner.counts(), Counts { visible: 1, in_flight: 0 }, "lost at the moment it is visible");
}

#[tokio::test(start_paused = true)]
async fn timeouts_of_any_length_neither_underflow_nor_spin() {
    for visibility in [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(250), VISIBILITY_MAX] {
        let options = InProcessOptions { visibility_timeout: visibility, ..InProcessOptions::new("q") };
        let queue = Arc::new(Watched::new(options));
        let (leases, _heartbeat) = Leases::start(queue.clone(), Pulse::default());
        let lease = leases.hold(Receipt::new("1.1"), Instant::now());
        sleep(Duration::from_secs(1)).await;
        assert!(queue.calls(Operation::ChangeVisibility).len() <= 20, "{visibility:?}");
        drop(lease);
    }
}

#[tokio::test(start_paused = true)]
async fn no_message_is_held_beyond_the_queues_longest_visibility() {
    // 12 h are no multiple of these thirds: the last extension is a short one.
    for visibility in [VISIBILITY, Duration::from_secs(31), Duration::from_secs(47)] {
        let options = InProcessOptions { visibility_timeout: visibility, ..InProcessOptions::new("q") };
        let queue = Arc::new(Watched::new(options));
        let (leases, _heartbeat) = Leases::start(queue.clone(), Pulse::default());
        let lease = hold(&queue, &leases, 1).await.remove(0);
        let held_since = Instant::now();
        lease.lost().cancelled().await;
        assert_eq!(held_since.elapsed().as_secs(), VISIBILITY_MAX.as_secs(), "{visibility:?}");
        assert_eq!(queue.inner.counts(), Counts { visible: 1, in_flight: 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn surrender_takes_all_leases_and_tells_their_holders() {
    let queue = queue();
    let (leases, _heartbeat) = Leases::start(queue.clone(), Pulse::default());
    let held = hold(&queue, &leases, 12).await;
    let receipts = leases.surrender().await;
    assert_eq!(receipts.len(), 12);
    assert!(held.iter().all(is_lost));
    advance(VISIBILITY).await;
    assert_eq!(queue.inner.counts(), Counts { visible: 12, in_flight: 0 });
    assert!(leases.surrender().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_heartbeat_beats_the_pulse_and_ends_when_stopped() {
    let queue = queue();
    let pulse = Pulse::default();
    let (leases, heartbeat) = Leases::start(queue.clone(), pulse.clone());
    let _held = hold(&queue, &leases, 1).await;
    sleep(VISIBILITY / 2).await;
    assert_eq!(pulse.age(), Some(VISIBILITY / 2 - VISIBILITY / 3));
    heartbeat.stop().await;
    sleep(VISIBILITY).await;
    assert_eq!(queue.inner.counts(), Counts { visible: 1, in_flight: 0 });
}
