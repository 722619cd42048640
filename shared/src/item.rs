//! Items as they lie in the tables. Field names are attribute names; every reader in
//! any language may rely on them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Intent, ModelId, PairLabel, ProductId, Stage, TextHash, Verdict};

/// `products`: the newest known state of one product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProductItem {
    pub id: ProductId,
    pub version: u64,
    /// Hash of the whole snapshot; orders states of equal version, higher wins.
    pub content_hash: TextHash,
    pub text_hash: TextHash,
    /// What the model reads; empty in a tombstone.
    pub text: String,
    /// Earlier texts whose postings may still be there; emptied with the marker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous_texts: Vec<String>,
    /// For people who look at labels.
    pub title: String,
    pub deleted: bool,
    pub occurred_at: Timestamp,
    /// Epoch seconds; tombstones only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// What the labels in each model's slot were made from. Written last, one model at a
    /// time, so an empty map is written too: DynamoDB sets no entry of a map that is not
    /// there.
    #[serde(default)]
    pub labelled: BTreeMap<ModelId, LabelledMarker>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelledMarker {
    pub text_hash: TextHash,
    /// Key epoch whose candidates were labelled.
    pub key_epoch: u32,
    /// Key epoch under which postings were written besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also_epoch: Option<u32>,
}

/// `labels`: all labels of one product under one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelItem {
    pub id: ProductId,
    pub model: ModelId,
    /// The owner's text that every label in this item is about.
    pub text_hash: TextHash,
    /// Version of the owner's state that was labelled.
    pub version: u64,
    /// Content hash of that state; orders states of equal version.
    pub content_hash: TextHash,
    /// Duplicate and review pairs, by the other product's id.
    #[serde(default)]
    pub pairs: BTreeMap<ProductId, PairEntry>,
    /// Pairs that were scored and are distinct, as [`distinct_key`]s, sorted. One Binary
    /// of 8 bytes each, big-endian; absent when empty. [`LabelItem::distinct_stage`] reads it.
    #[serde(default, with = "packed_u64", skip_serializing_if = "Vec::is_empty")]
    pub distinct: Vec<u64>,
    /// True when pairs were dropped to keep the item small.
    #[serde(default)]
    pub overflow: bool,
    /// True in the tombstone of a deleted product, which holds no pairs and keeps a
    /// late write of an older state from bringing them back.
    #[serde(default)]
    pub deleted: bool,
    /// Epoch seconds; tombstones only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    pub revision: u64,
}

impl LabelItem {
    /// The stage that found the owner and this other text distinct; none where the item does not
    /// say that they are.
    pub fn distinct_stage(&self, other: &ProductId, other_hash: TextHash) -> Option<Stage> {
        let wanted = distinct_key(other, other_hash, Stage::CrossEncoder);
        let place = self.distinct.binary_search_by_key(&wanted, |key| key & !CASCADE_BIT).ok()?;
        let is_cascade = self.distinct.get(place).is_some_and(|key| key & CASCADE_BIT != 0);
        Some(if is_cascade { Stage::Cascade } else { Stage::CrossEncoder })
    }
}

/// One entry of [`LabelItem::pairs`]; the key holds the other product's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairEntry {
    pub other_hash: TextHash,
    pub other_version: u64,
    pub score: f32,
    pub verdict: Verdict,
    pub stage: Stage,
    pub labelled_at: Timestamp,
}

impl From<&PairLabel> for PairEntry {
    fn from(label: &PairLabel) -> Self {
        Self {
            other_hash: label.other_hash,
            other_version: label.other_version,
            score: label.score,
            verdict: label.verdict,
            stage: label.stage,
            labelled_at: label.labelled_at,
        }
    }
}

/// `postings`: "product `id` has the blocking key `key`".
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Posting {
    /// Blocking key and shard, 1 to 2,048 bytes.
    pub key: String,
    pub id: ProductId,
    /// What ranks the candidate before its text is read, at most [`SKETCH_BYTES_MAX`]
    /// bytes; blocking decides the content.
    #[serde(default, with = "optional_bytes", skip_serializing_if = "Option::is_none")]
    pub sketch: Option<Vec<u8>>,
}

/// Longest [`Posting::sketch`], in bytes. With id and key it keeps a posting within half
/// a KB: one write unit, and eight or more to a read unit.
pub const SKETCH_BYTES_MAX: usize = 200;

