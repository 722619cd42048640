use async_trait::async_trait;
use models::{IntentScore, PairScore, ScoreError, Scorer, TextPair};
use shared::{ModelId, Stage};

use crate::source::Pulse;

/// Texts in, scores out. The worker's is [`Watched`] around [`Scorer`]; fault
/// tests put a function of the texts in its place, so that a reference model can foretell
/// each label.
#[async_trait]
pub trait Score: Send + Sync + 'static {
    fn model_id(&self) -> &ModelId;
    /// One score for each pair, in order. The direction of a pair makes no difference.
    async fn score_pairs(&self, pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError>;
    /// One score for each normalised query, in order.
    async fn score_queries(&self, queries: Vec<String>) -> Result<Vec<IntentScore>, ScoreError>;
}

#[async_trait]
impl Score for Scorer {
    fn model_id(&self) -> &ModelId {
        self.model_id()
    }

    async fn score_pairs(&self, pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError> {
        self.score_pairs(pairs).await
    }

    async fn score_queries(&self, queries: Vec<String>) -> Result<Vec<IntentScore>, ScoreError> {
        self.score_queries(queries).await
    }
}

/// A scorer whose pulse beats with each answer of the device, for readiness.
pub struct Watched {
    pub scorer: Box<dyn Score>,
    pub pulse: Pulse,
}

#[async_trait]
impl Score for Watched {
    fn model_id(&self) -> &ModelId {
        self.scorer.model_id()
    }

    async fn score_pairs(&self, pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError> {
        let scores = self.scorer.score_pairs(pairs).await?;
        // What the cascade settles says nothing of the device.
        if scores.iter().any(|score| score.stage == Stage::CrossEncoder) {
            self.pulse.beat();
        }
        Ok(scores)
    }

    async fn score_queries(&self, queries: Vec<String>) -> Result<Vec<IntentScore>, ScoreError> {
        let scores = self.scorer.score_queries(queries).await?;
        self.pulse.beat();
        Ok(scores)
    }
}
