//! Where a true pair was lost on its way to a stored duplicate label. Pure.

use serde::Serialize;
use shared::item::{LabelItem, ProductItem};
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
    /// Another product contests the duplicate label, which is for review therefore.
    Contest,
    /// The cross-encoder called it distinct.
    Model,
}

impl Loss {
    pub const ALL: [Self; 7] =
        [Self::Unlabelled, Self::Blocking, Self::Cap, Self::Cascade, Self::Review, Self::Contest, Self::Model];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unlabelled => "unlabelled",
            Self::Blocking => "blocking",
            Self::Cap => "cap",
            Self::Cascade => "cascade",
            Self::Review => "review",
            Self::Contest => "contest",
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

    fn distinct_stage(&self, other: &Self) -> Option<Stage> {
        self.item.distinct_stage(&other.state.id, other.state.text_hash)
    }

    fn asks_for(&self, other: &Self, epoch: &KeyEpoch, limits: &Limits) -> bool {
        let held = posting_keys(&other.state.text, epoch);
        query_keys(&self.state.text, epoch, limits).iter().any(|key| held.contains(key))
    }
}

/// Where a pair was last seen; none where readers of the labels take it for a duplicate. `epoch` is
/// the one that look-ups read.
pub fn loss(left: Option<Side<'_>>, right: Option<Side<'_>>, epoch: &KeyEpoch, limits: &Limits) -> Option<Loss> {
    let (Some(left), Some(right)) = (left, right) else { return Some(Loss::Unlabelled) };
    if let Some(said) = reader::said(left.item, right.item) {
        return match (said.verdict(), said.entry.stage) {
            (Verdict::Duplicate, _) => None,
            _ if said.contested_by.is_some() => Some(Loss::Contest),
            (_, Stage::Cascade) => Some(Loss::Cascade),
            (_, Stage::CrossEncoder) => Some(Loss::Review),
        };
    }
    Some(match left.distinct_stage(&right).or_else(|| right.distinct_stage(&left)) {
        Some(Stage::Cascade) => Loss::Cascade,
        Some(Stage::CrossEncoder) => Loss::Model,
        None if left.asks_for(&right, epoch, limits) || right.asks_for(&left, epoch, limits) => Loss::Cap,
        None => Loss::Blocking,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use shared::item::{PairEntry, distinct_key};
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
            loss(sides.0, sides.1, KeyEpoch::shipped(), &Limits::default())
        };
        let entry = |verdict, stage| with(&own, &b, verdict, stage);
        assert_eq!(say(&entry(Verdict::Duplicate, Stage::CrossEncoder), &b, &other), None);
        assert_eq!(say(&entry(Verdict::Review, Stage::CrossEncoder), &b, &other), Some(Loss::Review));
        assert_eq!(say(&entry(Verdict::Review, Stage::Cascade), &b, &other), Some(Loss::Cascade));
        assert_eq!(say(&own, &b, &other), Some(Loss::Cap), "they share a code, and nobody scored them");
        assert_eq!(say(&own, &lamp, &lamp_item), Some(Loss::Blocking));
        for (stage, lost) in [(Stage::Cascade, Loss::Cascade), (Stage::CrossEncoder, Loss::Model)] {
            let knows = |item: &LabelItem, of: &ProductItem| LabelItem {
                distinct: vec![distinct_key(&of.id, of.text_hash, stage)],
                ..item.clone()
            };
            assert_eq!(say(&own, &b, &knows(&other, &a)), Some(lost), "one side knows it");
            assert_eq!(say(&knows(&own, &b), &b, &other), Some(lost), "the other one does");
        }
        let deleted = ProductItem { deleted: true, ..b.clone() };
        assert_eq!(say(&own, &deleted, &other), Some(Loss::Unlabelled));
        let older = LabelItem { text_hash: lamp.text_hash, ..other };
        assert_eq!(say(&own, &b, &older), Some(Loss::Unlabelled));
    }
}
