//! How a queue is made, and what of it is denied: looks, and changes nothing.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use serde::Deserialize;

use super::{QueueAttribute, SqsQueue};
use crate::aws::client::{ErrorClass, classify};
use crate::source::QueueError;

/// A receipt that nobody was given: what is asked with it is refused, unless it is denied.
const NO_RECEIPT: &str = "catalog-labels-check";
/// The one entry of a batch.
const ENTRY: &str = "0";

/// Attributes of a queue that workers depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    pub arn: String,
    /// For receivers that name none.
    pub visibility: Duration,
    pub retention: Duration,
    pub redrive: Option<Redrive>,
}

/// A queue's redrive policy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Redrive {
    #[serde(rename = "deadLetterTargetArn")]
    pub target_arn: String,
    /// A number, or one in quotes, as it was written.
    #[serde(rename = "maxReceiveCount", deserialize_with = "number")]
    pub receives_max: u32,
}

impl SqsQueue {
    pub async fn settings(&self) -> Result<QueueSettings, QueueError> {
        let request = self.client.get_queue_attributes().queue_url(&self.url).attribute_names(QueueAttribute::All);
        let answer = request.send().await.map_err(|error| self.error("get_queue_attributes", error))?;
        let attributes = answer.attributes.unwrap_or_default();
        let redrive = attributes.get(&QueueAttribute::RedrivePolicy).filter(|policy| !policy.is_empty());
        let redrive = redrive
            .map(|policy| serde_json::from_str(policy).map_err(|_invalid| self.unreadable("RedrivePolicy", policy)));
        Ok(QueueSettings {
            arn: attributes.get(&QueueAttribute::QueueArn).cloned().unwrap_or_default(),
            visibility: self.seconds(&attributes, QueueAttribute::VisibilityTimeout, "VisibilityTimeout")?,
            retention: self.seconds(&attributes, QueueAttribute::MessageRetentionPeriod, "MessageRetentionPeriod")?,
            redrive: redrive.transpose()?,
        })
    }

    /// Operations of settling that are denied. Any other answer means that they are not.
    pub async fn refused_to_settle(&self) -> Vec<&'static str> {
        let delete = DeleteMessageBatchRequestEntry::builder().id(ENTRY).receipt_handle(NO_RECEIPT).build();
        let change = ChangeMessageVisibilityBatchRequestEntry::builder().id(ENTRY).receipt_handle(NO_RECEIPT).build();
        let deleted = self.client.delete_message_batch().queue_url(&self.url);
        let deleted = deleted.entries(delete.expect("id and receipt are set")).send().await;
        let changed = self.client.change_message_visibility_batch().queue_url(&self.url);
        let changed = changed.entries(change.expect("id and receipt are set")).send().await;
        [is_denied(&deleted).then_some("DeleteMessage"), is_denied(&changed).then_some("ChangeMessageVisibility")]
            .into_iter()
            .flatten()
            .collect()
    }

    /// `SendMessage` where it is denied. An empty batch is asked for, which is never sent.
    pub async fn refused_to_park(&self) -> Vec<&'static str> {
        let sent = self.client.send_message_batch().queue_url(&self.url).set_entries(Some(Vec::new())).send().await;
        is_denied(&sent).then_some("SendMessage").into_iter().collect()
    }

    fn seconds(
        &self,
        attributes: &HashMap<QueueAttribute, String>,
        attribute: QueueAttribute,
        name: &'static str,
    ) -> Result<Duration, QueueError> {
        let value = attributes.get(&attribute).map(String::as_str).unwrap_or_default();
        value.parse().map(Duration::from_secs).map_err(|_invalid| self.unreadable(name, value))
    }

    fn unreadable(&self, attribute: &'static str, value: &str) -> QueueError {
        QueueError::Attribute { queue: self.name.clone(), attribute, value: value.to_owned() }
    }
}

fn is_denied<T, E: ProvideErrorMetadata>(answer: &Result<T, SdkError<E, HttpResponse>>) -> bool {
    answer.as_ref().is_err_and(|error| classify(error) == ErrorClass::AccessDenied)
}

fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u32),
        Quoted(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Number(number) => Ok(number),
        Written::Quoted(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redrive_policy_counts_with_or_without_quotes() {
        for count in ["5", "\"5\""] {
            let policy = format!(r#"{{"deadLetterTargetArn":"arn:aws:sqs:r:1:dead","maxReceiveCount":{count}}}"#);
            let read: Redrive = serde_json::from_str(&policy).expect("a policy");
            assert_eq!(read, Redrive { target_arn: "arn:aws:sqs:r:1:dead".to_owned(), receives_max: 5 });
        }
    }
}
