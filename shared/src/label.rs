//! Labels: what the models said, and about which texts.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{ProductId, TextHash};

/// Names one artifact and its thresholds, as its manifest does. Each model writes its
/// own slot of labels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelId(pub String);

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a shopper would say of two products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Distinct,
    /// Too close to call; a person or a stricter rule decides.
    Review,
    Duplicate,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Distinct => "distinct",
            Self::Review => "review",
            Self::Duplicate => "duplicate",
        }
    }
}

/// Which stage of the model settled a pair, or a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The cheap first stage, sure enough to skip the network.
    Cascade,
    /// The network; of a query it reads one text alone.
    CrossEncoder,
}

impl Stage {
    /// The stage that every model has.
    pub fn network() -> Self {
        Self::CrossEncoder
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cascade => "cascade",
            Self::CrossEncoder => "cross_encoder",
        }
    }
}

/// What kind of query this is. The order is that of the model's logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    Product,
    Media,
    Help,
    Other,
}

impl Intent {
    pub const ALL: [Self; 4] = [Self::Product, Self::Media, Self::Help, Self::Other];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Product => "product",
            Self::Media => "media",
            Self::Help => "help",
            Self::Other => "other",
        }
    }
}

/// One side's record of a scored pair: what `model` says of the owner's text and the
/// other product's text. The pair is labelled on both sides when it is not distinct.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairLabel {
    pub other: ProductId,
    /// Hash of the other product's text that was scored.
    pub other_hash: TextHash,
    /// Version of the other product's state that was read.
    pub other_version: u64,
    /// Calibrated probability of `duplicate`, 0 to 1.
    pub score: f32,
    pub verdict: Verdict,
    pub stage: Stage,
    /// When the pair was scored.
    pub labelled_at: Timestamp,
}
