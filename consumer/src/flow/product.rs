//! Steps 2 to 6: the labels of a product as a function of its current state.
//!
//! Nothing here looks at the event: a worker that is late, or a second delivery, plans
//! from what the tables say now, so that repeating the work never does harm.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use models::TextPair;
use shared::item::{LabelItem, ProductItem};
use shared::{PairLabel, ProductId, TextHash, Verdict};

use super::bisect::score_each;
use super::candidates::candidates_and_label_item;
use super::sides::{Changes, Sides};
use super::{ATTEMPTS_MAX, FlowError, Pipeline, Tally, candidates};
use crate::decide::blocking::KeyEpochs;
use crate::decide::merge::{self, Owner};
use crate::decide::plan::{self, Plan, plan};
use crate::source::Backoff;
use crate::store::{StateCheck, StateOutcome};

/// Between attempts: whoever lost to another worker comes back when that one is through.
const PAUSE: Backoff = Backoff { base: Duration::from_millis(5), max: Duration::from_millis(500) };

/// Scores of this run, by own text, other product and other text, or why a pair has none: a
/// conflict plans again, but pays for no pair twice.
type Scored = HashMap<(TextHash, ProductId, TextHash), Result<PairLabel, String>>;

/// One attempt to label one product.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) own: &'a ProductItem,
    pub(super) epochs: &'a KeyEpochs,
    pub(super) purpose: Purpose,
    /// Postings and marker are known to be as they should.
    pub(super) is_settled: bool,
    /// Keys that postings of the product may lie under besides those of its texts.
    written: &'a [String],
    /// All that the next delivery knows of, should this one die.
    event_text: &'a str,
}

/// Whether a step found the tables as it had read them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Done,
    /// Something changed meanwhile: read again, plan again. With the product's state, where it is
    /// that which changed and the table told.
    Conflict(Option<Box<ProductItem>>),
}

/// Why a product is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Its event came.
    Event,
    /// It is reconciled: pairs that neither product's look-up proposes go, and whether its
    /// item overflows is found out anew.
    Prune,
    /// It is reconciled after all have been pruned: items get what they had no room for.
    Refill,
}

impl Pipeline {
    /// `known` is the product's state as the caller has just read or written it; none, to have it
    /// read. `event_text` is that of the event in hand, empty for a delete: an earlier delivery may
    /// have written its postings although a newer state was there by then.
    pub(super) async fn label_product(
        &self,
        id: &ProductId,
        mut known: Option<ProductItem>,
        event_text: &str,
        purpose: Purpose,
    ) -> Result<Tally, FlowError> {
        let (mut tally, mut scored) = (Tally::default(), Scored::new());
        // Keys that this product may be written under, whatever its state remembers.
        let mut written = Vec::new();
        let mut rng = fastrand::Rng::new();
        for attempt in 0..ATTEMPTS_MAX {
            let epochs = self.epochs()?;
            if attempt == 0 {
                written.extend(epochs.posting_keys(event_text));
            } else {
                tokio::time::sleep(PAUSE.delay(attempt as u32, &mut rng)).await;
            }
            let own = match known.take() {
                Some(own) => own,
                None => match self.store.product(id).await? {
                    Some(own) => own,
                    None => return Ok(tally),
                },
            };
            // An event's earlier delivery may have moved postings after the marker was set, and
            // so may this very run; a reconciliation that has written nothing yet trusts it.
            let is_settled = purpose != Purpose::Event && attempt == 0 && self.is_labelled(&own, &epochs);
            let task = Task { own: &own, epochs: &epochs, purpose, is_settled, written: &written, event_text };
            let step = match (own.deleted, is_settled) {
                (true, true) => Step::Done,
                (true, false) => self.retract(task, &mut tally).await?,
                (false, _) => self.label_state(task, &mut scored, &mut tally).await?,
            };
            match step {
                Step::Done => return Ok(tally),
                Step::Conflict(newer) => known = newer.map(|newer| *newer),
            }
            written.extend(epochs.posting_keys(&own.text));
        }
        Err(FlowError::Contended { id: id.clone() })
    }

