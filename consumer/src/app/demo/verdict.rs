//! Whether the demo's run is good. Pure: what was read back, against the truth.

use std::collections::{BTreeMap, BTreeSet};

use shared::text::normalise_query;
use shared::{Intent, PairLabel, ProductId, Verdict};

use super::{ReadBack, RunReport};
use crate::app::sample::{KnownQuery, Outcome, Pair, Sample, judge};

/// The labels that a reader gets, judged.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Duplicates found, with the score of the pair.
    pub found: BTreeMap<Pair, f32>,
    /// Pairs that the model leaves to a person; neither found nor distinct.
    pub review: BTreeMap<Pair, f32>,
    pub outcome: Outcome,
    /// Each query of the sample with the intent that was read, if any.
    pub intents: Vec<(KnownQuery, Option<Intent>)>,
    /// Products in the sample.
    pub products: usize,
    pub unlabelled_products: Vec<ProductId>,
    /// Duplicates that only one of the two products knows of: a label is missing.
    pub one_sided: Vec<Pair>,
}

/// Why a run that came to its end is not good.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    #[error("{missing} of {products} products have no label item, first {first}")]
    ProductsUnlabelled { missing: usize, products: usize, first: ProductId },
    #[error("{missing} of {queries} queries have no intent, first {first:?}")]
    QueriesUnlabelled { missing: usize, queries: usize, first: String },
    #[error("{count} duplicates are labelled on one side only, first {low} with {high}")]
    OneSided { count: usize, low: ProductId, high: ProductId },
    #[error("{settled} of {sent} events were settled and {parked} parked; all must settle, and none be parked")]
    EventsLost { settled: u64, sent: u64, parked: u64 },
    #[error(
        "f1 is {f1:.3}, and {f1_min} is needed (precision {precision:.3}, recall {recall:.3}); \
         is this the shipped model?"
    )]
    F1TooLow { f1: f64, f1_min: f64, precision: f64, recall: f64 },
}

/// Judges what was read back of the sample.
pub fn judge_run(sample: &Sample, read: &ReadBack) -> Judged {
    let (found, one_sided) = pairs_of(&read.labels, Verdict::Duplicate);
    let (review, _) = pairs_of(&read.labels, Verdict::Review);
    let found_pairs: BTreeSet<Pair> = found.keys().cloned().collect();
    let intent = |known: &KnownQuery| read.intents.get(&normalise_query(&known.text)).copied();
    Judged {
        outcome: judge(&found_pairs, &sample.duplicates()),
        intents: sample.queries.iter().map(|known| (known.clone(), intent(known))).collect(),
        products: sample.upserts.len(),
        unlabelled_products: sample
            .upserts
            .iter()
            .map(|upsert| &upsert.product_id)
            .filter(|id| !read.labels.contains_key(id))
            .cloned()
            .collect(),
        found,
        review,
        one_sided,
    }
}

impl Judged {
    /// Share of the sample's queries whose intent is the true one, 0 to 1.
    pub fn intent_accuracy(&self) -> f64 {
        let right = self.intents.iter().filter(|(known, read)| *read == Some(known.intent)).count();
        right as f64 / self.intents.len().max(1) as f64
    }
}

/// The line that ends a good run.
///
/// # Errors
/// Refuses a run in which a label is missing, an event was lost or F1 is below `f1_min`.
pub fn last_line(sent: u64, report: &RunReport, judged: &Judged, f1_min: f64) -> Result<String, Failure> {
    if report.events != sent || report.parked > 0 {
        return Err(Failure::EventsLost { settled: report.events, sent, parked: report.parked });
    }
    check_labels(judged)?;
    let Judged { outcome, .. } = judged;
    let f1 = outcome.f1();
    if f1 < f1_min {
        let (precision, recall) = (outcome.precision(), outcome.recall());
        return Err(Failure::F1TooLow { f1, f1_min, precision, recall });
    }
    let RunReport { events, pairs_scored, labels_written, elapsed, .. } = report;
    let seconds = elapsed.as_secs_f64().ceil();
    Ok(format!("demo ok: events={events} pairs={pairs_scored} labels={labels_written} f1={f1:.2} seconds={seconds}"))
}

fn check_labels(judged: &Judged) -> Result<(), Failure> {
    if let Some(first) = judged.unlabelled_products.first().cloned() {
        let missing = judged.unlabelled_products.len();
        return Err(Failure::ProductsUnlabelled { missing, products: judged.products, first });
    }
    let mut without = judged.intents.iter().filter(|(_, read)| read.is_none());
    if let Some((known, _)) = without.next() {
        let missing = 1 + without.count();
        let first = known.text.clone();
        return Err(Failure::QueriesUnlabelled { missing, queries: judged.intents.len(), first });
    }
    match judged.one_sided.first() {
        Some(pair) => {
            let (low, high) = (pair.low().clone(), pair.high().clone());
            Err(Failure::OneSided { count: judged.one_sided.len(), low, high })
        }
        None => Ok(()),
    }
}

