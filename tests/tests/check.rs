//! `catalog-labels check`, the real binary: what is wrong is named with its fix, what is
//! right is not, and nothing is changed.

use std::collections::HashMap;
use std::path::Path;
use std::process::Output;

use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use consumer::aws::{AwsOptions, create_queue_with_dead_letter, sdk_config, sqs_client};
use consumer::store::Store;
use serde_json::{Value, json};
use tests::ministack::Ministack;
use tests::worker::{artifact, binary};
use tokio::process::Command;

const HOUR: u32 = 60 * 60;

/// An engine with tables, a queue and its dead-letter queue, as a worker needs them.
struct Account {
    sqs: aws_sdk_sqs::Client,
    queue_url: String,
    dead_letter_queue_url: String,
    engine: Ministack,
}

impl Account {
    async fn new() -> Self {
        let engine = Ministack::start();
        let options = AwsOptions { region: Some("us-east-1".to_owned()), endpoint_url: Some(engine.endpoint_url()) };
        let sdk = sdk_config(&options).await;
        let sqs = sqs_client(&sdk);
        let visibility = std::time::Duration::from_secs(180);
        let created = create_queue_with_dead_letter(&sqs, "catalog", visibility, 5).await.expect("the queues are made");
        let tables = Store::new(aws_sdk_dynamodb::Client::new(&sdk), "check-");
        tables.create_tables().await.expect("the tables are made");
        let [queue_url, dead_letter_queue_url] = [created.queue, created.dead_letters].map(|q| q.url().to_owned());
        Self { sqs, queue_url, dead_letter_queue_url, engine }
    }

    async fn set(&self, queue_url: &str, attribute: Attribute, value: &str) {
        let attributes = HashMap::from([(attribute, value.to_owned())]);
        let request = self.sqs.set_queue_attributes().queue_url(queue_url).set_attributes(Some(attributes));
        request.send().await.expect("the attribute is set");
    }

    async fn check(&self, artifact: &Path, table_prefix: &str, more: &[&str]) -> Output {
        let queues = ["--catalog-queue-url", &self.queue_url, "--dead-letter-queue-url", &self.dead_letter_queue_url];
        self.check_of(&[], artifact, table_prefix, &[&queues, more].concat()).await
    }

    async fn check_of(&self, of: &[&str], artifact: &Path, table_prefix: &str, more: &[&str]) -> Output {
        let endpoint_url = self.engine.endpoint_url();
        let mut command = command(of, artifact);
        command.args(["--endpoint-url", &endpoint_url, "--region", "us-east-1", "--table-prefix", table_prefix]);
        command.args(more).output().await.expect("the binary runs")
    }
}

fn command(of: &[&str], artifact: &Path) -> Command {
    let mut command = Command::new(binary());
    command.arg("check").args(of).args(["--json", "--artifact"]).arg(artifact);
    command.env("OMP_NUM_THREADS", "1").env("OPENBLAS_NUM_THREADS", "1");
    command
}

