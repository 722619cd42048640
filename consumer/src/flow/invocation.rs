//! One batch of messages by a deadline, as Lambda asks: whoever asks deletes what is not
//! named as failed, and tries the rest again.

use std::collections::HashMap;

use futures::future::join_all;
use tokio::time::Instant;

use super::message::{Job, Reached};
use super::report::note;
use super::{FlowError, Pipeline};
use crate::fault::{Fault, Faulty};
use crate::lane::Lane;
use crate::source::{DeadLetters, Message};

/// A batch, and what it takes besides the messages.
#[derive(Debug)]
pub struct Invocation {
    pub messages: Vec<Message>,
    /// Name of the queue that they came from.
    pub queue: String,
    /// Whether it keeps the order of message groups.
    pub is_fifo: bool,
    /// Where poison is parked. Without one it is reported as failed, for the queue's own
    /// redrive policy.
    pub dead_letters: Option<DeadLetters>,
    /// Nothing begins after it, and nothing is waited for.
    pub deadline: Instant,
}

/// What every message would have met.
#[derive(Debug, thiserror::Error)]
#[error("a fault that every event would meet: {reason}")]
pub struct FatalFault {
    reason: String,
}

impl Pipeline {
    /// Ids of the messages that are to be tried again, in their order. Within a group of a
    /// FIFO queue, everything after the first of them is among them.
    pub async fn invoke(&self, invocation: &Invocation) -> Result<Vec<String>, FatalFault> {
        let strands = strands(&invocation.messages, invocation.is_fifo);
        let ended = join_all(strands.into_iter().map(|strand| self.process_strand(strand, invocation))).await;
        let mut failed = Vec::new();
        for strand in ended {
            failed.extend(strand?);
        }
        let in_order = invocation.messages.iter().filter(|message| failed.contains(&message.id));
        Ok(in_order.map(|message| message.id.clone()).collect())
    }

    /// Messages one after the other, up to the first that has to be tried again.
    async fn process_strand(&self, strand: Vec<&Message>, invocation: &Invocation) -> Result<Vec<String>, FatalFault> {
        for (index, message) in strand.iter().enumerate() {
            let in_time = tokio::time::timeout_at(invocation.deadline, self.settle(message, invocation)).await;
            // What the deadline cut short is repeated at no cost, as after a crash.
            if !in_time.unwrap_or(Ok(false))? {
                return Ok(strand[index..].iter().map(|message| message.id.clone()).collect());
            }
        }
        Ok(Vec::new())
    }

    /// True once the message may be deleted.
    async fn settle(&self, message: &Message, invocation: &Invocation) -> Result<bool, FatalFault> {
        let job = Job {
            message,
            receive_count: message.receive_count,
            lane: Lane::Catalog,
            queue: &invocation.queue,
            in_order: invocation.is_fifo,
            dead_letters: invocation.dead_letters.as_ref(),
            seat: None,
            stops: &|| Instant::now() >= invocation.deadline,
        };
        match self.process_message(&job).await {
            Ok(reached) => Ok(reached == Reached::End),
            Err(error) => match error.fault() {
                Fault::Fatal { reason } => Err(FatalFault { reason }),
                fault => {
                    note(&error, &fault, &job, None);
                    Ok(park_whole(&error, &fault, &job).await)
                }
            },
        }
    }
}

/// True once the queue of parked messages has confirmed it.
async fn park_whole(error: &FlowError, fault: &Fault, job: &Job<'_>) -> bool {
    let (Fault::Poison { reason }, Some(dead_letters)) = (fault, job.dead_letters) else { return false };
    dead_letters.park_whole(job.message, error.stage(), reason).await.is_ok()
}

/// Messages that have to wait for each other: those of one group in a FIFO queue.
fn strands(messages: &[Message], is_fifo: bool) -> Vec<Vec<&Message>> {
    let mut strands: Vec<Vec<&Message>> = Vec::new();
    let mut of_group: HashMap<&str, usize> = HashMap::new();
    for message in messages {
        match message.group.as_deref().filter(|_| is_fifo) {
            Some(group) if of_group.contains_key(group) => strands[of_group[group]].push(message),
            group => {
                of_group.extend(group.map(|group| (group, strands.len())));
                strands.push(vec![message]);
            }
        }
    }
    strands
}
