//! [`Queue`] on SQS.

mod audit;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    Message as SqsMessage, MessageAttributeValue, MessageSystemAttributeName as SystemAttribute,
    QueueAttributeName as QueueAttribute, SendMessageBatchRequestEntry,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use jiff::Timestamp;
use shared::TextHash;

pub use self::audit::{QueueSettings, Redrive};

use super::client::{ErrorClass, classify};
use crate::metric;
use crate::source::{
    Message, Outcome, Outgoing, Queue, QueueError, Receipt, VISIBILITY_MAX, VisibilityChange, WAIT_MAX, check_batch,
};

/// Time for the answer of a receive beyond its wait. Without a limit above the wait, a
/// connection that hangs ends intake without a sign (aws-sdk-rust issue 1094).
const RECEIVE_TIME_BEYOND_WAIT: Duration = Duration::from_secs(10);

/// Group of a message without one in a FIFO queue. Its body is its deduplication id, as
/// with SQS's content-based deduplication.
const GROUP_DEFAULT: &str = "none";

/// One SQS queue.
#[derive(Clone, Debug)]
pub struct SqsQueue {
    client: Client,
    url: String,
    name: String,
    visibility: Duration,
    /// See [`RECEIVE_TIME_BEYOND_WAIT`]; shorter in tests.
    time_beyond_wait: Duration,
    requests: Requests,
}

/// Requests by operation, which SQS bills for.
#[derive(Clone, Debug)]
struct Requests {
    receive: metrics::Counter,
    delete: metrics::Counter,
    change_visibility: metrics::Counter,
    send: metrics::Counter,
}

impl SqsQueue {
    /// A queue by its URL; received messages stay invisible for `visibility`, whatever
    /// the queue's own default is.
    pub fn new(client: Client, url: impl Into<String>, visibility: Duration) -> Self {
        let url = url.into();
        let name = url.rsplit('/').next().unwrap_or(&url).to_owned();
        let of = |operation| metric::REQUESTS.counter(&[("queue", &name), ("operation", operation)]);
        let requests = Requests {
            receive: of("receive"),
            delete: of("delete"),
            change_visibility: of("change_visibility"),
            send: of("send"),
        };
        Self {
            client,
            url,
            name,
            visibility: visibility.min(VISIBILITY_MAX),
            time_beyond_wait: RECEIVE_TIME_BEYOND_WAIT,
            requests,
        }
    }

    /// The existing queue of this name in the client's account and region.
    pub async fn named(client: Client, name: &str, visibility: Duration) -> Result<Self, QueueError> {
        let found = client.get_queue_url().queue_name(name).send().await;
        let found = found.map_err(|error| queue_error(name, "get_queue_url", error))?;
        Ok(Self::new(client, found.queue_url.unwrap_or_default(), visibility))
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The queue that SQS moves this one's messages to after too many receives; none if
    /// there is no redrive policy.
    pub async fn dead_letters(&self) -> Result<Option<Self>, QueueError> {
        let attributes = self.client.get_queue_attributes().queue_url(&self.url);
        let answer = attributes.attribute_names(QueueAttribute::RedrivePolicy).send().await;
        let answer = answer.map_err(|error| self.error("get_queue_attributes", error))?;
        let Some(policy) = answer.attributes().and_then(|all| all.get(&QueueAttribute::RedrivePolicy)) else {
            return Ok(None);
        };
        let unreadable =
            || QueueError::Attribute { queue: self.name.clone(), attribute: "RedrivePolicy", value: policy.clone() };
        let parsed: serde_json::Value = serde_json::from_str(policy).map_err(|_invalid| unreadable())?;
        let arn = parsed["deadLetterTargetArn"].as_str().ok_or_else(unreadable)?;
        // arn:partition:sqs:region:account:name
        let [.., account, name] = arn.split(':').collect::<Vec<_>>()[..] else { return Err(unreadable()) };
        let found = self.client.get_queue_url().queue_name(name).queue_owner_aws_account_id(account).send().await;
        let found = found.map_err(|error| queue_error(name, "get_queue_url", error))?;
        Ok(Some(Self::new(self.client.clone(), found.queue_url.unwrap_or_default(), self.visibility)))
    }

    fn error<E>(&self, operation: &'static str, error: SdkError<E, HttpResponse>) -> QueueError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        queue_error(&self.name, operation, error)
    }

    fn entry_error(&self, operation: &'static str, entry: &BatchResultErrorEntry) -> QueueError {
        QueueError::Entry {
            queue: self.name.clone(),
            operation,
            code: entry.code().to_owned(),
            message: entry.message().unwrap_or_default().to_owned(),
            sender_fault: entry.sender_fault(),
        }
    }

    /// Sorts the two lists of a batch answer by entry. An entry in neither list has failed.
    fn by_entry<T>(
        &self,
        operation: &'static str,
        entries: usize,
        done: HashMap<String, T>,
        failed: &[BatchResultErrorEntry],
        expired: impl Fn(&BatchResultErrorEntry) -> Option<T>,
    ) -> Vec<Result<T, QueueError>> {
        let mut done = done;
        let failed: HashMap<&str, &BatchResultErrorEntry> = failed.iter().map(|entry| (entry.id(), entry)).collect();
        (0..entries)
            .map(|index| {
                let id = index.to_string();
                if let Some(result) = done.remove(&id) {
                    return Ok(result);
                }
                match failed.get(id.as_str()) {
                    Some(entry) => expired(entry).ok_or_else(|| self.entry_error(operation, entry)),
                    None => Err(QueueError::Entry {
                        queue: self.name.clone(),
                        operation,
                        code: "NoResult".to_owned(),
                        message: "the answer does not mention it".to_owned(),
                        sender_fault: false,
                    }),
                }
            })
            .collect()
    }
}

#[async_trait]
impl Queue for SqsQueue {
    fn name(&self) -> &str {
        &self.name
    }

