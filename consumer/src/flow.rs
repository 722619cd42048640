//! The pipeline: the only file that names every stage, in order.

mod bisect;
mod candidates;
mod epochs;
mod error;
mod invocation;
mod message;
mod pairs;
mod product;
mod query;
mod reconcile;
mod report;
mod run;
mod score;
mod seats;
mod sides;
mod turns;
mod versions;

use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use models::PairScore;
use product::Purpose;
use shared::item::ProductItem;
use shared::{CatalogEvent, Event, ProductText, Stage};
use tokio::sync::watch;

pub use candidates::candidates;
pub use epochs::{EpochFeed, EpochsError, KnownEpochs, drop_postings, published_epoch};
pub use error::FlowError;
pub use invocation::{FatalFault, Invocation};
pub use message::{Job, Reached};
pub use reconcile::Reconciled;
pub use run::{RunOptions, Share, run};
pub use score::{Score, Watched};
pub use seats::{Seat, Seats};
pub use versions::Versions;

use crate::decide::blocking::{KeyEpochs, Limits};
use crate::decide::state::{Advance, Change, advance, is_labelled};
use crate::lane::Lane;
use crate::source::Objects;
use crate::store::{StateOutcome, Store};

/// Times an event is planned again when other workers change the same products. Each
/// conflict means that somebody else made progress.
const ATTEMPTS_MAX: usize = 8;

/// Everything an event needs on its way to labels. One for all deliveries.
pub struct Pipeline {
    pub store: Store,
    pub scorer: Box<dyn Score>,
    /// What messages may point to.
    pub objects: Arc<dyn Objects>,
    /// Which key epochs are in use.
    pub epochs: watch::Receiver<KnownEpochs>,
    pub limits: Limits,
    /// The products that are in work in this process.
    pub versions: Versions,
    /// How long an intent label lives.
    pub intent_ttl: Duration,
    /// How long tombstones live: the longest of queue and dead-letter retention and the
    /// replay window.
    pub tombstone_ttl: Duration,
    /// The worker's clock; tests set their own.
    pub clock: fn() -> Timestamp,
    /// During the roll-out of another model: the same events label its slot too.
    pub next: Option<Box<Pipeline>>,
}

/// How an event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Labels were written.
    Written,
    /// The tables already said so.
    Unchanged,
    /// A newer state is known.
    Stale,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Unchanged => "unchanged",
            Self::Stale => "stale",
        }
    }
}

/// How an event ended, and what it cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Processed {
    pub outcome: Outcome,
    /// By the kind of event.
    pub lane: Lane,
    pub occurred_at: Timestamp,
    pub tally: Tally,
}

/// What processing did, for counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub pairs_scored: u64,
    /// Of these, the ones that the cascade settled.
    pub pairs_settled: u64,
    /// Of those that are scored, the ones that left the network early.
    pub pairs_left_early: u64,
    /// Likewise, the ones that the network read in both orders.
    pub pairs_read_twice: u64,
    /// Pairs that were proposed and already labelled for both texts.
    pub pairs_skipped: u64,
    pub queries_scored: u64,
    /// Of these, the ones that the first stage settled.
    pub queries_settled: u64,
    /// Of those that are scored, the ones that left the network early.
    pub queries_left_early: u64,
    pub items_written: u64,
    /// Label items met that said `overflow`.
    pub overflows: u64,
    /// Upserts and deletes that waited and found a newer version of their product.
    pub superseded: u64,
}

impl Tally {
    fn count_scores<'s>(&mut self, scores: impl Iterator<Item = &'s PairScore>) {
        for score in scores {
            self.pairs_scored += 1;
            self.pairs_settled += u64::from(score.stage == Stage::Cascade);
            self.pairs_left_early += u64::from(score.left_early);
            self.pairs_read_twice += u64::from(score.read_twice);
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.pairs_scored += other.pairs_scored;
        self.pairs_settled += other.pairs_settled;
        self.pairs_left_early += other.pairs_left_early;
        self.pairs_read_twice += other.pairs_read_twice;
        self.pairs_skipped += other.pairs_skipped;
        self.queries_scored += other.queries_scored;
        self.queries_settled += other.queries_settled;
        self.queries_left_early += other.queries_left_early;
        self.items_written += other.items_written;
        self.overflows += other.overflows;
        self.superseded += other.superseded;
    }
}

impl Tally {
    fn outcome(self) -> Outcome {
        if self.items_written > 0 { Outcome::Written } else { Outcome::Unchanged }
    }
}

