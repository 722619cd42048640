//! Rows that are padded to the longest one of their batch.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Batch, Budget, Entry};
use crate::shape::Lengths;

/// Rows that wait, in groups of one padded length, each in order of arrival.
#[derive(Debug)]
pub(super) struct Groups<T> {
    budget: Budget,
    lengths: Lengths,
    /// As `lengths` numbers them.
    groups: Vec<VecDeque<Entry<T>>>,
}

impl<T> Groups<T> {
    pub fn new(budget: Budget, lengths: Lengths) -> Self {
        Self { budget, lengths, groups: Vec::new() }
    }

    pub fn push(&mut self, entry: Entry<T>, length: usize) {
        let group = self.lengths.group(length);
        if group >= self.groups.len() {
            self.groups.resize_with(group + 1, VecDeque::new);
        }
        self.groups[group].push_back(entry);
    }

    pub fn has_full_batch(&self) -> bool {
        let is_full = |(i, group): (usize, &VecDeque<_>)| group.len() >= self.lengths.rows_max(i, &self.budget);
        self.groups.iter().enumerate().any(is_full)
    }

    /// A batch around the oldest row where that one has waited too long, else the fullest there is; and the tokens
    /// of all rows that have gone.
    pub fn next(&mut self, now: Instant, wanted: impl Fn(&Entry<T>) -> bool) -> (Option<Batch<T>>, usize) {
        let mut gone = 0;
        while let Some(longest) = self.first_group(now) {
            let length = self.lengths.length_of(longest);
            let rows_max = self.lengths.rows_for(longest, self.groups[longest].len(), &self.budget);
            let mut rows = Vec::new();
            let mut padding_left = self.lengths.padding_max(&self.budget);
            for group in (0..=longest).rev() {
                let padding = length - self.lengths.length_of(group);
                while rows.len() < rows_max && padding <= padding_left {
                    let Some(entry) = self.groups[group].pop_front() else { break };
                    gone += entry.tokens;
                    if wanted(&entry) {
                        padding_left -= padding;
                        rows.push(entry.row);
                    }
                }
            }
            if !rows.is_empty() {
                let shape = self.lengths.of_batch(longest, rows.len());
                return (Some(Batch { rows, shape }), gone);
            }
        }
        (None, gone)
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
            .max_by_key(|&i| self.lengths.fullness(i, self.groups[i].len(), &self.budget))
    }
}
