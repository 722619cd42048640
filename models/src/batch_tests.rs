use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::shape::{Grid, Lengths};

const WAIT_MAX: Duration = Duration::from_millis(20);

fn budgets() -> impl Strategy<Value = Budget> {
    (1usize..3000, 1usize..100, 0usize..200).prop_map(|(tokens_max, rows_max, batch_tokens)| Budget {
        tokens_max,
        rows_max,
        batch_tokens,
        wait_max: WAIT_MAX,
    })
}

/// Grids that take rows of up to 130 tokens.
fn grids() -> impl Strategy<Value = Grid> {
    prop::collection::btree_set((1usize..20, 1usize..130), 0..8).prop_map(|shapes| {
        let longest = Shape { rows: 3, length: 130 };
        Grid::new(shapes.into_iter().map(|(rows, length)| Shape { rows, length }).chain([longest]))
    })
}

fn shapes() -> impl Strategy<Value = Shapes> {
    let of_grid = |grid| Shapes::Padded(Lengths::Grid(grid));
    prop_oneof![Just(Shapes::Packed), Just(Shapes::Padded(Lengths::Steps)), grids().prop_map(of_grid)]
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0usize..130, 0..300)
}

/// Row `i` has `lengths[i]` tokens; all arrive at once, and are padded in steps.
fn waiting(budget: Budget, lengths: &[usize], now: Instant) -> Waiting<usize> {
    waiting_for(Shapes::Padded(Lengths::Steps), budget, lengths, now)
}

fn waiting_for(shapes: Shapes, budget: Budget, lengths: &[usize], now: Instant) -> Waiting<usize> {
    let mut waiting = Waiting::new(budget, shapes);
    for (row, &length) in lengths.iter().enumerate() {
        waiting.push(row, length, now);
    }
    waiting
}

/// Of these rows, each padded to `length`, and no others.
fn batch(rows: &[usize], length: usize) -> Batch<usize> {
    Batch { rows: rows.to_vec(), shape: Shape { length, rows: rows.len() } }
}

fn all_batches(mut waiting: Waiting<usize>, now: Instant) -> Vec<Batch<usize>> {
    std::iter::from_fn(|| waiting.next(now, |_| true)).collect()
}