/// (about, problem, fix) of each finding of a severity.
fn findings(output: &Output, severity: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let all: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
    let of_severity = all.iter().filter(|finding| finding["severity"] == severity);
    of_severity.map(|finding| format!("{} | {} | {}", finding["about"], finding["problem"], finding["fix"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_as_it_should_be_has_no_findings_and_stays_as_it_is() {
    let account = Account::new().await;
    let sent = account.sqs.send_message().queue_url(&account.queue_url).message_body("an event").send().await;
    sent.expect("the queue takes the message");

    let output = account.check(&artifact(), "check-", &[]).await;
    assert_eq!((findings(&output, "error"), findings(&output, "warning")), (vec![], vec![]));
    assert!(output.status.success(), "{output:?}");

    let received = account.sqs.receive_message().queue_url(&account.queue_url).send().await.expect("it answers");
    assert_eq!(received.messages().len(), 1, "the message is still there");
    let dead = account.sqs.receive_message().queue_url(&account.dead_letter_queue_url).send().await;
    assert_eq!(dead.expect("it answers").messages().len(), 0, "nothing was parked");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_setting_that_a_worker_needs_is_looked_at() {
    let account = Account::new().await;
    account.set(&account.queue_url, Attribute::VisibilityTimeout, "10").await;
    account.set(&account.dead_letter_queue_url, Attribute::MessageRetentionPeriod, &HOUR.to_string()).await;
    let policy =
        json!({"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:catalog-dead", "maxReceiveCount": 1});
    account.set(&account.queue_url, Attribute::RedrivePolicy, &policy.to_string()).await;

    let output = account.check(&artifact(), "check-", &["--tombstone-ttl", "1h"]).await;
    let (errors, warnings) = (findings(&output, "error"), findings(&output, "warning"));
    for words in ["set maxReceiveCount to 5 or more", "MessageRetentionPeriod to 345600", "--tombstone-ttl"] {
        assert!(errors.iter().any(|error| error.contains(words)), "{words}: {errors:#?}");
    }
    assert!(warnings.iter().any(|warning| warning.contains("VisibilityTimeout to 60")), "{warnings:#?}");
    assert_eq!((errors.len(), warnings.len(), output.status.code()), (3, 1, Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named_all_at_once() {
    let account = Account::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(artifact()).expect("the artifact is there").flatten() {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).expect("copied");
    }
    std::fs::write(folder.path().join("tokenizer.json"), "{}").expect("written");
    let gone = account.queue_url.replace("catalog", "gone");

    let output = account.check(folder.path(), "other-", &["--query-queue-url", &gone]).await;
    let errors = findings(&output, "error");
    for words in
        ["tokenizer.json: sha256 is", "other-products: does not exist", "other-control: does not exist", "queue gone"]
    {
        assert!(errors.iter().any(|error| error.contains(words)), "{words}: {errors:#?}");
    }
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn config_only_asks_no_network_and_lists_every_problem() {
    let arguments = ["--config-only", "--endpoint-url", "http://127.0.0.1:1", "--lease", "1s"];
    let output = command(&[], &artifact()).args(arguments).env("CATALOG_LABELS_LEESE", "60s").output().await;
    let output = output.expect("the binary runs");
    let errors = findings(&output, "error");
    for words in ["CATALOG_LABELS_LEESE is no option", "--catalog-queue-url", "--dead-letter-queue-url", "--lease"] {
        assert!(errors.iter().any(|error| error.contains(words)), "{words}: {errors:#?}");
    }
    assert_eq!((errors.len(), output.status.code()), (4, Some(1)), "{errors:#?}");

    let queues = ["--catalog-queue-url", "http://127.0.0.1:1/0/q", "--dead-letter-queue-url", "http://127.0.0.1:1/0/d"];
    let output = command(&[], &artifact()).arg("--config-only").args(queues).output().await.expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_commands_are_looked_at_by_their_own_options_and_needs() {
    let account = Account::new().await;
    let dead = ["--dead-letter-queue-url", account.dead_letter_queue_url.as_str()];
    for (of, more) in [("serve", &[] as &[&str]), ("lambda", &dead), ("reconcile", &[])] {
        let output = account.check_of(&[of], &artifact(), "check-", more).await;
        assert!(output.status.success(), "{of}: {output:?}");
        assert_eq!(findings(&output, "error"), Vec::<String>::new(), "{of}");
        let output = account.check_of(&[of], &artifact(), "other-", more).await;
        assert!(findings(&output, "error").iter().any(|error| error.contains("other-control: does not exist")), "{of}");
    }

    let gone = account.dead_letter_queue_url.replace("catalog", "gone");
    let more = ["--dead-letter-queue-url", &gone, "--object-bucket", "nowhere", "--deadline-margin", "1s"];
    let errors = findings(&account.check_of(&["lambda"], &artifact(), "check-", &more).await, "error");
    for words in ["queue gone", "bucket nowhere"] {
        assert!(errors.iter().any(|error| error.contains(words)), "{words}: {errors:#?}");
    }

    let bad = ["--address", "nowhere", "--deadline", "0s"];
    let errors = findings(&account.check_of(&["serve"], &artifact(), "check-", &bad).await, "error");
    assert_eq!(errors.len(), 2, "{errors:#?}");

    let more = ["--replicas", "9999", "--artifact", "/nowhere", "--config-only"];
    let output = Command::new(binary()).args(["check", "reconcile", "--json"]).args(more).output().await;
    let errors = findings(&output.expect("the binary runs"), "error");
    for words in ["--replicas: 9999", "--artifact: /nowhere holds no manifest.json"] {
        assert!(errors.iter().any(|error| error.contains(words)), "{words}: {errors:#?}");
    }
}
