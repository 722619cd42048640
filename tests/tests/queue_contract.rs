//! What every queue promises, as one suite, run against the in-process queue and against
//! SQS (ministack).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use consumer::aws::{AwsOptions, create_queue_with_dead_letter, sdk_config, sqs_client};
use consumer::source::{
    Disposition, InProcessOptions, InProcessQueue, Message, Outcome, Outgoing, Parked, Queue, QueueError, Receipt,
    Redrive, Settlement, Shutdown, Source, SourceOptions, StopReason, VisibilityChange,
};
use tests::ministack::Ministack;

/// For promises about the end of a timeout. SQS counts whole seconds; two leave a slow
/// machine the time to ask before it ends.
const SHORT: Duration = Duration::from_secs(2);
/// For promises that a timeout must not interfere with.
const LONG: Duration = Duration::from_secs(10 * 60);
const RECEIVES_MAX: u32 = 2;
/// Longest wait for something that must happen; never reached by a queue that works.
const PATIENCE: Duration = Duration::from_secs(20);
const NO_WAIT: Duration = Duration::ZERO;

/// A fresh queue, and its dead-letter queue after [`RECEIVES_MAX`].
struct Pair {
    queue: Arc<dyn Queue>,
    dead_letters: Arc<dyn Queue>,
}