proptest! {
    #[test]
    fn every_row_is_in_one_batch(
        lengths in lengths(),
        budget in budgets(),
        shapes in shapes(),
        late in any::<bool>(),
    ) {
        let now = Instant::now();
        let at = if late { now + 2 * WAIT_MAX } else { now };
        let batches = all_batches(waiting_for(shapes, budget, &lengths, now), at);
        let mut rows: Vec<usize> = batches.iter().flat_map(|b| b.rows.iter().copied()).collect();
        rows.sort_unstable();
        prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
    }

    /// Nothing is gained by another order where nothing is padded.
    #[test]
    fn packed_rows_go_in_order_of_arrival_as_many_as_there_is_room_for(lengths in lengths(), budget in budgets()) {
        let now = Instant::now();
        let tokens = |rows: &[usize]| rows.iter().map(|&row| lengths[row].max(1)).sum::<usize>();
        let batches = all_batches(waiting_for(Shapes::Packed, budget, &lengths, now), now);
        for batch in &batches {
            prop_assert_eq!(batch.shape, Shape { rows: 1, length: tokens(&batch.rows) });
            prop_assert!(batch.rows.len() == 1 || batch.tokens() <= budget.tokens_max && batch.rows.len() <= budget.rows_max);
            if let Some(&next) = batch.rows.last().map(|last| last + 1).as_ref().filter(|&&next| next < lengths.len()) {
                let has_room = batch.rows.len() < budget.rows_max && batch.tokens() + tokens(&[next]) <= budget.tokens_max;
                prop_assert!(!has_room, "row {} would fit", next);
            }
        }
        let rows: Vec<usize> = batches.into_iter().flat_map(|batch| batch.rows).collect();
        prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
    }

    #[test]
    fn padded_batches_keep_the_budget_and_hold_their_rows(lengths in lengths(), budget in budgets()) {
        let now = Instant::now();
        for batch in all_batches(waiting(budget, &lengths, now), now) {
            prop_assert!(!batch.rows.is_empty() && batch.rows.len() <= budget.rows_max);
            prop_assert!(batch.rows.len() == 1 || batch.tokens() <= budget.tokens_max);
            let longest = batch.rows.iter().map(|&r| lengths[r]).max().unwrap_or_default();
            prop_assert!(batch.shape.length >= longest && batch.shape.length < longest.max(1) + LENGTH_STEP);
        }
    }

    /// Rows are left empty only where nothing waits that would fit, and in the smallest of the
    /// shapes that hold the batch.
    #[test]
    fn batches_of_a_grid_are_of_its_shapes_and_as_full_as_can_be(
        lengths in lengths(),
        budget in budgets(),
        grid in grids(),
    ) {
        let now = Instant::now();
        let mut waiting = waiting_for(Shapes::Padded(Lengths::Grid(grid.clone())), budget, &lengths, now);
        let shapes: Vec<Shape> = grid.shapes().collect();
        let mut left = lengths.clone();
        while let Some(batch) = waiting.next(now, |_| true) {
            prop_assert!(shapes.contains(&batch.shape), "{} is not of the grid", batch.shape);
            prop_assert!(!batch.rows.is_empty() && batch.rows.len() <= batch.shape.rows);
            for &row in &batch.rows {
                prop_assert!(lengths[row] <= batch.shape.length);
                left[row] = usize::MAX;
            }
            if batch.rows.len() < batch.shape.rows {
                prop_assert!(!left.iter().any(|&length| length <= batch.shape.length), "a row that waits would fit");
                let holds = |s: &&Shape| s.length == batch.shape.length && s.rows >= batch.rows.len();
                prop_assert_eq!(shapes.iter().filter(holds).map(|s| s.rows).min(), Some(batch.shape.rows));
            }
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
    fn the_count_of_waiting_tokens_is_right(
        lengths in lengths(),
        budget in budgets(),
        shapes in shapes(),
        taken in 0usize..20,
    ) {
        let now = Instant::now();
        let mut waiting = waiting_for(shapes.clone(), budget, &lengths, now);
        let mut gone = HashSet::new();
        for _ in 0..taken {
            gone.extend(waiting.next(now, |row| row % 3 != 0).into_iter().flat_map(|batch| batch.rows));
        }
        prop_assert!(gone.iter().all(|row| row % 3 != 0), "a row that nobody wants was planned");
        let counted = waiting.tokens();
        let left = all_batches(waiting, now).into_iter().flat_map(|batch| batch.rows);
        prop_assert_eq!(counted, left.map(|row| shapes.tokens_of(lengths[row])).sum::<usize>());
    }

    /// However many rows keep coming, and however well they fill batches: from its limit on,
    /// each batch holds the oldest row of all, so a row waits for those before it only.
    #[test]
    fn no_row_starves(
        lengths in prop::collection::vec(1usize..130, 1..40),
        victim_length in 1usize..130,
        arrivals in prop::collection::vec(1usize..130, 1..60),
        budget in budgets(),
        shapes in shapes(),
    ) {
        let start = Instant::now();
        let mut waiting = waiting_for(shapes, budget, &lengths, start);
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
    assert_eq!(waiting.next(now, |_| true), Some(batch(&[0, 1, 2, 3], 8)));
    waiting.push(5, 7, now);
    assert_eq!(waiting.next(now, |_| true), Some(batch(&[4, 5], 8)));
    assert_eq!(waiting.next(now, |_| true), None);
}

#[test]
fn the_fullest_batch_goes_first_until_a_row_has_waited_too_long() {
    let budget = Budget { tokens_max: 64, rows_max: 9, batch_tokens: 0, wait_max: WAIT_MAX };
    let start = Instant::now();
    let mut waiting = waiting(budget, &[40, 8, 8, 8, 8, 8, 8], start);
    assert_eq!(waiting.next(start, |_| true).map(|batch| batch.shape.length), Some(8));
    for row in 7..20 {
        waiting.push(row, 8, start);
    }
    let late = start + WAIT_MAX + Duration::from_millis(1);
    assert_eq!(waiting.next(late, |_| true), Some(batch(&[0], 40)));
}

#[test]
fn a_few_shorter_rows_join_where_a_batch_of_their_own_costs_more() {
    let joined = |batch_tokens| {
        let budget = Budget { tokens_max: 256, rows_max: 99, batch_tokens, wait_max: WAIT_MAX };
        let now = Instant::now();
        let mut waiting = waiting(budget, &[32, 32, 24, 24, 24, 8], now);
        waiting.next(now, |_| true).expect("rows wait")
    };
    assert_eq!(joined(16), batch(&[2, 3, 4, 5], 24));
    assert_eq!(joined(15), batch(&[2, 3, 4], 24));
}

#[test]
fn a_module_is_chosen_by_its_time_for_each_row() {
    let grid = Grid::new([(1, 16), (16, 16), (4, 128)].map(|(rows, length)| Shape { rows, length }));
    let budget = Budget { tokens_max: 1, rows_max: 1, batch_tokens: 280, wait_max: WAIT_MAX };
    let now = Instant::now();
    let shape = |lengths: &[usize]| {
        let mut waiting = waiting_for(Shapes::Padded(Lengths::Grid(grid.clone())), budget, lengths, now);
        waiting.next(now, |_| true).map(|batch| batch.shape.to_string()).unwrap_or_default()
    };
    assert_eq!(shape(&[9]), "1x16");
    assert_eq!(shape(&[9, 9]), "16x16", "two batches of one row take longer");
    assert_eq!(shape(&[17]), "4x128");
    assert_eq!(shape(&[16; 40]), "16x16");
}
