//! Faults between the worker and real engines: the SDKs through a proxy that throttles,
//! fails, resets, hangs and dawdles, in front of SQS (ministack) and DynamoDB (dynoxide).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consumer::aws::{AwsOptions, SqsQueue, create_queue_with_dead_letter, dynamo, sdk_config, sqs_client};
use consumer::source::{Brake, Disposition, Outgoing, Parked, Queue, Settlement, Shutdown, Source, SourceOptions};
use consumer::store::{Embedded, Store};
use metrics_exporter_prometheus::PrometheusBuilder;
use tests::faulty_queue::{self, FaultyQueue, Operation};
use tests::fleet::{TextModel, pipeline};
use tests::history::History;
use tests::ministack::Ministack;
use tests::page;
use tests::proxy::{Call, Proxy, Upset};
use tests::stage::counts;
use tests::trial::{assert_foretold, assert_only_poison, run_until_empty};

const MESSAGES: usize = 150;
const VISIBILITY: Duration = Duration::from_secs(3);
/// More than any fault here uses up.
const RECEIVES_MAX: u32 = 100;
/// As the worker's, but for attempts that hang: those are given up sooner.
const LIMITS: fn() -> dynamo::Limits =
    || dynamo::Limits { attempt: Duration::from_secs(1), operation: Duration::from_secs(15), ..Default::default() };

/// What a history met on its way.
struct Passed {
    proxy: Proxy,
    throttles: usize,
    parked_twice: usize,
}

/// What meets the requests to the queue before they are on the wire.
type Plan = fn(Operation, usize) -> Option<faulty_queue::Upset>;

