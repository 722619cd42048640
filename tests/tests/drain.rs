//! Promise 8 with the worker as a process of its own: notices of the machine's end, and a
//! second signal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consumer::aws::{AwsOptions, CreatedQueue, create_queue_with_dead_letter, sdk_config, sqs_client};
use consumer::source::{Outgoing, Parked, Queue};
use consumer::store::Embedded;
use tests::history::History;
use tests::http_server::{Reply, Request, Response, Server};
use tests::ministack::Ministack;
use tests::proxy::{Proxy, Upset};
use tests::stage::counts;
use tests::worker::{Launch, Worker, WorkerTarget};

/// Far longer than a test takes: what waited it out would be seen as in flight.
const VISIBILITY: Duration = Duration::from_secs(600);
const MESSAGES: usize = 40;
const HOOK: &str = "drain";

/// Engines, a backlog, and a machine that knows about its end.
struct Machine {
    sqs: Ministack,
    tables: Embedded,
    direct: aws_sdk_sqs::Client,
    created: CreatedQueue,
    metadata: Server,
    notice: Arc<Notice>,
}

/// What instance metadata says.
#[derive(Default)]
struct Notice {
    spot: AtomicBool,
    scale_in: AtomicBool,
}

impl Machine {
    async fn new() -> Self {
        let (sqs, tables) = (Ministack::start(), Embedded::memory().expect("memory needs nothing"));
        let direct = AwsOptions { region: None, endpoint_url: Some(sqs.endpoint_url()) };
        let direct = sqs_client(&sdk_config(&direct).await);
        let created = create_queue_with_dead_letter(&direct, "q", VISIBILITY, 5).await.expect("the engine is fresh");
        for batch in History::new(41, MESSAGES).bodies.chunks(10) {
            let messages: Vec<Outgoing> = batch.iter().map(Outgoing::new).collect();
            assert!(created.queue.send(&messages).await.expect("it answers").iter().all(Result::is_ok));
        }
        let notice = Arc::new(Notice::default());
        let told = notice.clone();
        let metadata = Server::start(move |request| {
            let reply = Reply::Answer(metadata(&request, &told));
            async move { reply }
        });
        Self { sqs, tables, direct, created, metadata: metadata.await, notice }
    }

    async fn launch(&self, endpoint_url: &str, more: &[&str]) -> Worker {
        let target = WorkerTarget {
            endpoint_url: endpoint_url.to_owned(),
            catalog_queue_url: self.created.queue.url().to_owned(),
            dead_letter_queue_url: self.created.dead_letters.url().to_owned(),
            table_prefix: "d-".to_owned(),
        };
        let arguments = [&["--lease", "600s", "--instance-metadata-url", self.metadata.url()], more].concat();
        let launch = Launch { program: "foretold-worker", arguments: &arguments, ..Launch::default() };
        Worker::launch(&target, launch).await
    }

    /// Both engines behind a proxy; what happens to each look-up of postings.
    async fn proxy(&self, look_up: Upset) -> Proxy {
        let upset = move |call: tests::proxy::Call<'_>| (call.operation == "Query").then_some(look_up);
        Proxy::start(&self.sqs.endpoint_url(), self.tables.endpoint_url(), upset).await
    }

    async fn counts(&self) -> (u64, u64) {
        counts(&self.direct, self.created.queue.url()).await
    }

