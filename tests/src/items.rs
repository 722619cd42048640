//! Items as tests need them. Values that don't matter are constants.

use std::collections::BTreeMap;

use consumer::store::StateCheck;
use jiff::Timestamp;
use shared::item::{LabelItem, LabelledMarker, PairEntry, Posting, ProductItem};
use shared::{ModelId, ProductId, Stage, TextHash, Verdict};

/// # Panics
/// On an id that is not valid.
pub fn id(id: &str) -> ProductId {
    ProductId::new(id).expect("a valid id")
}

pub fn model() -> ModelId {
    ModelId("pair-1@2".to_owned())
}

/// A living state whose hashes follow from `text`.
pub fn state(id: &str, version: u64, text: &str) -> ProductItem {
    ProductItem {
        id: self::id(id),
        version,
        content_hash: TextHash::of(0, text),
        text_hash: TextHash::of(1, text),
        text: text.to_owned(),
        previous_texts: vec![],
        title: format!("Title of {id}"),
        deleted: false,
        occurred_at: Timestamp::UNIX_EPOCH,
        expires_at: None,
        labelled: BTreeMap::new(),
    }
}

/// Says that this state's text is labelled.
pub fn marker(state: &ProductItem) -> LabelledMarker {
    LabelledMarker { text_hash: state.text_hash, key_epoch: 3, also_epoch: None }
}

/// A check of the text alone.
pub fn check(id: &str, text: &str) -> StateCheck {
    StateCheck { id: self::id(id), version: None, text_hash: TextHash::of(1, text), deleted: false }
}

pub fn posting(key: &str, id: &str) -> Posting {
    Posting { key: key.to_owned(), id: self::id(id), sketch: Some(vec![0, 1, 255]) }
}

/// A label item about text `a`, with one duplicate B of text `b`.
pub fn label(id: &str, revision: u64) -> LabelItem {
    let entry = PairEntry {
        other_hash: TextHash::of(1, "b"),
        other_version: 7,
        score: 0.875,
        verdict: Verdict::Duplicate,
        stage: Stage::CrossEncoder,
        labelled_at: Timestamp::UNIX_EPOCH,
    };
    LabelItem {
        id: self::id(id),
        model: model(),
        text_hash: TextHash::of(1, "a"),
        version: 1,
        content_hash: TextHash::of(0, "a"),
        pairs: BTreeMap::from([(self::id("B"), entry)]),
        distinct: vec![1, u64::MAX],
        overflow: false,
        deleted: false,
        expires_at: None,
        revision,
    }
}
