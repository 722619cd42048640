//! Parking of single events out of a message that holds several.

use std::sync::Arc;

use jiff::Timestamp;

use super::park::{Parked, Part};
use super::queue::{BATCH_MAX, MESSAGE_BYTES_MAX, Message, Outgoing, Queue, QueueError, with_causes};
use super::retry::REQUEST_BACKOFF;
use crate::metric;

/// Requests for the same events before their message is left to be tried again.
const TRIES_MAX: u32 = 4;

/// The queue of parked messages, as seen from one queue that is consumed.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    pub queue: Arc<dyn Queue>,
    /// Name of the queue that is consumed.
    pub origin: Arc<str>,
    /// Version of this worker.
    pub build: Arc<str>,
}

/// One event that will never be labelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoisonEvent {
    pub part: Part,
    pub body: String,
    pub reason: String,
    pub stage: &'static str,
}

impl DeadLetters {
    /// Returns once the queue has confirmed each of them. After an error some may be there
    /// all the same: they are parked at least once.
    pub async fn park(&self, message: &Message, events: Vec<PoisonEvent>) -> Result<(), QueueError> {
        let now = Timestamp::now();
        let wrapped = events.into_iter().map(|event| {
            let stage = event.stage;
            (self.wrap(message, event, now), stage)
        });
        for batch in batches(wrapped.collect()) {
            let (outgoing, stages): (Vec<Outgoing>, Vec<&str>) = batch.into_iter().unzip();
            self.send(outgoing).await?;
            for stage in stages {
                metric::EVENTS_PARKED.counter(&[("queue", &self.origin), ("stage", stage)]).increment(1);
            }
        }
        Ok(())
    }

    /// A whole message, in the same way.
    pub async fn park_whole(&self, message: &Message, stage: &str, reason: &str) -> Result<(), QueueError> {
        self.send(vec![wrap(self.describe(message, stage, reason, Timestamp::now()), message, &message.body)]).await
    }

    fn wrap(&self, message: &Message, event: PoisonEvent, now: Timestamp) -> Outgoing {
        let parked = self.describe(message, event.stage, &event.reason, now);
        wrap(Parked { part: Some(event.part), ..parked }, message, &event.body)
    }

    fn describe(&self, message: &Message, stage: &str, reason: &str, now: Timestamp) -> Parked {
        Parked::new(message, &self.origin, stage, reason, &self.build, now)
    }

    async fn send(&self, mut unsent: Vec<Outgoing>) -> Result<(), QueueError> {
        let mut attempt = 1;
        loop {
            let (left, error) = match self.queue.send(&unsent).await {
                Ok(results) => failed(unsent, results),
                Err(error) => (unsent, Some(error)),
            };
            let Some(error) = error else { return Ok(()) };
            tracing::warn!(queue = self.queue.name(), error = with_causes(&error), "an event was not parked");
            if attempt == TRIES_MAX {
                return Err(error);
            }
            unsent = left;
            tokio::time::sleep(REQUEST_BACKOFF.delay(attempt, &mut fastrand::Rng::new())).await;
            attempt += 1;
        }
    }
}

fn wrap(parked: Parked, message: &Message, body: &str) -> Outgoing {
    Outgoing { group: message.group.clone(), ..parked.wrap(body) }
}

/// What was not taken, and the last reason.
fn failed(sent: Vec<Outgoing>, results: Vec<Result<String, QueueError>>) -> (Vec<Outgoing>, Option<QueueError>) {
    let (mut left, mut last) = (Vec::new(), None);
    for (outgoing, result) in sent.into_iter().zip(results) {
        if let Err(error) = result {
            left.push(outgoing);
            last = Some(error);
        }
    }
    (left, last)
}

/// Batches that a request can carry: at most [`BATCH_MAX`] messages, which add up to at most
/// [`MESSAGE_BYTES_MAX`]. `T` is whatever goes with a message.
pub(super) fn batches<T>(messages: Vec<(Outgoing, T)>) -> Vec<Vec<(Outgoing, T)>> {
    let mut batches: Vec<Vec<(Outgoing, T)>> = Vec::new();
    let mut bytes = 0;
    for message in messages {
        let size_bytes = message.0.size_bytes();
        bytes += size_bytes;
        match batches.last_mut() {
            Some(batch) if bytes <= MESSAGE_BYTES_MAX && batch.len() < BATCH_MAX => batch.push(message),
            _ => {
                bytes = size_bytes;
                batches.push(vec![message]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::source::in_process::{InProcessOptions, InProcessQueue};
    use crate::source::queue::Receipt;
    use crate::source::watched::{Operation, Upset, Watched};

    fn message() -> Message {
        Message {
            id: "m-1".to_owned(),
            body: "[]".to_owned(),
            receipt: Receipt::new("r"),
            receive_count: 2,
            sent_at: None,
            attributes: BTreeMap::from([("trace".to_owned(), "t-1".to_owned())]),
            group: None,
        }
    }

    fn events(count: u64) -> Vec<PoisonEvent> {
        let event = |index| PoisonEvent {
            part: Part { of: "list".to_owned(), index },
            body: format!("{{\"number\":{index}}}"),
            reason: format!("no. {index} is bad"),
            stage: "parse",
        };
        (0..count).map(event).collect()
    }

    fn dead_letters() -> (Arc<Watched>, DeadLetters) {
        let queue = Arc::new(Watched::new(InProcessOptions::new("dead")));
        (queue.clone(), DeadLetters { queue, origin: "catalog".into(), build: "1".into() })
    }

    async fn bodies(queue: &InProcessQueue) -> Vec<(Parked, String)> {
        let mut read = Vec::new();
        loop {
            let received = queue.receive(10, Duration::ZERO).await.expect("this queue has no faults");
            if received.is_empty() {
                return read;
            }
            read.extend(received.iter().map(|m| Parked::unwrap(&m.body).expect("what was wrapped reads back")));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_event_is_parked_with_its_index_and_what_its_message_had() {
        let (queue, dead_letters) = dead_letters();
        dead_letters.park(&message(), events(23)).await.expect("the queue works");
        assert_eq!(queue.calls(Operation::Send).len(), 3, "ten to a request");
        for (index, (parked, body)) in bodies(&queue.inner).await.into_iter().enumerate() {
            assert_eq!(parked.part, Some(Part { of: "list".to_owned(), index: index as u64 }));
            assert_eq!((parked.reason, body), (format!("no. {index} is bad"), format!("{{\"number\":{index}}}")));
            assert_eq!(
                (parked.queue.as_str(), parked.message_id.as_str(), parked.receive_count),
                ("catalog", "m-1", 2)
            );
            assert_eq!(parked.attributes, message().attributes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_was_not_taken_is_sent_again() {
        let (queue, dead_letters) = dead_letters();
        queue.once(Operation::Send, Upset::Entry(1));
        queue.once(Operation::Send, Upset::Unavailable);
        dead_letters.park(&message(), events(3)).await.expect("the third try is good");
        let calls: Vec<usize> = queue.calls(Operation::Send).iter().map(|call| call.entries).collect();
        assert_eq!(calls, [3, 1, 1]);
        assert_eq!(bodies(&queue.inner).await.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_takes_nothing_is_an_error() {
        let (queue, dead_letters) = dead_letters();
        queue.always(Operation::Send, Upset::Unavailable);
        assert!(dead_letters.park(&message(), events(1)).await.is_err());
        assert_eq!(queue.calls(Operation::Send).len(), TRIES_MAX as usize);
    }
}
