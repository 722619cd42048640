//! Which rows go through the network together. Pure.
//!
//! Rows of like length share a batch, because every row is padded to the longest one:
//! product pairs average 41 tokens, and padded to 128 three quarters of the work is waste.

use std::ops::Range;

/// Lengths are rounded up to a multiple of this, so that few different shapes occur and
/// the kernels' caches of prepared shapes stay warm.
pub const LENGTH_STEP: usize = 8;

/// Bounds of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Most tokens in a batch, padding included; a single longer row is a batch of its own.
    pub tokens_max: usize,
    /// Most rows in a batch.
    pub rows_max: usize,
}

/// Rows that are padded to one length and scored at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Indices into the planned rows.
    pub rows: Vec<usize>,
    /// Tokens of each row after padding.
    pub length: usize,
}

/// Groups rows of the given lengths (in tokens) into batches, the longest rows first, so
/// that with several replicas no long batch starts last.
pub fn plan(lengths: &[usize], budget: Budget) -> Vec<Batch> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
    let mut batches = Vec::new();
    let mut start = 0;
    while start < order.len() {
        let Range { end, .. } = batch_from(&order, lengths, start, budget);
        batches.push(Batch { rows: order[start..end].to_vec(), length: padded(lengths[order[start]]) });
        start = end;
    }
    batches
}

/// The rows from `start` on that fit with it. Rows are sorted, so the first is the longest.
fn batch_from(order: &[usize], lengths: &[usize], start: usize, budget: Budget) -> Range<usize> {
    let fitting = budget.tokens_max / padded(lengths[order[start]]);
    let rows = fitting.min(budget.rows_max).max(1);
    start..order.len().min(start + rows)
}

/// `length` rounded up to [`LENGTH_STEP`].
fn padded(length: usize) -> usize {
    length.max(1).next_multiple_of(LENGTH_STEP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_row_is_in_one_batch(
            lengths in prop::collection::vec(0usize..130, 0..300),
            tokens_max in 1usize..5000,
            rows_max in 1usize..100,
        ) {
            let batches = plan(&lengths, Budget { tokens_max, rows_max });
            let mut rows: Vec<usize> = batches.iter().flat_map(|b| b.rows.iter().copied()).collect();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
        }

        #[test]
        fn batches_keep_the_budget_and_hold_their_rows(
            lengths in prop::collection::vec(0usize..130, 0..300),
            tokens_max in 1usize..5000,
            rows_max in 1usize..100,
        ) {
            for batch in plan(&lengths, Budget { tokens_max, rows_max }) {
                prop_assert!(!batch.rows.is_empty() && batch.rows.len() <= rows_max);
                prop_assert!(batch.rows.len() == 1 || batch.rows.len() * batch.length <= tokens_max);
                let longest = batch.rows.iter().map(|&r| lengths[r]).max().unwrap_or_default();
                prop_assert!(batch.length >= longest && batch.length < longest.max(1) + LENGTH_STEP);
            }
        }

        /// Sorting makes padding small: beside the rounding, all batches together pad less
        /// than one more batch's worth of the longest rows.
        #[test]
        fn padding_costs_at_most_one_batch_more(
            lengths in prop::collection::vec(1usize..129, 1..300),
            rows_max in 1usize..64,
        ) {
            let planned: usize =
                plan(&lengths, Budget { tokens_max: usize::MAX, rows_max }).iter().map(|b| b.rows.len() * b.length).sum();
            let least: usize = lengths.iter().map(|&l| padded(l)).sum();
            let longest = lengths.iter().map(|&l| padded(l)).max().unwrap_or_default();
            prop_assert!(planned <= least + rows_max * longest, "{planned} against {least}");
        }
    }
}