    /// Steps 2 to 6 for a product that is in the catalog.
    async fn label_state(&self, task: Task<'_>, scored: &mut Scored, tally: &mut Tally) -> Result<Step, FlowError> {
        let Task { own, epochs, purpose, .. } = task;
        let model = self.scorer.model_id();
        if self.move_postings(task).await? != StateOutcome::Written {
            return Ok(Step::Conflict(None));
        }
        let (candidates, item) =
            candidates_and_label_item(&self.store, epochs.active(), &self.limits, own, model).await?;
        let partners = match purpose {
            // Entries of both sides come and go together.
            Purpose::Event => None,
            // But where an item was too full for one of them.
            Purpose::Prune | Purpose::Refill => Some(self.partners(item.as_ref()).await?),
        };
        let mut plan = plan(own, candidates.clone(), item.as_ref(), partners.as_deref());
        let mut sides = Sides::new(&self.store, model);
        let has_overflowed = item.as_ref().is_some_and(|item| item.overflow);
        tally.overflows += u64::from(has_overflowed);
        // Where an item may have dropped a pair, or it was found from the other side alone,
        // what the candidates hold saves the scoring.
        if has_overflowed || purpose != Purpose::Event {
            let known = plan.known.iter().map(|label| &label.other);
            let to_score = plan.to_score.iter().map(|candidate| &candidate.id);
            sides.read(to_score.chain(known).chain(&plan.dropped).collect()).await?;
            plan.adopt(own, sides.items());
        }
        let mut gone = Vec::new();
        if purpose == Purpose::Prune {
            gone = self.prune(task, &mut plan, partners.as_deref().unwrap_or_default()).await?;
        }
        tally.pairs_skipped += (plan.known.len() + plan.known_distinct.len()) as u64;
        let mut labels = std::mem::take(&mut plan.known);
        let (fresh, unscorable) = self.score(own, &plan.to_score, scored, tally).await?;
        labels.extend(fresh);

        let owner = Owner::of(own, model);
        let merged = match purpose {
            Purpose::Prune => merge::anew(item.as_ref(), &owner, &labels, &plan.carried, &plan.known_distinct),
            Purpose::Event | Purpose::Refill => merge::own(item.as_ref(), &owner, &labels, &plan.carried),
        };
        labels.retain(|label| label.verdict != Verdict::Distinct);
        plan.dropped.retain(|partner| labels.iter().all(|label| label.other != *partner));
        let mut changes = Changes::of(merged);
        sides.read(plan.dropped.iter().chain(&gone).chain(labels.iter().map(|label| &label.other)).collect()).await?;
        changes.remove(&sides, own, &plan.dropped, Some(own.text_hash));
        changes.remove(&sides, own, &gone, None);
        let mut others = Vec::new();
        for label in &labels {
            let other = candidates.iter().find(|candidate| candidate.id == label.other);
            others.extend(other.map(|other| (other, label)));
        }
        if self.release(&sides, &others, tally).await? {
            return Ok(Step::Conflict(None));
        }
        for (other, label) in others {
            changes.add(&sides, own, other, label);
        }
        // All that can be scored is labelled; without the marker, a repetition tries the rest again.
        let sets_marker = !task.is_settled && unscorable.is_none();
        let step = self.write(task, changes, sets_marker, tally).await?;
        match unscorable {
            Some(error) if step == Step::Done => Err(error),
            _ => Ok(step),
        }
    }

    /// Step 2. Postings of the state's text are put, and those that only earlier texts had go.
    /// A state that has moved on meanwhile is planned again, and gets its own back. What moves for
    /// another text than the event's moves only while the state has it: should this worker come later
    /// and die, that text would be in no state any more, and the next delivery not know of it. Nobody
    /// delivers a reconciliation again, so all that it moves does so.
    async fn move_postings(&self, task: Task<'_>) -> Result<StateOutcome, FlowError> {
        let Task { own, epochs, .. } = task;
        if task.is_settled {
            return Ok(StateOutcome::Written);
        }
        // A tombstone has no text, so it wants no key.
        let postings = epochs.postings(&own.id, &own.text);
        let mut obsolete: Vec<String> = own.previous_texts.iter().flat_map(|text| epochs.posting_keys(text)).collect();
        obsolete.extend_from_slice(task.written);
        obsolete.retain(|key| postings.iter().all(|posting| posting.key != *key));
        if task.purpose == Purpose::Event && own.text == task.event_text {
            self.store.replace_postings(&own.id, &postings, &obsolete).await?;
            return Ok(StateOutcome::Written);
        }
        Ok(self.store.replace_postings_while(&StateCheck::text(own), &postings, &obsolete).await?)
    }

