//! What FIFO queues promise, run against the in-process queue and against SQS (ministack):
//! the order of a message group is kept, and a failing message holds its own group only.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consumer::aws::{AwsOptions, create_queue_with_dead_letter, sdk_config, sqs_client};
use consumer::source::{
    Delivery, Disposition, InProcessOptions, InProcessQueue, Message, Outgoing, Parked, Queue, Receipt, Redrive,
    Settlement, Shutdown, Source, SourceOptions, VisibilityChange,
};
use tests::ministack::Ministack;

const VISIBILITY: Duration = Duration::from_secs(10 * 60);
/// More than any message here can be received.
const RECEIVES_MAX: u32 = 1_000;
/// Longest wait for something that must happen; never reached by a queue that works.
const PATIENCE: Duration = Duration::from_secs(60);
const GROUPS: usize = 3;
const MESSAGES: usize = 5;

struct Pair {
    queue: Arc<dyn Queue>,
    dead_letters: Arc<dyn Queue>,
}

fn in_process() -> Pair {
    let fifo = |name| InProcessOptions { fifo: true, visibility_timeout: VISIBILITY, ..InProcessOptions::new(name) };
    let dead_letters = InProcessQueue::new(fifo("order-dead"));
    let redrive = Some(Redrive { dead_letters: dead_letters.clone(), receives_max: RECEIVES_MAX });
    let queue = InProcessQueue::new(InProcessOptions { redrive, ..fifo("order") });
    Pair { queue: Arc::new(queue), dead_letters: Arc::new(dead_letters) }
}

