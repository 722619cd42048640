use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::manifest::Artifact;

const ARTIFACT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/artifacts/minilm-l6-v6");

#[test]
fn verdicts_hold_from_their_threshold_on() {
    let thresholds = Thresholds { duplicate: 0.6, review: 0.3 };
    let verdicts = [0.0, 0.299, 0.3, 0.599, 0.6, 1.0].map(|p| verdict(p, thresholds));
    use Verdict::{Distinct, Duplicate, Review};
    assert_eq!(verdicts, [Distinct, Distinct, Review, Review, Duplicate, Duplicate]);
}

#[test]
fn probabilities_are_the_softmax_even_of_large_logits() {
    assert_eq!(duplicate_probability([2.0, 2.0], 1.5), 0.5);
    assert!((duplicate_probability([0.0, 2.0], 2.0) - 0.731_058_6).abs() < 1e-6);
    assert_eq!(duplicate_probability([-300.0, 300.0], 1.0), 1.0);
    assert_eq!(duplicate_probability([300.0, -300.0], 1.0), 0.0);
    let score = IntentScore::of([500.0, 1.0, 499.0, -500.0], Stage::CrossEncoder);
    assert_eq!(score.intent, Intent::Product);
    assert!((score.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    assert!((score.probabilities[2] - 0.268_941_43).abs() < 1e-6);
}

#[tokio::test]
async fn pairs_in_doubt_are_judged_by_the_mean_of_both_orders() {
    let options = ScorerOptions { replicas: 1, numeric: Numeric::Fp32, kernel: Kernel::Auto };
    let scorer = Scorer::start(Path::new(ARTIFACT), options).expect("the artifact loads").without_cascade();
    let pair = |(left, right): (&str, &str)| TextPair { left: left.into(), right: right.into() };
    let pairs: Vec<TextPair> = [
        ("norvik kettle kt1700", "norvik kettle 1.7 l steel"),
        ("norvik kettle kt1700", "orbisk desk lamp"),
        ("trail jacket men navy medium", "trail jacket men navy"),
        ("norvik kettle kt1700", "norvik kettle kt1700"),
    ]
    .map(pair)
    .to_vec();
    let logits = async |encode: Encode<TextPair>| {
        let rows = scorer.logits(pairs.clone(), None, encode).await.expect("the pairs are read");
        rows.iter().map(|row| row.pair).collect::<Vec<_>>()
    };
    let (once, turned) = (logits(Encoder::pairs).await, logits(Encoder::turned_pairs).await);
    let temperature = scorer.manifest.temperature;
    let first = once.iter().map(|&logits| duplicate_probability(logits, temperature)).collect::<Vec<_>>();
    // The most and the least certain are read once.
    let mut sorted = first.clone();
    sorted.sort_by(f32::total_cmp);
    let between = |one: usize| (sorted[one] + sorted[one + 1]) / 2.0;
    let second_reading = Some(SecondReading { above: between(0), below: between(2) });
    let scorer = Scorer { second_reading, ..scorer.clone() };
    let found = scorer.score_pairs(pairs.clone()).await.expect("the pairs are scored");
    assert_eq!(found.iter().filter(|score| score.read_twice).count(), 2);
    for (row, score) in found.iter().enumerate() {
        let both = duplicate_probability(mean(once[row], turned[row]), temperature);
        let expected = if score.read_twice { both } else { first[row] };
        assert!((score.probability - expected).abs() < 1e-4, "row {row}: {score:?} is not {expected}");
        assert!(!score.read_twice || (both - first[row]).abs() > 1e-4, "row {row}: the orders say the same");
    }
    let swapped = pairs.iter().map(|pair| TextPair { left: pair.right.clone(), right: pair.left.clone() });
    assert_eq!(scorer.score_pairs(swapped.collect()).await.expect("the pairs are scored"), found);
    let once = scorer.reading_once().score_pairs(pairs.clone()).await.expect("the pairs are scored");
    assert!(once.iter().all(|score| !score.read_twice));
}

#[tokio::test]
async fn chunks_of_a_call_are_worked_on_side_by_side_and_keep_their_order() {
    const THREADS: usize = 3;
    let artifact = Artifact::open(Path::new(ARTIFACT)).expect("the shipped artifact is good");
    let encoder = Encoder::new(&artifact.tokenizer, 128, 32).expect("the tokenizer is good");
    let tokenisers = Tokenisers::start(encoder, THREADS, false).expect("the threads start");
    let options = ScorerOptions { replicas: 1, numeric: Numeric::Fp32, kernel: Kernel::Auto };
    let scorer = Scorer { tokenisers, ..Scorer::start(Path::new(ARTIFACT), options).expect("the artifact loads") };
    let items: Vec<String> = (0..2 * THREADS * TOKENISED_ROWS - 1).map(|i| i.to_string()).collect();
    // Each chunk waits for two others, and the last of them goes first.
    let all_there = Arc::new(Barrier::new(THREADS));
    let done = Arc::new(AtomicUsize::new(0));
    let work = move |_: &Encoder, chunk: &[String]| {
        all_there.wait();
        let place = chunk[0].parse::<usize>().expect("a number") / TOKENISED_ROWS % THREADS;
        while done.load(Ordering::Acquire) % THREADS != THREADS - 1 - place {
            std::thread::yield_now();
        }
        done.fetch_add(1, Ordering::AcqRel);
        chunk.to_vec()
    };
    let chunks = scorer.in_chunks(items.clone(), None, work).map(|chunk| chunk.expect("it is worked on"));
    let found = tokio::time::timeout(Duration::from_secs(60), chunks.collect::<Vec<_>>()).await;
    assert_eq!(found.expect("chunks are worked on side by side").concat(), items);
}

#[test]
fn many_short_texts_are_no_short_work() {
    assert_eq!(bytes_of(&["kettle".to_owned(), "k".repeat(100)]), TEXT_BYTES_MIN + 100);
    assert!(bytes_of(&[const { String::new() }; 256]) > crate::tokenise::OWN_THREAD_BYTES_MAX);
}

#[test]
fn rows_that_are_not_finite_are_named() {
    let logits = [[0.0, 1.0], [f32::NAN, 0.0], [3.0, 4.0], [0.0, f32::INFINITY]];
    assert_eq!(non_finite(&logits), vec![1, 3]);
    let in_the_call = ScoreError::NonFinite { rows: vec![1, 3] }.renumbered(&[0, 2, 5, 9]);
    assert!(matches!(in_the_call, ScoreError::NonFinite { rows } if rows == [2, 9]));
    assert!(!ScoreError::NonFinite { rows: vec![1] }.is_fatal());
    assert!(ScoreError::Device { reason: "lost".to_owned() }.is_fatal() && ScoreError::Stopped.is_fatal());
}
