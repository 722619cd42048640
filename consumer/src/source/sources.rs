//! Several queues consumed by one process: each has its own permits, leases and
//! settlements; their messages are handed out by turns.

use std::time::Duration;

use futures::future::{join_all, select_all};

use super::drain::Drained;
use super::intake::{Delivery, Source};
use super::turns::Turns;

/// One queue's part of the process.
#[derive(Debug)]
pub struct Share {
    pub source: Source,
    /// Messages handed out for each one of a queue of weight 1, while both have some.
    pub weight: u32,
}

/// Queues that share a process. A deep backlog on one delays another by the few messages
/// of its own turn, never by the backlog.
#[derive(Debug)]
pub struct Sources {
    sources: Vec<Source>,
    turns: Turns,
}

impl Sources {
    pub fn new(shares: Vec<Share>) -> Self {
        let turns = Turns::new(shares.iter().map(|share| share.weight));
        Self { sources: shares.into_iter().map(|share| share.source).collect(), turns }
    }

    /// One queue alone.
    pub fn one(source: Source) -> Self {
        Self::new(vec![Share { source, weight: 1 }])
    }

    /// The next message by turns; none once the shutdown has begun. What was received by
    /// then and not taken from here is released by [`Sources::drain`].
    pub async fn next(&mut self) -> Option<Delivery> {
        if let Some(index) = self.turns.next(|index| self.sources[index].waiting() > 0) {
            self.turns.take(index);
            return self.sources[index].next().await;
        }
        if self.sources.is_empty() {
            return None;
        }
        let arrivals = self.sources.iter_mut().map(|source| Box::pin(source.next()));
        let (delivery, index, _others) = select_all(arrivals).await;
        self.turns.take(index);
        delivery
    }

    /// Drains every queue at once; see [`Source::drain`].
    pub async fn drain(self, deadline: Duration) -> Vec<Drained> {
        join_all(self.sources.into_iter().map(|source| source.drain(deadline))).await
    }
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
