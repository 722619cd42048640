//! What a label item must say after a write, given what it says now.
//!
//! Label items are read, merged here, and written on the condition that their revision
//! has not moved. Every rule is a comparison of states, never of clocks, so that any
//! order of the same writes ends in the same item.

use std::collections::BTreeMap;

use shared::item::{LabelItem, PairEntry, ProductItem, distinct_key};
use shared::{ModelId, PairLabel, ProductId, TextHash, Verdict};

/// Entries kept in one label item. With ids, versions and times of the longest kind an
/// entry has 226 bytes, and the item stays below 8 KB, so that a page of 100 products
/// stays below the 1 MB that one read may return.
pub const ENTRIES_MAX: usize = 32;
/// Distinct pairs remembered in one label item, 8 bytes each: more than one event finds.
pub const DISTINCT_MAX: usize = 64;

/// Outcome of a merge.
#[derive(Clone, Debug, PartialEq)]
pub enum Merged {
    /// Write this, on the condition that the item's revision is still
    /// `item.revision - 1` (0: that there is none).
    Write(LabelItem),
    /// The item already says so.
    Unchanged,
    /// The item is about a newer state of its owner.
    Stale,
}

/// What the labels of one product are about: one state under one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub id: ProductId,
    pub model: ModelId,
    pub version: u64,
    pub content_hash: TextHash,
    pub text_hash: TextHash,
}

impl Owner {
    pub fn of(state: &ProductItem, model: &ModelId) -> Self {
        Self {
            id: state.id.clone(),
            model: model.clone(),
            version: state.version,
            content_hash: state.content_hash,
            text_hash: state.text_hash,
        }
    }
}

/// Merges everything that the owner's own event found. `scored` has one label for each
/// candidate, distinct ones included. `valid` holds the partners in the item whose
/// texts are still the ones that were labelled; entries of others are dropped.
pub fn own(current: Option<&LabelItem>, owner: &Owner, scored: &[PairLabel], valid: &[ProductId]) -> Merged {
    match start(current, owner) {
        Some(item) => finish(current, with_scored(item, scored, valid)),
        None => Merged::Stale,
    }
}

/// The same when a product is reconciled: whether the item has room for all of its pairs
/// is found out anew, and of distinct pairs it keeps `distinct` only.
pub fn anew(
    current: Option<&LabelItem>,
    owner: &Owner,
    scored: &[PairLabel],
    valid: &[ProductId],
    distinct: &[u64],
) -> Merged {
    let Some(mut item) = start(current, owner) else { return Merged::Stale };
    item.overflow = false;
    item.distinct = distinct.to_vec();
    item.distinct.sort_unstable();
    finish(current, with_scored(item, scored, valid))
}

fn with_scored(mut item: LabelItem, scored: &[PairLabel], valid: &[ProductId]) -> LabelItem {
    item.pairs.retain(|other, _| valid.contains(other) || scored.iter().any(|label| label.other == *other));
    for label in scored {
        apply(&mut item, label);
    }
    item
}

/// Merges one pair into the item of its other side, whose owner's state was read when
/// the pair was scored.
pub fn other_side(current: Option<&LabelItem>, owner: &Owner, label: &PairLabel) -> Merged {
    let Some(mut item) = start(current, owner) else { return Merged::Stale };
    apply(&mut item, label);
    finish(current, item)
}

/// Takes out the entry of a partner that is distinct now, changed or deleted. An entry
/// about a newer version of the partner, or about the text that it has now
/// (`partner_hash`, none where it is deleted), stays.
pub fn without(
    current: Option<&LabelItem>,
    partner: &ProductId,
    partner_version: u64,
    partner_hash: Option<TextHash>,
) -> Merged {
    let Some(item) = current else { return Merged::Unchanged };
    match item.pairs.get(partner) {
        Some(entry) if entry.other_version <= partner_version && Some(entry.other_hash) != partner_hash => {
            let mut item = item.clone();
            item.pairs.remove(partner);
            finish(current, item)
        }
        _ => Merged::Unchanged,
    }
}