/// Runs every promise on fresh queues; `make` takes their visibility timeout.
async fn contract<F: Future<Output = Pair>>(make: impl Fn(Duration) -> F) {
    delivers_what_was_sent_and_forgets_what_was_deleted(make(SHORT).await).await;
    batches_hold_at_most_ten(make(LONG).await).await;
    an_undeleted_message_comes_back_and_counts_its_receives(make(SHORT).await).await;
    an_extended_message_stays_away_beyond_its_timeout(make(SHORT).await).await;
    a_released_message_is_visible_at_once(make(LONG).await).await;
    a_message_received_too_often_moves_to_the_dead_letter_queue(make(LONG).await).await;
    each_entry_has_its_own_result(make(LONG).await).await;
    a_long_poll_wakes_when_a_message_arrives(make(LONG).await).await;
    an_idle_poll_ends_empty_after_its_wait(make(LONG).await).await;
    no_message_is_delivered_to_two_receivers_at_once(make(LONG).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_in_process_queue_keeps_the_contract() {
    contract(|visibility_timeout| async move {
        let dead_letters = InProcessQueue::new(InProcessOptions::new("contract-dead"));
        let redrive = Some(Redrive { dead_letters: dead_letters.clone(), receives_max: RECEIVES_MAX });
        let options = InProcessOptions { visibility_timeout, redrive, ..InProcessOptions::new("contract") };
        Pair { queue: Arc::new(InProcessQueue::new(options)), dead_letters: Arc::new(dead_letters) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqs_keeps_the_contract() {
    let ministack = Ministack::start();
    let options = AwsOptions { region: None, endpoint_url: Some(ministack.endpoint_url()) };
    let client = sqs_client(&sdk_config(&options).await);
    let made = AtomicU32::new(0);
    contract(|visibility| {
        let (client, name) = (client.clone(), format!("contract-{}", made.fetch_add(1, Ordering::Relaxed)));
        async move {
            let created = create_queue_with_dead_letter(&client, &name, visibility, RECEIVES_MAX).await;
            let created = created.expect("a fresh engine has no such queue");
            assert_eq!(created.queue.name(), name);
            let dead_letters = created.queue.dead_letters().await.expect("the policy is readable");
            assert_eq!(dead_letters.expect("there is a policy").name(), created.dead_letters.name());
            Pair { queue: Arc::new(created.queue), dead_letters: Arc::new(created.dead_letters) }
        }
    })
    .await;
}

#[tokio::test]
async fn a_queue_that_does_not_exist_is_a_fatal_fault() {
    use consumer::fault::{Fault, Faulty};

    let ministack = Ministack::start();
    let options = AwsOptions { region: None, endpoint_url: Some(ministack.endpoint_url()) };
    let client = sqs_client(&sdk_config(&options).await);
    let url = format!("{}/000000000000/missing", ministack.endpoint_url());
    let queue = consumer::aws::SqsQueue::new(client, url, SHORT);
    let error = queue.receive(1, NO_WAIT).await.expect_err("it does not exist");
    assert!(matches!(error, QueueError::NoSuchQueue { .. }), "{error:?}");
    assert!(matches!(error.fault(), Fault::Fatal { .. }));

    drop(ministack);
    let error = queue.receive(1, NO_WAIT).await.expect_err("nobody listens any more");
    assert!(matches!(error, QueueError::Unavailable { .. }), "{error:?}");
    assert!(matches!(error.fault(), Fault::Retry { .. }));
}

/// A whole [`Source`] on SQS: some messages are deleted, some parked, some left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_on_sqs_settles_what_it_took_and_gives_back_the_rest() {
    const MESSAGES: usize = 60;
    const TAKEN: usize = 30;
    let ministack = Ministack::start();
    let options = AwsOptions { region: None, endpoint_url: Some(ministack.endpoint_url()) };
    let client = sqs_client(&sdk_config(&options).await);
    let created = create_queue_with_dead_letter(&client, "source", LONG, 5).await.expect("the engine is fresh");
    for batch in 0..MESSAGES / 10 {
        let messages: Vec<Outgoing> = (0..10).map(|n| Outgoing::new((batch * 10 + n).to_string())).collect();
        send(&created.queue, &messages).await;
    }
    let (queue, dead_letters) = (Arc::new(created.queue), Arc::new(created.dead_letters));
    let options = SourceOptions { wait: SHORT, ..SourceOptions::default() };
    let shutdown = Shutdown::new();
    let mut source = Source::start(queue.clone(), dead_letters.clone(), options, shutdown.clone());
    let mut settling = tokio::task::JoinSet::new();
    for _ in 0..TAKEN {
        let delivery = source.next().await.expect("no shutdown yet");
        let number: usize = delivery.message.body.parse().expect("bodies are numbers");
        let park = Disposition::Park { reason: "a multiple of three".to_owned(), stage: "test" };
        settling.spawn(delivery.settle(if number.is_multiple_of(3) { park } else { Disposition::Delete }));
    }
    let settled = settling.join_all().await;
    let parked = settled.iter().filter(|settlement| **settlement == Settlement::Parked).count();
    assert_eq!(parked + settled.iter().filter(|settlement| **settlement == Settlement::Deleted).count(), TAKEN);
    shutdown.begin(StopReason::Signal("SIGTERM"));
    assert!(source.next().await.is_none());
    assert!(source.drain(PATIENCE).await.is_clean());

    // With ten minutes of visibility, only a release makes the rest visible now.
    let mut rest = HashSet::new();
    while let Some(message) = receive(&*queue, 1, NO_WAIT).await.pop() {
        assert!(rest.insert(message.body), "delivered twice");
    }
    assert_eq!(rest.len(), MESSAGES - TAKEN);
    let mut dead = 0;
    while let Some(message) = receive(&*dead_letters, 1, NO_WAIT).await.pop() {
        let (description, body) = Parked::unwrap(&message.body).expect("what was parked reads back");
        assert_eq!((description.reason.as_str(), description.queue.as_str()), ("a multiple of three", "source"));
        assert!(!rest.contains(&body));
        dead += 1;
    }
    assert_eq!(dead, parked);
}

async fn delivers_what_was_sent_and_forgets_what_was_deleted(Pair { queue, .. }: Pair) {
    let mut message = Outgoing::new("{\"title\": \"Gürtel <1>\"}");
    message.attributes.insert("trace".to_owned(), "t-1".to_owned());
    let sent = send(&*queue, &[message]).await;
    let received = receive_one(&*queue).await;
    assert_eq!(received.id, sent[0]);
    assert_eq!(received.body, "{\"title\": \"Gürtel <1>\"}");
    assert_eq!(received.attributes, BTreeMap::from([("trace".to_owned(), "t-1".to_owned())]));
    assert_eq!(received.receive_count, 1);
    let age = received.sent_at.expect("the queue knows when it was sent").duration_until(jiff::Timestamp::now());
    assert!(age.as_secs().abs() < 60, "{age:?}");
    assert_eq!(delete(&*queue, &received.receipt).await, Outcome::Done);
    tokio::time::sleep(SHORT * 2).await;
    assert!(receive(&*queue, 10, NO_WAIT).await.is_empty(), "a deleted message came back");
}

async fn batches_hold_at_most_ten(Pair { queue, .. }: Pair) {
    let messages: Vec<Outgoing> = (0..11).map(|n| Outgoing::new(n.to_string())).collect();
    assert!(matches!(queue.send(&messages).await, Err(QueueError::BatchSize { .. })));
    assert!(matches!(queue.send(&[]).await, Err(QueueError::BatchSize { .. })));
    assert!(matches!(queue.receive(11, NO_WAIT).await, Err(QueueError::BatchSize { .. })));
    send(&*queue, &messages[..10]).await;
    send(&*queue, &messages[10..]).await;
    let mut bodies = HashSet::new();
    while bodies.len() < 11 {
        let batch = receive(&*queue, 10, PATIENCE).await;
        assert!((1..=10).contains(&batch.len()));
        let receipts: Vec<Receipt> = batch.iter().map(|message| message.receipt.clone()).collect();
        bodies.extend(batch.into_iter().map(|message| message.body));
        for result in queue.delete(&receipts).await.expect("the request is answered") {
            assert_eq!(result.expect("the entry is answered"), Outcome::Done);
        }
    }
    assert_eq!(bodies, (0..11).map(|n| n.to_string()).collect());
}

async fn an_undeleted_message_comes_back_and_counts_its_receives(Pair { queue, .. }: Pair) {
    send(&*queue, &[Outgoing::new("a")]).await;
    let asked_at = Instant::now();
    let first = receive_one(&*queue).await;
    let second = receive_one(&*queue).await;
    assert!(asked_at.elapsed() >= SHORT, "it came back before its timeout");
    assert_eq!((first.receive_count, second.receive_count), (1, 2));
    assert_eq!(first.id, second.id);
    assert_ne!(first.receipt, second.receipt);
    // The first receipt settles nothing any more; the second does.
    assert_eq!(delete(&*queue, &first.receipt).await, Outcome::Expired);
    assert_eq!(change(&*queue, &first.receipt, NO_WAIT).await, Outcome::Expired);
    assert_eq!(delete(&*queue, &second.receipt).await, Outcome::Done);
}

async fn an_extended_message_stays_away_beyond_its_timeout(Pair { queue, .. }: Pair) {
    send(&*queue, &[Outgoing::new("a")]).await;
    let message = receive_one(&*queue).await;
    assert_eq!(change(&*queue, &message.receipt, PATIENCE * 2).await, Outcome::Done);
    assert!(receive(&*queue, 1, SHORT * 2).await.is_empty(), "it came back although it was extended");
    assert_eq!(delete(&*queue, &message.receipt).await, Outcome::Done);
}

async fn a_released_message_is_visible_at_once(Pair { queue, .. }: Pair) {
    send(&*queue, &[Outgoing::new("a")]).await;
    let message = receive_one(&*queue).await;
    assert_eq!(change(&*queue, &message.receipt, NO_WAIT).await, Outcome::Done);
    let again = receive(&*queue, 1, NO_WAIT).await;
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].receive_count, 2);
}

async fn a_message_received_too_often_moves_to_the_dead_letter_queue(Pair { queue, dead_letters }: Pair) {
    send(&*queue, &[Outgoing::new("poison")]).await;
    for receive_count in 1..=RECEIVES_MAX {
        let message = receive_one(&*queue).await;
        assert_eq!(message.receive_count, receive_count);
        assert_eq!(change(&*queue, &message.receipt, NO_WAIT).await, Outcome::Done);
    }
    // The move happens when somebody asks for one receive more.
    assert!(receive(&*queue, 1, NO_WAIT).await.is_empty());
    let dead = receive_one(&*dead_letters).await;
    assert_eq!(dead.body, "poison");
    assert_eq!(delete(&*dead_letters, &dead.receipt).await, Outcome::Done);
}

async fn each_entry_has_its_own_result(Pair { queue, .. }: Pair) {
    send(&*queue, &[Outgoing::new("a"), Outgoing::new("b")]).await;
    let messages = [receive_one(&*queue).await, receive_one(&*queue).await];
    let nobodys = Receipt::new("nobody.s");
    let receipts = [messages[0].receipt.clone(), nobodys.clone(), messages[1].receipt.clone()];
    let hide = |receipt: &Receipt| VisibilityChange { receipt: receipt.clone(), timeout: PATIENCE };
    let changes: Vec<VisibilityChange> = receipts.iter().map(hide).collect();
    let hidden = queue.change_visibility(&changes).await.expect("one bad entry fails no request");
    assert_eq!(outcomes(hidden), [Outcome::Done, Outcome::Expired, Outcome::Done]);
    let deleted = queue.delete(&receipts).await.expect("one bad entry fails no request");
    assert_eq!(outcomes(deleted), [Outcome::Done, Outcome::Expired, Outcome::Done]);
}

async fn a_long_poll_wakes_when_a_message_arrives(Pair { queue, .. }: Pair) {
    let poller = queue.clone();
    let poll = tokio::spawn(async move {
        let began_at = Instant::now();
        (receive(&*poller, 10, PATIENCE).await, began_at.elapsed())
    });
    // The poll must be waiting when the message comes; were it not, the test would be
    // weaker but still right.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!poll.is_finished(), "an empty queue answered before its wait was over");
    send(&*queue, &[Outgoing::new("a")]).await;
    let (messages, waited) = poll.await.expect("the poll does not panic");
    assert_eq!(messages.len(), 1);
    assert!(waited < PATIENCE, "it waited out its time");
}

async fn an_idle_poll_ends_empty_after_its_wait(Pair { queue, .. }: Pair) {
    let began_at = Instant::now();
    assert!(receive(&*queue, 10, SHORT).await.is_empty());
    assert!(began_at.elapsed() >= SHORT);
}

async fn no_message_is_delivered_to_two_receivers_at_once(Pair { queue, .. }: Pair) {
    const MESSAGES: usize = 40;
    let mut polls = tokio::task::JoinSet::new();
    for batch in 0..MESSAGES / 10 {
        let messages: Vec<Outgoing> = (0..10).map(|n| Outgoing::new((batch * 10 + n).to_string())).collect();
        send(&*queue, &messages).await;
    }
    for _ in 0..4 {
        let queue = queue.clone();
        polls.spawn(async move {
            let mut bodies = Vec::new();
            loop {
                let batch = receive(&*queue, 10, NO_WAIT).await;
                if batch.is_empty() {
                    return bodies;
                }
                let receipts: Vec<Receipt> = batch.iter().map(|message| message.receipt.clone()).collect();
                bodies.extend(batch.into_iter().map(|message| message.body));
                queue.delete(&receipts).await.expect("the request is answered");
            }
        });
    }
    let bodies: Vec<String> = polls.join_all().await.into_iter().flatten().collect();
    assert_eq!(bodies.len(), MESSAGES);
    assert_eq!(bodies.into_iter().collect::<HashSet<_>>().len(), MESSAGES);
}

async fn send(queue: &dyn Queue, messages: &[Outgoing]) -> Vec<String> {
    let results = queue.send(messages).await.expect("the request is answered");
    results.into_iter().map(|result| result.expect("the message is taken")).collect()
}

async fn receive(queue: &dyn Queue, max: usize, wait: Duration) -> Vec<Message> {
    queue.receive(max, wait).await.expect("the request is answered")
}

async fn receive_one(queue: &dyn Queue) -> Message {
    let mut messages = receive(queue, 1, PATIENCE).await;
    assert_eq!(messages.len(), 1, "no message within {PATIENCE:?}");
    messages.remove(0)
}

async fn delete(queue: &dyn Queue, receipt: &Receipt) -> Outcome {
    outcomes(queue.delete(std::slice::from_ref(receipt)).await.expect("the request is answered")).remove(0)
}

async fn change(queue: &dyn Queue, receipt: &Receipt, timeout: Duration) -> Outcome {
    let change = VisibilityChange { receipt: receipt.clone(), timeout };
    outcomes(queue.change_visibility(&[change]).await.expect("the request is answered")).remove(0)
}

fn outcomes(results: Vec<Result<Outcome, QueueError>>) -> Vec<Outcome> {
    results.into_iter().map(|result| result.expect("the entry is answered")).collect()
}