/// Runs a history whose requests meet what `upset` says, and checks what it ends in.
async fn passes(seed: u64, upset: fn(Call<'_>) -> Option<Upset>) -> Passed {
    passes_with(seed, upset, |_, _| None).await
}

/// The same with a queue that follows `plan`. On a single thread, so that the metrics are
/// this test's own.
async fn passes_with(seed: u64, upset: fn(Call<'_>) -> Option<Upset>, plan: Plan) -> Passed {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let (sqs, tables) = (Ministack::start(), Embedded::memory().expect("memory needs nothing"));
    let history = History::new(seed, MESSAGES);
    let direct = AwsOptions { region: None, endpoint_url: Some(sqs.endpoint_url()) };
    let direct = sqs_client(&sdk_config(&direct).await);
    let created = create_queue_with_dead_letter(&direct, "q", VISIBILITY, RECEIVES_MAX).await;
    let created = created.expect("the engine is fresh");
    for batch in history.bodies.chunks(10) {
        let messages: Vec<Outgoing> = batch.iter().map(Outgoing::new).collect();
        assert!(created.queue.send(&messages).await.expect("it answers").iter().all(Result::is_ok));
    }
    let proven = tables.store("w-");
    proven.create_tables().await.expect("creates");

    let proxy = Proxy::start(&sqs.endpoint_url(), tables.endpoint_url(), upset).await;
    let options = AwsOptions { region: None, endpoint_url: Some(proxy.url().to_owned()) };
    let sdk = sdk_config(&options).await;
    let through = |url: &str| SqsQueue::new(sqs_client(&sdk), url, VISIBILITY);
    let queue = FaultyQueue::new(through(created.queue.url()), plan);
    let dead_letters = through(created.dead_letters.url());
    let (brake, throttles) = (Brake::default(), Arc::new(AtomicUsize::new(0)));
    let (pressed, count) = (brake.clone(), throttles.clone());
    let client = dynamo::watched_client(&sdk, &LIMITS(), move || {
        count.fetch_add(1, Ordering::Relaxed);
        pressed.press(Duration::from_millis(200));
    });
    let model = TextModel::new("foretold");
    let options = SourceOptions { permits: 40, wait: Duration::from_secs(1), brake, ..SourceOptions::default() };
    let url = created.queue.url().to_owned();
    let is_empty = async || counts(&direct, &url).await == (0, 0);
    let pipeline = pipeline(Store::new(client, "w-"), &model);
    run_until_empty(pipeline, Arc::new(queue), Arc::new(dead_letters), options, is_empty).await;

    page::assert_at_zero(&recorder.handle().render());
    assert_foretold(&proven, &model, &history).await;
    let parked_twice = assert_only_poison(&created.dead_letters, &history).await;
    let throttles = throttles.load(Ordering::Relaxed);
    Passed { proxy, throttles, parked_twice }
}

/// True for one in so many requests of each operation, beginning with the second.
fn one_in(every: usize, call: Call<'_>) -> bool {
    call.number % every == 1
}

#[tokio::test]
async fn throttles_press_the_brake() {
    let passed = passes(21, |call| {
        let code = if is_table(call) { "ProvisionedThroughputExceededException" } else { "RequestThrottled" };
        one_in(6, call).then_some(Upset::Refuse(400, code))
    })
    .await;
    assert!(passed.throttles > 10, "{} throttles reached the brake", passed.throttles);
    assert_eq!(passed.parked_twice, 0);
}

#[tokio::test]
async fn failures_on_the_engines_side() {
    let passed = passes(22, |call| one_in(6, call).then_some(Upset::Refuse(500, "InternalServerError"))).await;
    assert_eq!((passed.throttles, passed.parked_twice), (0, 0));
}

#[tokio::test]
async fn connections_reset_before_the_request() {
    let passed = passes(23, |call| one_in(6, call).then_some(Upset::Reset)).await;
    assert_eq!(passed.parked_twice, 0);
}

/// What was carried out is asked for again, by the SDK and by the next delivery.
#[tokio::test]
async fn answers_lost_and_answers_cut_off() {
    passes(24, |call| match call.number % 12 {
        3 => Some(Upset::LoseAnswer),
        9 => Some(Upset::CutAnswer),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn requests_that_hang_and_requests_that_are_slow() {
    passes(25, |call| match call.number {
        2 => Some(Upset::Hang),
        number if number % 5 == 4 => Some(Upset::Slow(Duration::from_millis(250))),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn batches_done_in_part() {
    let passed = passes(26, |call| (call.number % 2 == 0).then_some(Upset::LeaveOut)).await;
    assert!(passed.throttles > 0, "unprocessed items are DynamoDB's throttle of a batch");
    assert_eq!(passed.parked_twice, 0);
    assert!(passed.proxy.requests("DeleteMessageBatch") > 0 && passed.proxy.requests("BatchWriteItem") > 0);
}

/// What the local engine never does by itself: it delivers twice and out of order, and
/// takes receipts for expired that stand.
#[tokio::test]
async fn duplicates_disorder_and_receipts_that_expire_on_sqs() {
    let nothing = |_: Call<'_>| None;
    let passed = passes_with(27, nothing, |operation, number| match operation {
        Operation::Receive if number % 2 == 0 => Some(faulty_queue::Upset::Repeat),
        Operation::Delete | Operation::ChangeVisibility if number % 4 == 1 => Some(faulty_queue::Upset::Expire),
        _ => None,
    })
    .await;
    assert!(passed.proxy.requests("ReceiveMessage") > 0 && passed.proxy.requests("DeleteMessageBatch") > 1);
}

/// SQS's own engine; the order of requests is that of the wire.
#[tokio::test]
async fn a_message_is_deleted_after_its_parking_is_confirmed_and_keeps_its_attributes() {
    let sqs = Ministack::start();
    let direct = AwsOptions { region: None, endpoint_url: Some(sqs.endpoint_url()) };
    let direct = sqs_client(&sdk_config(&direct).await);
    let created = create_queue_with_dead_letter(&direct, "q", VISIBILITY, RECEIVES_MAX).await;
    let created = created.expect("the engine is fresh");
    let attributes = BTreeMap::from([("tenant", "shop"), ("trace", "t-1")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    let sent = Outgoing { attributes: attributes.clone(), ..Outgoing::new("poison") };
    assert!(created.queue.send(&[sent]).await.expect("it answers").iter().all(Result::is_ok));

    let order: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = order.clone();
    let engine = sqs.endpoint_url();
    let proxy = Proxy::start(&engine, &engine, move |call| {
        seen.lock().expect("nobody panics with it").push(call.operation.to_owned());
        let refused = call.operation == "SendMessageBatch" && call.number < 2;
        refused.then_some(Upset::Refuse(500, "InternalServerError"))
    });
    let proxy = proxy.await;
    let through = AwsOptions { region: None, endpoint_url: Some(proxy.url().to_owned()) };
    let client = sqs_client(&sdk_config(&through).await);
    let queue = |url: &str| Arc::new(SqsQueue::new(client.clone(), url, VISIBILITY));
    let options = SourceOptions { wait: Duration::from_secs(1), ..SourceOptions::default() };
    let (from, to) = (queue(created.queue.url()), queue(created.dead_letters.url()));
    let mut source = Source::start(from, to, options, Shutdown::new());
    let delivery = source.next().await.expect("no shutdown yet");
    let park = Disposition::Park { reason: "as the test asked".to_owned(), stage: "parse" };
    assert_eq!(delivery.settle(park).await, Settlement::Parked);
    assert!(source.drain(VISIBILITY).await.is_clean());

    let order = order.lock().expect("nobody panics with it").clone();
    let place = |operation: &str| order.iter().rposition(|seen| seen == operation).expect("it was asked");
    assert_eq!((proxy.requests("SendMessageBatch"), proxy.requests("DeleteMessageBatch")), (3, 1));
    assert!(place("SendMessageBatch") < place("DeleteMessageBatch"), "{order:?}");
    let parked = created.dead_letters.receive(10, Duration::from_secs(1)).await.expect("it answers");
    let [parked] = &parked[..] else { panic!("one was parked, not {parked:?}") };
    let (description, body) = Parked::unwrap(&parked.body).expect("what was parked reads back");
    assert_eq!((description.attributes, body.as_str()), (attributes, "poison"));
    let (reason, stage, build) = (description.reason, description.stage, description.build);
    assert_eq!(
        (reason.as_str(), stage.as_str(), build.as_str()),
        ("as the test asked", "parse", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(counts(&direct, created.queue.url()).await, (0, 0));
}

fn is_table(call: Call<'_>) -> bool {
    !call.operation.contains("Message")
}
