//! Which waiting rows go through the network together. Pure: time is handed in.
//!
//! Rows of like length share a batch, whoever asked for them, because every row is padded
//! to the longest one: product pairs average 41 tokens, and padded to 128 three quarters
//! of the work is waste. A batch that is not full is planned as late as it can be, when a
//! replica is free, from all that waits by then.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::shape::{Shape, Shapes};

/// Lengths are rounded up to a multiple of this, so that few different shapes occur and
/// the kernels' caches of prepared shapes stay warm.
pub const LENGTH_STEP: usize = 8;

/// Bounds of one batch, and what makes a good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Most tokens in a batch, padding included; a single longer row is a batch of its own.
    pub tokens_max: usize,
    /// Most rows in a batch.
    pub rows_max: usize,
    /// What a batch costs beside its tokens, in tokens: dispatch and small kernels. Shorter
    /// rows join a batch as long as padding them adds less than a batch of their own would.
    pub batch_tokens: usize,
    /// A row that has waited longer goes before fuller batches, the oldest first.
    pub wait_max: Duration,
}

/// Rows that are padded to one length and scored at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<T> {
    pub rows: Vec<T>,
    /// With room for all of `rows`.
    pub shape: Shape,
}

impl<T> Batch<T> {
    /// Tokens that go through the network, padding included.
    pub fn tokens(&self) -> usize {
        self.shape.tokens()
    }
}

#[derive(Debug)]
struct Entry<T> {
    row: T,
    since: Instant,
}

/// Rows that wait for a batch, in groups of one padded length, each in order of arrival.
#[derive(Debug)]
pub struct Waiting<T> {
    budget: Budget,
    shapes: Shapes,
    /// As `shapes` numbers them.
    groups: Vec<VecDeque<Entry<T>>>,
    tokens: usize,
}

impl<T> Waiting<T> {
    pub fn new(budget: Budget, shapes: Shapes) -> Self {
        Self { budget, shapes, groups: Vec::new(), tokens: 0 }
    }

    /// Adds a row of `length` tokens. Rows are to arrive in order of `now`.
    pub fn push(&mut self, row: T, length: usize, now: Instant) {
        let group = self.shapes.group(length);
        if group >= self.groups.len() {
            self.groups.resize_with(group + 1, VecDeque::new);
        }
        self.groups[group].push_back(Entry { row, since: now });
        self.tokens += self.shapes.length_of(group);
    }

    /// Tokens of all waiting rows, each padded to its own group's length only.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// True if rows of one length fill a batch, so that waiting would not better it.
    pub fn has_full_batch(&self) -> bool {
        let is_full = |(i, group): (usize, &VecDeque<_>)| group.len() >= self.shapes.rows_max(i, &self.budget);
        self.groups.iter().enumerate().any(is_full)
    }

    /// Takes the next batch: around the oldest row where that one has waited too long,
    /// else the fullest there is. Rows that nobody `wanted` any more are dropped. None when
    /// nothing is left.
    pub fn next(&mut self, now: Instant, wanted: impl Fn(&T) -> bool) -> Option<Batch<T>> {
        while let Some(longest) = self.first_group(now) {
            let length = self.shapes.length_of(longest);
            let rows_max = self.shapes.rows_for(longest, self.groups[longest].len(), &self.budget);
            let mut rows = Vec::new();
            let mut padding_left = self.shapes.padding_max(&self.budget);
            for group in (0..=longest).rev() {
                let padding = length - self.shapes.length_of(group);
                while rows.len() < rows_max && padding <= padding_left {
                    let Some(entry) = self.pop(group) else { break };
                    if wanted(&entry.row) {
                        padding_left -= padding;
                        rows.push(entry.row);
                    }
                }
            }
            if !rows.is_empty() {
                let shape = self.shapes.of_batch(longest, rows.len());
                return Some(Batch { rows, shape });
            }
        }
        None
    }

    /// The group of the next batch's longest rows.
    fn first_group(&self, now: Instant) -> Option<usize> {
        let fronts = self.groups.iter().enumerate().filter_map(|(i, group)| Some((group.front()?.since, i)));
        let (since, oldest) = fronts.min_by_key(|&(since, i)| (since, std::cmp::Reverse(i)))?;
        if now.saturating_duration_since(since) > self.budget.wait_max {
            return Some(oldest);
        }
        // Of equally full batches the longest goes first, so that with several replicas no
        // long one starts last.
        (0..self.groups.len())
            .filter(|&i| !self.groups[i].is_empty())
            .max_by_key(|&i| self.shapes.fullness(i, self.groups[i].len(), &self.budget))
    }

    fn pop(&mut self, group: usize) -> Option<Entry<T>> {
        let entry = self.groups[group].pop_front()?;
        self.tokens -= self.shapes.length_of(group);
        Some(entry)
    }
}

/// `length` rounded up to [`LENGTH_STEP`].
pub fn padded(length: usize) -> usize {
    length.max(1).next_multiple_of(LENGTH_STEP)
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
