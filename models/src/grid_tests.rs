use proptest::prelude::*;

use super::*;

const NO_LIMITS: Limits = Limits { modules_max: 9, batch_tokens_max: 768, length_max: 128 };

fn shape(rows: usize, length: usize) -> Shape {
    Shape { rows, length }
}

fn call(at_ms: u64, lengths: &[usize]) -> Call {
    Call { at: Duration::from_millis(at_ms), lengths: lengths.to_vec() }
}

/// Rows of up to `length_max` tokens, of one call each list.
fn rows(length_max: usize) -> impl Strategy<Value = Vec<Vec<usize>>> {
    prop::collection::vec(prop::collection::vec(1..=length_max, 1..20), 1..20)
}

/// The same as calls, in order of arrival.
fn calls(length_max: usize) -> impl Strategy<Value = Vec<Call>> {
    (rows(length_max), prop::collection::vec(0u64..30, 20)).prop_map(|(rows, pauses_ms)| {
        let mut at_ms = 0;
        let arrive = |(lengths, pause_ms): (Vec<usize>, u64)| {
            at_ms += pause_ms;
            call(at_ms, &lengths)
        };
        rows.into_iter().zip(pauses_ms).map(arrive).collect()
    })
}

/// Every set of at most `modules_max` candidates that takes rows of `length_max` tokens.
fn all_grids(limits: &Limits) -> Vec<Vec<Shape>> {
    let candidates = candidates(limits);
    let mut grids = vec![Vec::new()];
    for _ in 0..limits.modules_max {
        let grown: Vec<Vec<Shape>> = grids.iter().flat_map(|grid| added(grid, &candidates)).collect();
        grids.extend(grown);
    }
    grids.retain(|grid| grid.iter().any(|shape| shape.length >= limits.length_max));
    grids
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_row_is_played_once(bulk in rows(40), online in calls(40), cores in 1usize..5, at_once in 1usize..30) {
        let grid = Grid::new([shape(1, 8), shape(8, 16), shape(4, 40)]);
        let lengths_of_calls: Vec<usize> = online.iter().flat_map(|call| call.lengths.clone()).collect();
        let lanes = [
            (bulk.concat(), Traffic::bulk(bulk, cores, at_once)),
            (lengths_of_calls, Traffic::online(online, cores)),
        ];
        for (lengths, lane) in lanes {
            let played = lane.play(&grid);
            prop_assert_eq!(played.by_shape.values().map(|runs| runs.rows).sum::<usize>(), lengths.len());
            prop_assert_eq!(played.by_shape.values().map(|runs| runs.tokens).sum::<usize>(), lengths.iter().sum::<usize>());
            prop_assert!(played.fill() > 0.0 && played.fill() <= 1.0);
            // No row is answered before the shortest batch could end.
            prop_assert!(played.answer_time >= NEURON_TOKEN_TIME * ((8 + NEURON_BATCH_TOKENS) * lengths.len()) as u32);
        }
    }

    /// Small enough for every grid to be tried.
    #[test]
    fn the_choice_is_close_to_the_best_of_all_grids(bulk in rows(24), online in calls(8), cores in 1usize..3) {
        let limits = Limits { modules_max: 2, batch_tokens_max: 64, length_max: 24 };
        let lanes = [Traffic::bulk(bulk, cores, 8), Traffic::online(online, 1)];
        let costs = all_grids(&limits).into_iter().map(|grid| cost(&lanes, &grid));
        let least = costs.min_by(f64::total_cmp).expect("there are grids");
        let chosen = choose(&lanes, &limits);
        let found = cost(&lanes, &chosen);
        prop_assert!(found <= least + 0.1, "{:?} costs {}, and the best {}", chosen, found, least);
    }

    #[test]
    fn a_choice_keeps_its_limits(
        rows in rows(56),
        modules_max in 1usize..4,
        batch_tokens_max in 1usize..300,
        length_max in 56usize..70,
    ) {
        let limits = Limits { modules_max, batch_tokens_max, length_max };
        let chosen = choose(&[Traffic::bulk(rows, 2, 8)], &limits);
        prop_assert!((1..=modules_max).contains(&chosen.len()), "{:?}", chosen);
        prop_assert!(chosen.iter().any(|shape| shape.length == length_max), "{:?}", chosen);
        prop_assert!(chosen.iter().all(|shape| shape.rows == 1 || shape.tokens() <= batch_tokens_max), "{:?}", chosen);
        prop_assert!(chosen.is_sorted() && chosen.windows(2).all(|pair| pair[0] != pair[1]), "{:?}", chosen);
    }
}

/// By hand: two cores take the two long rows; by the time that they are free again, all short
/// rows are there.
#[test]
fn traffic_is_played_as_cores_become_free() {
    let grid = Grid::new([shape(4, 8), shape(1, 32)]);
    let calls = vec![call(0, &[32, 30]), call(1, &[5]), call(2, &[8, 3])];
    let played = Traffic::online(calls, 2).play(&grid);
    let runs = |batches, rows, tokens| Runs { batches, rows, tokens };
    assert_eq!(played.by_shape, BTreeMap::from([(shape(1, 32), runs(2, 2, 62)), (shape(4, 8), runs(1, 3, 16))]));
    assert_eq!((played.shape_tokens(), played.cost_tokens()), (96, 96 + 3 * NEURON_BATCH_TOKENS));
    assert_eq!(played.fill(), 78.0 / 96.0);
    // All three batches are of 32 tokens; the short rows end with the second.
    let batch = NEURON_TOKEN_TIME * (32 + NEURON_BATCH_TOKENS) as u32;
    assert_eq!(played.answer_time, batch * 2 + batch * 2 * 3 - Duration::from_millis(1 + 2 + 2));
    assert_eq!(Traffic::online(Vec::new(), 1).play(&grid).fill(), 1.0);
}

/// By hand: of three calls two are in work at once, so the third one's row is alone.
#[test]
fn a_backlog_keeps_its_calls_in_work() {
    let grid = Grid::new([shape(4, 8)]);
    let played = |at_once| Traffic::bulk(vec![vec![8, 8], vec![8], vec![8]], 1, at_once).play(&grid);
    let batches = |at_once| played(at_once).by_shape[&shape(4, 8)].batches;
    assert_eq!([1, 2, 3, 9].map(batches), [3, 2, 1, 1]);
    assert_eq!(played(2).answer_time, NEURON_TOKEN_TIME * 4 * (32 + NEURON_BATCH_TOKENS) as u32);
}

#[test]
fn lone_queries_get_a_short_module_of_one_row_beside_the_full_ones_of_pairs() {
    let pairs = (0..60).map(|i| vec![30 + i % 11; 20]).collect();
    let queries = (0..200).map(|i| call(i * 50, &[5])).collect();
    let lanes = [Traffic::bulk(pairs, 4, 64), Traffic::online(queries, 1)];
    let chosen = choose(&lanes, &NO_LIMITS);
    assert!(chosen.contains(&shape(1, 8)), "{chosen:?}");
    assert!(chosen.iter().any(|shape| shape.length == 40 && shape.rows > 8), "{chosen:?}");
    assert!(cost(&lanes, &chosen) < cost(&lanes, &[shape(6, 128)]) - 1.0, "{chosen:?}");
}
