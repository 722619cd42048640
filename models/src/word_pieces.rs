//! Token ids word by word, of which those of frequent words are remembered.
//!
//! BERT's tokenizer splits at white space, and makes the same of a word wherever it stands. A catalog has
//! few words and says them often: to look one up takes a fraction of what tokenising it does.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use tokenizers::{PreTokenizerWrapper, Tokenizer};

use crate::encode::EncodeError;

/// Words that are remembered, of some hundred bytes each with what the map adds. Once there are so many all are
/// forgotten: the frequent ones come again soon.
const WORDS_MAX: usize = 65_536;
/// Bytes of the longest word that is remembered; longer ones are rarely words.
const WORD_BYTES_MAX: usize = 32;

pub(crate) struct WordPieces {
    tokenizer: Tokenizer,
    known: RwLock<HashMap<Box<str>, Box<[u32]>>>,
}

impl WordPieces {
    /// `tokenizer` is the content of a `tokenizer.json`. Truncation is left to the caller: the tokenizer would build
    /// every combination of the parts that it cuts off.
    pub fn new(tokenizer: &[u8]) -> Result<Self, EncodeError> {
        let reason = |error: tokenizers::Error| EncodeError::Tokenizer { reason: error.to_string() };
        let mut tokenizer = Tokenizer::from_bytes(tokenizer).map_err(reason)?;
        tokenizer.with_truncation(None).map_err(reason)?;
        tokenizer.with_padding(None);
        // A title that spells "[SEP]" must not end the first text.
        tokenizer.set_encode_special_tokens(true);
        if !matches!(tokenizer.get_pre_tokenizer(), Some(PreTokenizerWrapper::BertPreTokenizer(_))) {
            return Err(EncodeError::AcrossWords);
        }
        Ok(Self { tokenizer, known: RwLock::default() })
    }

    pub fn special(&self, token: &'static str) -> Result<i64, EncodeError> {
        self.tokenizer.token_to_id(token).map(i64::from).ok_or(EncodeError::NoSpecialToken { token })
    }

    /// Each token's id and the number of the word that it is of, until there are `tokens_max`.
    pub fn of(&self, text: &str, tokens_max: usize) -> Result<Vec<(i64, usize)>, EncodeError> {
        let mut tokens = Vec::new();
        let mut known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        for (number, word) in text.split_whitespace().enumerate() {
            if tokens.len() >= tokens_max {
                break;
            }
            let mut take = |ids: &[u32]| tokens.extend(ids.iter().map(|&id| (i64::from(id), number)));
            if let Some(ids) = known.get(word) {
                take(ids);
                continue;
            }
            // Others look words up while this one is tokenised.
            drop(known);
            let encoding = self.tokenizer.encode_fast(word, false).map_err(|error| EncodeError::of(word, &error))?;
            take(encoding.get_ids());
            if word.len() <= WORD_BYTES_MAX {
                self.remember(word, encoding.get_ids());
            }
            known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        }
        tokens.truncate(tokens_max);
        Ok(tokens)
    }

    fn remember(&self, word: &str, ids: &[u32]) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= WORDS_MAX {
            known.clear();
        }
        known.insert(word.into(), ids.into());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::manifest::Artifact;

    const ARTIFACT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/artifacts/minilm-l6-v6");

    fn content() -> Vec<u8> {
        Artifact::open(Path::new(ARTIFACT)).expect("the shipped artifact is good").tokenizer
    }

    fn ids_of(pieces: &WordPieces, text: &str) -> Vec<u32> {
        let tokens = pieces.of(text, usize::MAX).expect("it is tokenised");
        tokens.into_iter().map(|(id, _)| id as u32).collect()
    }

    #[test]
    fn words_are_tokenised_as_whole_texts_are() {
        let pieces = WordPieces::new(&content()).expect("the tokenizer is good");
        let whole = |text: &str| pieces.tokenizer.encode_fast(text, false).expect("it is tokenised").get_ids().to_vec();
        let words = prop_oneof![
            any::<String>(),
            "\\PC{0,12}",
            "[a-zA-Z0-9.,\\-]{1,9}",
            "[\\s\u{0}\u{200b}\u{301}\u{4e00}]{1,3}"
        ];
        let texts = proptest::collection::vec(words, 0..8);
        proptest!(|(parts in texts, gap in prop_oneof![Just(" "), Just(""), Just("\u{a0}"), Just("\n")])| {
            let text = parts.join(gap);
            // BERT's normaliser drops blanks that count as control characters. Texts come with a plain one for each
            // (`shared::text`).
            let spaced = text.split_whitespace().collect::<Vec<_>>().join(" ");
            prop_assert_eq!(ids_of(&pieces, &text), whole(&spaced));
            prop_assert_eq!(ids_of(&pieces, &text), whole(&spaced), "remembered");
        });
    }

    #[test]
    fn each_token_has_its_word_and_there_are_as_many_as_asked_for() {
        let pieces = WordPieces::new(&content()).expect("the tokenizer is good");
        let words = |tokens_max| {
            let tokens = pieces.of("  kettle\u{a0}kt-1700\nsteel ", tokens_max).expect("it is tokenised");
            tokens.into_iter().map(|(_, word)| word).collect::<Vec<_>>()
        };
        let all = words(usize::MAX);
        assert_eq!((all[0], all[1], all.last()), (0, 1, Some(&2)));
        assert!(all.is_sorted() && all.len() > 4);
        for tokens_max in 0..all.len() {
            assert_eq!(words(tokens_max), all[..tokens_max]);
        }
    }

    #[test]
    fn words_are_forgotten_before_they_fill_the_memory() {
        let pieces = WordPieces::new(&content()).expect("the tokenizer is good");
        for number in 0..=WORDS_MAX {
            pieces.remember(&number.to_string(), &[7]);
        }
        assert_eq!(pieces.known.read().expect("no thread panicked").len(), 1);
        let long = "k".repeat(WORD_BYTES_MAX + 1);
        ids_of(&pieces, &long);
        assert!(!pieces.known.read().expect("no thread panicked").contains_key(long.as_str()));
    }

    #[test]
    fn a_tokenizer_that_reads_across_words_is_refused() {
        let mut other: serde_json::Value = serde_json::from_slice(&content()).expect("it is JSON");
        other["pre_tokenizer"] =
            serde_json::json!({"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"});
        assert!(matches!(WordPieces::new(other.to_string().as_bytes()), Err(EncodeError::AcrossWords)));
    }
}
