//! Marks: what a word of one product text is to the other text of the pair.
//!
//! A small encoder spends its first layers on finding which words both sides share. That
//! is a set lookup, so it is done here and given to the network with each token, as a
//! row of its token-type table (exact-match markers: Boualili, Moreno, Boughanem 2020).

use std::collections::HashSet;

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

/// The words of one text, as they are compared.
pub(crate) struct Words {
    keys: Vec<String>,
    single: HashSet<String>,
    /// Neighbours run together.
    joined: HashSet<String>,
}

impl Words {
    /// `text` is split at white space; word `i` here is the `i`-th of [`word_spans`].
    pub(crate) fn of(text: &str) -> Self {
        let keys: Vec<String> = text.split_whitespace().map(key).collect();
        let joined = keys.windows(2).map(|pair| pair.concat()).filter(|joined| long(joined)).collect();
        Self { single: keys.iter().filter(|key| !key.is_empty()).cloned().collect(), joined, keys }
    }

    /// The mark of each word of this text beside `other`.
    pub(crate) fn marks_beside(&self, other: &Self) -> Vec<Mark> {
        let mut marks: Vec<Mark> = self.keys.iter().map(|key| mark(key, other)).collect();
        for (i, pair) in self.keys.windows(2).enumerate() {
            let joined = pair.concat();
            if long(&joined) && !pair.iter().any(String::is_empty) && other.single.contains(&joined) {
                marks[i] = shared(&joined);
                marks[i + 1] = shared(&joined);
            }
        }
        marks
    }
}

fn mark(key: &str, other: &Words) -> Mark {
    let own_number = || key.chars().all(|c| c.is_ascii_digit() || c == '.');
    if key.is_empty() {
        Mark::Plain
    } else if other.single.contains(key) || other.joined.contains(key) {
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
    word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Byte ranges of the words of `text`, in order.
pub(crate) fn word_spans(text: &str) -> Vec<(usize, usize)> {
    let start_of = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    text.split_whitespace().map(|word| (start_of(word), start_of(word) + word.len())).collect()
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
        fn every_word_has_a_mark_and_a_span(a in "\\PC{0,60}", b in "\\PC{0,60}") {
            let spans = word_spans(&a);
            prop_assert_eq!(marks(&a, &b).len(), spans.len());
            for (span, word) in spans.iter().zip(a.split_whitespace()) {
                prop_assert_eq!(&a[span.0..span.1], word);
            }
        }
    }
}
