//! Texts to token ids: `[CLS] a [SEP] b [SEP]` for pairs, `[CLS] q [SEP]` for queries.

use std::collections::HashMap;
use std::sync::Arc;

use shared::text::normalise_query;

use crate::TextPair;
use crate::golden::Kind;
use crate::mark::{MARKS, Mark, Words};
use crate::word_pieces::WordPieces;

/// Bytes of a text that are tokenised. 128 tokens of ordinary text are some 600 bytes;
/// the rest of a longer text could only cost time.
const TEXT_BYTES_MAX: usize = 8_192;

/// One row, special tokens included, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub ids: Vec<i64>,
    /// Of each id: the number of its [`Mark`], plus `MARKS.len()` in the second text.
    pub types: Vec<i64>,
    /// Which head is asked.
    pub kind: Kind,
    /// Whether the network may answer after its early layers, where it has an exit there.
    pub may_leave: bool,
}

/// Why a text has no token ids.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("the tokenizer cannot be read: {reason}")]
    Tokenizer { reason: String },
    #[error("the tokenizer has no token {token}, which BERT needs")]
    NoSpecialToken { token: &'static str },
    #[error("the tokenizer does not split texts at white space, as BERT's do")]
    AcrossWords,
    #[error("the tokenizer refused a text of {bytes} bytes: {reason}")]
    Text { bytes: usize, reason: String },
}

impl EncodeError {
    pub(crate) fn of(text: &str, error: &tokenizers::Error) -> Self {
        Self::Text { bytes: text.len(), reason: error.to_string() }
    }
}

/// The part of a text that is tokenised.
fn head(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// The artifact's tokenizer and limits.
pub struct Encoder {
    pieces: WordPieces,
    cls: i64,
    sep: i64,
    pair_tokens_max: usize,
    query_tokens_max: usize,
}

impl Encoder {
    /// `tokenizer` is the content of a `tokenizer.json`; both limits are in tokens,
    /// special ones included.
    pub fn new(tokenizer: &[u8], pair_tokens_max: usize, query_tokens_max: usize) -> Result<Self, EncodeError> {
        let pieces = WordPieces::new(tokenizer)?;
        let (cls, sep) = (pieces.special("[CLS]")?, pieces.special("[SEP]")?);
        Ok(Self { pieces, cls, sep, pair_tokens_max, query_tokens_max })
    }

    /// One row for each pair. The two texts are put in order of their bytes, so that a
    /// pair's score does not depend on its direction; both keep a share of the room.
    pub fn pairs(&self, pairs: &[TextPair]) -> Result<Vec<Encoded>, EncodeError> {
        self.ordered_pairs(pairs.iter().map(TextPair::in_order))
    }

    /// As [`Encoder::pairs`], each pair's texts in the other order.
    pub(crate) fn turned_pairs(&self, pairs: &[TextPair]) -> Result<Vec<Encoded>, EncodeError> {
        let turned = |(first, second)| (second, first);
        self.ordered_pairs(pairs.iter().map(TextPair::in_order).map(turned))
    }

    /// One row for each pair of texts, the first text first. Training sees both orders.
    pub fn ordered_pairs<'t>(
        &self,
        pairs: impl Iterator<Item = (&'t str, &'t str)>,
    ) -> Result<Vec<Encoded>, EncodeError> {
        // The pairs of one product share its text.
        let mut sides: HashMap<&str, Arc<Side>> = HashMap::new();
        let mut side_of = |text: &'t str| match sides.get(text) {
            Some(side) => Ok(Arc::clone(side)),
            None => {
                let side = Arc::new(self.side(text)?);
                sides.insert(text, Arc::clone(&side));
                Ok(side)
            }
        };
        pairs.map(|(first, second)| Ok(self.join(&*side_of(first)?, &*side_of(second)?))).collect()
    }

    /// One row for each query, after [`normalise_query`].
    pub fn queries(&self, queries: &[String]) -> Result<Vec<Encoded>, EncodeError> {
        queries
            .iter()
            .map(|query| {
                let tokens = self.query_tokens(query)?;
                let ids: Vec<i64> = [self.cls].into_iter().chain(tokens).chain([self.sep]).collect();
                let types = vec![Mark::Plain as i64; ids.len()];
                Ok(Encoded { ids, types, kind: Kind::Queries, may_leave: false })
            })
            .collect()
    }

    /// The tokens of a query after [`normalise_query`], special ones excluded.
    pub fn query_tokens(&self, query: &str) -> Result<Vec<i64>, EncodeError> {
        let text = normalise_query(query);
        let tokens = self.pieces.of(head(&text), self.query_tokens_max - 2)?;
        Ok(tokens.into_iter().map(|(id, _word)| id).collect())
    }

    /// As [`Encoder::pairs`], of pairs that may leave the network early.
    pub(crate) fn leaving_pairs(&self, pairs: &[TextPair]) -> Result<Vec<Encoded>, EncodeError> {
        self.pairs(pairs).map(leaving)
    }

    /// As [`Encoder::queries`], of queries that may leave the network early.
    pub(crate) fn leaving_queries(&self, queries: &[String]) -> Result<Vec<Encoded>, EncodeError> {
        self.queries(queries).map(leaving)
    }

    fn side(&self, text: &str) -> Result<Side, EncodeError> {
        let text = head(text);
        Ok(Side { tokens: self.pieces.of(text, usize::MAX)?, words: Words::of(text) })
    }

    fn join(&self, first: &Side, second: &Side) -> Encoded {
        let (a, b) = shares(first.tokens.len(), second.tokens.len(), self.pair_tokens_max - 3);
        let (ids, types) = (Vec::with_capacity(a + b + 3), Vec::with_capacity(a + b + 3));
        let mut row = Encoded { ids, types, kind: Kind::Pairs, may_leave: false };
        row.push(self.cls, Mark::Plain, 0);
        for (number, kept, side, other) in [(0, a, first, second), (1, b, second, first)] {
            let marks = side.words.marks_beside(&other.words);
            for &(id, word) in &side.tokens[..kept] {
                row.push(id, marks.get(word).copied().unwrap_or(Mark::Plain), number);
            }
            row.push(self.sep, Mark::Plain, number);
        }
        row
    }
}

/// The rows, which may leave the network early from now on.
pub(crate) fn leaving(mut rows: Vec<Encoded>) -> Vec<Encoded> {
    rows.iter_mut().for_each(|row| row.may_leave = true);
    rows
}

impl Encoded {
    fn push(&mut self, id: i64, mark: Mark, side: i64) {
        self.ids.push(id);
        self.types.push(mark as i64 + side * MARKS.len() as i64);
    }
}

/// One text of a pair, before it is cut to its share of the room.
struct Side {
    /// Each token's id and the word it is of.
    tokens: Vec<(i64, usize)>,
    words: Words,
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