/// `intents`: what kind of query this is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntentItem {
    pub query: String,
    pub model: ModelId,
    pub intent: Intent,
    /// Probability of each intent, in the order of [`Intent::ALL`].
    pub scores: [f32; 4],
    /// Which stage of the model said so; items from before there was a first one have none.
    #[serde(default = "Stage::network")]
    pub stage: Stage,
    /// Of the event that asked for it.
    pub version: u64,
    pub labelled_at: Timestamp,
    /// Epoch seconds, after which the label is dead.
    pub expires_at: i64,
}

/// `control` item `model`: which slot readers take, and which slots workers write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveModelItem {
    /// Always [`ACTIVE_MODEL`].
    pub name: String,
    pub model: ModelId,
    /// What was active before, and is again after a roll-back; none before the first switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<ModelId>,
    /// Grows by one with each switch.
    pub activation_epoch: u64,
}

/// Key of the `control` item that names the active model.
pub const ACTIVE_MODEL: &str = "model";

/// `control` item `key-epoch`: which key epochs workers use. Only `decide::rollout` makes
/// one from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEpochsItem {
    /// Always [`KEY_EPOCHS`].
    pub name: String,
    /// Look-ups read this epoch's postings.
    pub active: u32,
    /// Postings are written under this epoch as well: the one to switch to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also: Option<u32>,
    /// True once every product has its postings under `also`.
    #[serde(default)]
    pub also_is_complete: bool,
    /// When `active` or `also` changed last.
    pub since: Timestamp,
    pub revision: u64,
}

/// Key of the `control` item that names the key epochs.
pub const KEY_EPOCHS: &str = "key-epoch";

/// `control` item `key-epoch-NUMBER-PART`: one part of a key epoch's file, gzipped. Part 0
/// is written last and never again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEpochPart {
    pub name: String,
    /// How many parts there are.
    pub parts: u32,
    #[serde(with = "byte_string")]
    pub gzip: Vec<u8>,
}

/// Set in the [`distinct_key`] of a pair that the cascade settled.
const CASCADE_BIT: u64 = 1;

/// Eight bytes that stand for "this other product with this text", and in the last bit for the
/// stage that found the pair distinct: enough to skip it, and to tell who said so. A false
/// match has chance 2^-63 a comparison.
pub fn distinct_key(other: &ProductId, other_hash: TextHash, stage: Stage) -> u64 {
    use sha2::{Digest, Sha256};
    let digest = Sha256::new().chain_update(other_hash.0).chain_update(other.as_str()).finalize();
    let hash = u64::from_be_bytes(digest[..8].try_into().expect("SHA-256 has 32 bytes")) & !CASCADE_BIT;
    match stage {
        Stage::Cascade => hash | CASCADE_BIT,
        Stage::CrossEncoder => hash,
    }
}

/// `Vec<u64>` as one byte string: 8 bytes each, big-endian. A list of numbers would take
/// up to 21 bytes each in DynamoDB.
mod packed_u64 {
    use serde::{Deserializer, Serializer, de::Error};

    use super::bytes::ByteString;

    pub fn serialize<S: Serializer>(values: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
        let packed: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
        serializer.serialize_bytes(&packed)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
        let packed = deserializer.deserialize_byte_buf(ByteString)?;
        let (whole, rest) = packed.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(D::Error::invalid_length(packed.len(), &"a multiple of 8 bytes"));
        }
        Ok(whole.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect())
    }
}

/// `Option<Vec<u8>>` as a byte string; derived code would write a list of numbers.
mod optional_bytes {
    use serde::{Deserializer, Serializer};

    use super::bytes::ByteString;

    pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_bytes(bytes),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        deserializer.deserialize_byte_buf(ByteString).map(Some)
    }
}

/// `Vec<u8>` as a byte string.
mod byte_string {
    use serde::{Deserializer, Serializer};

    use super::bytes::ByteString;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_byte_buf(ByteString)
    }
}

mod bytes {
    use std::fmt;

    use serde::de::{Error, SeqAccess, Visitor};

    /// Accepts a byte string, or the list of numbers that JSON has in its place.
    pub struct ByteString;

    impl<'de> Visitor<'de> for ByteString {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a byte string")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u8>, A::Error> {
            let mut bytes = Vec::new();
            while let Some(byte) = list.next_element()? {
                bytes.push(byte);
            }
            Ok(bytes)
        }
    }
}
