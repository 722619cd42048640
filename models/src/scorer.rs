//! Scores for pairs of product texts and for queries.

use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;

use shared::{Intent, ModelId, Stage, Verdict};
use tokio::task::spawn_blocking;

use crate::batch::{Budget, plan};
use crate::encode::{EncodeError, Encoded, Encoder};
use crate::engine::{Logits, Numeric};
use crate::golden::GoldenError;
use crate::manifest::{Artifact, Manifest, Refused, Thresholds};
use crate::replica::{Replicas, RunError, Start, StartError};

/// Tokens of one batch. Of 512, 1,024, 2,048 and 4,096 this one was the fastest for a core
/// in fp32 (by up to a quarter) and no slower than the others in bf16; larger activations
/// leave the caches and are paged in anew each time.
const BUDGET: Budget = Budget { tokens_max: 1_024, rows_max: 128 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScorerOptions {
    /// Threads that each hold the model; at least 1.
    pub replicas: usize,
    pub numeric: Numeric,
}

impl Default for ScorerOptions {
    /// A replica for each core, and the numeric path that the CPU computes best.
    fn default() -> Self {
        Self { replicas: available_parallelism().map_or(1, usize::from), numeric: Numeric::Auto }
    }
}

/// Texts of two products, as [`shared::ProductText`] writes them. Their order is of no
/// consequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextPair {
    pub left: Arc<str>,
    pub right: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairScore {
    /// Calibrated probability of `duplicate`, 0 to 1.
    pub probability: f32,
    pub verdict: Verdict,
    pub stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IntentScore {
    /// The most probable one.
    pub intent: Intent,
    /// In the order of [`Intent::ALL`]; sums to 1.
    pub probabilities: [f32; 4],
}

/// Why there is no scorer. Each of these needs a person.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the artifact's tokenizer is of no use")]
    Tokenizer(#[from] EncodeError),
    #[error("the tokenizer does not reproduce the golden token ids")]
    Golden(#[from] GoldenError),
    #[error("a replica did not start")]
    Replica(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<StartError> for LoadError {
    fn from(error: StartError) -> Self {
        Self::Replica(Box::new(error))
    }
}

/// Why a call has no scores.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// These rows of the call have logits that are not finite; without them the others
    /// can be scored.
    #[error("the scores of rows {rows:?} are not finite")]
    NonFinite { rows: Vec<usize> },
    #[error("the device failed: {reason}")]
    Device { reason: String },
    #[error("the tokenizer failed")]
    Encode(#[from] EncodeError),
    #[error("the scorer has stopped")]
    Stopped,
}

impl ScoreError {
    /// True when the next call would fail as well, whatever its rows.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Device { .. } | Self::Stopped => true,
            Self::NonFinite { .. } | Self::Encode(_) => false,
        }
    }
}

impl From<RunError> for ScoreError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Stopped => Self::Stopped,
            RunError::Lost | RunError::Engine(_) => Self::Device { reason: error.to_string() },
        }
    }
}

/// A verified model with its replicas. Clones share them; the replicas end when the last
/// clone drops.
#[derive(Clone)]
pub struct Scorer {
    manifest: Arc<Manifest>,
    encoder: Arc<Encoder>,
    replicas: Replicas,
    numeric: Numeric,
}

impl Scorer {
    /// Loads the artifact in `folder`. Returns only after its files matched the manifest
    /// and every replica reproduced the golden outputs. Blocks for a second or more.
    pub fn start(folder: &Path, options: ScorerOptions) -> Result<Self, LoadError> {
        let Artifact { manifest, module, tokenizer, goldens } = Artifact::open(folder)?;
        let encoder = Encoder::new(&tokenizer, manifest.pair_tokens_max, manifest.query_tokens_max)?;
        let numeric = options.numeric.resolve();
        let tolerance = match numeric {
            Numeric::Bf16 => manifest.golden_tolerance.bf16,
            Numeric::Fp32 | Numeric::Auto => manifest.golden_tolerance.fp32,
        };
        let goldens = goldens.encode(&encoder)?;
        let replicas = Replicas::start(options.replicas, Start { module, numeric, goldens, tolerance })?;
        tracing::info!(model = %manifest.model_id, %numeric, replicas = options.replicas, "model loaded");
        Ok(Self { manifest: Arc::new(manifest), encoder: Arc::new(encoder), replicas, numeric })
    }

