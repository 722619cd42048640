//! Steps 2 to 6: the labels of a product as a function of its current state.
//!
//! Nothing here looks at the event: a worker that is late, or a second delivery, plans
//! from what the tables say now, so that repeating the work never does harm.

use std::collections::HashMap;
use std::sync::Arc;

use models::TextPair;
use shared::item::{LabelItem, ProductItem};
use shared::{PairLabel, ProductId, TextHash, Verdict};

use super::bisect::score_each;
use super::{ATTEMPTS_MAX, FlowError, Pipeline, Tally, candidates};
use crate::decide::blocking::KeyEpochs;
use crate::decide::merge::{self, Merged, Owner};
use crate::decide::plan::{self, Plan, plan};
use crate::decide::state;
use crate::store::{StateCheck, WriteOutcome};

/// Scores of this run, by own text, other product and other text, or why a pair has none: a
/// conflict plans again, but pays for no pair twice.
type Scored = HashMap<(TextHash, ProductId, TextHash), Result<PairLabel, String>>;

/// One attempt to label one product.
#[derive(Clone, Copy)]
struct Task<'a> {
    own: &'a ProductItem,
    epochs: &'a KeyEpochs,
    purpose: Purpose,
    /// Postings and marker are known to be as they should.
    is_settled: bool,
    /// Keys that postings of the product may lie under besides those of its texts.
    written: &'a [String],
}

