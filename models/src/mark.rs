//! Marks: what a word of one product text is to the other text of the pair.
//!
//! A small encoder spends its first layers on finding which words both sides share. That
//! is a set lookup, so it is done here and given to the network with each token, as a
//! row of its token-type table (exact-match markers: Boualili, Moreno, Boughanem 2020).

use std::collections::HashSet;

use shared::text::squash;

/// What a token tells of the pair. The discriminant is its part of the token type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A special token, or a word without letters and digits.
    Plain = 0,
    /// Both texts say it, maybe split or joined in another way ("power shot").
    SharedWord = 1,
    /// Shared, with a digit in it.
    SharedNumber = 2,
    /// A code that starts or ends with a code of the other text, or the other way round.
    NearCode = 3,
    OwnWord = 4,
    OwnNumber = 5,
    /// Letters and digits in one word that the other text lacks: another model number, or
    /// one that the other seller left out.
    OwnCode = 6,
}

/// Names of the marks in the order of their numbers. A manifest states them, since a
/// module trained with others would read every pair wrongly.
pub const MARKS: [&str; 7] =
    ["plain", "shared_word", "shared_number", "near_code", "own_word", "own_number", "own_code"];

/// Letters and digits from which on a run-together or partial match is no accident.
const KEY_CHARS_MIN: usize = 4;

/// The words of one text, split at white space, as they are compared.
pub(crate) struct Words {
    /// Byte offset at which each word ends.
    ends: Vec<usize>,
    keys: Vec<String>,
    /// Each word run together with the next one; empty where that tells nothing.
    joined: Vec<String>,
    /// All of `keys`, and all of `joined`.
    single_set: HashSet<String>,
    joined_set: HashSet<String>,
}

impl Words {
    pub(crate) fn of(text: &str) -> Self {
        let end = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize + word.len();
        let (ends, keys): (Vec<usize>, Vec<String>) =
            text.split_whitespace().map(|word| (end(word), key(word))).unzip();
        let join = |pair: &[String]| if pair.iter().any(String::is_empty) { String::new() } else { pair.concat() };
        let joined: Vec<String> =
            keys.windows(2).map(join).map(|key| if long(&key) { key } else { String::new() }).collect();
        let set = |keys: &[String]| keys.iter().filter(|key| !key.is_empty()).cloned().collect();
        Self { single_set: set(&keys), joined_set: set(&joined), ends, keys, joined }
    }

    /// Index of the word that byte `offset` is in, or of the next one.
    pub(crate) fn index_at(&self, offset: usize) -> usize {
        self.ends.partition_point(|&end| end <= offset)
    }

    /// The mark of each word of this text beside `other`.
    pub(crate) fn marks_beside(&self, other: &Self) -> Vec<Mark> {
        let mut marks: Vec<Mark> = self.keys.iter().map(|key| mark(key, other)).collect();
        for (i, joined) in self.joined.iter().enumerate() {
            if other.single_set.contains(joined) {
                marks[i..=i + 1].fill(shared(joined));
            }
        }
        marks
    }
}

fn mark(key: &str, other: &Words) -> Mark {
    let own_number = || key.chars().all(|c| c.is_ascii_digit() || c == '.');
    if key.is_empty() {
        Mark::Plain
    } else if other.single_set.contains(key) || other.joined_set.contains(key) {
        shared(key)
    } else if !has_digit(key) {
        Mark::OwnWord
    } else if other.keys.iter().any(|theirs| near(key, theirs)) {
        Mark::NearCode
    } else if own_number() {
        Mark::OwnNumber
    } else {
        Mark::OwnCode
    }
}

fn shared(key: &str) -> Mark {
    if has_digit(key) { Mark::SharedNumber } else { Mark::SharedWord }
}

fn near(a: &str, b: &str) -> bool {
    let (short, long_one) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    long(short) && has_digit(short) && (long_one.starts_with(short) || long_one.ends_with(short))
}

fn long(key: &str) -> bool {
    key.len() >= KEY_CHARS_MIN
}

fn has_digit(key: &str) -> bool {
    key.bytes().any(|b| b.is_ascii_digit())
}

/// Letters and digits of a word, so that "DSC-W55" and "dscw55" are one; a decimal keeps
/// its point and loses the zeros behind it, so that 7.1 is not 71 and 2.0 is 2.
fn key(word: &str) -> String {
    let decimal = word.bytes().all(|b| b.is_ascii_digit() || b == b'.') && word.matches('.').count() == 1;
    if decimal && !word.starts_with('.') {
        return word.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    squash(word).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Mark::*;
    use proptest::prelude::*;

    fn marks(a: &str, b: &str) -> Vec<Mark> {
        Words::of(a).marks_beside(&Words::of(b))
    }

    #[test]
    fn words_are_compared_by_letters_and_digits() {
        assert_eq!(marks("sony dsc-w55 | pink", "sony dscw55"), [SharedWord, SharedNumber, Plain, OwnWord]);
        assert_eq!(marks("power shot 7.1 mp", "powershot 71 mp"), [SharedWord, SharedWord, OwnNumber, SharedWord]);
        assert_eq!(marks("powershot", "power shot"), [SharedWord]);
        assert_eq!(marks("2.0 usb", "usb 2"), [SharedNumber, SharedWord]);
    }

    #[test]
    fn codes_that_hold_one_another_are_near() {
        assert_eq!(marks("wmk3000bk", "wmk3000"), [NearCode]);
        assert_eq!(marks("wmk3000", "wmk3001"), [OwnCode]);
        assert_eq!(marks("3000", "3001"), [OwnNumber]);
        assert_eq!(marks("a1", "a1b"), [OwnCode], "too short to tell");
    }

    proptest! {
        #[test]
        fn a_text_shares_every_word_with_itself(text in "\\PC{0,60}") {
            for mark in marks(&text, &text) {
                prop_assert!(matches!(mark, Plain | SharedWord | SharedNumber));
            }
        }

        #[test]
        fn every_word_has_a_mark_and_is_found(a in "\\PC{0,60}", b in "\\PC{0,60}") {
            prop_assert_eq!(marks(&a, &b).len(), a.split_whitespace().count());
            for (i, word) in a.split_whitespace().enumerate() {
                let start = word.as_ptr() as usize - a.as_ptr() as usize;
                prop_assert_eq!(Words::of(&a).index_at(start), i);
            }
        }
    }
}
