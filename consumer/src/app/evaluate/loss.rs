//! Where a true pair was lost on its way to a stored duplicate label. Pure.

use serde::Serialize;
use shared::item::{LabelItem, ProductItem, distinct_key};
use shared::{Stage, Verdict};

use crate::decide::blocking::{KeyEpoch, Limits, posting_keys, query_keys};

/// The last place at which a pair was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// One of the products is not in the tables, or not labelled for the text that it has.
    Unlabelled,
    /// The two share no key: nobody proposed the pair.
    Blocking,
    /// They share a key, but the pair was not scored, or is no longer known: a limit of
    /// candidates, of postings under a key, or of an item's entries was in the way.
    Cap,
    /// The first stage settled it, as distinct or for review.
    Cascade,
    /// The cross-encoder left it for review.
    Review,
    /// The cross-encoder called it distinct.
    Model,
}

impl Loss {
    pub const ALL: [Self; 6] = [Self::Unlabelled, Self::Blocking, Self::Cap, Self::Cascade, Self::Review, Self::Model];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unlabelled => "unlabelled",
            Self::Blocking => "blocking",
            Self::Cap => "cap",
            Self::Cascade => "cascade",
            Self::Review => "review",
            Self::Model => "model",
        }
    }
}

/// What the tables know of one product.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    pub state: &'a ProductItem,
    pub item: &'a LabelItem,
}

impl<'a> Side<'a> {
    /// None where the labels are not about the text that the product has now.
    pub fn of(state: Option<&'a ProductItem>, item: Option<&'a LabelItem>) -> Option<Self> {
        let (state, item) = (state?, item?);
        let is_labelled = !state.deleted && !item.deleted && state.text_hash == item.text_hash;
        is_labelled.then_some(Self { state, item })
    }

    fn knows_as_distinct(&self, other: &Self) -> bool {
        self.item.distinct.binary_search(&distinct_key(&other.state.id, other.state.text_hash)).is_ok()
    }

    fn asks_for(&self, other: &Self, epoch: &KeyEpoch, limits: &Limits) -> bool {
        let held = posting_keys(&other.state.text, epoch);
        query_keys(&self.state.text, epoch, limits).iter().any(|key| held.contains(key))
    }
}

/// What is stored of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Duplicate,
    Lost(Loss),
    /// Scored and found distinct; the items do not say by which stage.
    Distinct,
}

/// What the stored labels say of a pair, and if it is no duplicate, where it was last seen.
pub fn stored(left: Option<Side<'_>>, right: Option<Side<'_>>, epoch: &KeyEpoch, limits: &Limits) -> Stored {
    let (Some(left), Some(right)) = (left, right) else { return Stored::Lost(Loss::Unlabelled) };
    match reader::newest_entry(left.item, right.item) {
        Some(entry) if entry.verdict == Verdict::Duplicate => Stored::Duplicate,
        Some(entry) if entry.stage == Stage::Cascade => Stored::Lost(Loss::Cascade),
        Some(_) => Stored::Lost(Loss::Review),
        None if left.knows_as_distinct(&right) || right.knows_as_distinct(&left) => Stored::Distinct,
        None if left.asks_for(&right, epoch, limits) || right.asks_for(&left, epoch, limits) => Stored::Lost(Loss::Cap),
        None => Stored::Lost(Loss::Blocking),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use shared::item::PairEntry;
    use shared::{ModelId, ProductId, TextHash};

    use super::*;

    fn id(name: &str) -> ProductId {
        ProductId::new(name).expect("a valid id")
    }

    fn state(name: &str, text: &str) -> ProductItem {
        ProductItem {
            id: id(name),
            version: 1,
            content_hash: TextHash::of(0, text),
            text_hash: TextHash::of(1, text),
            text: text.to_owned(),
            previous_texts: vec![],
            title: text.to_owned(),
            deleted: false,
            occurred_at: Timestamp::UNIX_EPOCH,
            expires_at: None,
            labelled: BTreeMap::new(),
        }
    }

    fn item(state: &ProductItem) -> LabelItem {
        LabelItem {
            id: state.id.clone(),
            model: ModelId("m".to_owned()),
            text_hash: state.text_hash,
            version: 1,
            content_hash: state.content_hash,
            pairs: BTreeMap::new(),
            distinct: vec![],
            overflow: false,
            deleted: false,
            expires_at: None,
            revision: 1,
        }
    }

    fn with(item: &LabelItem, other: &ProductItem, verdict: Verdict, stage: Stage) -> LabelItem {
        let (other_hash, labelled_at) = (other.text_hash, Timestamp::UNIX_EPOCH);
        let entry = PairEntry { other_hash, other_version: 1, score: 0.5, verdict, stage, labelled_at };
        LabelItem { pairs: BTreeMap::from([(other.id.clone(), entry)]), ..item.clone() }
    }

    #[test]
    fn each_loss_is_told_from_the_others() {
        let (a, b, lamp) = (state("A", "kettle qx4471z"), state("B", "steel kettle qx4471z"), state("L", "lamp"));
        let (own, other, lamp_item) = (item(&a), item(&b), item(&lamp));
        let say = |own: &LabelItem, state: &ProductItem, item: &LabelItem| {
            let sides = (Side::of(Some(&a), Some(own)), Side::of(Some(state), Some(item)));
            stored(sides.0, sides.1, KeyEpoch::shipped(), &Limits::default())
        };
        let entry = |verdict, stage| with(&own, &b, verdict, stage);
        assert_eq!(say(&entry(Verdict::Duplicate, Stage::CrossEncoder), &b, &other), Stored::Duplicate);
        assert_eq!(say(&entry(Verdict::Review, Stage::CrossEncoder), &b, &other), Stored::Lost(Loss::Review));
        assert_eq!(say(&entry(Verdict::Review, Stage::Cascade), &b, &other), Stored::Lost(Loss::Cascade));
        assert_eq!(say(&own, &b, &other), Stored::Lost(Loss::Cap), "they share a code, and nobody scored them");
        assert_eq!(say(&own, &lamp, &lamp_item), Stored::Lost(Loss::Blocking));
        let distinct = LabelItem { distinct: vec![distinct_key(&a.id, a.text_hash)], ..other.clone() };
        assert_eq!(say(&own, &b, &distinct), Stored::Distinct);
        let deleted = ProductItem { deleted: true, ..b.clone() };
        assert_eq!(say(&own, &deleted, &other), Stored::Lost(Loss::Unlabelled));
        let older = LabelItem { text_hash: lamp.text_hash, ..other };
        assert_eq!(say(&own, &b, &older), Stored::Lost(Loss::Unlabelled));
    }
}
