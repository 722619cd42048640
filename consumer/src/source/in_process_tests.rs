//! What the other queues' contract tests cannot see of this one.

use super::*;

const VISIBILITY: Duration = Duration::from_secs(30);

fn queue(name: &str) -> InProcessQueue {
    InProcessQueue::new(InProcessOptions { visibility_timeout: VISIBILITY, ..InProcessOptions::new(name) })
}

async fn one(queue: &InProcessQueue) -> Message {
    let mut messages = queue.receive(1, Duration::ZERO).await.expect("this queue has no faults");
    messages.pop().expect("one message is visible")
}

async fn none(queue: &InProcessQueue) -> bool {
    queue.receive(1, Duration::ZERO).await.expect("this queue has no faults").is_empty()
}

#[tokio::test(start_paused = true)]
async fn a_message_is_invisible_for_exactly_its_timeout() {
    let queue = queue("q");
    queue.send_when_room(Outgoing::new("a")).await.expect("there is room");
    assert_eq!(one(&queue).await.receive_count, 1);
    tokio::time::advance(VISIBILITY - Duration::from_millis(1)).await;
    assert!(none(&queue).await);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(one(&queue).await.receive_count, 2);
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_wakes_when_a_timeout_ends() {
    let queue = queue("q");
    queue.send_when_room(Outgoing::new("a")).await.expect("there is room");
    one(&queue).await;
    let started = Instant::now();
    let again = queue.receive(10, Duration::from_secs(60)).await.expect("this queue has no faults");
    assert_eq!(again.len(), 1);
    assert_eq!(started.elapsed(), VISIBILITY);
}

#[tokio::test(start_paused = true)]
async fn extending_moves_the_end_of_the_timeout() {
    let queue = queue("q");
    queue.send_when_room(Outgoing::new("a")).await.expect("there is room");
    let receipt = one(&queue).await.receipt;
    tokio::time::advance(VISIBILITY / 2).await;
    let extend = VisibilityChange { receipt, timeout: VISIBILITY };
    let results = queue.change_visibility(std::slice::from_ref(&extend)).await.expect("a batch of one");
    assert!(matches!(results[0], Ok(Outcome::Done)));
    tokio::time::advance(VISIBILITY - Duration::from_millis(1)).await;
    assert!(none(&queue).await);
    tokio::time::advance(Duration::from_millis(1)).await;
    let results = queue.change_visibility(&[extend]).await.expect("a batch of one");
    assert!(matches!(results[0], Ok(Outcome::Expired)), "a visible message cannot be extended");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_message_leaves_no_trace_whether_in_flight_or_visible() {
    let queue = queue("q");
    for body in ["a", "b"] {
        queue.send_when_room(Outgoing::new(body)).await.expect("there is room");
    }
    let (a, b) = (one(&queue).await, one(&queue).await);
    queue.delete(&[a.receipt]).await.expect("a batch of one");
    tokio::time::advance(VISIBILITY).await;
    assert_eq!(queue.counts(), Counts { visible: 1, in_flight: 0 });
    queue.delete(&[b.receipt]).await.expect("a batch of one");
    assert_eq!(queue.counts(), Counts { visible: 0, in_flight: 0 });
    assert!(none(&queue).await);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_and_a_waiting_send_goes_on_after_a_delete() {
    let queue = InProcessQueue::new(InProcessOptions { messages_max: 1, ..InProcessOptions::new("q") });
    queue.send_when_room(Outgoing::new("a")).await.expect("there is room");
    let refused = queue.send(&[Outgoing::new("b")]).await.expect("a batch of one").remove(0);
    assert!(matches!(refused, Err(QueueError::Full { messages_max: 1, .. })));
    let sender = queue.clone();
    let waiting = tokio::spawn(async move { sender.send_when_room(Outgoing::new("b")).await });
    let receipt = one(&queue).await.receipt;
    queue.delete(&[receipt]).await.expect("a batch of one");
    waiting.await.expect("the sender does not panic").expect("there is room now");
    assert_eq!(one(&queue).await.body, "b");
}

#[tokio::test(start_paused = true)]
async fn a_full_dead_letter_queue_loses_nothing() {
    let dead_letters = InProcessQueue::new(InProcessOptions { messages_max: 0, ..InProcessOptions::new("dead") });
    let redrive = Some(Redrive { dead_letters, receives_max: 1 });
    let queue = InProcessQueue::new(InProcessOptions { redrive, ..InProcessOptions::new("q") });
    queue.send_when_room(Outgoing::new("a")).await.expect("there is room");
    one(&queue).await;
    tokio::time::advance(VISIBILITY).await;
    assert_eq!(one(&queue).await.receive_count, 2);
}

#[tokio::test]
async fn a_message_beyond_one_mebibyte_is_refused_alone() {
    let queue = queue("q");
    let refused = queue.send(&[Outgoing::new("x".repeat(MESSAGE_BYTES_MAX + 1))]).await.expect("a batch of one");
    assert!(matches!(refused[0], Err(QueueError::TooLong { .. })));
}
