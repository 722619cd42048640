//! What the worker needs of a queue, in SQS's terms: messages are leased by a
//! visibility timeout, come back when it ends, and are deleted by receipt.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::fault::{Fault, Faulty};

/// Most entries in one request, and most messages in one receive (SQS's limit).
pub const BATCH_MAX: usize = 10;
/// Most bytes of one message, and of all messages of one send: body and attributes
/// (SQS's limit since 2025).
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Longest time a message stays invisible, counted from its receive (SQS's limit).
pub const VISIBILITY_MAX: Duration = Duration::from_secs(12 * 60 * 60);
/// Longest wait of one receive (SQS's limit).
pub const WAIT_MAX: Duration = Duration::from_secs(20);

/// The right to settle one delivery of a message. A later receive of the same message
/// has another receipt, and this one has expired then.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipt(String);

impl Receipt {
    pub fn new(handle: impl Into<String>) -> Self {
        Self(handle.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One received message.
#[derive(Clone)]
pub struct Message {
    pub id: String,
    pub body: String,
    pub receipt: Receipt,
    /// How often it was received, this time included; 1 at the first.
    pub receive_count: u32,
    /// When the sender's request arrived, by the queue's clock.
    pub sent_at: Option<Timestamp>,
    /// Message attributes by name; binary ones in base64.
    pub attributes: BTreeMap<String, String>,
    /// Message group. Orders the messages of a FIFO queue; elsewhere it only names a tenant.
    pub group: Option<String>,
}

/// Without the body, which is the shop's and stays out of logs.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("body_bytes", &self.body.len())
            .field("receive_count", &self.receive_count)
            .field("sent_at", &self.sent_at)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// A message to send.
#[derive(Clone, Default)]
pub struct Outgoing {
    pub body: String,
    /// At most 10 (SQS's limit); no value may be empty.
    pub attributes: BTreeMap<String, String>,
    /// Message group, for FIFO queues.
    pub group: Option<String>,
}

impl Outgoing {
    pub fn new(body: impl Into<String>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    pub fn in_group(body: impl Into<String>, group: impl Into<String>) -> Self {
        Self { group: Some(group.into()), ..Self::new(body) }
    }

    /// What counts against [`MESSAGE_BYTES_MAX`]: the body, and each attribute's name,
    /// type (`String`) and value.
    pub fn size_bytes(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + "String".len() + value.len());
        self.body.len() + attributes.sum::<usize>()
    }
}

/// Without the body, as for [`Message`].
impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("body_bytes", &self.body.len()).finish_non_exhaustive()
    }
}

/// A new visibility timeout, counted from now. Zero makes the message visible at once.
#[derive(Clone, Debug)]
pub struct VisibilityChange {
    pub receipt: Receipt,
    pub timeout: Duration,
}

/// What became of one entry of a delete or a change of visibility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The receipt no longer stands: the message is gone, or somebody else has it.
    /// Not an error: the queue delivers at least once.
    Expired,
}

/// A queue that delivers at least once.
///
/// Batch methods take 1 to [`BATCH_MAX`] entries and return one result for each, in the
/// order of the entries. The outer error means that the request as a whole failed: then
/// nothing is known about any entry.
#[async_trait]
pub trait Queue: fmt::Debug + Send + Sync + 'static {
    /// For logs, metrics and parked messages.
    fn name(&self) -> &str;

    /// How long a received message stays invisible unless its visibility is changed.
    fn visibility_timeout(&self) -> Duration;

    /// True when the messages of a group come in the order in which they were sent, and
    /// none of them while an earlier receive of the group is unsettled.
    fn is_fifo(&self) -> bool {
        false
    }

    /// True when dropping an unfinished [`Queue::receive`] loses no message. Where it is
    /// false, a stop waits for the receive to end.
    fn receive_is_cancel_safe(&self) -> bool {
        false
    }

    /// Receives 1 to `max` messages (at most [`BATCH_MAX`]), or none once `wait` (at most
    /// [`WAIT_MAX`]) is over.
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>, QueueError>;

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<Outcome, QueueError>>, QueueError>;

    async fn change_visibility(
        &self,
        changes: &[VisibilityChange],
    ) -> Result<Vec<Result<Outcome, QueueError>>, QueueError>;

    /// Sends messages whose sizes add up to at most [`MESSAGE_BYTES_MAX`]; the results
    /// are the messages' ids.
    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<String, QueueError>>, QueueError>;
}

