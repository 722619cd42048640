use shared::event::QueryEvent;
use shared::item::IntentItem;
use shared::text::normalise_query;

use super::{FlowError, Outcome, Pipeline, Tally};
use crate::store::IntentOutcome;

impl Pipeline {
    /// A query is scored when no live label exists for its normalised text under the
    /// active model.
    pub(super) async fn label_query(&self, event: &QueryEvent) -> Result<(Outcome, Tally), FlowError> {
        let query = normalise_query(&event.query);
        let model = self.scorer.model_id();
        let now = (self.clock)();
        let known = self.store.intent(&query, model).await?;
        if known.is_some_and(|known| known.expires_at > now.as_second()) {
            return Ok((Outcome::Unchanged, Tally::default()));
        }
        let scores = self.scorer.score_queries(vec![query.clone()]).await?;
        let mut tally = Tally { queries_scored: scores.len() as u64, ..Tally::default() };
        for score in scores {
            let item = IntentItem {
                query: query.clone(),
                model: model.clone(),
                intent: score.intent,
                scores: score.probabilities,
                version: event.version,
                labelled_at: now,
                expires_at: self.expiry(self.intent_ttl),
            };
            if self.store.put_intent(&item).await? == IntentOutcome::Stale {
                return Ok((Outcome::Stale, tally));
            }
            tally.items_written += 1;
        }
        Ok((Outcome::Written, tally))
    }
}