    fn visibility_timeout(&self) -> Duration {
        self.visibility
    }

    /// SQS demands the suffix of FIFO queues, and refuses it elsewhere.
    fn is_fifo(&self) -> bool {
        self.name.ends_with(".fifo")
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>, QueueError> {
        check_batch(&self.name, "receive", max)?;
        let wait = wait.min(WAIT_MAX);
        let limit = TimeoutConfig::builder().operation_attempt_timeout(wait + self.time_beyond_wait).build();
        // One attempt: intake tries again, with its own back-off, and sees each failure.
        let overrides = aws_sdk_sqs::config::Builder::new().timeout_config(limit).retry_config(RetryConfig::disabled());
        self.requests.receive.increment(1);
        let answer = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(small(max))
            .wait_time_seconds(whole_seconds(wait))
            .visibility_timeout(whole_seconds(self.visibility))
            .message_system_attribute_names(SystemAttribute::ApproximateReceiveCount)
            .message_system_attribute_names(SystemAttribute::SentTimestamp)
            .message_system_attribute_names(SystemAttribute::MessageGroupId)
            .message_attribute_names("All")
            .customize()
            .config_override(overrides)
            .send()
            .await
            .map_err(|error| self.error("receive", error))?;
        Ok(answer.messages.unwrap_or_default().into_iter().filter_map(to_message).collect())
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<Outcome, QueueError>>, QueueError> {
        check_batch(&self.name, "delete", receipts.len())?;
        let entries = receipts.iter().enumerate().map(|(index, receipt)| {
            let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
            entry.receipt_handle(receipt.as_str()).build().expect("id and receipt handle are set")
        });
        self.requests.delete.increment(1);
        let request = self.client.delete_message_batch().queue_url(&self.url);
        let answer = request.set_entries(Some(entries.collect())).send().await;
        let answer = answer.map_err(|error| self.error("delete", error))?;
        let done = answer.successful().iter().map(|entry| (entry.id().to_owned(), Outcome::Done)).collect();
        Ok(self.by_entry("delete", receipts.len(), done, answer.failed(), expired))
    }

    async fn change_visibility(
        &self,
        changes: &[VisibilityChange],
    ) -> Result<Vec<Result<Outcome, QueueError>>, QueueError> {
        check_batch(&self.name, "change_visibility", changes.len())?;
        let entries = changes.iter().enumerate().map(|(index, change)| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(index.to_string());
            let entry = entry.receipt_handle(change.receipt.as_str());
            let entry = entry.visibility_timeout(whole_seconds(change.timeout.min(VISIBILITY_MAX)));
            entry.build().expect("id and receipt handle are set")
        });
        self.requests.change_visibility.increment(1);
        let request = self.client.change_message_visibility_batch().queue_url(&self.url);
        let answer = request.set_entries(Some(entries.collect())).send().await;
        let answer = answer.map_err(|error| self.error("change_visibility", error))?;
        let done = answer.successful().iter().map(|entry| (entry.id().to_owned(), Outcome::Done)).collect();
        Ok(self.by_entry("change_visibility", changes.len(), done, answer.failed(), expired))
    }

    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<String, QueueError>>, QueueError> {
        check_batch(&self.name, "send", messages.len())?;
        let entries = messages.iter().enumerate().map(|(index, message)| {
            let entry = SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(&message.body);
            let entry = entry.set_message_attributes(to_attributes(&message.attributes));
            let entry = if self.is_fifo() {
                let group = message.group.as_deref().unwrap_or(GROUP_DEFAULT);
                entry.message_group_id(group).message_deduplication_id(TextHash::of(0, &message.body).to_hex())
            } else {
                entry
            };
            entry.build().expect("id and body are set")
        });
        self.requests.send.increment(1);
        let request = self.client.send_message_batch().queue_url(&self.url);
        let answer = request.set_entries(Some(entries.collect())).send().await;
        let answer = answer.map_err(|error| self.error("send", error))?;
        let sent = answer.successful().iter();
        let done = sent.map(|entry| (entry.id().to_owned(), entry.message_id().to_owned())).collect();
        Ok(self.by_entry("send", messages.len(), done, answer.failed(), |_| None))
    }
}

/// A queue and its dead-letter queue, just created.
#[derive(Clone, Debug)]
pub struct CreatedQueue {
    pub queue: SqsQueue,
    pub dead_letters: SqsQueue,
}

/// Creates `name` and `name-dead` (of `name.fifo`: `name-dead.fifo`), to which SQS moves
/// what was received `receive_count_max` times without being deleted. For tests and demos:
/// in production the CDK app creates queues.
pub async fn create_queue_with_dead_letter(
    client: &Client,
    name: &str,
    visibility: Duration,
    receive_count_max: u32,
) -> Result<CreatedQueue, QueueError> {
    let (dead_name, fifo) = match name.strip_suffix(".fifo") {
        Some(stem) => {
            (format!("{stem}-dead.fifo"), Some(HashMap::from([(QueueAttribute::FifoQueue, "true".to_owned())])))
        }
        None => (format!("{name}-dead"), None),
    };
    let created = client.create_queue().queue_name(&dead_name).set_attributes(fifo.clone()).send().await;
    let created = created.map_err(|error| queue_error(&dead_name, "create_queue", error))?;
    let dead_url = created.queue_url.unwrap_or_default();
    let asked = client.get_queue_attributes().queue_url(&dead_url).attribute_names(QueueAttribute::QueueArn);
    let answer = asked.send().await.map_err(|error| queue_error(&dead_name, "get_queue_attributes", error))?;
    let arn = answer.attributes().and_then(|all| all.get(&QueueAttribute::QueueArn)).cloned().unwrap_or_default();
    let policy = serde_json::json!({ "deadLetterTargetArn": arn, "maxReceiveCount": receive_count_max });
    let created = client
        .create_queue()
        .queue_name(name)
        .set_attributes(fifo)
        .attributes(QueueAttribute::VisibilityTimeout, whole_seconds(visibility).to_string())
        .attributes(QueueAttribute::RedrivePolicy, policy.to_string())
        .send()
        .await
        .map_err(|error| queue_error(name, "create_queue", error))?;
    let queue = SqsQueue::new(client.clone(), created.queue_url.unwrap_or_default(), visibility);
    Ok(CreatedQueue { queue, dead_letters: SqsQueue::new(client.clone(), dead_url, visibility) })
}

/// None for an answer without a receipt handle, which nobody could settle.
fn to_message(message: SqsMessage) -> Option<Message> {
    let receipt = Receipt::new(message.receipt_handle?);
    let system = message.attributes.unwrap_or_default();
    let number = |name| system.get(&name).and_then(|value: &String| value.parse::<i64>().ok());
    Some(Message {
        id: message.message_id.unwrap_or_default(),
        body: message.body.unwrap_or_default(),
        receipt,
        // At least once: it is being received now.
        receive_count: number(SystemAttribute::ApproximateReceiveCount)
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(1)
            .max(1),
        sent_at: number(SystemAttribute::SentTimestamp).and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        group: system.get(&SystemAttribute::MessageGroupId).cloned(),
        attributes: message.message_attributes.unwrap_or_default().into_iter().filter_map(from_attribute).collect(),
    })
}

fn from_attribute((name, value): (String, MessageAttributeValue)) -> Option<(String, String)> {
    let text = match (value.string_value, value.binary_value) {
        (Some(text), _) => text,
        (None, Some(bytes)) => aws_smithy_types::base64::encode(bytes),
        (None, None) => return None,
    };
    Some((name, text))
}

fn to_attributes(attributes: &BTreeMap<String, String>) -> Option<HashMap<String, MessageAttributeValue>> {
    if attributes.is_empty() {
        return None;
    }
    let of_type_string = |value: &String| {
        let attribute = MessageAttributeValue::builder().data_type("String").string_value(value);
        attribute.build().expect("the data type is set")
    };
    Some(attributes.iter().map(|(name, value)| (name.clone(), of_type_string(value))).collect())
}

/// The codes of a receipt that no longer stands.
fn expired(entry: &BatchResultErrorEntry) -> Option<Outcome> {
    let code = entry.code().rsplit('.').next().unwrap_or_default();
    let message = entry.message().unwrap_or_default();
    let expired = matches!(code, "ReceiptHandleIsInvalid" | "MessageNotInflight")
        // FIFO queues and late changes of visibility say it only in words.
        || code == "InvalidParameterValue" && (message.contains("receipt handle has expired") || message.contains("is not available for visibility timeout change"));
    expired.then_some(Outcome::Expired)
}

fn queue_error<E>(queue: &str, operation: &'static str, error: SdkError<E, HttpResponse>) -> QueueError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let class = classify(&error);
    let queue = queue.to_owned();
    let source = error.into();
    match class {
        ErrorClass::Throttled => QueueError::Throttled { queue, operation, source },
        ErrorClass::Unavailable => QueueError::Unavailable { queue, operation, source },
        ErrorClass::TimedOut => QueueError::TimedOut { queue, operation, source },
        ErrorClass::AccessDenied => QueueError::AccessDenied { queue, operation, source },
        ErrorClass::NotFound => QueueError::NoSuchQueue { queue, operation, source },
        ErrorClass::Refused => QueueError::Refused { queue, operation, source },
    }
}

/// SQS counts whole seconds; a fraction is rounded up, so that nothing comes back early.
fn whole_seconds(duration: Duration) -> i32 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

fn small(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::{AwsOptions, sdk_config, sqs_client};

    fn failed(code: &str, message: &str) -> BatchResultErrorEntry {
        let entry = BatchResultErrorEntry::builder().id("1").code(code).message(message).sender_fault(true);
        entry.build().expect("id, code and sender fault are set")
    }

    fn queue() -> SqsQueue {
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(aws_sdk_sqs::config::BehaviorVersion::v2026_01_12())
            .build();
        SqsQueue::new(Client::from_conf(config), "http://localhost/000000000000/catalog", Duration::from_secs(30))
    }

    #[test]
    fn each_entry_gets_its_own_result_in_the_order_asked() {
        let done = HashMap::from([("0".to_owned(), Outcome::Done)]);
        let failed = [failed("ReceiptHandleIsInvalid", "gone")];
        let results = queue().by_entry("delete", 3, done, &failed, expired);
        assert!(matches!(results[0], Ok(Outcome::Done)));
        assert!(matches!(results[1], Ok(Outcome::Expired)));
        assert!(matches!(&results[2], Err(QueueError::Entry { code, .. }) if code == "NoResult"));
    }

    #[test]
    fn expired_receipts_are_told_from_other_failures() {
        assert!(expired(&failed("ReceiptHandleIsInvalid", "")).is_some());
        assert!(expired(&failed("AWS.SimpleQueueService.MessageNotInflight", "")).is_some());
        let late = "Value x for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.";
        assert!(expired(&failed("InvalidParameterValue", late)).is_some());
        assert!(expired(&failed("InvalidParameterValue", "Total VisibilityTimeout is beyond the limit")).is_none());
        assert!(expired(&failed("InternalError", "")).is_none());
    }

    #[tokio::test]
    async fn a_receive_that_hangs_ends() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        // Takes connections and never answers.
        let silent = tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.push(connection);
            }
        });
        let options = AwsOptions { region: None, endpoint_url: Some(format!("http://{address}")) };
        let client = sqs_client(&sdk_config(&options).await);
        let mut queue = SqsQueue::new(client, format!("http://{address}/0/catalog"), Duration::from_secs(30));
        queue.time_beyond_wait = Duration::from_millis(200);
        let error = queue.receive(10, Duration::ZERO).await.expect_err("nobody answers");
        assert!(matches!(error, QueueError::TimedOut { .. }), "{error:?}");
        silent.abort();
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(whole_seconds(Duration::ZERO), 0);
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(30)), 30);
    }
}
