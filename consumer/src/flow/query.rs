use futures::{StreamExt, TryStreamExt, stream};
use shared::event::QueryEvent;
use shared::item::IntentItem;
use shared::table::INTENTS;
use shared::text::normalise_query;
use shared::{ModelId, Stage};

use super::{FlowError, Outcome, Pipeline, Tally};
use crate::store::IntentOutcome;

/// Parts of the intents table that are read side by side.
const SEGMENTS: u16 = 4;

impl Pipeline {
    /// A query is scored when no live label exists for its normalised text under the
    /// active model.
    pub(super) async fn label_query(&self, event: &QueryEvent) -> Result<(Outcome, Tally), FlowError> {
        self.label_normalised(normalise_query(&event.query), event.version).await
    }

    /// Labels, in this pipeline's slot, every query that has a live label of `model`: what a
    /// roll-out needs besides the products. Queries that are labelled already cost no
    /// inference, so that a run that was cut off can be started again.
    pub async fn relabel_queries(&self, model: &ModelId, concurrency: usize) -> Result<Tally, FlowError> {
        let mut tally = Tally::default();
        let mut pages = self.store.scan::<IntentItem>(&INTENTS, Some(model), SEGMENTS);
        while let Some(page) = pages.try_next().await? {
            let now = (self.clock)().as_second();
            let live = page.items.into_iter().filter(|item| item.expires_at > now);
            let mut labelled = stream::iter(live)
                .map(|item| self.label_normalised(item.query, item.version))
                .buffer_unordered(concurrency.max(1));
            while let Some((_, more)) = labelled.try_next().await? {
                tally += more;
            }
        }
        Ok(tally)
    }

    async fn label_normalised(&self, query: String, version: u64) -> Result<(Outcome, Tally), FlowError> {
        let model = self.scorer.model_id();
        let now = (self.clock)();
        let known = self.store.intent(&query, model).await?;
        if known.is_some_and(|known| known.expires_at > now.as_second()) {
            return Ok((Outcome::Unchanged, Tally::default()));
        }
        let scores = self.scorer.score_queries(vec![query.clone()]).await?;
        let mut tally = Tally::default();
        for score in scores {
            tally.queries_scored += 1;
            tally.queries_settled += u64::from(score.stage == Stage::Cascade);
            tally.queries_left_early += u64::from(score.left_early);
            let item = IntentItem {
                query: query.clone(),
                model: model.clone(),
                intent: score.intent,
                scores: score.probabilities,
                stage: score.stage,
                version,
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
