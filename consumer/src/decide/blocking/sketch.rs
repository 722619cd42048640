//! The sketch that travels in each posting, so that hundreds of postings can be ranked
//! without fetching a text.
//!
//! A text is a vector of features: its tokens, weighted by rarity, and the four-letter
//! grams of its longer tokens, weighted less, so that "dle2516w" and "dle2516wh" still
//! meet. The sketch keeps the heaviest features as (16-bit hash, weight); the score is
//! the cosine of two such vectors. A hash of 16 bits is enough: two unrelated texts share
//! 45 x 45 / 65,536 = 0.03 features by accident.

use std::collections::HashMap;

use super::epoch::KeyEpoch;
use super::tokens::{Token, tokens};

/// First byte of every sketch; another layout needs another number.
const LAYOUT: u8 = 1;
const FEATURES_MAX: usize = 45;
const FEATURE_BYTES: usize = 3;
/// Longest sketch in bytes: 136.
pub const SKETCH_BYTES_MAX: usize = 1 + FEATURES_MAX * FEATURE_BYTES;
/// Weights are kept in eighths of a bit; the rarest token has about 20 bits.
const WEIGHT_SCALE: f32 = 8.0;
/// What words of prose count for, against 1 for title, brand, model number and type.
const DETAIL_WEIGHT: f32 = 0.4;
/// What the grams of a token count for together, against 1 for the token.
const GRAMS_WEIGHT: f32 = 0.6;
const GRAM_CHARS: usize = 4;

/// The sketch of a text: at most [`SKETCH_BYTES_MAX`] bytes.
pub fn sketch(text: &str, epoch: &KeyEpoch) -> Vec<u8> {
    let mut bytes = vec![LAYOUT];
    for (hash, weight) in features(text, epoch) {
        bytes.extend(hash.to_be_bytes());
        bytes.push(weight);
    }
    bytes
}

/// What sketches of other products are compared with.
pub(super) struct Own {
    weights: HashMap<u16, u8>,
}

impl Own {
    pub(super) fn of(text: &str, epoch: &KeyEpoch) -> Self {
        Self { weights: features(text, epoch).into_iter().collect() }
    }

    /// Cosine between the own text and a sketch, but for the own text's length, which is
    /// the same for every candidate. 0 for a sketch that can't be read. Sums are whole
    /// numbers, so the score does not depend on the order of features.
    pub(super) fn score(&self, sketch: &[u8]) -> f64 {
        let Some((&LAYOUT, features)) = sketch.split_first() else { return 0.0 };
        let (mut shared, mut length) = (0_u32, 0_u32);
        for feature in features.chunks_exact(FEATURE_BYTES).take(FEATURES_MAX) {
            let weight = u32::from(feature[2]);
            let own = self.weights.get(&u16::from_be_bytes([feature[0], feature[1]]));
            shared += own.map_or(0, |own| u32::from(*own) * weight);
            length += weight * weight;
        }
        if length == 0 { 0.0 } else { f64::from(shared) / f64::from(length).sqrt() }
    }
}

/// The heaviest features by hash, each hash once, heaviest first, ties by hash.
fn features(text: &str, epoch: &KeyEpoch) -> Vec<(u16, u8)> {
    let mut weights: HashMap<u16, u8> = HashMap::new();
    let mut add = |hash: u16, weight: f32| {
        let weight = (weight * WEIGHT_SCALE).round().clamp(1.0, 255.0) as u8;
        let known = weights.entry(hash).or_insert(0);
        *known = weight.max(*known);
    };
    for token in tokens(text) {
        let weight = epoch.word_bits(&token.text) * if token.detail { DETAIL_WEIGHT } else { 1.0 };
        add(hash(b'w', &token.text), weight);
        let grams = grams(&token);
        let gram_weight = GRAMS_WEIGHT * weight / (1.0 + grams.len() as f32).sqrt();
        for gram in grams {
            add(hash(b'g', &gram), gram_weight);
        }
    }
    let mut features: Vec<(u16, u8)> = weights.into_iter().collect();
    features.sort_unstable_by_key(|(hash, weight)| (u8::MAX - weight, *hash));
    features.truncate(FEATURES_MAX);
    features
}

/// Four-letter grams of a token of at least four characters, its start marked.
fn grams(token: &Token) -> Vec<String> {
    let chars: Vec<char> = std::iter::once('^').chain(token.text.chars()).collect();
    if chars.len() <= GRAM_CHARS {
        return Vec::new();
    }
    chars.windows(GRAM_CHARS).map(|gram| gram.iter().collect()).collect()
}

/// FNV-1a of kind and text, folded to 16 bits. Part of the layout: stored sketches hold it.
fn hash(kind: u8, text: &str) -> u16 {
    let mixed = std::iter::once(kind)
        .chain(text.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let folded = mixed ^ (mixed >> 32);
    ((folded ^ (folded >> 16)) & 0xffff) as u16
}
