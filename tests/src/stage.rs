//! One engine, one worker and one reader, ready for events.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use consumer::aws::{AwsOptions, sdk_config};
use reader::{LabelReader, Options};
use serde_json::Value;

use crate::ministack::Ministack;
use crate::worker::{Launch, Worker, WorkerTarget, binary};

/// Longest wait for any condition; far more than a slow machine needs.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Stage {
    pub sqs: aws_sdk_sqs::Client,
    pub reader: LabelReader,
    pub target: WorkerTarget,
    worker: Option<Worker>,
    _engine: Ministack,
}

impl Stage {
    /// An engine with a queue, its dead-letter queue and a worker on them.
    pub async fn start(worker_arguments: &[&str]) -> Self {
        Self::on(Ministack::start(), worker_arguments).await
    }

    /// The same on an engine that has something already.
    pub async fn on(engine: Ministack, worker_arguments: &[&str]) -> Self {
        Self::launch(engine, Launch { arguments: worker_arguments, ..Launch::default() }).await
    }

    /// The same with a worker of any kind.
    pub async fn launch(engine: Ministack, launch: Launch<'_>) -> Self {
        let endpoint_url = engine.endpoint_url();
        let options = AwsOptions { region: Some("us-east-1".to_owned()), endpoint_url: Some(endpoint_url.clone()) };
        let config = sdk_config(&options).await;
        let sqs = aws_sdk_sqs::Client::new(&config);
        let dead_letter_queue_url = create_queue(&sqs, "catalog-dead", None).await;
        let catalog_queue_url = create_queue(&sqs, "catalog", Some(&dead_letter_queue_url)).await;
        let table_prefix = "e2e-".to_owned();
        let target = WorkerTarget { endpoint_url, catalog_queue_url, dead_letter_queue_url, table_prefix };
        let worker = Worker::launch(&target, launch).await;
        let options = Options { deadline: PATIENCE, consistent: true, ..Options::default() };
        let reader = LabelReader::new(aws_sdk_dynamodb::Client::new(&config), &target.table_prefix, options);
        Self { sqs, reader, target, worker: Some(worker), _engine: engine }
    }

    pub async fn send(&self, bodies: impl IntoIterator<Item = String>) {
        for body in bodies {
            let request = self.sqs.send_message().queue_url(&self.target.catalog_queue_url).message_body(body);
            request.send().await.expect("the queue takes the message");
        }
    }

    pub async fn send_events(&self, events: impl IntoIterator<Item = Value>) {
        self.send(events.into_iter().map(|event| event.to_string())).await;
    }

    /// Sends both tables of a set as `backfill` does, whose output is the caller's. Ids begin with
    /// the folder's name and `-a-` or `-b-`, since those of the two tables collide.
    pub fn send_set(&self, set: &Path) {
        let name = set.file_name().and_then(|name| name.to_str()).expect("a folder with a name in UTF-8");
        let checkpoints = tempfile::tempdir().expect("a folder");
        for side in ["a", "b"] {
            let table = set.join(format!("table{}.csv", side.to_uppercase()));
            let checkpoint = checkpoints.path().join(side);
            let sent = Command::new(binary())
                .arg("backfill")
                .args([table.as_path(), "--checkpoint".as_ref(), checkpoint.as_path()])
                .args(["--id-prefix", &format!("{name}-{side}-"), "--region", "us-east-1"])
                .args(["--bulk-queue-url", &self.target.catalog_queue_url])
                .args(["--endpoint-url", &self.target.endpoint_url])
                .status()
                .expect("it starts");
            assert!(sent.success(), "{} was not sent: {sent}", table.display());
        }
    }

    /// Waits until nothing is visible or in flight on the worker's queue.
    pub async fn drained(&self) {
        self.backlog_below(1).await;
    }

    /// Waits until fewer than `count` messages are visible or in flight. The clock starts
    /// again with each message that is gone.
    pub async fn backlog_below(&self, count: u64) {
        let (mut least, mut since) = (u64::MAX, tokio::time::Instant::now());
        loop {
            let (visible, in_flight) = counts(&self.sqs, &self.target.catalog_queue_url).await;
            if visible + in_flight < count {
                return;
            }
            if visible + in_flight < least {
                (least, since) = (visible + in_flight, tokio::time::Instant::now());
            }
            assert!(since.elapsed() < PATIENCE, "the queue is stuck at {visible} visible, {in_flight} in flight");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The bodies of parked messages, as JSON, once `count` of them are there.
    pub async fn parked(&self, count: usize) -> Vec<Value> {
        let mut bodies = Vec::new();
        let waited = tokio::time::timeout(PATIENCE, async {
            while bodies.len() < count {
                let request = self.sqs.receive_message().queue_url(&self.target.dead_letter_queue_url);
                let got = request.max_number_of_messages(10).wait_time_seconds(1).send().await.expect("it answers");
                for message in got.messages() {
                    let body = message.body().expect("a parked message has a body");
                    bodies.push(serde_json::from_str(body).expect("a parked message is JSON"));
                }
            }
        });
        waited.await.expect("the messages are parked");
        assert_eq!(counts(&self.sqs, &self.target.dead_letter_queue_url).await.0, 0, "more was parked than was sent");
        bodies
    }

    pub fn worker(&self) -> &Worker {
        self.worker.as_ref().expect("the worker was not stopped")
    }

    pub async fn stop(mut self) -> ExitStatus {
        self.worker.take().expect("the worker was not stopped").stop().await
    }

    /// Replaces the worker by a new one, after a kill -9 of the old.
    pub async fn kill_and_restart(&mut self, worker_arguments: &[&str]) {
        self.worker.take().expect("the worker was not stopped").kill().await;
        self.worker = Some(Worker::start(&self.target, worker_arguments).await);
    }
}

/// (visible, in flight), as the queue says.
///
/// # Panics
/// When the queue does not answer.
pub async fn counts(sqs: &aws_sdk_sqs::Client, queue_url: &str) -> (u64, u64) {
    let names =
        [QueueAttributeName::ApproximateNumberOfMessages, QueueAttributeName::ApproximateNumberOfMessagesNotVisible];
    let request = sqs.get_queue_attributes().queue_url(queue_url).set_attribute_names(Some(names.to_vec()));
    let answer = request.send().await.expect("the queue has attributes");
    let attributes = answer.attributes().cloned().unwrap_or_default();
    let [visible, in_flight] =
        names.map(|name| attributes.get(&name).and_then(|n| n.parse().ok()).expect("the queue counts its messages"));
    (visible, in_flight)
}

async fn create_queue(sqs: &aws_sdk_sqs::Client, name: &str, dead_letter_queue_url: Option<&str>) -> String {
    let mut attributes = HashMap::from([(QueueAttributeName::VisibilityTimeout, "30".to_owned())]);
    if let Some(url) = dead_letter_queue_url {
        let request = sqs.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::QueueArn);
        let answer = request.send().await.expect("the queue has attributes");
        let arn = answer.attributes().and_then(|a| a.get(&QueueAttributeName::QueueArn)).expect("an ARN").clone();
        let policy = serde_json::json!({"deadLetterTargetArn": arn, "maxReceiveCount": 5});
        attributes.insert(QueueAttributeName::RedrivePolicy, policy.to_string());
    }
    let request = sqs.create_queue().queue_name(name).set_attributes(Some(attributes));
    request.send().await.expect("the queue is created").queue_url.expect("a queue has a URL")
}