/// Refuses a batch that no request can carry.
pub fn check_batch(queue: &str, operation: &'static str, entries: usize) -> Result<(), QueueError> {
    if (1..=BATCH_MAX).contains(&entries) {
        Ok(())
    } else {
        Err(QueueError::BatchSize { queue: queue.to_owned(), operation, entries })
    }
}

/// What an SDK or a socket reported.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a queue did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("queue {queue} throttled {operation}")]
    Throttled { queue: String, operation: &'static str, source: BoxError },
    #[error("queue {queue} could not be reached, or failed on its side, at {operation}")]
    Unavailable { queue: String, operation: &'static str, source: BoxError },
    #[error("queue {queue} gave no answer to {operation} in time")]
    TimedOut { queue: String, operation: &'static str, source: BoxError },
    #[error("queue {queue} denies {operation}; grant it to this worker's role, and its key's use if it is encrypted")]
    AccessDenied { queue: String, operation: &'static str, source: BoxError },
    #[error("queue {queue} does not exist in this account and region; check its name, the account and the region")]
    NoSuchQueue { queue: String, operation: &'static str, source: BoxError },
    #[error("queue {queue} refused {operation}")]
    Refused { queue: String, operation: &'static str, source: BoxError },
    #[error("queue {queue} failed one entry of {operation}: {code}: {message}")]
    Entry { queue: String, operation: &'static str, code: String, message: String, sender_fault: bool },
    #[error("queue {queue} is full at {messages_max} messages; send slower")]
    Full { queue: String, messages_max: usize },
    #[error("{operation} on queue {queue} with {entries} entries; a batch has 1 to {BATCH_MAX}")]
    BatchSize { queue: String, operation: &'static str, entries: usize },
    #[error("queue {queue} takes no message of {bytes} bytes; the most is {MESSAGE_BYTES_MAX}")]
    TooLong { queue: String, bytes: usize },
    #[error("queue {queue} has attribute {attribute} = {value:?}, which this build cannot read")]
    Attribute { queue: String, attribute: &'static str, value: String },
}

impl Faulty for QueueError {
    fn fault(&self) -> Fault {
        match self {
            Self::Throttled { .. }
            | Self::Unavailable { .. }
            | Self::TimedOut { .. }
            | Self::Full { .. }
            | Self::Entry { sender_fault: false, .. } => Fault::Retry { after: None },
            Self::Entry { sender_fault: true, .. } | Self::TooLong { .. } => Fault::Poison { reason: self.to_string() },
            Self::AccessDenied { .. }
            | Self::NoSuchQueue { .. }
            | Self::Refused { .. }
            | Self::Attribute { .. }
            | Self::BatchSize { .. } => Fault::Fatal { reason: with_causes(self) },
        }
    }
}

/// The error and its sources in one line, for a reason that outlives the error.
pub fn with_causes(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(make: fn(String, &'static str, BoxError) -> QueueError) -> Fault {
        make("catalog".to_owned(), "receive", "because".into()).fault()
    }

    #[test]
    fn faults_say_whether_the_queue_the_message_or_the_worker_is_to_blame() {
        let retry = Fault::Retry { after: None };
        assert_eq!(error(|queue, operation, source| QueueError::Throttled { queue, operation, source }), retry);
        assert_eq!(error(|queue, operation, source| QueueError::TimedOut { queue, operation, source }), retry);
        let denied = error(|queue, operation, source| QueueError::AccessDenied { queue, operation, source });
        let Fault::Fatal { reason } = denied else { panic!("{denied:?} is not fatal") };
        assert!(reason.contains("catalog") && reason.ends_with(": because"), "{reason}");
        let too_long = QueueError::TooLong { queue: "catalog".to_owned(), bytes: 2 << 20 };
        assert!(matches!(too_long.fault(), Fault::Poison { .. }));
    }

    #[test]
    fn a_batch_has_one_to_ten_entries() {
        assert!(check_batch("catalog", "delete", 0).is_err());
        assert!(check_batch("catalog", "delete", 1).is_ok());
        assert!(check_batch("catalog", "delete", 10).is_ok());
        assert!(check_batch("catalog", "delete", 11).is_err());
    }

    #[test]
    fn size_counts_attribute_names_types_and_values() {
        let mut message = Outgoing::new("body");
        message.attributes.insert("stage".to_owned(), "parse".to_owned());
        assert_eq!(message.size_bytes(), 4 + 5 + 6 + 5);
    }
}
