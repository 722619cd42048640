//! The first stage of an artifact for queries: a linear model over hashed words and letters, and a small network
//! over vectors of the query's tokens, which settle the intents that they are sure of together. The artifact's
//! network reads the other queries alone.

mod token_vectors;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use shared::Stage;
use shared::text::normalise_query;

use crate::encode::Encoder;
use crate::scorer::IntentScore;
pub use token_vectors::{TokenVectors, VectorsError};

/// Buckets of the words, and again of the letters.
const BUCKETS: usize = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 15;
const INTENTS: usize = 4;
/// Words of a query, and characters of a word with a space on either side, that are read: more
/// than the network has tokens for.
const WORDS_MAX: usize = 32;
const WORD_CHARS_MAX: usize = 32;
/// Characters that make a piece of a word.
const LETTERS: [usize; 2] = [3, 4];
/// Sums in another order than the trainer's differ by less.
const GOLDEN_TOLERANCE: f32 = 1e-4;

/// What a query is made of, as buckets in ascending order, each once.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Pieces {
    /// Of each word, and of each two neighbours.
    pub words: Vec<u16>,
    /// Of every 3 and 4 neighbouring characters of a word with a space on either side.
    pub letters: Vec<u16>,
}

impl Pieces {
    /// Of a query, which is normalised first.
    pub fn of(query: &str) -> Self {
        let query = normalise_query(query);
        let words: Vec<&str> = query.split_whitespace().take(WORDS_MAX).collect();
        let single = words.iter().map(|word| bucket(word.chars()));
        let double = words.windows(2).map(|two| bucket(two[0].chars().chain([' ']).chain(two[1].chars())));
        let letters = words.iter().flat_map(|word| letters(word));
        Self { words: distinct(single.chain(double)), letters: distinct(letters) }
    }
}

fn letters(word: &str) -> Vec<u16> {
    let chars: Vec<char> = [' '].into_iter().chain(word.chars()).chain([' ']).take(WORD_CHARS_MAX).collect();
    LETTERS.iter().flat_map(|&count| chars.windows(count).map(|piece| bucket(piece.iter().copied()))).collect()
}

fn distinct(buckets: impl Iterator<Item = u16>) -> Vec<u16> {
    let mut buckets: Vec<u16> = buckets.collect();
    buckets.sort_unstable();
    buckets.dedup();
    buckets
}

/// FNV-1a of the UTF-8 bytes, 32 bits, folded as its authors advise for fewer than 16 bits
/// (draft-eastlake-fnv).
fn bucket(chars: impl Iterator<Item = char>) -> u16 {
    let mut hash = 0x811c_9dc5_u32;
    for char in chars {
        for byte in char.encode_utf8(&mut [0; 4]).bytes() {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    }
    ((hash >> BUCKET_BITS ^ hash) & (BUCKETS as u32 - 1)) as u16
}

/// `query_cascade.json`, as `training/query_cascade.py` writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    buckets: usize,
    /// Of the weights of each intent.
    scale: [f32; INTENTS],
    bias: [f32; INTENTS],
    /// Base64 of a signed byte for each bucket and intent, intents innermost: those of the words, then
    /// those of the letters.
    weights: String,
    /// None in artifacts from before 2026-11-30.
    tokens: Option<token_vectors::File>,
    goldens: Vec<Golden>,
}

/// What the trainer's own copy says of a query.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    query: String,
    /// The query's tokens, as [`Encoder::query_tokens`] has them; empty where only pieces are read.
    #[serde(default)]
    token_ids: Vec<i64>,
    logits: [f32; INTENTS],
}