    /// Returns once the worker has messages.
    async fn taken(&self) {
        while self.counts().await.1 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Version 2 of the metadata service: a token first, then paths that want it.
fn metadata(request: &Request, notice: &Notice) -> Response {
    const TOKEN: &str = "the-token";
    if request.method == "PUT" && request.path == "/latest/api/token" {
        let lifetime = ("x-aws-ec2-metadata-token-ttl-seconds".to_owned(), "21600".to_owned());
        return Response { headers: vec![lifetime], ..Response::new(200, TOKEN) };
    }
    if request.header("x-aws-ec2-metadata-token") != Some(TOKEN) {
        return Response::new(401, "");
    }
    match request.path.as_str() {
        "/latest/meta-data/instance-id" => Response::new(200, "i-0123456789abcdef0"),
        "/latest/meta-data/spot/instance-action" if notice.spot.load(Ordering::SeqCst) => {
            Response::new(200, r#"{"action": "terminate", "time": "2026-11-24T12:00:00Z"}"#)
        }
        "/latest/meta-data/autoscaling/target-lifecycle-state" => {
            let ends = notice.scale_in.load(Ordering::SeqCst);
            Response::new(200, if ends { "Terminated" } else { "InService" })
        }
        _ => Response::new(404, "Not Found"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spot_notice_drains_the_worker() {
    let machine = Machine::new().await;
    let proxy = machine.proxy(Upset::Slow(Duration::from_millis(300))).await;
    let worker = machine.launch(proxy.url(), &["--concurrency", "4"]).await;
    machine.taken().await;
    machine.notice.spot.store(true, Ordering::SeqCst);
    assert!(worker.ended().await.success());
    let (_, in_flight) = machine.counts().await;
    assert_eq!(in_flight, 0, "nothing is left to wait out ten minutes");
}

/// Auto Scaling's API, which is in a query protocol, and what it was asked.
#[derive(Default)]
struct AutoScaling {
    asked: Mutex<Vec<String>>,
}

impl AutoScaling {
    fn answer(&self, request: &Request) -> Response {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let member = "<member><AutoScalingGroupName>fleet</AutoScalingGroupName></member>";
        let answer = if body.contains("Action=DescribeAutoScalingInstances") {
            format!(
                "<DescribeAutoScalingInstancesResponse><DescribeAutoScalingInstancesResult><AutoScalingInstances>\
                 {member}</AutoScalingInstances></DescribeAutoScalingInstancesResult>\
                 </DescribeAutoScalingInstancesResponse>"
            )
        } else {
            "<CompleteLifecycleActionResponse><CompleteLifecycleActionResult/></CompleteLifecycleActionResponse>"
                .to_owned()
        };
        self.asked.lock().expect("nobody panics with it").push(body);
        Response { headers: vec![("content-type".to_owned(), "text/xml".to_owned())], ..Response::new(200, answer) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scale_in_is_let_go_on_once_the_worker_is_drained() {
    let machine = Machine::new().await;
    let autoscaling = Arc::new(AutoScaling::default());
    let proxy = machine.proxy(Upset::Slow(Duration::from_millis(300))).await;
    let (asked, engines) = (autoscaling.clone(), proxy.url().to_owned());
    let all = Server::start(move |request| {
        let (asked, engines) = (asked.clone(), engines.clone());
        async move {
            if request.target().is_none() {
                return Reply::Answer(asked.answer(&request));
            }
            tests::http_server::send(&engines, &request).await.map_or(Reply::Reset, Reply::Answer)
        }
    });
    let all = all.await;
    let worker = machine.launch(all.url(), &["--lifecycle-hook", HOOK]).await;
    machine.taken().await;
    assert!(autoscaling.asked.lock().expect("nobody panics with it").is_empty(), "nothing has ended yet");
    machine.notice.scale_in.store(true, Ordering::SeqCst);
    assert!(worker.ended().await.success());
    assert_eq!(machine.counts().await.1, 0, "nothing is left to wait out ten minutes");
    let asked = autoscaling.asked.lock().expect("nobody panics with it");
    let [described, completed] = &asked[..] else { panic!("two requests, not {asked:?}") };
    assert!(described.contains("i-0123456789abcdef0"), "{described}");
    for part in ["Action=CompleteLifecycleAction", "AutoScalingGroupName=fleet", "LifecycleHookName=drain", "CONTINUE"]
    {
        assert!(completed.contains(part), "{part} is missing in {completed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once() {
    let machine = Machine::new().await;
    let proxy = machine.proxy(Upset::Hang).await;
    // The work hangs for longer than the test waits.
    let worker = machine.launch(proxy.url(), &["--drain", "1h"]).await;
    machine.taken().await;
    worker.signal("TERM").await;
    worker.stopping().await;
    worker.signal("INT").await;
    let status = worker.ended().await;
    assert_eq!(status.code(), Some(128 + 2), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_drains_the_worker() {
    let machine = Machine::new().await;
    let proxy = machine.proxy(Upset::Slow(Duration::from_millis(300))).await;
    let worker = machine.launch(proxy.url(), &["--concurrency", "4"]).await;
    machine.taken().await;
    worker.signal("INT").await;
    assert!(worker.ended().await.success());
    assert_eq!(machine.counts().await.1, 0, "nothing is left to wait out ten minutes");
}

/// The tables deny access from some moment on: every event would fail, and with enough
/// receives all of them would be dead letters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fatal_fault_ends_the_worker_and_leaves_its_messages_where_they_are() {
    let machine = Machine::new().await;
    let denied = Arc::new(AtomicBool::new(false));
    let is_denied = denied.clone();
    let upset = move |call: tests::proxy::Call<'_>| match call.operation {
        "Query" if is_denied.load(Ordering::SeqCst) => Some(Upset::Refuse(400, "AccessDeniedException")),
        "Query" => Some(Upset::Slow(Duration::from_millis(300))),
        _ => None,
    };
    let proxy = Proxy::start(&machine.sqs.endpoint_url(), machine.tables.endpoint_url(), upset).await;
    let worker = machine.launch(proxy.url(), &["--concurrency", "1"]).await;
    machine.taken().await;
    denied.store(true, Ordering::SeqCst);
    let status = worker.ended().await;
    assert_eq!(status.code(), Some(1), "{status}");
    let (visible, in_flight) = machine.counts().await;
    assert!(visible > 0 && in_flight == 0, "{visible} visible, {in_flight} in flight");
    let parked = machine.created.dead_letters.receive(10, Duration::from_secs(1)).await.expect("it answers");
    for message in parked {
        let (parked, _) = Parked::unwrap(&message.body).expect("what was parked reads back");
        assert_eq!(parked.stage, "parse", "only what nobody can read is parked: {}", parked.reason);
    }
}
