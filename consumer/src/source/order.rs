//! Order within the message groups of a FIFO queue.
//!
//! A receive may bring several messages of a group, and no other receive brings one until
//! they are settled. So the messages of one receive wait for each other: the next one of a
//! group begins when the one before it is gone for good, and is given back untouched when
//! that one has failed. Groups don't wait for each other.

use std::collections::HashMap;

use tokio::sync::oneshot;

use super::queue::Message;
use super::settle::Settlement;

/// The message that has to be settled before this one begins; none at the head of a group,
/// and outside FIFO queues.
#[derive(Debug, Default)]
pub struct Predecessor(Option<oneshot::Receiver<()>>);

/// The next message of the group, which waits for this one.
#[derive(Debug)]
pub struct Successor(oneshot::Sender<()>);

impl Predecessor {
    /// False when it failed: whoever waited must be given back, since the predecessor comes
    /// again and has to be first. To be asked once.
    pub(super) async fn is_gone(&mut self) -> bool {
        match self.0.take() {
            Some(gone) => gone.await.is_ok(),
            None => true,
        }
    }
}

impl Successor {
    /// Dropping it without this says that the message was not settled.
    pub(super) fn hear_of(self, settlement: Settlement) {
        if matches!(settlement, Settlement::Deleted | Settlement::Parked) {
            // Nobody has to wait: it may have been given back already.
            let _ = self.0.send(());
        }
    }
}

/// Links the messages of one receive of a FIFO queue, group by group.
pub(super) fn link(messages: Vec<Message>) -> Vec<(Message, Predecessor, Option<Successor>)> {
    let mut linked: Vec<(Message, Predecessor, Option<Successor>)> = Vec::with_capacity(messages.len());
    let mut last_of: HashMap<String, usize> = HashMap::new();
    for message in messages {
        let before = message.group.clone().and_then(|group| last_of.insert(group, linked.len()));
        let predecessor = match before {
            Some(before) => {
                let (successor, is_gone) = oneshot::channel();
                linked[before].2 = Some(Successor(successor));
                Predecessor(Some(is_gone))
            }
            None => Predecessor::default(),
        };
        linked.push((message, predecessor, None));
    }
    linked
}
