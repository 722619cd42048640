//! Messages as a Lambda function gets them: received by the service, which also deletes
//! those that are not reported as failed.

use aws_lambda_events::sqs::SqsMessage;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;

use super::queue::{Message, Receipt};

/// Name of the queue in the ARN that each record carries, `arn:partition:sqs:region:account:name`.
pub fn queue_name(record: &SqsMessage) -> String {
    let arn = record.event_source_arn.as_deref().unwrap_or_default();
    arn.rsplit(':').next().filter(|name| !name.is_empty()).unwrap_or("unnamed").to_owned()
}

/// A record in the terms of every other queue.
pub fn to_message(record: SqsMessage) -> Message {
    let system = |name: &str| record.attributes.get(name);
    let receive_count = system("ApproximateReceiveCount").and_then(|count| count.parse().ok()).unwrap_or(1).max(1);
    let sent_at = system("SentTimestamp").and_then(|ms| Timestamp::from_millisecond(ms.parse().ok()?).ok());
    let group = system("MessageGroupId").cloned();
    let attributes = record.message_attributes.into_iter().filter_map(|(name, value)| {
        let binary = || value.binary_value.as_ref().map(|bytes| BASE64_STANDARD.encode(&bytes.0));
        Some((name, value.string_value.clone().or_else(binary)?))
    });
    Message {
        id: record.message_id.unwrap_or_default(),
        body: record.body.unwrap_or_default(),
        receipt: Receipt::new(record.receipt_handle.unwrap_or_default()),
        receive_count,
        sent_at,
        attributes: attributes.collect(),
        group,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_record_becomes_a_message() {
        let record: SqsMessage = serde_json::from_value(serde_json::json!({
            "messageId": "m-1", "receiptHandle": "r-1", "body": "{}", "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:eu-west-1:1:catalog.fifo", "awsRegion": "eu-west-1",
            "attributes": {"ApproximateReceiveCount": "3", "SentTimestamp": "1790000000123", "MessageGroupId": "g"},
            "messageAttributes": {
                "trace": {"stringValue": "t-1", "dataType": "String"},
                "key": {"binaryValue": "AQI=", "dataType": "Binary"}
            }
        }))
        .expect("a record as Lambda sends it");
        assert_eq!(queue_name(&record), "catalog.fifo");
        let message = to_message(record);
        assert_eq!((message.id.as_str(), message.body.as_str(), message.receive_count), ("m-1", "{}", 3));
        assert_eq!(message.group.as_deref(), Some("g"));
        assert_eq!(message.sent_at.map(Timestamp::as_millisecond), Some(1_790_000_000_123));
        let attributes = [("trace".to_owned(), "t-1".to_owned()), ("key".to_owned(), "AQI=".to_owned())];
        assert_eq!(message.attributes, BTreeMap::from(attributes));
        assert_eq!(queue_name(&SqsMessage::default()), "unnamed");
    }
}
