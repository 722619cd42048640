//! Steps 5 and 6: the label items of both sides of each pair change together, and the marker with
//! them, so that at any time one item names a pair if the other one does (but where an item
//! was too full for it).

use std::collections::HashMap;

use shared::item::{LabelItem, ProductItem};
use shared::{ModelId, PairLabel, ProductId, TextHash};

use super::product::{Step, Task};
use super::{FlowError, Pipeline, Tally};
use crate::decide::merge::{self, Merged, Owner};
use crate::decide::state;
use crate::store::{LabelWrite, StateCheck, StateOutcome, Store, WriteOutcome};

/// Label items of other products, each read once in an attempt.
pub(super) struct Sides<'a> {
    store: &'a Store,
    model: &'a ModelId,
    /// None for a product without one.
    items: HashMap<ProductId, Option<LabelItem>>,
}

impl<'a> Sides<'a> {
    pub(super) fn new(store: &'a Store, model: &'a ModelId) -> Self {
        Self { store, model, items: HashMap::new() }
    }

    /// Reads those that are not known yet, in one request for each 100.
    pub(super) async fn read(&mut self, ids: Vec<&ProductId>) -> Result<(), FlowError> {
        let mut keys = Vec::new();
        for id in ids {
            if !self.items.contains_key(id) {
                self.items.insert(id.clone(), None);
                keys.push((id.clone(), self.model.clone()));
            }
        }
        for item in self.store.label_items(&keys).await? {
            self.items.insert(item.id.clone(), Some(item));
        }
        Ok(())
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &LabelItem> + Clone {
        self.items.values().flatten()
    }

    pub(super) fn get(&self, id: &ProductId) -> Option<&LabelItem> {
        self.items.get(id).and_then(Option::as_ref)
    }
}

/// What one attempt changes in the label table.
#[derive(Debug, Default)]
pub(super) struct Changes {
    own: Option<LabelItem>,
    others: Vec<LabelItem>,
    checks: Vec<StateCheck>,
    /// A product has moved on since it was read.
    is_stale: bool,
}

impl Changes {
    /// The own side.
    pub(super) fn of(own: Merged) -> Self {
        let mut changes = Self::default();
        match own {
            Merged::Write(item) => changes.own = Some(item),
            Merged::Unchanged => {}
            Merged::Stale => changes.is_stale = true,
        }
        changes
    }

    /// Partners lose their entries about `own`, but for those about the text `spared`.
    pub(super) fn remove(
        &mut self,
        sides: &Sides<'_>,
        own: &ProductItem,
        partners: &[ProductId],
        spared: Option<TextHash>,
    ) {
        for partner in partners {
            if let Merged::Write(item) = merge::without(sides.get(partner), &own.id, own.version, spared) {
                self.others.push(item);
            }
        }
    }

    /// `other` gets the mirrored label. Its item tells whether it has moved on since; only
    /// where it has none yet, its state has to.
    pub(super) fn add(&mut self, sides: &Sides<'_>, own: &ProductItem, other: &ProductItem, label: &PairLabel) {
        let mirrored =
            PairLabel { other: own.id.clone(), other_hash: own.text_hash, other_version: own.version, ..label.clone() };
        let current = sides.get(&other.id);
        match merge::other_side(current, &Owner::of(other, sides.model), &mirrored) {
            Merged::Write(item) => {
                self.others.push(item);
                if current.is_none() {
                    self.checks.push(StateCheck::text(other));
                }
            }
            Merged::Unchanged => {}
            Merged::Stale => self.is_stale = true,
        }
    }
}

impl Pipeline {
    /// Steps 5 and 6: one transaction where another product's item changes; else the own item,
    /// which its revision guards, and then the marker, each by a write of its own at half
    /// the price.
    pub(super) async fn write(
        &self,
        task: Task<'_>,
        changes: Changes,
        sets_marker: bool,
        tally: &mut Tally,
    ) -> Result<Step, FlowError> {
        let Changes { own, others, mut checks, is_stale } = changes;
        if is_stale {
            return Ok(Step::Conflict(None));
        }
        if others.is_empty() {
            if let Some(item) = own {
                if self.store.put_label_item(&item).await? == WriteOutcome::Conflict {
                    return Ok(Step::Conflict(None));
                }
                tally.items_written += 1;
            }
            return if sets_marker { self.mark(task).await } else { Ok(Step::Done) };
        }
        let marker = sets_marker.then(|| (task.own, self.scorer.model_id(), state::marker(task.own, task.epochs)));
        if marker.is_none() && !task.own.deleted {
            checks.push(StateCheck::exact(task.own));
        }
        let items: Vec<LabelItem> = own.into_iter().chain(others).collect();
        self.put_together(&LabelWrite { items: &items, checks: &checks, marker }, tally).await
    }