/// Why a `query_cascade.json` is of no use.
#[derive(Debug, thiserror::Error)]
pub enum QueryModelError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("weights: {0}")]
    Base64(#[from] base64::DecodeError),
    #[error("buckets: there are {found}, and this build hashes into {BUCKETS}; use an artifact of this version")]
    Buckets { found: usize },
    #[error("weights: there are {found} bytes in place of {}", 2 * BUCKETS * INTENTS)]
    Weights { found: usize },
    #[error("{field}: not every number is finite")]
    NotFinite { field: &'static str },
    #[error("tokens.{0}")]
    Vectors(#[from] VectorsError),
    #[error("goldens: there are none")]
    NoGoldens,
    #[error("golden {golden}: the logits are {found:?}, the trainer's were {expected:?}")]
    Golden { golden: usize, found: [f32; INTENTS], expected: [f32; INTENTS] },
}

/// A weight for each piece and intent.
#[derive(Clone, Debug, PartialEq)]
struct Linear {
    words: Vec<[i8; INTENTS]>,
    letters: Vec<[i8; INTENTS]>,
    scale: [f32; INTENTS],
    bias: [f32; INTENTS],
}

impl Linear {
    /// Of each intent: the weights of the query's pieces, words and letters each over the root of
    /// their number, and the bias.
    fn logits(&self, query: &str) -> [f32; INTENTS] {
        let Pieces { words, letters } = Pieces::of(query);
        let mut logits = self.bias;
        for (pieces, weights) in [(words, &self.words), (letters, &self.letters)] {
            let mut sums = [0_i32; INTENTS];
            for &piece in &pieces {
                for (sum, weight) in sums.iter_mut().zip(weights[usize::from(piece)]) {
                    *sum += i32::from(weight);
                }
            }
            let norm = (pieces.len().max(1) as f32).sqrt();
            for ((logit, sum), scale) in logits.iter_mut().zip(sums).zip(self.scale) {
                *logit += sum as f32 * scale / norm;
            }
        }
        logits
    }
}

/// What reads a query before the network does.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryModel {
    linear: Linear,
    /// None where only pieces are read.
    tokens: Option<TokenVectors>,
}

impl QueryModel {
    /// Reads the content of a `query_cascade.json` and checks it against its own goldens, so that pieces
    /// which are hashed in another way are noticed.
    pub fn read(json: &[u8]) -> Result<Self, QueryModelError> {
        let File { buckets, scale, bias, weights, tokens, goldens } = serde_json::from_slice(json)?;
        if buckets != BUCKETS {
            return Err(QueryModelError::Buckets { found: buckets });
        }
        for (field, numbers) in [("scale", scale), ("bias", bias)] {
            if numbers.iter().any(|number| !number.is_finite()) {
                return Err(QueryModelError::NotFinite { field });
            }
        }
        let bytes = BASE64_STANDARD.decode(weights)?;
        if bytes.len() != 2 * BUCKETS * INTENTS {
            return Err(QueryModelError::Weights { found: bytes.len() });
        }
        let (rows, _) = bytes.as_chunks::<INTENTS>();
        let mut words: Vec<[i8; INTENTS]> = rows.iter().map(|row| row.map(|byte| byte as i8)).collect();
        let letters = words.split_off(BUCKETS);
        let tokens = tokens.map(TokenVectors::read).transpose()?;
        let model = Self { linear: Linear { words, letters, scale, bias }, tokens };
        model.check(&goldens)?;
        Ok(model)
    }

    fn check(&self, goldens: &[Golden]) -> Result<(), QueryModelError> {
        if goldens.is_empty() {
            return Err(QueryModelError::NoGoldens);
        }
        for (golden, Golden { query, token_ids, logits }) in goldens.iter().enumerate() {
            let (found, expected) = (self.logits(query, token_ids), *logits);
            // The other way round, a NaN would pass.
            let is_close =
                found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() <= GOLDEN_TOLERANCE);
            if !is_close {
                return Err(QueryModelError::Golden { golden, found, expected });
            }
        }
        Ok(())
    }

    /// Logits of the intents of a query of these tokens, special ones excluded.
    pub fn logits(&self, query: &str, token_ids: &[i64]) -> [f32; INTENTS] {
        let mut logits = self.linear.logits(query);
        if let Some(tokens) = &self.tokens {
            for (logit, more) in logits.iter_mut().zip(tokens.logits(token_ids)) {
                *logit += more;
            }
        }
        logits
    }
}

/// A first stage and how sure it has to be.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryCascade {
    pub model: QueryModel,
    /// An intent of at least this probability stands.
    pub settle_from: f32,
}