/// Pairs of one verdict with their scores, and those that stand on one side only.
fn pairs_of(labels: &BTreeMap<ProductId, Vec<PairLabel>>, verdict: Verdict) -> (BTreeMap<Pair, f32>, Vec<Pair>) {
    let mut sides: BTreeMap<Pair, (f32, usize)> = BTreeMap::new();
    for (id, labels) in labels {
        for label in labels.iter().filter(|label| label.verdict == verdict) {
            if let Ok(pair) = Pair::new(id.clone(), label.other.clone()) {
                sides.entry(pair).or_insert((label.score, 0)).1 += 1;
            }
        }
    }
    let one_sided = sides.iter().filter(|(_, (_, count))| *count == 1).map(|(pair, _)| pair.clone()).collect();
    (sides.into_iter().map(|(pair, (score, _))| (pair, score)).collect(), one_sided)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use jiff::Timestamp;
    use shared::{Stage, TextHash};

    use super::*;
    use crate::store::Usage;

    const F1_MIN: f64 = 0.85;

    fn sample() -> Sample {
        Sample::load(Timestamp::now()).expect("the embedded sample parses")
    }

    fn label(other: &ProductId, verdict: Verdict) -> PairLabel {
        PairLabel {
            other: other.clone(),
            other_hash: TextHash::of(1, "any"),
            other_version: 1,
            score: 0.97,
            verdict,
            stage: Stage::CrossEncoder,
            labelled_at: Timestamp::UNIX_EPOCH,
        }
    }

    /// What a model that is always right would leave in the tables.
    fn perfect(sample: &Sample) -> ReadBack {
        let mut read = ReadBack::default();
        for upsert in &sample.upserts {
            read.labels.insert(upsert.product_id.clone(), Vec::new());
        }
        for pair in sample.duplicates() {
            add(&mut read, &pair, Verdict::Duplicate);
        }
        for known in &sample.queries {
            read.intents.insert(normalise_query(&known.text), known.intent);
        }
        read
    }

    fn add(read: &mut ReadBack, pair: &Pair, verdict: Verdict) {
        for (id, other) in [(pair.low(), pair.high()), (pair.high(), pair.low())] {
            read.labels.entry(id.clone()).or_default().push(label(other, verdict));
        }
    }

    fn report() -> RunReport {
        RunReport {
            events: 356,
            parked: 0,
            pairs_scored: 4000,
            labels_written: 480,
            elapsed: Duration::from_millis(41_200),
            usage: Usage::default(),
            tables: PathBuf::from("tables.sqlite"),
        }
    }

    fn line(sample: &Sample, read: &ReadBack) -> Result<String, Failure> {
        last_line(356, &report(), &judge_run(sample, read), F1_MIN)
    }

    #[test]
    fn a_perfect_run_says_so_in_the_agreed_words() {
        let sample = sample();
        let line = line(&sample, &perfect(&sample)).expect("the run is good");
        assert_eq!(line, "demo ok: events=356 pairs=4000 labels=480 f1=1.00 seconds=42");
    }

    #[test]
    fn near_misses_that_are_merged_count_as_wrong() {
        let sample = sample();
        let mut read = perfect(&sample);
        for known in sample.pairs.iter().filter(|known| !known.duplicate) {
            add(&mut read, &known.pair, Verdict::Duplicate);
        }
        let judged = judge_run(&sample, &read);
        assert_eq!(judged.outcome.wrong.len(), sample.pairs.len() - sample.duplicates().len());
        assert_eq!(judged.outcome.recall(), 1.0);
        assert!(matches!(line(&sample, &read), Err(Failure::F1TooLow { .. })));
    }

    #[test]
    fn a_pair_left_for_review_is_not_found() {
        let sample = sample();
        let mut read = perfect(&sample);
        for labels in read.labels.values_mut() {
            for label in labels {
                label.verdict = Verdict::Review;
            }
        }
        let judged = judge_run(&sample, &read);
        assert_eq!(judged.review.len(), sample.duplicates().len());
        assert_eq!(judged.outcome.missed.len(), sample.duplicates().len());
        assert!(matches!(line(&sample, &read), Err(Failure::F1TooLow { f1: 0.0, .. })));
    }

    #[test]
    fn each_missing_label_fails_the_run() {
        let sample = sample();
        let single = sample
            .upserts
            .iter()
            .map(|u| &u.product_id)
            .find(|id| sample.duplicates().iter().all(|pair| pair.low() != *id && pair.high() != *id));
        let single = single.expect("most products have no duplicate");
        let mut read = perfect(&sample);
        read.labels.remove(single);
        let failure = line(&sample, &read).expect_err("a label item is missing");
        assert!(matches!(&failure, Failure::ProductsUnlabelled { missing: 1, first, .. } if first == single));

        let mut read = perfect(&sample);
        read.intents.remove(&normalise_query(&sample.queries[3].text));
        let failure = line(&sample, &read).expect_err("an intent is missing");
        assert!(
            matches!(&failure, Failure::QueriesUnlabelled { missing: 1, first, .. } if *first == sample.queries[3].text)
        );

        let mut read = perfect(&sample);
        let pair = sample.duplicates().into_iter().next().expect("the sample has duplicates");
        read.labels.insert(pair.high().clone(), Vec::new());
        let failure = line(&sample, &read).expect_err("one side is missing");
        assert!(matches!(failure, Failure::OneSided { .. }), "{failure}");
    }

    #[test]
    fn a_lost_or_parked_event_fails_the_run() {
        let sample = sample();
        let judged = judge_run(&sample, &perfect(&sample));
        let lost = RunReport { events: 355, ..report() };
        let parked = RunReport { parked: 1, ..report() };
        for report in [lost, parked] {
            assert!(matches!(last_line(356, &report, &judged, F1_MIN), Err(Failure::EventsLost { .. })));
        }
    }

    #[test]
    fn intent_accuracy_is_the_share_of_right_ones() {
        let sample = sample();
        let mut read = perfect(&sample);
        assert_eq!(judge_run(&sample, &read).intent_accuracy(), 1.0);
        for known in sample.queries.iter().take(15) {
            let wrong = if known.intent == Intent::Help { Intent::Other } else { Intent::Help };
            read.intents.insert(normalise_query(&known.text), wrong);
        }
        assert_eq!(judge_run(&sample, &read).intent_accuracy(), 45.0 / 60.0);
    }
}
