//! Stopping under paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::time::{Instant, sleep};

use super::*;
use crate::source::in_process::{Counts, InProcessOptions, InProcessQueue};
use crate::source::intake::SourceOptions;
use crate::source::settle::Settlement;
use crate::source::watched::Watched;

const DEADLINE: Duration = Duration::from_secs(60);

struct Setup {
    queue: Arc<Watched>,
    shutdown: Shutdown,
    source: Source,
}

async fn setup(messages: usize) -> Setup {
    start(Watched::new(InProcessOptions::new("q")), messages).await
}

/// The messages have been received when this returns.
async fn start(queue: Watched, messages: usize) -> Setup {
    let queue = Arc::new(queue);
    let dead_letters = Arc::new(InProcessQueue::new(InProcessOptions::new("dead")));
    queue.fill(messages).await;
    let shutdown = Shutdown::new();
    let source = Source::start(queue.clone(), dead_letters, SourceOptions::default(), shutdown.clone());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(queue.inner.counts().in_flight, messages);
    Setup { queue, shutdown, source }
}

#[tokio::test(start_paused = true)]
async fn what_has_not_begun_is_visible_at_once() {
    let Setup { queue, shutdown, mut source } = setup(25).await;
    shutdown.begin(StopReason::Signal("SIGTERM"));
    assert!(source.next().await.is_none(), "nothing begins after the stop");
    let began_at = Instant::now();
    let drained = source.drain(DEADLINE).await;
    assert_eq!((drained.released, drained.torn_away), (25, 0));
    assert_eq!(queue.inner.counts(), Counts { visible: 25, in_flight: 0 });
    assert!(began_at.elapsed() < Duration::from_secs(1), "no visibility timeout was waited for");
}