impl QueryCascade {
    /// What the first stage says of a query, if it is sure; none where the network has to read it, be it
    /// because there are no tokens.
    pub fn settle(&self, encoder: &Encoder, query: &str) -> Option<IntentScore> {
        let token_ids = match self.model.tokens {
            Some(_) => encoder.query_tokens(query).ok()?,
            None => Vec::new(),
        };
        let score = IntentScore::of(self.model.logits(query, &token_ids), Stage::Cascade);
        let certainty = score.probabilities.into_iter().fold(0.0, f32::max);
        (certainty >= self.settle_from).then_some(score)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// One that knows the word "parcel" and the letters of "jazz".
    fn file() -> Value {
        let mut weights = vec![0_u8; 2 * BUCKETS * INTENTS];
        weights[usize::from(Pieces::of("parcel").words[0]) * INTENTS + 2] = 50;
        for &piece in &Pieces::of("jazz").letters {
            weights[(BUCKETS + usize::from(piece)) * INTENTS + 1] = (-30_i8) as u8;
        }
        json!({
            "buckets": BUCKETS, "scale": [1.0, 0.5, 0.1, 1.0], "bias": [0.25, 0.0, 0.0, -1.0],
            "weights": BASE64_STANDARD.encode(weights),
            "goldens": [{"query": " PARCEL", "logits": [0.25, 0.0, 5.0, -1.0]},
                        {"query": "", "logits": [0.25, 0.0, 0.0, -1.0]}],
        })
    }

    fn read(file: &Value) -> Result<QueryModel, String> {
        QueryModel::read(&serde_json::to_vec(file).expect("JSON")).map_err(|error| error.to_string())
    }

    #[test]
    fn pieces_are_those_of_the_trainer_and_the_same_on_every_machine() {
        // "foobar" is one of the test vectors of FNV: 0xbf9cf968.
        assert_eq!(bucket("foobar".chars()), ((0xbf9c_f968_u32 >> 15 ^ 0xbf9c_f968) & 0x7fff) as u16);
        let one = Pieces::of("kettle");
        assert_eq!((one.words.len(), one.letters.len()), (1, 6 + 5));
        assert_eq!(Pieces::of("Red  KETTLE").words.len(), 3, "each word, and the two together");
        assert_eq!(Pieces::of("kettle kettle kettle"), Pieces::of("kettle kettle"));
        assert_ne!(Pieces::of("kettle red").words, Pieces::of("red kettle").words);
    }

    #[test]
    fn logits_are_sums_over_the_root_of_the_number_of_pieces() {
        let model = read(&file()).expect("a linear model");
        let close = |query: &str, expected: [f32; INTENTS]| {
            let found = model.logits(query, &[1, 2]);
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{query}: {found:?}");
        };
        close("parcel", [0.25, 0.0, 5.0, -1.0]);
        // Three pieces: "my", "parcel" and both.
        close("my parcel", [0.25, 0.0, 5.0 / 3f32.sqrt(), -1.0]);
        // Of " jazz ", 4 of three letters and 3 of four.
        close("jazz", [0.25, -30.0 * 0.5 * 7f32.sqrt(), 0.0, -1.0]);
    }

    #[test]
    fn what_the_tokens_say_is_added() {
        let mut file = file();
        file["tokens"] = token_vectors::tests::file();
        file["goldens"] = json!([{"query": "parcel", "token_ids": [1], "logits": [0.25, 4.0, 5.0, -1.0]}]);
        let model = read(&file).expect("a first stage");
        assert_eq!(model.logits("parcel", &[]), [0.25, 0.0, 5.0, -1.0]);
        file["goldens"][0]["token_ids"] = json!([0]);
        assert!(read(&file).expect_err("it is refused").starts_with("golden 0: the logits are [0.25, 2.0, 5.0, -1.0]"));
        file["tokens"]["vectors"] = json!("");
        assert!(read(&file).expect_err("it is refused").starts_with("tokens.vectors: "));
    }

    #[test]
    fn files_that_are_no_linear_model_are_refused_with_the_reason() {
        for (at, value, reason) in [
            ("", json!([]), "invalid"),
            ("/buckets", json!(BUCKETS * 2), "buckets: there are 65536, and this build hashes into 32768"),
            ("/scale", json!([1.0, 2.0]), "invalid length"),
            ("/bias/1", json!(1e300), "bias: not every number is finite"),
            ("/weights", json!("AAAA"), "weights: there are 3 bytes in place of 262144"),
            ("/weights", json!("?"), "weights: Invalid"),
            ("/goldens", json!([]), "goldens: there are none"),
            ("/goldens/0/logits/3", json!(-1.001), "golden 0: the logits are"),
        ] {
            let mut spoilt = file();
            *spoilt.pointer_mut(at).expect("it is there") = value;
            let said = read(&spoilt).expect_err("it is refused");
            assert!(said.contains(reason), "{at}: {said}");
        }
        let mut more = file();
        more["more"] = json!(1);
        assert!(read(&more).expect_err("it is refused").contains("unknown field `more`"));
    }

    proptest! {
        #[test]
        fn any_text_has_few_pieces_and_finite_logits(query in "\\PC{0,600}") {
            let model = read(&file()).expect("a linear model");
            prop_assert!(model.logits(&query, &[]).iter().all(|logit| logit.is_finite()));
            let Pieces { words, letters } = Pieces::of(&query);
            prop_assert!(words.len() < 2 * WORDS_MAX && letters.len() < 2 * WORDS_MAX * WORD_CHARS_MAX);
        }
    }
}