    /// Takes pairs that neither product's look-up proposes out of the plan, and gives the
    /// partners whose items have to lose them as well; the own item's merge does the rest. Pairs
    /// that were asked for by name are among them.
    async fn prune(
        &self,
        task: Task<'_>,
        plan: &mut Plan,
        partners: &[ProductItem],
    ) -> Result<Vec<ProductId>, FlowError> {
        let mut gone = Vec::new();
        for id in std::mem::take(&mut plan.carried) {
            let Some(partner) = partners.iter().find(|partner| partner.id == id) else { continue };
            let proposed = candidates(&self.store, task.epochs.active(), &self.limits, partner).await?;
            if proposed.iter().any(|candidate| candidate.id == task.own.id) {
                plan.carried.push(id);
            } else {
                gone.push(id);
            }
        }
        Ok(gone)
    }

    /// The same for a deleted product: nothing of it may be left that a reader returns.
    async fn retract(&self, task: Task<'_>, tally: &mut Tally) -> Result<Step, FlowError> {
        let own = task.own;
        let model = self.scorer.model_id();
        if self.move_postings(task).await? != StateOutcome::Written {
            return Ok(Step::Conflict(None));
        }
        let expires_at = own.expires_at.unwrap_or_else(|| self.expiry(self.tombstone_ttl));
        let slots = self.store.label_slots(&own.id).await?;
        // A tombstone where no labels are yet, too: a late worker may still bring some.
        let is_missing = slots.iter().all(|slot| slot.model != *model);
        let slots = slots.iter().map(Some).chain(is_missing.then_some(None));
        for slot in slots {
            let model = slot.map_or(model, |slot| &slot.model);
            let partners: Vec<ProductId> = slot.into_iter().flat_map(|slot| slot.pairs.keys().cloned()).collect();
            let mut sides = Sides::new(&self.store, model);
            sides.read(partners.iter().collect()).await?;
            let mut changes = Changes::of(merge::tombstone(slot, &Owner::of(own, model), expires_at));
            changes.remove(&sides, own, &partners, None);
            let step = self.write(task, changes, false, tally).await?;
            if step != Step::Done {
                return Ok(step);
            }
        }
        self.mark(task).await
    }

    async fn partners(&self, item: Option<&LabelItem>) -> Result<Vec<ProductItem>, FlowError> {
        let ids: Vec<ProductId> = item.iter().flat_map(|item| item.pairs.keys().cloned()).collect();
        Ok(self.store.products(&ids).await?)
    }

    /// Step 4. Labels of `to_score`, scored now or earlier in this run, and what is to be
    /// said of the pairs that cannot be scored.
    async fn score(
        &self,
        own: &ProductItem,
        to_score: &[ProductItem],
        scored: &mut Scored,
        tally: &mut Tally,
    ) -> Result<(Vec<PairLabel>, Option<FlowError>), FlowError> {
        let key = |other: &ProductItem| (own.text_hash, other.id.clone(), other.text_hash);
        let fresh: Vec<&ProductItem> = to_score.iter().filter(|other| !scored.contains_key(&key(other))).collect();
        let own_text: Arc<str> = own.text.as_str().into();
        let texts = fresh.iter().map(|other| TextPair { left: own_text.clone(), right: other.text.as_str().into() });
        let scores = score_each(self.scorer.as_ref(), texts.collect()).await?;
        tally.count_scores(scores.iter().flatten());
        let now = (self.clock)();
        for (other, score) in fresh.into_iter().zip(scores) {
            let label = score.map(|score| plan::label(other, score.probability, score.verdict, score.stage, now));
            scored.insert(key(other), label);
        }
        let (mut labels, mut unscorable) = (Vec::new(), None);
        for other in to_score {
            match scored.get(&key(other)) {
                Some(Ok(label)) => labels.push(PairLabel { other_version: other.version, ..label.clone() }),
                Some(Err(reason)) => unscorable = Some(FlowError::unscorable(&own.id, &other.id, reason)),
                None => {}
            }
        }
        Ok((labels, unscorable))
    }
}