async fn sqs(ministack: &Ministack) -> Pair {
    let options = AwsOptions { region: None, endpoint_url: Some(ministack.endpoint_url()) };
    let client = sqs_client(&sdk_config(&options).await);
    let created = create_queue_with_dead_letter(&client, "order.fifo", VISIBILITY, RECEIVES_MAX).await;
    let created = created.expect("a fresh engine has no such queue");
    Pair { queue: Arc::new(created.queue), dead_letters: Arc::new(created.dead_letters) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_in_process_queue_holds_a_group_while_some_of_it_is_in_flight() {
    holds_a_group_while_some_of_it_is_in_flight(in_process()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqs_holds_a_group_while_some_of_it_is_in_flight() {
    let ministack = Ministack::start();
    holds_a_group_while_some_of_it_is_in_flight(sqs(&ministack).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_message_holds_its_group_only_in_process() {
    a_failing_message_holds_its_group_only(in_process()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_message_holds_its_group_only_on_sqs() {
    let ministack = Ministack::start();
    a_failing_message_holds_its_group_only(sqs(&ministack).await).await;
}

async fn holds_a_group_while_some_of_it_is_in_flight(Pair { queue, .. }: Pair) {
    send(&*queue, &[("a", "a0"), ("b", "b0"), ("a", "a1"), ("a", "a2")]).await;
    let all = receive(&*queue).await;
    assert_eq!(bodies_of(&all, "a"), ["a0", "a1", "a2"]);
    assert_eq!(bodies_of(&all, "b"), ["b0"]);
    let receipt = |body: &str| all.iter().find(|m| m.body == body).expect("it was received").receipt.clone();

    release(&*queue, receipt("a0")).await;
    send(&*queue, &[("b", "b1")]).await;
    assert!(receive(&*queue).await.is_empty(), "a group with messages in flight gave one");
    delete(&*queue, receipt("b0")).await;
    assert_eq!(bodies_of(&receive(&*queue).await, "b"), ["b1"]);

    // Given back in the wrong order; it is received in the order in which it was sent.
    release(&*queue, receipt("a2")).await;
    release(&*queue, receipt("a1")).await;
    assert_eq!(bodies_of(&receive(&*queue).await, "a"), ["a0", "a1", "a2"]);
}

/// The second message of group 0 fails for as long as another group has anything left: if
/// it held them, this would never end. The third of group 1 is parked, which frees its
/// group.
async fn a_failing_message_holds_its_group_only(Pair { queue, dead_letters }: Pair) {
    for number in 0..MESSAGES {
        let names: Vec<(String, String)> = (0..GROUPS).map(|g| (g.to_string(), format!("{g}-{number}"))).collect();
        let messages: Vec<(&str, &str)> = names.iter().map(|(group, body)| (group.as_str(), body.as_str())).collect();
        send(&*queue, &messages).await;
    }
    let options = SourceOptions { wait: Duration::from_secs(1), ..SourceOptions::default() };
    let mut source = Source::start(queue, dead_letters.clone(), options, Shutdown::new());
    let done: Arc<Mutex<Vec<String>>> = Arc::default();
    let consumed = tokio::time::timeout(PATIENCE, async {
        let mut working = tokio::task::JoinSet::new();
        while done.lock().expect("no task panics with it").len() < GROUPS * MESSAGES {
            tokio::select! {
                delivery = source.next() => {
                    working.spawn(consume(delivery.expect("no shutdown"), done.clone()));
                }
                Some(ended) = working.join_next() => ended.expect("no task panics"),
            }
        }
    });
    consumed.await.expect("a failing message held more than its group");
    assert!(source.drain(PATIENCE).await.is_clean());

    let mut by_group: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for body in done.lock().expect("no task panics with it").iter() {
        by_group.entry(body[..1].to_owned()).or_default().push(body.clone());
    }
    for (group, bodies) in by_group {
        let sent: Vec<String> = (0..MESSAGES).map(|number| format!("{group}-{number}")).collect();
        assert_eq!(bodies, sent, "the order of group {group}");
    }
    let parked = receive(&*dead_letters).await;
    let originals: HashSet<String> = parked.iter().map(|m| Parked::unwrap(&m.body).expect("it reads back").1).collect();
    assert_eq!(originals, HashSet::from(["1-2".to_owned()]));
}

async fn consume(mut delivery: Delivery, done: Arc<Mutex<Vec<String>>>) {
    if !delivery.comes_next().await {
        delivery.settle(Disposition::Release).await;
        return;
    }
    let body = delivery.message.body.clone();
    let others_done = || done.lock().expect("no task panics with it").iter().filter(|b| !b.starts_with("0-")).count();
    let disposition = match body.as_str() {
        "0-1" if others_done() < (GROUPS - 1) * MESSAGES => Disposition::RetryAfter(Duration::from_secs(1)),
        "1-2" => Disposition::Park { reason: "as the test asks".to_owned(), stage: "test" },
        _ => Disposition::Delete,
    };
    // In the list before the next of its group can begin.
    if !matches!(disposition, Disposition::RetryAfter(_)) {
        done.lock().expect("no task panics with it").push(body);
    }
    let settled = delivery.settle(disposition).await;
    assert!(matches!(settled, Settlement::Deleted | Settlement::Parked | Settlement::Delayed), "{settled}");
}

async fn send(queue: &dyn Queue, messages: &[(&str, &str)]) {
    let messages: Vec<Outgoing> = messages.iter().map(|(group, body)| Outgoing::in_group(*body, *group)).collect();
    for result in queue.send(&messages).await.expect("the request is answered") {
        result.expect("the message is taken");
    }
}

async fn receive(queue: &dyn Queue) -> Vec<Message> {
    queue.receive(10, Duration::ZERO).await.expect("the request is answered")
}

async fn delete(queue: &dyn Queue, receipt: Receipt) {
    let results = queue.delete(&[receipt]).await.expect("the request is answered");
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

async fn release(queue: &dyn Queue, receipt: Receipt) {
    let change = VisibilityChange { receipt, timeout: Duration::ZERO };
    let results = queue.change_visibility(&[change]).await.expect("the request is answered");
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

fn bodies_of<'a>(messages: &'a [Message], group: &str) -> Vec<&'a str> {
    let of_group = messages.iter().filter(|message| message.group.as_deref() == Some(group));
    of_group.map(|message| message.body.as_str()).collect()
}
