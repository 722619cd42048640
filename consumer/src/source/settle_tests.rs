//! Settlement under paused time, through a whole [`Source`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::source::in_process::{Counts, InProcessOptions};
use crate::source::intake::{Delivery, Source, SourceOptions};
use crate::source::watched::{Operation, Upset, Watched};
use crate::source::{Parked, StopReason};

const EMPTY: Counts = Counts { visible: 0, in_flight: 0 };

struct Setup {
    queue: Arc<Watched>,
    dead_letters: Arc<Watched>,
    source: Source,
}

async fn setup(messages: usize) -> Setup {
    let queue = Arc::new(Watched::new(InProcessOptions::new("q")));
    let dead_letters = Arc::new(Watched::new(InProcessOptions::new("dead")));
    queue.fill(messages).await;
    let source = Source::start(queue.clone(), dead_letters.clone(), SourceOptions::default(), Shutdown::new());
    Setup { queue, dead_letters, source }
}

impl Setup {
    async fn take(&mut self, messages: usize) -> Vec<Delivery> {
        let mut taken = Vec::new();
        while taken.len() < messages {
            taken.push(self.source.next().await.expect("no shutdown has begun"));
        }
        taken
    }

    async fn settle_all(&mut self, messages: usize, disposition: Disposition) -> Vec<Settlement> {
        let taken = self.take(messages).await;
        let settling: Vec<_> = taken.into_iter().map(|delivery| delivery.settle(disposition.clone())).collect();
        futures::future::join_all(settling).await
    }
}

fn park(reason: &str) -> Disposition {
    Disposition::Park { reason: reason.to_owned(), stage: "parse" }
}

#[tokio::test(start_paused = true)]
async fn ten_deletes_are_one_request_at_once_and_fewer_linger() {
    let mut setup = setup(13).await;
    let began_at = Instant::now();
    assert_eq!(setup.settle_all(10, Disposition::Delete).await, [Settlement::Deleted; 10]);
    assert_eq!(began_at.elapsed(), Duration::ZERO);
    assert_eq!(setup.settle_all(3, Disposition::Delete).await, [Settlement::Deleted; 3]);
    assert_eq!(began_at.elapsed(), SettleOptions::default().delete_linger);
    let entries: Vec<usize> = setup.queue.calls(Operation::Delete).iter().map(|call| call.entries).collect();
    assert_eq!(entries, [10, 3]);
    assert_eq!(setup.queue.inner.counts(), EMPTY);
}

#[tokio::test(start_paused = true)]
async fn delays_go_in_batches_too_each_with_its_own_time() {
    let mut setup = setup(12).await;
    let deliveries = setup.take(12).await;
    let settled = deliveries
        .into_iter()
        .zip(1..)
        .map(|(delivery, number)| delivery.settle(Disposition::RetryAfter(Duration::from_secs(number))));
    assert_eq!(futures::future::join_all(settled.collect::<Vec<_>>()).await, [Settlement::Delayed; 12]);
    let entries: Vec<usize> = setup.queue.calls(Operation::ChangeVisibility).iter().map(|call| call.entries).collect();
    assert_eq!(entries, [10, 2]);
    let (delayed_at, mut kept) = (Instant::now(), Vec::new());
    for number in 1..=12 {
        kept.extend(setup.take(1).await);
        let waited = delayed_at.elapsed();
        assert!(waited <= Duration::from_secs(number) && waited > Duration::from_secs(number - 1), "{waited:?}");
    }
}

/// Ten deletes would never come together where eight messages are all that there may be.
#[tokio::test(start_paused = true)]
async fn few_permits_make_small_batches_and_a_stop_ends_the_linger() {
    let queue = Arc::new(Watched::new(InProcessOptions::new("q")));
    queue.fill(9).await;
    let (options, shutdown) = (SourceOptions { permits: 8, ..SourceOptions::default() }, Shutdown::new());
    let source = Source::start(queue.clone(), queue.clone(), options, shutdown.clone());
    let mut setup = Setup { queue: queue.clone(), dead_letters: queue, source };
    let began_at = Instant::now();
    assert_eq!(setup.settle_all(8, Disposition::Delete).await, [Settlement::Deleted; 8]);
    assert_eq!(began_at.elapsed(), Duration::ZERO);
    let last = setup.take(1).await.remove(0).settle(Disposition::Delete);
    shutdown.begin(StopReason::Finished);
    assert!(setup.source.drain(Duration::from_secs(60)).await.is_clean());
    assert_eq!((last.await, began_at.elapsed()), (Settlement::Deleted, Duration::ZERO));
}

