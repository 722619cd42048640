//! Scores of all pairs that can be scored, whatever else is among them.

use models::{PairScore, ScoreError, TextPair};

use super::Score;

/// The score of each pair, in their order, or why this one alone has none. A call that
/// fails for some of its rows is made again without them where the model names them, and in
/// halves where it does not.
///
/// # Errors
/// What is not a pair's fault: the device, the deadline.
pub(super) async fn score_each(
    scorer: &dyn Score,
    pairs: Vec<TextPair>,
) -> Result<Vec<Result<PairScore, String>>, ScoreError> {
    let mut results: Vec<Option<Result<PairScore, String>>> = vec![None; pairs.len()];
    let mut waiting = vec![(0..pairs.len()).collect::<Vec<usize>>()];
    while let Some(rows) = waiting.pop() {
        if rows.is_empty() {
            continue;
        }
        let error = match scorer.score_pairs(rows.iter().map(|row| pairs[*row].clone()).collect()).await {
            Ok(scores) => {
                rows.iter().zip(scores).for_each(|(row, score)| results[*row] = Some(Ok(score)));
                continue;
            }
            Err(error) => error,
        };
        let is_named = |place: usize| matches!(&error, ScoreError::NonFinite { rows } if rows.contains(&place));
        if !matches!(error, ScoreError::NonFinite { .. } | ScoreError::Encode(_)) {
            return Err(error);
        }
        let (guilty, others): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|place| is_named(*place));
        let rows_at = |places: &[usize]| places.iter().map(|place| rows[*place]).collect::<Vec<usize>>();
        if let [row] = rows.as_slice() {
            results[*row] = Some(Err(reason(&error)));
        } else if guilty.is_empty() {
            let (left, right) = rows.split_at(rows.len() / 2);
            waiting.extend([right.to_vec(), left.to_vec()]);
        } else {
            rows_at(&guilty).into_iter().for_each(|row| results[row] = Some(Err(reason(&error))));
            waiting.push(rows_at(&others));
        }
    }
    let unanswered = || Err("the model gave no answer for it".to_owned());
    Ok(results.into_iter().map(|result| result.unwrap_or_else(unanswered)).collect())
}

/// Without the row numbers of a call that nobody knows of.
fn reason(error: &ScoreError) -> String {
    match error {
        ScoreError::NonFinite { .. } => "its score is not finite".to_owned(),
        error => crate::source::with_causes(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use models::IntentScore;
    use models::encode::EncodeError;
    use proptest::prelude::*;
    use shared::{ModelId, Stage, Verdict};

    use super::*;

    /// Scores a pair by the number that its left text is. Fails for the pairs whose right
    /// text says how.
    struct Model {
        id: ModelId,
        calls: Mutex<Vec<usize>>,
    }

    impl Model {
        fn new() -> Self {
            Self { id: ModelId("model".to_owned()), calls: Mutex::default() }
        }
    }

    #[async_trait]
    impl Score for Model {
        fn model_id(&self) -> &ModelId {
            &self.id
        }

        async fn score_pairs(&self, pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError> {
            self.calls.lock().expect("no test panics with it").push(pairs.len());
            let says = |what: &str| (0..pairs.len()).filter(|row| &*pairs[*row].right == what).collect::<Vec<usize>>();
            if !says("device").is_empty() {
                return Err(ScoreError::Device { reason: "lost".to_owned() });
            }
            if !says("encode").is_empty() {
                return Err(ScoreError::Encode(EncodeError::Text { bytes: 6, reason: "as asked".to_owned() }));
            }
            match says("nan") {
                rows if rows.is_empty() => Ok(pairs.iter().map(score).collect()),
                rows => Err(ScoreError::NonFinite { rows }),
            }
        }

        async fn score_queries(&self, _queries: Vec<String>) -> Result<Vec<IntentScore>, ScoreError> {
            Err(ScoreError::Stopped)
        }

        async fn probe(&self) -> Result<(), ScoreError> {
            Ok(())
        }
    }

    fn score(pair: &TextPair) -> PairScore {
        let probability = pair.left.parse().expect("left texts are numbers");
        PairScore {
            probability,
            verdict: Verdict::Distinct,
            stage: Stage::CrossEncoder,
            left_early: false,
            read_twice: false,
        }
    }

    fn pairs(rights: &[&str]) -> Vec<TextPair> {
        let pair = |(row, right): (usize, &&str)| TextPair { left: row.to_string().into(), right: (*right).into() };
        rights.iter().enumerate().map(pair).collect()
    }

    #[tokio::test]
    async fn rows_that_the_model_names_cost_one_more_call() {
        let model = Model::new();
        let results = score_each(&model, pairs(&["", "nan", "", "nan", ""])).await.expect("the device works");
        let good: Vec<bool> = results.iter().map(Result::is_ok).collect();
        assert_eq!(good, [true, false, true, false, true]);
        assert_eq!(results[1], Err("its score is not finite".to_owned()));
        assert_eq!(*model.calls.lock().expect("no test panics with it"), [5, 3]);
    }

    #[tokio::test]
    async fn the_device_is_nobodys_fault() {
        let results = score_each(&Model::new(), pairs(&["", "device"])).await;
        assert!(matches!(results, Err(ScoreError::Device { .. })), "{results:?}");
    }

    proptest! {
        #[test]
        fn whatever_fails_the_others_have_their_own_scores(rights in prop::collection::vec(0..6_u8, 0..40)) {
            let rights: Vec<&str> = rights.iter().map(|n| ["nan", "encode", "", "", "", ""][usize::from(*n)]).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let results = runtime.block_on(score_each(&Model::new(), pairs(&rights))).expect("the device works");
            prop_assert_eq!(results.len(), rights.len());
            for (row, (result, right)) in results.iter().zip(&rights).enumerate() {
                match result {
                    Ok(score) => prop_assert_eq!((score.probability, *right), (row as f32, "")),
                    Err(_) => prop_assert!(!right.is_empty()),
                }
            }
        }
    }
}
