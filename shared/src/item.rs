//! Items as they lie in the tables. Field names are attribute names; every reader in
//! any language may rely on them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Intent, IntentLabel, ModelId, PairLabel, ProductId, Stage, TextHash, Verdict};

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
    /// What the labels in the table were made from. Written last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labelled: Option<LabelledMarker>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelledMarker {
    pub text_hash: TextHash,
    pub model: ModelId,
    pub key_epoch: u32,
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
    /// Pairs that were scored and are distinct, as [`distinct_key`]s, sorted.
    #[serde(default)]
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

/// `intents`: what kind of query this is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntentItem {
    pub query: String,
    pub model: ModelId,
    pub intent: Intent,
    pub scores: [f32; 4],
    pub version: u64,
    pub labelled_at: Timestamp,
    /// Epoch seconds.
    pub expires_at: i64,
}

impl From<&IntentLabel> for IntentItem {
    fn from(label: &IntentLabel) -> Self {
        Self {
            query: label.query.clone(),
            model: label.model.clone(),
            intent: label.intent,
            scores: label.scores,
            version: label.version,
            labelled_at: label.labelled_at,
            expires_at: label.expires_at.as_second(),
        }
    }
}

/// `control` item `model`: which slot readers take, and which slots workers write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveModelItem {
    /// Always [`ACTIVE_MODEL`].
    pub name: String,
    pub model: ModelId,
    /// Grows by one with each switch.
    pub activation_epoch: u64,
}

/// Key of the `control` item that names the active model.
pub const ACTIVE_MODEL: &str = "model";

/// Eight bytes that stand for "this other product with this text": enough to skip a
/// pair that was already found distinct. A false match has chance 2^-64 a comparison.
pub fn distinct_key(other: &ProductId, other_hash: TextHash) -> u64 {
    use sha2::{Digest, Sha256};
    let digest = Sha256::new().chain_update(other_hash.0).chain_update(other.as_str()).finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("SHA-256 has 32 bytes"))
}