/// The next of the group can only be received once the one before it is deleted.
#[tokio::test(start_paused = true)]
async fn where_order_is_kept_a_delete_waits_for_less() {
    let options = InProcessOptions { fifo: true, ..InProcessOptions::new("q") };
    let queue = Arc::new(Watched::new(options));
    queue.fill(1).await;
    let source = Source::start(queue.clone(), queue.clone(), SourceOptions::default(), Shutdown::new());
    let mut setup = Setup { queue: queue.clone(), dead_letters: queue, source };
    let began_at = Instant::now();
    assert_eq!(setup.settle_all(1, Disposition::Delete).await, [Settlement::Deleted]);
    assert_eq!(began_at.elapsed(), SettleOptions::default().linger);
}

#[tokio::test(start_paused = true)]
async fn only_the_failed_entry_is_tried_again() {
    let mut setup = setup(5).await;
    setup.queue.once(Operation::Delete, Upset::Entry(2));
    assert_eq!(setup.settle_all(5, Disposition::Delete).await, [Settlement::Deleted; 5]);
    let calls = setup.queue.calls(Operation::Delete);
    assert_eq!(calls.iter().map(|call| call.entries).collect::<Vec<_>>(), [5, 1]);
    assert_eq!(calls[1].receipts[0], calls[0].receipts[2]);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_never_confirms_gets_a_bounded_number_of_tries_and_the_permits_come_home() {
    let mut setup = setup(2).await;
    setup.queue.always(Operation::Delete, Upset::Unavailable);
    assert_eq!(setup.settle_all(2, Disposition::Delete).await, [Settlement::Unsettled; 2]);
    assert_eq!(setup.queue.calls(Operation::Delete).len(), SettleOptions::default().tries_max as usize);
    let drained = setup.source.drain(Duration::from_secs(60)).await;
    assert!(drained.is_clean());
}

#[tokio::test(start_paused = true)]
async fn an_expired_receipt_is_told_apart_and_not_tried_again() {
    let mut setup = setup(1).await;
    let delivery = setup.take(1).await.remove(0);
    setup.queue.inner.delete(std::slice::from_ref(&delivery.message.receipt)).await.expect("a batch of one");
    assert_eq!(delivery.settle(Disposition::Delete).await, Settlement::Expired);
    assert_eq!(setup.queue.calls(Operation::Delete).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_delay_hides_the_message_for_its_time_and_a_release_for_none() {
    let mut setup = setup(2).await;
    let [first, second] = <[Delivery; 2]>::try_from(setup.take(2).await).expect("two were taken");
    let delay = Duration::from_secs(200);
    assert_eq!(first.settle(Disposition::RetryAfter(delay)).await, Settlement::Delayed);
    let delayed_at = Instant::now();
    assert_eq!(second.settle(Disposition::Release).await, Settlement::Released);
    let released = setup.take(1).await.remove(0);
    assert_eq!((released.message.body.as_str(), released.message.receive_count), ("1", 2));
    let delayed = setup.take(1).await.remove(0);
    assert_eq!((delayed.message.body.as_str(), delayed.message.receive_count), ("0", 2));
    assert_eq!(delayed_at.elapsed(), delay);
}

#[tokio::test(start_paused = true)]
async fn poison_is_parked_with_its_reason_before_it_is_deleted() {
    let mut setup = setup(3).await;
    assert_eq!(setup.settle_all(3, park("no title")).await, [Settlement::Parked; 3]);
    assert_eq!(setup.queue.inner.counts(), EMPTY);
    let sends = setup.dead_letters.calls(Operation::Send);
    let deletes = setup.queue.calls(Operation::Delete);
    assert_eq!((sends.len(), sends[0].entries), (1, 3));
    assert!(deletes.iter().all(|delete| delete.began_at >= sends[0].ended_at));
    let parked = setup.dead_letters.inner.receive(10, Duration::ZERO).await.expect("this queue has no faults");
    for (number, message) in parked.iter().enumerate() {
        let (description, body) = Parked::unwrap(&message.body).expect("what was parked reads back");
        assert_eq!(body, number.to_string());
        assert_eq!((description.reason.as_str(), description.stage.as_str()), ("no title", "parse"));
        assert_eq!((description.queue.as_str(), description.receive_count), ("q", 1));
    }
    assert_eq!(parked.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn poison_that_cannot_be_parked_is_kept() {
    let mut setup = setup(2).await;
    setup.dead_letters.once(Operation::Send, Upset::Entry(0));
    setup.dead_letters.always(Operation::Send, Upset::Unavailable);
    let settlements = setup.settle_all(2, park("no title")).await;
    assert_eq!(settlements, [Settlement::Delayed, Settlement::Parked]);
    assert_eq!(setup.queue.calls(Operation::Delete).iter().map(|call| call.entries).sum::<usize>(), 1);
    let Counts { visible, in_flight } = setup.queue.inner.counts();
    assert_eq!(visible + in_flight, 1, "the message that did not arrive is still here");
}

#[tokio::test(start_paused = true)]
async fn parked_messages_too_large_for_one_request_go_in_several() {
    let queue = Arc::new(Watched::new(InProcessOptions::new("q")));
    let dead_letters = Arc::new(Watched::new(InProcessOptions::new("dead")));
    for _ in 0..3 {
        let body = "x".repeat(500_000);
        queue.inner.send_when_room(crate::source::Outgoing::new(body)).await.expect("it is short enough");
    }
    let source = Source::start(queue.clone(), dead_letters.clone(), SourceOptions::default(), Shutdown::new());
    let mut setup = Setup { queue, dead_letters, source };
    assert_eq!(setup.settle_all(3, park("too long")).await, [Settlement::Parked; 3]);
    let entries: Vec<usize> = setup.dead_letters.calls(Operation::Send).iter().map(|call| call.entries).collect();
    assert_eq!(entries, [2, 1]);
}

#[tokio::test(start_paused = true)]
async fn no_extension_is_under_way_when_a_delete_or_delay_begins() {
    let mut setup = setup(20).await;
    setup.queue.always(Operation::ChangeVisibility, Upset::Slow(Duration::from_secs(3)));
    let taken = setup.take(20).await;
    // Leases are extended after 10 s; the settlements fall into the extension.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let settling: Vec<_> = taken.into_iter().map(|delivery| delivery.settle(Disposition::Delete)).collect();
    assert_eq!(futures::future::join_all(settling).await, [Settlement::Deleted; 20]);
    let extensions = setup.queue.calls(Operation::ChangeVisibility);
    let deletes = setup.queue.calls(Operation::Delete);
    assert!(!extensions.is_empty() && !deletes.is_empty());
    for delete in deletes {
        for extension in extensions.iter().filter(|call| call.receipts.iter().any(|r| delete.receipts.contains(r))) {
            assert!(extension.ended_at <= delete.began_at);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivery_dropped_by_a_panic_is_delayed_and_its_permit_comes_home() {
    let mut setup = setup(1).await;
    let delivery = setup.take(1).await.remove(0);
    let panicked = tokio::spawn(async move {
        let _delivery = delivery;
        panic!("as the test asked");
    });
    assert!(panicked.await.is_err());
    let again = setup.take(1).await.remove(0);
    assert_eq!(again.message.receive_count, 2);
    // Its visibility timeout would have been 30 s.
    assert_eq!(setup.queue.calls(Operation::ChangeVisibility).len(), 1);
    assert_eq!(again.settle(Disposition::Delete).await, Settlement::Deleted);
    assert!(setup.source.drain(Duration::from_secs(1)).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_fatal_fault_at_settlement_stops_intake() {
    let mut setup = setup(1).await;
    setup.queue.always(Operation::Delete, Upset::NoSuchQueue);
    assert_eq!(setup.settle_all(1, Disposition::Delete).await, [Settlement::Unsettled]);
    assert!(setup.source.next().await.is_none());
}

#[test]
fn faults_become_dispositions() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut of = |fault| Disposition::of(fault, "plan", 1, &mut rng);
    let Disposition::RetryAfter(delay) = of(Fault::Retry { after: None }) else { panic!("a retry is delayed") };
    assert!(delay <= Duration::from_secs(2));
    let after = Some(Duration::from_secs(77));
    assert_eq!(of(Fault::Retry { after }), Disposition::RetryAfter(Duration::from_secs(77)));
    let reason = "bad".to_owned();
    assert_eq!(
        of(Fault::Poison { reason: reason.clone() }),
        Disposition::Park { reason: reason.clone(), stage: "plan" }
    );
    assert_eq!(of(Fault::Fatal { reason }), Disposition::Release);
}
