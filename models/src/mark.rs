//! Marks: what a word of one product text is to the other text of the pair.
//!
//! A small encoder spends its first layers on finding which words both sides share. That
//! is a set lookup, so it is done here and given to the network with each token, as a
//! row of its token-type table (exact-match markers: Boualili, Moreno, Boughanem 2020).

use std::collections::HashSet;

use shared::text::squash;

use crate::kind;

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
    /// A word of which the other text has another form ("trainer" and "trainers").
    NearWord = 7,
    /// A number that counts or measures what another number counts in the other text
    /// ("5 devices" and "10 devices", "season 2" and "season 3").
    RivalNumber = 8,
    /// A code beside another of the same make ("gw-22" and "gw-24").
    RivalCode = 9,
    /// Another of its kind, see [`crate::kind`] ("black" and "silver").
    RivalWord = 10,
}

/// Names of the marks in the order of their numbers. A manifest states them, since a
/// module trained with others would read every pair wrongly.
#[rustfmt::skip]
pub const MARKS: [&str; 11] =
    ["plain", "shared_word", "shared_number", "near_code", "own_word", "own_number", "own_code", "near_word",
     "rival_number", "rival_code", "rival_word"];

/// Letters and digits from which on a run-together or partial match is no accident.
const KEY_CHARS_MIN: usize = 4;
/// Most letters by which two forms of a word differ at their ends.
const ENDING_CHARS_MAX: usize = 3;
/// Characters that two codes of one make begin with, at least.
const MAKE_CHARS_MIN: usize = 2;

/// The words of one text, split at white space, as they are compared.
pub(crate) struct Words {
    keys: Vec<String>,
    /// Each word run together with the next one; empty where that tells nothing.
    joined: Vec<String>,
    /// All of `keys`, and all of `joined`.
    single_set: HashSet<String>,
    joined_set: HashSet<String>,
    /// What its numbers count.
    counted: HashSet<Counted>,
    /// Kinds and values of its words.
    kinds: HashSet<(usize, usize)>,
}

/// The word before or after a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Counted {
    After(String),
    Before(String),
}

impl Words {
    pub(crate) fn of(text: &str) -> Self {
        let keys: Vec<String> = text.split_whitespace().map(key).collect();
        let join = |pair: &[String]| if pair.iter().any(String::is_empty) { String::new() } else { pair.concat() };
        let joined: Vec<String> =
            keys.windows(2).map(join).map(|key| if long(&key) { key } else { String::new() }).collect();
        let set = |keys: &[String]| keys.iter().filter(|key| !key.is_empty()).cloned().collect();
        let counted =
            keys.iter().enumerate().filter(|(_, key)| is_number(key)).flat_map(|(i, _)| counted(&keys, i)).collect();
        let kinds = keys.iter().filter_map(|key| kind::of(key)).collect();
        Self { single_set: set(&keys), joined_set: set(&joined), counted, kinds, keys, joined }
    }

    /// Each word as it is compared; empty where it has no letters and digits.
    pub(crate) fn keys(&self) -> &[String] {
        &self.keys
    }

    /// The mark of each word of this text beside `other`.
    pub(crate) fn marks_beside(&self, other: &Self) -> Vec<Mark> {
        let mut marks: Vec<Mark> = (0..self.keys.len()).map(|i| self.mark(i, other)).collect();
        for (i, joined) in self.joined.iter().enumerate() {
            if other.single_set.contains(joined) {
                marks[i..=i + 1].fill(shared(joined));
            }
        }
        marks
    }

    fn mark(&self, i: usize, other: &Self) -> Mark {
        let key = &self.keys[i];
        let theirs = || other.keys.iter().filter(|theirs| !self.single_set.contains(*theirs));
        if key.is_empty() {
            Mark::Plain
        } else if other.single_set.contains(key) || other.joined_set.contains(key) {
            shared(key)
        } else if !has_digit(key) {
            match kind::of(key) {
                Some((kind, value)) if other.kinds.contains(&(kind, value)) => Mark::NearWord,
                Some((kind, _)) if self.kinds_apart(other, kind) => Mark::RivalWord,
                _ if other.keys.iter().any(|theirs| is_form(key, theirs)) => Mark::NearWord,
                _ => Mark::OwnWord,
            }
        } else if other.keys.iter().any(|theirs| near(key, theirs)) {
            Mark::NearCode
        } else if is_number(key) {
            let rival = counted(&self.keys, i).iter().any(|counted| other.counted.contains(counted));
            if rival { Mark::RivalNumber } else { Mark::OwnNumber }
        } else if theirs().any(|theirs| same_make(key, theirs)) {
            Mark::RivalCode
        } else {
            Mark::OwnCode
        }
    }

