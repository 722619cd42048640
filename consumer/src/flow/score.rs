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
    /// Has the model's network answer, where a first stage may answer for it.
    async fn probe(&self) -> Result<(), ScoreError>;
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

    async fn probe(&self) -> Result<(), ScoreError> {
        self.probe(None).await
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
        if scores.iter().any(|score| score.stage == Stage::CrossEncoder) {
            self.pulse.beat();
        }
        Ok(scores)
    }

    async fn probe(&self) -> Result<(), ScoreError> {
        self.scorer.probe().await?;
        self.pulse.beat();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use shared::{Intent, Verdict};

    use super::*;

    /// A model whose first stage settles what says "plain".
    struct TwoStages(ModelId);

    fn stage(text: &str) -> Stage {
        if text.contains("plain") { Stage::Cascade } else { Stage::CrossEncoder }
    }

    #[async_trait]
    impl Score for TwoStages {
        fn model_id(&self) -> &ModelId {
            &self.0
        }

        async fn score_pairs(&self, pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError> {
            let stages = pairs.iter().map(|pair| stage(&pair.left));
            let (verdict, left_early, read_twice) = (Verdict::Distinct, false, false);
            Ok(stages.map(|stage| PairScore { probability: 0.0, verdict, stage, left_early, read_twice }).collect())
        }

        async fn score_queries(&self, queries: Vec<String>) -> Result<Vec<IntentScore>, ScoreError> {
            let score = |stage| IntentScore {
                intent: Intent::Help,
                probabilities: [0.0, 0.0, 1.0, 0.0],
                stage,
                left_early: false,
            };
            Ok(queries.iter().map(|query| score(stage(query))).collect())
        }

        async fn probe(&self) -> Result<(), ScoreError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn only_what_the_network_answers_beats_the_pulse() {
        let fresh = || {
            let watched = Watched { scorer: Box::new(TwoStages(ModelId("m".to_owned()))), pulse: Pulse::default() };
            (watched.pulse.clone(), watched)
        };
        let pair = |text: &str| TextPair { left: text.into(), right: "lamp".into() };
        for (plain, beats) in [("plain", false), ("other", true)] {
            let (pulse, watched) = fresh();
            watched.score_queries(vec![plain.to_owned(), "plain".to_owned()]).await.expect("is scored");
            assert_eq!(pulse.age().is_some(), beats, "queries, {plain}");
            let (pulse, watched) = fresh();
            watched.score_pairs(vec![pair("plain"), pair(plain)]).await.expect("is scored");
            assert_eq!(pulse.age().is_some(), beats, "pairs, {plain}");
        }
        let (pulse, watched) = fresh();
        watched.probe().await.expect("answers");
        assert!(pulse.age().is_some(), "a probe");
    }
}
