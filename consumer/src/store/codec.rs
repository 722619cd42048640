//! Structs to items and back.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Call, StoreError};

pub(super) type Item = HashMap<String, AttributeValue>;

pub(super) fn encode<T: Serialize>(call: &Call, value: &T) -> Result<Item, StoreError> {
    serde_dynamo::to_item(value).map_err(|source| StoreError::Encode { call: call.clone(), source })
}

/// For a value inside an item or an expression.
pub(super) fn encode_value<T: Serialize>(call: &Call, value: &T) -> Result<AttributeValue, StoreError> {
    serde_dynamo::to_attribute_value(value).map_err(|source| StoreError::Encode { call: call.clone(), source })
}

pub(super) fn decode<T: DeserializeOwned>(call: &Call, item: Item) -> Result<T, StoreError> {
    serde_dynamo::from_item(item).map_err(|source| StoreError::Decode { call: call.clone(), source })
}

pub(super) fn string(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

pub(super) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use shared::item::{IntentItem, LabelItem, LabelledMarker, PairEntry, Posting, ProductItem, SKETCH_BYTES_MAX};
    use shared::{Intent, ModelId, ProductId, Stage, TextHash, Verdict};

    use super::*;

    fn round_trip<T: Serialize + DeserializeOwned>(value: &T) -> (Item, T) {
        let call = Call { operation: "test", table: "test".to_owned() };
        let item = encode(&call, value).expect("encodes");
        let back = decode(&call, item.clone()).expect("decodes");
        (item, back)
    }

    fn id() -> impl Strategy<Value = ProductId> {
        "[!-~]{1,64}".prop_map(|id| ProductId::new(id).expect("the pattern of ids"))
    }

    fn hash() -> impl Strategy<Value = TextHash> {
        any::<[u8; 16]>().prop_map(TextHash)
    }

    fn model() -> impl Strategy<Value = ModelId> {
        "\\PC{1,30}".prop_map(ModelId)
    }

    fn time() -> impl Strategy<Value = Timestamp> {
        (0..4_000_000_000_i64).prop_map(|second| Timestamp::from_second(second).expect("in range"))
    }

    prop_compose! {
        fn entry()(other_hash in hash(), other_version in any::<u64>(), score in 0.0..=1.0_f32,
                   duplicate in any::<bool>(), cascade in any::<bool>(), labelled_at in time()) -> PairEntry {
            let verdict = if duplicate { Verdict::Duplicate } else { Verdict::Review };
            let stage = if cascade { Stage::Cascade } else { Stage::CrossEncoder };
            PairEntry { other_hash, other_version, score, verdict, stage, labelled_at }
        }
    }

    prop_compose! {
        fn label_item()(id in id(), model in model(), text_hash in hash(), version in any::<u64>(), content_hash in hash(),
                        pairs in proptest::collection::btree_map(id(), entry(), 0..8),
                        distinct in proptest::collection::vec(any::<u64>(), 0..40),
                        overflow in any::<bool>(), deleted in any::<bool>(),
                        expires_at in proptest::option::of(0..9_000_000_000_i64), revision in any::<u64>()) -> LabelItem {
            LabelItem { id, model, text_hash, version, content_hash, pairs, distinct, overflow, deleted, expires_at, revision }
        }
    }

    prop_compose! {
        fn product_item()(id in id(), version in any::<u64>(), content_hash in hash(), text_hash in hash(),
                          text in "\\PC{0,80}", previous_texts in proptest::collection::vec("\\PC{0,40}", 0..3), title in "\\PC{0,40}", deleted in any::<bool>(), occurred_at in time(),
                          expires_at in proptest::option::of(any::<i64>()),
                          labelled in proptest::collection::btree_map(model(), (hash(), any::<u32>(), any::<Option<u32>>()), 0..3)) -> ProductItem {
            let marker = |(text_hash, key_epoch, also_epoch)| LabelledMarker { text_hash, key_epoch, also_epoch };
            let labelled = labelled.into_iter().map(|(model, parts)| (model, marker(parts))).collect();
            ProductItem { id, version, content_hash, text_hash, text, previous_texts, title, deleted, occurred_at, expires_at, labelled }
        }
    }

    proptest! {
        #[test]
        fn label_items_come_back(item in label_item()) {
            let (encoded, back) = round_trip(&item);
            prop_assert_eq!(&back, &item);
            match encoded.get("distinct") {
                Some(AttributeValue::B(packed)) => prop_assert_eq!(packed.as_ref().len(), 8 * item.distinct.len()),
                other => prop_assert!(other.is_none() && item.distinct.is_empty()),
            }
            prop_assert!(matches!(encoded.get("pairs"), Some(AttributeValue::M(_))));
        }

        #[test]
        fn product_items_come_back(item in product_item()) {
            prop_assert_eq!(round_trip(&item).1, item);
        }

        #[test]
        fn postings_come_back(key in "\\PC{1,60}", id in id(),
                              sketch in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..=SKETCH_BYTES_MAX))) {
            let posting = Posting { key, id, sketch };
            let (encoded, back) = round_trip(&posting);
            prop_assert_eq!(&back, &posting);
            prop_assert!(matches!(encoded.get("sketch"), None | Some(AttributeValue::B(_))));
        }

        #[test]
        fn intent_items_come_back(query in "\\PC{1,60}", model in model(), scores in any::<[f32; 4]>(),
                                  version in any::<u64>(), labelled_at in time(), expires_at in any::<i64>(), cascade in any::<bool>()) {
            let stage = if cascade { Stage::Cascade } else { Stage::CrossEncoder };
            prop_assume!(scores.iter().all(|score| score.is_finite()));
            let item = IntentItem { query, model, intent: Intent::Help, scores, stage, version, labelled_at, expires_at };
            prop_assert_eq!(round_trip(&item).1, item);
        }
    }

    #[test]
    fn half_a_distinct_key_is_refused() {
        let call = Call { operation: "test", table: "test".to_owned() };
        let mut item = Item::new();
        let hash = "00000000000000000000000000000000";
        for (name, value) in [("id", "A"), ("model", "m"), ("text_hash", hash), ("content_hash", hash)] {
            item.insert(name.to_owned(), string(value));
        }
        item.insert("version".to_owned(), number(1));
        item.insert("revision".to_owned(), number(1));
        assert!(decode::<LabelItem>(&call, item.clone()).is_ok());
        item.insert("distinct".to_owned(), AttributeValue::B(vec![0; 12].into()));
        let error = decode::<LabelItem>(&call, item).expect_err("12 bytes are no whole number of keys");
        assert!(matches!(error, StoreError::Decode { .. }));
    }
}