    /// True where the other text names a value of `kind` that this one does not.
    fn kinds_apart(&self, other: &Self, kind: usize) -> bool {
        other.kinds.iter().any(|theirs| theirs.0 == kind && !self.kinds.contains(theirs))
    }
}

/// The words around the number at `i`, where they are words.
fn counted(keys: &[String], i: usize) -> Vec<Counted> {
    let word = |at: Option<usize>| at.and_then(|at| keys.get(at)).filter(|key| !key.is_empty() && !has_digit(key));
    let after = word(i.checked_sub(1)).map(|key| Counted::After(key.clone()));
    let before = word(Some(i + 1)).map(|key| Counted::Before(key.clone()));
    after.into_iter().chain(before).collect()
}

fn is_number(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_digit()) && key.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// True of two words that differ by their endings alone.
fn is_form(a: &str, b: &str) -> bool {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let ending = |word: &str| word.chars().count() - same;
    same >= KEY_CHARS_MIN && !has_digit(b) && ending(a).max(ending(b)) <= ENDING_CHARS_MAX
}

/// True of two codes that begin alike, or have letters and digits in the same places.
fn same_make(a: &str, b: &str) -> bool {
    let is_code = has_digit(b) && !is_number(b);
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let shape = |key: &str| key.chars().map(|c| c.is_ascii_digit()).collect::<Vec<_>>();
    is_code && (same >= MAKE_CHARS_MIN || shape(a) == shape(b))
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
        assert_eq!(marks("power shot 7.1 mp", "powershot 71 mp"), [SharedWord, SharedWord, RivalNumber, SharedWord]);
        assert_eq!(marks("powershot", "power shot"), [SharedWord]);
        assert_eq!(marks("2.0 usb", "usb 2"), [SharedNumber, SharedWord]);
    }

    #[test]
    fn codes_that_hold_one_another_are_near() {
        assert_eq!(marks("wmk3000bk", "wmk3000"), [NearCode]);
        assert_eq!(marks("wmk3000", "wmk3001"), [RivalCode]);
        assert_eq!(marks("wmk3000", "tx40 kettle"), [OwnCode]);
        assert_eq!(marks("3000", "3001"), [OwnNumber]);
        assert_eq!(marks("a1", "a1b"), [RivalCode], "too short to hold one another");
    }

    #[test]
    fn numbers_that_count_the_same_are_rivals() {
        assert_eq!(marks("5 devices", "10 devices"), [RivalNumber, SharedWord]);
        assert_eq!(marks("season 2 dvd", "season 3 dvd"), [SharedWord, RivalNumber, SharedWord]);
        assert_eq!(marks("500 g tin", "tin 2 pack"), [OwnNumber, OwnWord, SharedWord]);
    }

    #[test]
    fn two_of_a_kind_are_rivals() {
        assert_eq!(marks("black kettle", "silver kettle"), [RivalWord, SharedWord]);
        assert_eq!(marks("black kettle", "steel kettle"), [OwnWord, SharedWord]);
        assert_eq!(marks("grey mat", "gray mat"), [NearWord, SharedWord]);
        assert_eq!(marks("black white mat", "white mat"), [OwnWord, SharedWord, SharedWord], "one of them is named");
    }

    #[test]
    fn forms_of_a_word_are_near() {
        assert_eq!(marks("trainers", "trainer"), [NearWord]);
        assert_eq!(marks("wireless", "wired"), [RivalWord]);
        assert_eq!(marks("waterproof", "water"), [OwnWord]);
    }

    proptest! {
        #[test]
        fn a_text_shares_every_word_with_itself(text in "\\PC{0,60}") {
            for mark in marks(&text, &text) {
                prop_assert!(matches!(mark, Plain | SharedWord | SharedNumber));
            }
        }

        #[test]
        fn every_word_has_a_mark(a in "\\PC{0,60}", b in "\\PC{0,60}") {
            prop_assert_eq!(marks(&a, &b).len(), a.split_whitespace().count());
        }
    }
}