    pub fn model_id(&self) -> &ModelId {
        &self.manifest.model_id
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The numeric path in use; never `Auto`.
    pub fn numeric(&self) -> Numeric {
        self.numeric
    }

    /// Scores pairs; results are in the order of `pairs`. Must run inside a tokio runtime.
    pub async fn score_pairs(&self, pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError> {
        let rows = self.encode(move |encoder| encoder.pairs(&pairs)).await?;
        let logits = run(&self.replicas, rows, |logits| logits.pair).await?;
        let (thresholds, temperature) = (self.manifest.thresholds, self.manifest.temperature);
        let score = |logits: [f32; 2]| {
            let probability = duplicate_probability(logits, temperature);
            PairScore { probability, verdict: verdict(probability, thresholds), stage: Stage::CrossEncoder }
        };
        Ok(logits.into_iter().map(score).collect())
    }

    /// Scores queries, which are normalised first; results are in the order of `queries`.
    /// Must run inside a tokio runtime.
    pub async fn score_queries(&self, queries: Vec<String>) -> Result<Vec<IntentScore>, ScoreError> {
        let rows = self.encode(move |encoder| encoder.queries(&queries)).await?;
        let logits = run(&self.replicas, rows, |logits| logits.intent).await?;
        Ok(logits.into_iter().map(intent_score).collect())
    }

    /// Tokenises off the runtime's own threads, which have deadlines to keep.
    async fn encode<F>(&self, work: F) -> Result<Vec<Encoded>, ScoreError>
    where
        F: FnOnce(&Encoder) -> Result<Vec<Encoded>, EncodeError> + Send + 'static,
    {
        let encoder = Arc::clone(&self.encoder);
        let rows = spawn_blocking(move || work(&encoder)).await.map_err(|_| ScoreError::Stopped)?;
        Ok(rows?)
    }
}

/// Logits of one head for all rows, in their order; all of them finite.
async fn run<const N: usize>(
    replicas: &Replicas,
    rows: Vec<Encoded>,
    head: impl Fn(Logits) -> Vec<[f32; N]>,
) -> Result<Vec<[f32; N]>, ScoreError> {
    let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
    let mut rows: Vec<Option<Encoded>> = rows.into_iter().map(Some).collect();
    let mut pending = Vec::new();
    for batch in plan(&lengths, BUDGET) {
        let encoded = batch.rows.iter().filter_map(|&row| rows[row].take()).collect();
        pending.push((batch.rows, replicas.submit(encoded, batch.length).await?));
    }
    let mut out = vec![[f32::NAN; N]; lengths.len()];
    for (batch_rows, answer) in pending {
        for (row, logits) in batch_rows.into_iter().zip(head(answer.logits().await?)) {
            out[row] = logits;
        }
    }
    match non_finite(&out) {
        rows if rows.is_empty() => Ok(out),
        rows => Err(ScoreError::NonFinite { rows }),
    }
}

fn non_finite<const N: usize>(logits: &[[f32; N]]) -> Vec<usize> {
    let finite = |row: &[f32; N]| row.iter().all(|x| x.is_finite());
    (0..logits.len()).filter(|&row| !finite(&logits[row])).collect()
}

/// Softmax of `[distinct, duplicate]` after division by `temperature`.
fn duplicate_probability([distinct, duplicate]: [f32; 2], temperature: f32) -> f32 {
    1.0 / (1.0 + ((distinct - duplicate) / temperature).exp())
}

fn verdict(probability: f32, thresholds: Thresholds) -> Verdict {
    if probability >= thresholds.duplicate {
        Verdict::Duplicate
    } else if probability >= thresholds.review {
        Verdict::Review
    } else {
        Verdict::Distinct
    }
}

fn intent_score(logits: [f32; 4]) -> IntentScore {
    let (mut best, mut largest) = (Intent::ALL[0], logits[0]);
    for (intent, logit) in Intent::ALL.into_iter().zip(logits) {
        if logit > largest {
            (best, largest) = (intent, logit);
        }
    }
    let powers = logits.map(|logit| (logit - largest).exp());
    let sum: f32 = powers.iter().sum();
    IntentScore { intent: best, probabilities: powers.map(|power| power / sum) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::SUMMING_MODULE;

    /// Logits of the summing module for rows of the given ids, over two replicas.
    async fn summed(ids: Vec<Vec<i64>>) -> Result<Vec<[f32; 2]>, ScoreError> {
        let start =
            Start { module: SUMMING_MODULE.to_vec(), numeric: Numeric::Fp32, goldens: Vec::new(), tolerance: 1.0 };
        let replicas = Replicas::start(2, start).expect("the replicas start");
        let rows = ids.into_iter().map(|ids| Encoded { types: vec![0; ids.len()], ids }).collect();
        run(&replicas, rows, |logits| logits.pair).await
    }

    #[tokio::test]
    async fn rows_come_back_in_their_order() {
        let rows: Vec<Vec<i64>> = (1..=500).map(|i| (0..1 + i % 97).map(|_| i).collect()).collect();
        let sums: Vec<f32> = rows.iter().map(|ids| ids.iter().sum::<i64>() as f32).collect();
        let logits = summed(rows).await.expect("all rows are finite");
        assert_eq!(logits.iter().map(|row| row[0]).collect::<Vec<_>>(), sums);
    }

    #[tokio::test]
    async fn poison_rows_are_named_and_the_others_can_be_scored() {
        let mut rows: Vec<Vec<i64>> = (1..=300).map(|i| vec![i; 1 + i as usize % 40]).collect();
        for poison in [3, 177] {
            rows[poison].fill(0);
        }
        match summed(rows.clone()).await {
            Err(ScoreError::NonFinite { rows }) => assert_eq!(rows, vec![3, 177]),
            other => panic!("two rows are poison: {other:?}"),
        }
        rows.retain(|ids| ids[0] != 0);
        assert_eq!(summed(rows).await.expect("the others are finite").len(), 298);
    }

    #[tokio::test]
    async fn a_failing_device_is_fatal() {
        let start =
            Start { module: SUMMING_MODULE.to_vec(), numeric: Numeric::Fp32, goldens: Vec::new(), tolerance: 1.0 };
        let replicas = Replicas::start(1, start).expect("the replica starts");
        let row = vec![Encoded { ids: vec![1; 9], types: vec![0; 9] }];
        let pending = replicas.submit(row, 8).await.expect("the replica lives");
        let error = ScoreError::from(pending.logits().await.expect_err("the row does not fit"));
        assert!(matches!(error, ScoreError::Device { .. }) && error.is_fatal(), "{error}");
        assert!(ScoreError::from(RunError::Lost).is_fatal() && ScoreError::from(RunError::Stopped).is_fatal());
    }

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
        let score = intent_score([500.0, 1.0, 499.0, -500.0]);
        assert_eq!(score.intent, Intent::Product);
        assert!((score.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((score.probabilities[2] - 0.268_941_43).abs() < 1e-6);
    }

    #[test]
    fn rows_that_are_not_finite_are_named() {
        let logits = [[0.0, 1.0], [f32::NAN, 0.0], [3.0, 4.0], [0.0, f32::INFINITY]];
        assert_eq!(non_finite(&logits), vec![1, 3]);
        assert!(!ScoreError::NonFinite { rows: vec![1] }.is_fatal());
        assert!(ScoreError::Device { reason: "lost".to_owned() }.is_fatal() && ScoreError::Stopped.is_fatal());
    }
}