/// Whether the item has entries about an earlier text of its owner, which are all that says who
/// holds an entry about that text: they have to go before [`other_side`] replaces them.
pub fn is_outdated(item: &LabelItem, owner: &Owner) -> bool {
    item.text_hash != owner.text_hash && !item.pairs.is_empty() && rank(item) < (owner.version, owner.content_hash)
}

/// The tombstone of a deleted product; `expires_at` in epoch seconds.
pub fn tombstone(current: Option<&LabelItem>, owner: &Owner, expires_at: i64) -> Merged {
    if current.is_some_and(|item| rank(item) > (owner.version, owner.content_hash)) {
        return Merged::Stale;
    }
    if current.is_some_and(|item| item.deleted && rank(item) == (owner.version, owner.content_hash)) {
        return Merged::Unchanged;
    }
    let item = LabelItem { deleted: true, expires_at: Some(expires_at), ..empty(owner) };
    finish(current, item)
}

fn rank(item: &LabelItem) -> (u64, TextHash) {
    (item.version, item.content_hash)
}

/// The item to merge into: the current one where it is about the same text, an empty one
/// where the owner's state is newer, none where it is older.
fn start(current: Option<&LabelItem>, owner: &Owner) -> Option<LabelItem> {
    let Some(current) = current else { return Some(empty(owner)) };
    let is_newer = (owner.version, owner.content_hash) >= rank(current);
    if current.text_hash != owner.text_hash || current.deleted {
        return is_newer.then(|| empty(owner));
    }
    // Labels of the same text are right whatever the version that asked for them.
    let mut item = current.clone();
    if is_newer {
        (item.version, item.content_hash) = (owner.version, owner.content_hash);
    }
    Some(item)
}

fn empty(owner: &Owner) -> LabelItem {
    LabelItem {
        id: owner.id.clone(),
        model: owner.model.clone(),
        text_hash: owner.text_hash,
        version: owner.version,
        content_hash: owner.content_hash,
        pairs: BTreeMap::new(),
        distinct: Vec::new(),
        overflow: false,
        deleted: false,
        expires_at: None,
        revision: 0,
    }
}

/// One pair: the newer version of the other product wins; a distinct verdict takes the
/// entry out and leaves its key.
fn apply(item: &mut LabelItem, label: &PairLabel) {
    if item.pairs.get(&label.other).is_some_and(|entry| entry.other_version > label.other_version) {
        return;
    }
    if label.verdict == Verdict::Distinct {
        item.pairs.remove(&label.other);
        if item.distinct_stage(&label.other, label.other_hash).is_none() {
            let key = distinct_key(&label.other, label.other_hash, label.stage);
            let place = item.distinct.partition_point(|known| *known < key);
            item.distinct.insert(place, key);
        }
        return;
    }
    let mut entry = PairEntry::from(label);
    if let Some(known) = item.pairs.get(&label.other).filter(|known| known.other_hash == label.other_hash) {
        // The same two texts under the same model: the first scoring stands.
        entry = PairEntry { other_version: label.other_version, ..known.clone() };
    }
    item.pairs.insert(label.other.clone(), entry);
}

/// Applies the limits, and compares with what is there.
fn finish(current: Option<&LabelItem>, mut item: LabelItem) -> Merged {
    while item.pairs.len() > ENTRIES_MAX {
        let weakest = item.pairs.iter().min_by(|a, b| strength(a).cmp(&strength(b))).map(|(id, _)| id.clone());
        if let Some(id) = weakest {
            item.pairs.remove(&id);
        }
        item.overflow = true;
    }
    // Forgetting a distinct pair costs one more scoring, never a wrong label.
    item.distinct.truncate(DISTINCT_MAX);
    if current.is_some_and(|current| *current == item) {
        return Merged::Unchanged;
    }
    item.revision = current.map_or(0, |current| current.revision) + 1;
    Merged::Write(item)
}

/// Orders entries by verdict, then score, then id, so that every worker keeps the same.
fn strength<'a>((id, entry): &(&'a ProductId, &PairEntry)) -> (Verdict, u32, std::cmp::Reverse<&'a ProductId>) {
    // Scores are finite and not negative, so their bits order as they do.
    (entry.verdict, entry.score.to_bits(), std::cmp::Reverse(id))
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