impl Pipeline {
    /// One event, from its text to written labels.
    pub async fn process(&self, body: &str, receive_count: u32) -> Result<Processed, FlowError> {
        self.process_event(Event::parse(body.as_bytes(), (self.clock)())?, receive_count).await
    }

    async fn process_event(&self, event: Event, receive_count: u32) -> Result<Processed, FlowError> {
        let occurred_at = event.occurred_at();
        let lane = if matches!(event, Event::Query(_)) { Lane::Queries } else { Lane::Catalog };
        let turn = match &event {
            Event::Catalog(CatalogEvent::Upsert(event)) => {
                Some(self.versions.turn(&event.product_id, event.version).await)
            }
            Event::Catalog(CatalogEvent::Delete(event)) => {
                Some(self.versions.turn(&event.product_id, event.version).await)
            }
            Event::Catalog(CatalogEvent::ScorePairs(_)) | Event::Query(_) => None,
        };
        let (mut outcome, mut tally) = self.label(&event, receive_count).await?;
        if outcome == Outcome::Stale && turn.as_ref().is_some_and(|turn| turn.has_waited) {
            tally.superseded += 1;
        }
        if let Some(next) = &self.next {
            // The state is there by now, and its marker is each model's own.
            let (_, more) = next.label(&event, receive_count).await?;
            tally += more;
            if more.items_written > 0 {
                outcome = Outcome::Written;
            }
        }
        drop(turn);
        Ok(Processed { outcome, lane, occurred_at, tally })
    }

    /// One event, in the slot of this pipeline's model.
    async fn label(&self, event: &Event, receive_count: u32) -> Result<(Outcome, Tally), FlowError> {
        let change = match event {
            Event::Query(event) => return self.label_query(event).await,
            Event::Catalog(CatalogEvent::ScorePairs(event)) => return self.label_pairs(event, receive_count).await,
            Event::Catalog(CatalogEvent::Upsert(event)) => Change {
                id: event.product_id.clone(),
                version: event.version,
                occurred_at: event.occurred_at,
                product: Some(event.product.clone()),
            },
            Event::Catalog(CatalogEvent::Delete(event)) => Change {
                id: event.product_id.clone(),
                version: event.version,
                occurred_at: event.occurred_at,
                product: None,
            },
        };
        self.change_product(&change, receive_count).await
    }

    /// Step 1 of an upsert or delete, and the rest where it is needed.
    async fn change_product(&self, change: &Change, receive_count: u32) -> Result<(Outcome, Tally), FlowError> {
        let mut known = self.store.product(&change.id).await?;
        for _ in 0..ATTEMPTS_MAX {
            let tombstone_expires_at = self.expiry(self.tombstone_ttl);
            let (state, trusts_marker) = match advance(known.as_ref(), change, tombstone_expires_at) {
                Advance::Write(state) => match self.store.put_state(&state, known.as_ref()).await? {
                    StateOutcome::Written => (Some(*state), true),
                    StateOutcome::Conflict(Some(newer)) => {
                        known = Some(*newer);
                        continue;
                    }
                    StateOutcome::Conflict(None) => {
                        known = self.store.product(&change.id).await?;
                        continue;
                    }
                },
                // An earlier delivery may have died after it wrote labels that were planned before
                // another worker set the marker; looking once more at the newest state costs
                // reads only.
                Advance::Same | Advance::Stale if receive_count > 1 => (known, false),
                Advance::Same => (known, true),
                Advance::Stale => return Ok((Outcome::Stale, Tally::default())),
            };
            let epochs = self.epochs()?;
            if trusts_marker && state.as_ref().is_some_and(|state| self.is_labelled(state, &epochs)) {
                return Ok((Outcome::Unchanged, Tally::default()));
            }
            let event_text = change.product.as_ref().map(|product| ProductText::of(product).text);
            let tally = self.label_product(&change.id, state, &event_text.unwrap_or_default(), Purpose::Event).await?;
            return Ok((tally.outcome(), tally));
        }
        Err(FlowError::Contended { id: change.id.clone() })
    }

    /// Whether the tables hold all that this state asks for.
    fn is_labelled(&self, state: &ProductItem, epochs: &KeyEpochs) -> bool {
        is_labelled(state, self.scorer.model_id(), epochs)
    }

    /// Epoch second at which something that is written now expires.
    fn expiry(&self, ttl: Duration) -> i64 {
        (self.clock)().as_second().saturating_add(ttl.as_secs() as i64)
    }
}
