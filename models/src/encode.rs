//! Texts to token ids: `[CLS] a [SEP] b [SEP]` for pairs, `[CLS] q [SEP]` for queries.

use std::collections::HashMap;
use std::sync::Arc;

use shared::text::normalise_query;
use tokenizers::Tokenizer;

use crate::TextPair;

/// Bytes of a text that are tokenised. 128 tokens of ordinary text are some 600 bytes;
/// the rest of a longer text could only cost time.
const TEXT_BYTES_MAX: usize = 8_192;

/// Token ids of one row, special tokens included, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub ids: Vec<i64>,
    /// Ids from this index on belong to the second text; `ids.len()` when there is none.
    pub second_from: usize,
}

/// Why a text has no token ids.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("the tokenizer cannot be read: {reason}")]
    Tokenizer { reason: String },
    #[error("the tokenizer has no token {token}, which BERT needs")]
    NoSpecialToken { token: &'static str },
    #[error("the tokenizer refused a text of {bytes} bytes: {reason}")]
    Text { bytes: usize, reason: String },
}

/// The artifact's tokenizer and limits. Truncation is done here instead of by the
/// tokenizer, which would build every combination of the parts it cuts off.
pub struct Encoder {
    tokenizer: Tokenizer,
    cls: i64,
    sep: i64,
    pair_tokens_max: usize,
    query_tokens_max: usize,
}

impl Encoder {
    /// `tokenizer` is the content of a `tokenizer.json`; both limits are in tokens,
    /// special ones included.
    pub fn new(tokenizer: &[u8], pair_tokens_max: usize, query_tokens_max: usize) -> Result<Self, EncodeError> {
        let reason = |error: tokenizers::Error| EncodeError::Tokenizer { reason: error.to_string() };
        let mut tokenizer = Tokenizer::from_bytes(tokenizer).map_err(reason)?;
        tokenizer.with_truncation(None).map_err(reason)?;
        tokenizer.with_padding(None);
        // A title that spells "[SEP]" must not end the first text.
        tokenizer.set_encode_special_tokens(true);
        let special = |token| tokenizer.token_to_id(token).map(i64::from).ok_or(EncodeError::NoSpecialToken { token });
        let (cls, sep) = (special("[CLS]")?, special("[SEP]")?);
        Ok(Self { tokenizer, cls, sep, pair_tokens_max, query_tokens_max })
    }

    /// One row for each pair. The two texts are put in order of their bytes, so that a
    /// pair's score does not depend on its direction; both keep a share of the room.
    pub fn pairs(&self, pairs: &[TextPair]) -> Result<Vec<Encoded>, EncodeError> {
        // The pairs of one product share its text.
        let mut tokens: HashMap<&str, Arc<[i64]>> = HashMap::new();
        let mut tokens_of = |text| match tokens.get(text) {
            Some(ids) => Ok(Arc::clone(ids)),
            None => {
                let ids: Arc<[i64]> = self.tokens(text)?.into();
                tokens.insert(text, Arc::clone(&ids));
                Ok(ids)
            }
        };
        pairs
            .iter()
            .map(|TextPair { left, right }| {
                let (first, second) = if left <= right { (left, right) } else { (right, left) };
                Ok(self.join(&tokens_of(first)?, &tokens_of(second)?))
            })
            .collect()
    }

    /// One row for each query, after [`normalise_query`].
    pub fn queries(&self, queries: &[String]) -> Result<Vec<Encoded>, EncodeError> {
        queries
            .iter()
            .map(|query| {
                let mut tokens = self.tokens(&normalise_query(query))?;
                tokens.truncate(self.query_tokens_max - 2);
                let ids: Vec<i64> = [self.cls].into_iter().chain(tokens).chain([self.sep]).collect();
                Ok(Encoded { second_from: ids.len(), ids })
            })
            .collect()
    }

    fn tokens(&self, text: &str) -> Result<Vec<i64>, EncodeError> {
        let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|error| EncodeError::Text { bytes: text.len(), reason: error.to_string() })?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    fn join(&self, first: &[i64], second: &[i64]) -> Encoded {
        let (a, b) = shares(first.len(), second.len(), self.pair_tokens_max - 3);
        let mut ids = Vec::with_capacity(a + b + 3);
        ids.push(self.cls);
        ids.extend_from_slice(&first[..a]);
        ids.push(self.sep);
        let second_from = ids.len();
        ids.extend_from_slice(&second[..b]);
        ids.push(self.sep);
        Encoded { ids, second_from }
    }
}

/// How many of `a` and `b` tokens stay where `room` is for both: the longer text is cut
/// first, down to the half (`longest_first` of the training's tokenizer, to the token).
fn shares(a: usize, b: usize, room: usize) -> (usize, usize) {
    if a + b <= room {
        return (a, b);
    }
    let short = a.min(b).min(room / 2);
    if a <= b { (short, room - short) } else { (room - short, short) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule as the tokenizers crate words it, with its three cases.
    fn longest_first(a: usize, b: usize, room: usize) -> (usize, usize) {
        if a + b <= room {
            return (a, b);
        }
        let swap = a > b;
        let (mut n1, mut n2) = if swap { (b, a) } else { (a, b) };
        n2 = if n1 > room { n1.min(n2) } else { n1.max(room - n1) };
        if n1 + n2 > room {
            n1 = room / 2;
            n2 = n1 + room % 2;
        }
        if swap { (n2, n1) } else { (n1, n2) }
    }

    proptest! {
        #[test]
        fn both_sides_keep_a_share(a in 0usize..400, b in 0usize..400, room in 2usize..200) {
            let (keep_a, keep_b) = shares(a, b, room);
            prop_assert!(keep_a <= a && keep_b <= b);
            prop_assert_eq!(keep_a + keep_b, room.min(a + b));
            prop_assert!(keep_a >= a.min(room / 2) && keep_b >= b.min(room / 2));
            prop_assert_eq!((keep_a, keep_b), longest_first(a, b, room));
        }
    }
}