    /// Step 6. A state that moved on meanwhile is planned again, since it may have wanted the
    /// postings that are gone.
    pub(super) async fn mark(&self, task: Task<'_>) -> Result<Step, FlowError> {
        let marker = state::marker(task.own, task.epochs);
        Ok(step(self.store.mark_labelled(task.own, self.scorer.model_id(), &marker).await?))
    }

    /// Does for products whose text has changed what their own workers have not come to: their
    /// items are emptied, and with them all entries about the text before. True if there were any.
    pub(super) async fn release(
        &self,
        sides: &Sides<'_>,
        others: &[(&ProductItem, &PairLabel)],
        tally: &mut Tally,
    ) -> Result<bool, FlowError> {
        let mut has_released = false;
        for (other, _) in others {
            let owner = Owner::of(other, sides.model);
            let Some(item) = sides.get(&other.id).filter(|item| merge::is_outdated(item, &owner)) else { continue };
            has_released = true;
            let partners: Vec<ProductId> = item.pairs.keys().cloned().collect();
            let mut theirs = Sides::new(&self.store, sides.model);
            theirs.read(partners.iter().collect()).await?;
            let mut changes = Changes::of(merge::own(Some(item), &owner, &[], &[]));
            changes.remove(&theirs, other, &partners, Some(other.text_hash));
            let items: Vec<LabelItem> = changes.own.into_iter().chain(changes.others).collect();
            let checks = [StateCheck::exact(other)];
            // Whoever wins over this one has seen to it.
            self.put_together(&LabelWrite { items: &items, checks: &checks, marker: None }, tally).await?;
        }
        Ok(has_released)
    }

    /// The pair that somebody asked for, on both sides.
    pub(super) async fn write_pair(
        &self,
        sides: &Sides<'_>,
        left: &ProductItem,
        right: &ProductItem,
        label: &PairLabel,
        tally: &mut Tally,
    ) -> Result<Step, FlowError> {
        if self.release(sides, &[(left, label), (right, label)], tally).await? {
            return Ok(Step::Conflict(None));
        }
        let mut changes = Changes::default();
        changes.add(sides, left, right, label);
        changes.add(sides, right, left, label);
        if changes.is_stale {
            return Ok(Step::Conflict(None));
        }
        if changes.others.is_empty() {
            return Ok(Step::Done);
        }
        let checks = [StateCheck::text(left), StateCheck::text(right)];
        self.put_together(&LabelWrite { items: &changes.others, checks: &checks, marker: None }, tally).await
    }

    async fn put_together(&self, write: &LabelWrite<'_>, tally: &mut Tally) -> Result<Step, FlowError> {
        let outcome = self.store.put_label_items(write).await?;
        if outcome == StateOutcome::Written {
            tally.items_written += write.items.len() as u64;
        }
        Ok(step(outcome))
    }
}

fn step(outcome: StateOutcome) -> Step {
    match outcome {
        StateOutcome::Written => Step::Done,
        StateOutcome::Conflict(newer) => Step::Conflict(newer),
    }
}
