use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const WAIT_MAX: Duration = Duration::from_millis(20);

fn budgets() -> impl Strategy<Value = Budget> {
    (1usize..3000, 1usize..100, 0usize..200).prop_map(|(tokens_max, rows_max, batch_tokens)| Budget {
        tokens_max,
        rows_max,
        batch_tokens,
        wait_max: WAIT_MAX,
    })
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0usize..130, 0..300)
}

/// Row `i` has `lengths[i]` tokens; all arrive at once.
fn waiting(budget: Budget, lengths: &[usize], now: Instant) -> Waiting<usize> {
    let mut waiting = Waiting::new(budget);
    for (row, &length) in lengths.iter().enumerate() {
        waiting.push(row, length, now);
    }
    waiting
}

fn all_batches(mut waiting: Waiting<usize>, now: Instant) -> Vec<Batch<usize>> {
    std::iter::from_fn(|| waiting.next(now, |_| true)).collect()
}

proptest! {
    #[test]
    fn every_row_is_in_one_batch(lengths in lengths(), budget in budgets(), late in any::<bool>()) {
        let now = Instant::now();
        let at = if late { now + 2 * WAIT_MAX } else { now };
        let batches = all_batches(waiting(budget, &lengths, now), at);
        let mut rows: Vec<usize> = batches.iter().flat_map(|b| b.rows.iter().copied()).collect();
        rows.sort_unstable();
        prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
    }

    #[test]
    fn batches_keep_the_budget_and_hold_their_rows(lengths in lengths(), budget in budgets()) {
        let now = Instant::now();
        for batch in all_batches(waiting(budget, &lengths, now), now) {
            prop_assert!(!batch.rows.is_empty() && batch.rows.len() <= budget.rows_max);
            prop_assert!(batch.rows.len() == 1 || batch.tokens() <= budget.tokens_max);
            let longest = batch.rows.iter().map(|&r| lengths[r]).max().unwrap_or_default();
            prop_assert!(batch.length >= longest && batch.length < longest.max(1) + LENGTH_STEP);
        }
    }

    /// Beside the rounding, padding never costs more than the batches that it saves.
    #[test]
    fn padding_costs_less_than_a_batch_each(lengths in lengths(), budget in budgets()) {
        let now = Instant::now();
        let batches = all_batches(waiting(budget, &lengths, now), now);
        let planned: usize = batches.iter().map(Batch::tokens).sum();
        let least: usize = lengths.iter().map(|&l| padded(l)).sum();
        prop_assert!(planned <= least + batches.len() * budget.batch_tokens, "{} against {}", planned, least);
    }

    #[test]
    fn the_count_of_waiting_tokens_is_right(lengths in lengths(), budget in budgets(), taken in 0usize..20) {
        let now = Instant::now();
        let mut waiting = waiting(budget, &lengths, now);
        let mut gone = HashSet::new();
        for _ in 0..taken {
            gone.extend(waiting.next(now, |row| row % 3 != 0).into_iter().flat_map(|batch| batch.rows));
        }
        let counted: usize = waiting.groups.iter().enumerate().map(|(i, g)| g.len() * length_of(i)).sum();
        prop_assert_eq!(waiting.tokens(), counted);
        prop_assert!(gone.iter().all(|row| row % 3 != 0), "a row that nobody wants was planned");
    }

    /// However many rows keep coming, and however well they fill batches: from its limit on,
    /// each batch holds the oldest row of all, so a row waits for those before it only.
    #[test]
    fn no_row_starves(
        lengths in prop::collection::vec(1usize..130, 1..40),
        victim_length in 1usize..130,
        arrivals in prop::collection::vec(1usize..130, 1..60),
        budget in budgets(),
    ) {
        let start = Instant::now();
        let mut waiting = waiting(budget, &lengths, start);
        let victim = lengths.len();
        waiting.push(victim, victim_length, start);
        let mut batches_after_limit = 0;
        for step in 1u32.. {
            let now = start + WAIT_MAX / 4 * step;
            for i in 0..8 {
                waiting.push(usize::MAX, arrivals[(step as usize * 8 + i) % arrivals.len()], now);
            }
            let batch = waiting.next(now, |_| true).expect("rows wait");
            if batch.rows.contains(&victim) {
                break;
            }
            batches_after_limit += usize::from(now > start + WAIT_MAX);
            prop_assert!(batches_after_limit <= lengths.len(), "the row waits behind later ones");
        }
    }
}

#[test]
fn a_batch_mixes_callers_and_takes_the_oldest_of_its_length_first() {
    let budget = Budget { tokens_max: 32, rows_max: 9, batch_tokens: 0, wait_max: WAIT_MAX };
    let now = Instant::now();
    let mut waiting = waiting(budget, &[8, 8, 8, 8, 8], now);
    assert_eq!(waiting.next(now, |_| true), Some(Batch { rows: vec![0, 1, 2, 3], length: 8 }));
    waiting.push(5, 7, now);
    assert_eq!(waiting.next(now, |_| true), Some(Batch { rows: vec![4, 5], length: 8 }));
    assert_eq!(waiting.next(now, |_| true), None);
}

#[test]
fn the_fullest_batch_goes_first_until_a_row_has_waited_too_long() {
    let budget = Budget { tokens_max: 64, rows_max: 9, batch_tokens: 0, wait_max: WAIT_MAX };
    let start = Instant::now();
    let mut waiting = waiting(budget, &[40, 8, 8, 8, 8, 8, 8], start);
    assert_eq!(waiting.next(start, |_| true).map(|batch| batch.length), Some(8));
    for row in 7..20 {
        waiting.push(row, 8, start);
    }
    let late = start + WAIT_MAX + Duration::from_millis(1);
    assert_eq!(waiting.next(late, |_| true), Some(Batch { rows: vec![0], length: 40 }));
}

#[test]
fn a_few_shorter_rows_join_where_a_batch_of_their_own_costs_more() {
    let joined = |batch_tokens| {
        let budget = Budget { tokens_max: 256, rows_max: 99, batch_tokens, wait_max: WAIT_MAX };
        let now = Instant::now();
        let mut waiting = waiting(budget, &[32, 32, 24, 24, 24, 8], now);
        waiting.next(now, |_| true).expect("rows wait")
    };
    assert_eq!(joined(16), Batch { rows: vec![2, 3, 4, 5], length: 24 });
    assert_eq!(joined(15), Batch { rows: vec![2, 3, 4], length: 24 });
}