/// Whether a step found the tables as it had read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Done,
    /// Something changed meanwhile: read again, plan again.
    Conflict,
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
    /// `event_text` is that of the event in hand, empty for a delete: an earlier delivery may
    /// have written its postings although a newer state was there by then.
    pub(super) async fn label_product(
        &self,
        id: &ProductId,
        event_text: &str,
        purpose: Purpose,
    ) -> Result<Tally, FlowError> {
        let (mut tally, mut scored) = (Tally::default(), Scored::new());
        // Keys that this product may be written under, whatever its state remembers.
        let mut written = Vec::new();
        for attempt in 0..ATTEMPTS_MAX {
            let epochs = self.epochs()?;
            if attempt == 0 {
                written.extend(epochs.posting_keys(event_text));
            }
            let Some(own) = self.store.product(id).await? else { return Ok(tally) };
            // An event's earlier delivery may have moved postings after the marker was set, and
            // so may this very run; a reconciliation that has written nothing yet trusts it.
            let is_settled = purpose != Purpose::Event && attempt == 0 && self.is_labelled(&own, &epochs);
            let task = Task { own: &own, epochs: &epochs, purpose, is_settled, written: &written };
            let step = match (own.deleted, is_settled) {
                (true, true) => Step::Done,
                (true, false) => self.retract(task, &mut tally).await?,
                (false, _) => self.label_state(task, &mut scored, &mut tally).await?,
            };
            if step == Step::Done {
                return Ok(tally);
            }
            written.extend(epochs.posting_keys(&own.text));
        }
        Err(FlowError::Contended { id: id.clone() })
    }

    /// Steps 2 to 6 for a product that is in the catalog.
    async fn label_state(&self, task: Task<'_>, scored: &mut Scored, tally: &mut Tally) -> Result<Step, FlowError> {
        let own = task.own;
        let model = self.scorer.model_id();
        if !task.is_settled {
            self.store.put_postings(&task.epochs.postings(&own.id, &own.text)).await?;
        }

        let candidates = self.candidates(own, task.epochs).await?;
        let item = self.store.label_item(&own.id, model).await?;
        let partners = self.partners(item.as_ref()).await?;
        let mut plan = plan(own, candidates.clone(), item.as_ref(), &partners);
        let has_overflowed = item.as_ref().is_some_and(|item| item.overflow);
        tally.overflows += u64::from(has_overflowed);
        // Where an item may have dropped a pair, or it was found from the other side alone,
        // what the candidates hold saves the scoring.
        if has_overflowed || task.purpose != Purpose::Event {
            plan.adopt(own, &self.items_of(&plan.to_score).await?);
        }
        if task.purpose == Purpose::Prune && self.prune(task, &mut plan, &partners, tally).await? == Step::Conflict {
            return Ok(Step::Conflict);
        }
        tally.pairs_skipped += (plan.known.len() + plan.known_distinct.len()) as u64;
        let mut labels = plan.known;
        let (fresh, unscorable) = self.score(own, &plan.to_score, scored, tally).await?;
        labels.extend(fresh);

        let stays = |id: &ProductId| labels.iter().any(|l| l.other == *id && l.verdict != Verdict::Distinct);
        for partner in plan.dropped.iter().filter(|partner| !stays(partner)) {
            if self.remove_entry(partner, own, Some(own.text_hash), tally).await? == Step::Conflict {
                return Ok(Step::Conflict);
            }
        }
        let owner = Owner::of(own, model);
        let merged = match task.purpose {
            Purpose::Prune => merge::anew(item.as_ref(), &owner, &labels, &plan.carried, &plan.known_distinct),
            Purpose::Event | Purpose::Refill => merge::own(item.as_ref(), &owner, &labels, &plan.carried),
        };
        match merged {
            Merged::Write(item) if self.store.put_label_item(&item, &[]).await? == WriteOutcome::Conflict => {
                return Ok(Step::Conflict);
            }
            Merged::Write(_) => tally.items_written += 1,
            Merged::Unchanged => {}
            Merged::Stale => return Ok(Step::Conflict),
        }
        for label in labels.iter().filter(|label| label.verdict != Verdict::Distinct) {
            let Some(other) = candidates.iter().find(|c| c.id == label.other) else { continue };
            if self.add_entry(own, other, label, tally).await? == Step::Conflict {
                return Ok(Step::Conflict);
            }
        }
        // All the same is labelled; without the marker, a repetition tries these again.
        match unscorable {
            Some(error) => Err(error),
            None if task.is_settled => Ok(Step::Done),
            None => self.finish(task).await,
        }
    }

    /// Takes pairs that neither product's look-up proposes out of the plan and out of the
    /// partner's item; the own item's merge does the rest. Pairs that were asked for by name
    /// are among them.
    async fn prune(
        &self,
        task: Task<'_>,
        plan: &mut Plan,
        partners: &[ProductItem],
        tally: &mut Tally,
    ) -> Result<Step, FlowError> {
        let own = task.own;
        for id in std::mem::take(&mut plan.carried) {
            let Some(partner) = partners.iter().find(|partner| partner.id == id) else { continue };
            if self.candidates(partner, task.epochs).await?.iter().any(|candidate| candidate.id == own.id) {
                plan.carried.push(id);
            } else if self.remove_entry(&id, own, None, tally).await? == Step::Conflict {
                return Ok(Step::Conflict);
            }
        }
        Ok(Step::Done)
    }

    /// The same for a deleted product: nothing of it may be left that a reader returns.
    async fn retract(&self, task: Task<'_>, tally: &mut Tally) -> Result<Step, FlowError> {
        let own = task.own;
        let expires_at = own.expires_at.unwrap_or_else(|| self.expiry(self.tombstone_ttl));
        let mut slots = self.store.label_slots(&own.id).await?;
        if slots.iter().all(|slot| slot.model != *self.scorer.model_id()) {
            // A tombstone where no labels are yet: a late worker may still bring some.
            let owner = Owner::of(own, self.scorer.model_id());
            if let Merged::Write(item) = merge::tombstone(None, &owner, expires_at) {
                if self.store.put_label_item(&item, &[]).await? == WriteOutcome::Conflict {
                    return Ok(Step::Conflict);
                }
                tally.items_written += 1;
            }
        }
        for slot in slots.drain(..) {
            for partner in slot.pairs.keys() {
                self.remove_deleted(partner, own, &slot, tally).await?;
            }
            match merge::tombstone(Some(&slot), &Owner::of(own, &slot.model), expires_at) {
                Merged::Write(item) if self.store.put_label_item(&item, &[]).await? == WriteOutcome::Conflict => {
                    return Ok(Step::Conflict);
                }
                Merged::Write(_) => tally.items_written += 1,
                Merged::Unchanged | Merged::Stale => {}
            }
        }
        self.finish(task).await
    }

    async fn candidates(&self, own: &ProductItem, epochs: &KeyEpochs) -> Result<Vec<ProductItem>, FlowError> {
        Ok(candidates(&self.store, epochs.active(), &self.limits, own).await?)
    }

    async fn partners(&self, item: Option<&LabelItem>) -> Result<Vec<ProductItem>, FlowError> {
        let ids: Vec<ProductId> = item.iter().flat_map(|item| item.pairs.keys().cloned()).collect();
        Ok(self.store.products(&ids).await?)
    }

    async fn items_of(&self, products: &[ProductItem]) -> Result<Vec<LabelItem>, FlowError> {
        let model = self.scorer.model_id();
        let keys: Vec<_> = products.iter().map(|product| (product.id.clone(), model.clone())).collect();
        Ok(self.store.label_items(&keys).await?)
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
        tally.pairs_scored += scores.iter().filter(|score| score.is_ok()).count() as u64;
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

    /// Step 5a, one partner: its entry about `own` goes, unless it is about the text `spared`.
    async fn remove_entry(
        &self,
        partner: &ProductId,
        own: &ProductItem,
        spared: Option<TextHash>,
        tally: &mut Tally,
    ) -> Result<Step, FlowError> {
        let current = self.store.label_item(partner, self.scorer.model_id()).await?;
        let Merged::Write(item) = merge::without(current.as_ref(), &own.id, own.version, spared) else {
            return Ok(Step::Done);
        };
        Ok(counted(self.store.put_label_item(&item, &[StateCheck::exact(own)]).await?, tally))
    }

    /// Step 5a for a deleted product, in the slot that named the partner.
    async fn remove_deleted(
        &self,
        partner: &ProductId,
        own: &ProductItem,
        slot: &LabelItem,
        tally: &mut Tally,
    ) -> Result<(), FlowError> {
        for _ in 0..ATTEMPTS_MAX {
            let current = self.store.label_item(partner, &slot.model).await?;
            let Merged::Write(item) = merge::without(current.as_ref(), &own.id, own.version, None) else {
                return Ok(());
            };
            if counted(self.store.put_label_item(&item, &[]).await?, tally) == Step::Done {
                return Ok(());
            }
        }
        Err(FlowError::Contended { id: partner.clone() })
    }

    /// Step 5c, one pair: the other product's item gets the mirrored label, if both
    /// products still have the texts that were scored.
    pub(super) async fn add_entry(
        &self,
        own: &ProductItem,
        other: &ProductItem,
        label: &PairLabel,
        tally: &mut Tally,
    ) -> Result<Step, FlowError> {
        let mirrored =
            PairLabel { other: own.id.clone(), other_hash: own.text_hash, other_version: own.version, ..label.clone() };
        let owner = Owner::of(other, self.scorer.model_id());
        let current = self.store.label_item(&other.id, self.scorer.model_id()).await?;
        // The merge below replaces labels of an earlier text, which are all that says who has
        // an entry about that text: they go first, as the other product's own worker would
        // have seen to.
        for partner in current.iter().filter(|item| item.text_hash != other.text_hash).flat_map(|i| i.pairs.keys()) {
            if self.remove_entry(partner, other, Some(other.text_hash), tally).await? == Step::Conflict {
                return Ok(Step::Conflict);
            }
        }
        match merge::other_side(current.as_ref(), &owner, &mirrored) {
            Merged::Write(item) => {
                let checks = [StateCheck::exact(own), StateCheck::text(other)];
                Ok(counted(self.store.put_label_item(&item, &checks).await?, tally))
            }
            Merged::Unchanged => Ok(Step::Done),
            Merged::Stale => Ok(Step::Conflict),
        }
    }

    /// Step 6: postings that only earlier texts had go, then the marker is set. A state
    /// that moved on meanwhile is planned again, since it may have wanted those postings.
    async fn finish(&self, task: Task<'_>) -> Result<Step, FlowError> {
        let Task { own, epochs, .. } = task;
        // A tombstone has no text, so it wants no key.
        let keys = epochs.posting_keys(&own.text);
        let mut obsolete: Vec<String> = own.previous_texts.iter().flat_map(|text| epochs.posting_keys(text)).collect();
        obsolete.extend_from_slice(task.written);
        obsolete.retain(|key| !keys.contains(key));
        obsolete.sort();
        obsolete.dedup();
        self.store.delete_postings(&own.id, &obsolete).await?;
        let marker = state::marker(own, epochs);
        Ok(match self.store.mark_labelled(own, self.scorer.model_id(), &marker).await? {
            WriteOutcome::Written => Step::Done,
            WriteOutcome::Conflict => Step::Conflict,
        })
    }
}

fn counted(outcome: WriteOutcome, tally: &mut Tally) -> Step {
    match outcome {
        WriteOutcome::Written => {
            tally.items_written += 1;
            Step::Done
        }
        WriteOutcome::Conflict => Step::Conflict,
    }
}