#[tokio::test(start_paused = true)]
async fn what_has_begun_is_finished_and_its_delete_flushed() {
    let Setup { queue, shutdown, mut source } = setup(3).await;
    let delivery = source.next().await.expect("no shutdown yet");
    let work = tokio::spawn(async move {
        sleep(Duration::from_secs(40)).await;
        delivery.settle(Disposition::Delete).await
    });
    shutdown.begin(StopReason::Signal("SIGTERM"));
    let began_at = Instant::now();
    let permits = source.permits().clone();
    let drained = source.drain(DEADLINE).await;
    assert!(drained.is_clean());
    assert_eq!(drained.released, 2);
    assert!((40..42).contains(&began_at.elapsed().as_secs()));
    assert!(work.is_finished() || work.await.is_ok());
    assert_eq!(queue.inner.counts(), Counts { visible: 2, in_flight: 0 });
    assert_eq!(permits.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_end_by_the_deadline_is_torn_away_and_told() {
    let Setup { queue, shutdown, mut source } = setup(1).await;
    let delivery = source.next().await.expect("no shutdown yet");
    let lost = delivery.lost().clone();
    let (go_on, stuck) = tokio::sync::oneshot::channel::<()>();
    let work = tokio::spawn(async move {
        stuck.await.expect("the test lets it go on");
        delivery.settle(Disposition::Delete).await
    });
    shutdown.begin(StopReason::Signal("SIGTERM"));
    let drained = source.drain(DEADLINE).await;
    assert_eq!((drained.released, drained.torn_away, drained.is_clean()), (0, 1, false));
    assert_eq!(drained.took.as_secs(), DEADLINE.as_secs());
    assert!(lost.is_cancelled());
    assert_eq!(queue.inner.counts(), Counts { visible: 1, in_flight: 0 });
    go_on.send(()).expect("the work still waits");
    assert_eq!(work.await.expect("the work does not panic"), Settlement::Unsettled, "it is not ours any more");
    assert_eq!(queue.inner.counts(), Counts { visible: 1, in_flight: 0 });
}

/// Values of the series whose names begin with `prefix`, summed by name.
fn recorded(handle: &PrometheusHandle, prefix: &str) -> Vec<(String, f64)> {
    let text = handle.render();
    let series = text.lines().filter(|line| line.starts_with(prefix)).filter_map(|line| line.rsplit_once(' '));
    series.map(|(name, value)| (name.to_owned(), value.parse().expect("values are numbers"))).collect()
}

#[tokio::test(start_paused = true)]
async fn after_a_drain_clean_or_not_every_gauge_is_at_zero() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _recording = metrics::set_default_local_recorder(&recorder);
    for stuck in [false, true] {
        let Setup { mut source, .. } = setup(12).await;
        let done = source.next().await.expect("no shutdown yet").settle(Disposition::Delete);
        let kept = source.next().await.expect("no shutdown yet");
        assert!(recorded(&handle, "queue_leases_held{").iter().all(|(_, value)| *value > 0.0));
        let kept = if stuck {
            Some(kept)
        } else {
            drop(kept.settle(Disposition::Delete));
            None
        };
        assert_eq!(done.await, Settlement::Deleted);
        let drained = source.drain(DEADLINE).await;
        assert_eq!(drained.is_clean(), !stuck);
        drop(kept);
        for gauge in ["queue_leases_held{", "queue_permits_taken{"] {
            let values = recorded(&handle, gauge);
            assert!(!values.is_empty() && values.iter().all(|(_, value)| *value == 0.0), "{values:?}");
        }
    }
    let settled = recorded(&handle, "queue_messages_settled_total{");
    let count = |settlement: &str| -> f64 {
        settled.iter().filter(|(name, _)| name.contains(settlement)).map(|(_, value)| value).sum()
    };
    assert_eq!((count("deleted"), count("released"), count("unsettled")), (3.0, 20.0, 1.0));
}

#[tokio::test(start_paused = true)]
async fn an_idle_source_drains_at_once_where_a_receive_can_be_dropped() {
    let queue = Arc::new(InProcessQueue::new(InProcessOptions::new("q")));
    let source = Source::start(queue.clone(), queue, SourceOptions::default(), Shutdown::new());
    sleep(Duration::from_secs(5)).await;
    let drained = source.drain(DEADLINE).await;
    assert_eq!(drained, Drained { released: 0, torn_away: 0, took: Duration::ZERO });
}

#[tokio::test(start_paused = true)]
async fn a_receive_that_cannot_be_dropped_runs_to_its_end_and_its_messages_are_released() {
    let queue = Watched::new(InProcessOptions::new("q")).not_cancel_safe();
    let Setup { queue, shutdown, source } = start(queue, 0).await;
    shutdown.begin(StopReason::Signal("SIGTERM"));
    let draining = tokio::spawn(source.drain(DEADLINE));
    sleep(Duration::from_secs(5)).await;
    assert!(!draining.is_finished());
    queue.fill(1).await;
    let drained = draining.await.expect("the drain does not panic");
    assert_eq!((drained.released, drained.torn_away), (1, 0));
    assert_eq!(queue.inner.counts(), Counts { visible: 1, in_flight: 0 });
}

#[tokio::test(start_paused = true)]
async fn the_first_signal_stops_in_order_and_the_second_at_once() {
    let shutdown = Shutdown::new();
    let (signals, received) = mpsc::channel(2);
    let status = Arc::new(AtomicI32::new(0));
    let seen = status.clone();
    let obeying = tokio::spawn(obey(received, shutdown.clone(), move |status| seen.store(status, Ordering::Relaxed)));
    assert!(!shutdown.has_begun());
    signals.send(Signal::TERMINATE).await.expect("it listens");
    shutdown.begun().await;
    assert_eq!(shutdown.reason(), Some(&StopReason::Signal("SIGTERM")));
    assert_eq!(status.load(Ordering::Relaxed), 0);
    signals.send(Signal::INTERRUPT).await.expect("it listens");
    obeying.await.expect("it does not panic");
    assert_eq!(status.load(Ordering::Relaxed), 130);
}

#[tokio::test]
async fn a_real_signal_arrives() {
    let shutdown = Shutdown::new();
    shutdown.listen_to_signals().expect("handlers can be installed");
    let kill = format!("kill -TERM {}", std::process::id());
    let killed = tokio::process::Command::new("sh").args(["-c", &kill]).status().await.expect("there is a shell");
    assert!(killed.success());
    shutdown.begun().await;
    assert_eq!(shutdown.reason(), Some(&StopReason::Signal("SIGTERM")));
}

#[test]
fn the_first_reason_stands() {
    let shutdown = Shutdown::new();
    shutdown.fatal("device lost");
    shutdown.begin(StopReason::Finished);
    assert_eq!(shutdown.reason(), Some(&StopReason::Fatal("device lost".to_owned())));
}

/// A long poll that is still under way would take a released message straight back, and
/// each such round is a receive more on its way to the redrive limit.
#[tokio::test(start_paused = true)]
async fn released_messages_are_not_received_again_by_the_polls_under_way() {
    let queue = Watched::new(InProcessOptions::new("q")).not_cancel_safe();
    let Setup { queue, shutdown, source } = start(queue, 80).await;
    assert!(queue.receiving_most() > 1, "several polls are under way");
    shutdown.begin(StopReason::Signal("SIGTERM"));
    let drained = source.drain(DEADLINE).await;
    assert_eq!((drained.released, drained.torn_away), (80, 0));
    let mut left = 80;
    while left > 0 {
        for message in queue.inner.receive(BATCH_MAX, Duration::ZERO).await.expect("this queue has no faults") {
            assert_eq!(message.receive_count, 2, "once before the stop and once here");
            left -= 1;
        }
    }
}
