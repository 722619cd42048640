//! Which waiting rows go through the network together. Pure: time is handed in.
//!
//! Where rows are padded to the longest one of their batch, those of like length share one, whoever asked
//! for them: product pairs average 41 tokens, and padded to 128 three quarters of the work is waste. Where
//! nothing is padded they go in order of arrival. A batch that is not full is planned as late as it can be,
//! when a replica is free, from all that waits by then.

mod padded;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::padded::Groups;
use crate::shape::{Shape, Shapes};

/// Padded lengths are rounded up to a multiple of this, so that few different shapes occur and
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
    /// A row that has waited longer goes before fuller batches, the oldest first. Where nothing is padded it always does.
    pub wait_max: Duration,
}

/// Rows that are scored at once.
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
    /// That it counts for.
    tokens: usize,
    since: Instant,
}

/// Rows that wait for a batch.
#[derive(Debug)]
pub struct Waiting<T> {
    budget: Budget,
    shapes: Shapes,
    rows: Rows<T>,
    tokens: usize,
}

#[derive(Debug)]
enum Rows<T> {
    /// In order of arrival.
    Packed(VecDeque<Entry<T>>),
    Padded(Groups<T>),
}

impl<T> Waiting<T> {
    pub fn new(budget: Budget, shapes: Shapes) -> Self {
        let rows = match &shapes {
            Shapes::Packed => Rows::Packed(VecDeque::new()),
            Shapes::Padded(lengths) => Rows::Padded(Groups::new(budget, lengths.clone())),
        };
        Self { budget, shapes, rows, tokens: 0 }
    }

    /// Adds a row of `length` tokens. Rows are to arrive in order of `now`.
    pub fn push(&mut self, row: T, length: usize, now: Instant) {
        let entry = Entry { row, tokens: self.shapes.tokens_of(length), since: now };
        self.tokens += entry.tokens;
        match &mut self.rows {
            Rows::Packed(rows) => rows.push_back(entry),
            Rows::Padded(groups) => groups.push(entry, length),
        }
    }

    /// Tokens of all waiting rows, each with the padding of its own length only.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// True if a batch is full, so that waiting would not better it.
    pub fn has_full_batch(&self) -> bool {
        match &self.rows {
            Rows::Packed(rows) => rows.len() >= self.budget.rows_max || self.tokens >= self.budget.tokens_max,
            Rows::Padded(groups) => groups.has_full_batch(),
        }
    }

    /// Takes the next batch. Rows that nobody `wanted` any more are dropped. None when nothing is left.
    pub fn next(&mut self, now: Instant, wanted: impl Fn(&T) -> bool) -> Option<Batch<T>> {
        let wanted = |entry: &Entry<T>| wanted(&entry.row);
        let (batch, tokens) = match &mut self.rows {
            Rows::Packed(rows) => next_packed(rows, &self.budget, wanted),
            Rows::Padded(groups) => groups.next(now, wanted),
        };
        self.tokens -= tokens;
        batch
    }
}

/// The oldest rows, as many as there is room for, and the tokens of all that have gone.
fn next_packed<T>(
    waiting: &mut VecDeque<Entry<T>>,
    budget: &Budget,
    wanted: impl Fn(&Entry<T>) -> bool,
) -> (Option<Batch<T>>, usize) {
    let (mut rows, mut length, mut gone) = (Vec::new(), 0, 0);
    let fits = |rows: &[T], tokens| rows.is_empty() || rows.len() < budget.rows_max && tokens <= budget.tokens_max;
    while let Some(entry) = waiting.pop_front_if(|entry| !wanted(entry) || fits(&rows, length + entry.tokens)) {
        gone += entry.tokens;
        if wanted(&entry) {
            length += entry.tokens;
            rows.push(entry.row);
        }
    }
    let shape = Shape { length, rows: 1 };
    ((!rows.is_empty()).then_some(Batch { rows, shape }), gone)
}

/// `length` rounded up to [`LENGTH_STEP`].
pub fn padded(length: usize) -> usize {
    length.max(1).next_multiple_of(LENGTH_STEP)
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
