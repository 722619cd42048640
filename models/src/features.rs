//! What the cascade reads of a pair: numbers that a set lookup finds, in place of a network.

use crate::mark::{Mark, Words};

/// Names of the features, in their order. `short` and `long` are the texts with fewer and
/// more words, so that a pair has one row of features in both directions. A forest states
/// the names it was trained with, since one of others would read every pair wrongly.
#[rustfmt::skip]
pub const FEATURES: [&str; 44] = [
    "short_shared_words", "short_shared_numbers", "short_near_codes", "short_own_words", "short_own_numbers",
    "short_own_codes", "short_near_words", "short_rival_numbers", "short_rival_codes", "short_rival_words",
    "long_shared_words", "long_shared_numbers", "long_near_codes", "long_own_words", "long_own_numbers",
    "long_own_codes", "long_near_words", "long_rival_numbers", "long_rival_codes", "long_rival_words",
    "short_words", "long_words", "short_title_words", "long_title_words",
    "short_words_share", "long_words_share", "short_title_share", "long_title_share",
    "short_letters_share", "long_letters_share", "short_title_letters_share", "long_title_letters_share",
    "short_leading_words", "long_leading_words", "short_shared_run", "long_shared_run",
    "longest_shared_word", "longest_shared_number", "longest_shared_code", "longest_near_code",
    "unshared_codes_on_both", "trigrams_of_both", "trigrams_of_smaller", "same_first_word",
];
/// Numbers of the marks that are counted: all but the plain one.
const COUNTED: usize = 10;
/// What ends the title in a product text.
const TITLE_END: &str = "|";

/// One text, prepared once for all pairs that it is in.
pub struct Sketch {
    words: Words,
    title_words: usize,
    /// Of the title's letters and digits, sorted, each once.
    trigrams: Vec<u64>,
}

impl Sketch {
    pub fn of(text: &str) -> Self {
        let words = Words::of(text);
        let title_words = text.split_whitespace().position(|word| word == TITLE_END).unwrap_or(words.keys().len());
        let trigrams = trigrams(&words.keys()[..title_words]);
        Self { words, title_words, trigrams }
    }
}

/// Every three neighbouring characters of the words, run together.
fn trigrams(keys: &[String]) -> Vec<u64> {
    let chars: Vec<u64> = keys.iter().flat_map(|key| key.chars()).map(u64::from).collect();
    // A character has 21 bits.
    let mut trigrams: Vec<u64> = chars.windows(3).map(|three| three[0] << 42 | three[1] << 21 | three[2]).collect();
    trigrams.sort_unstable();
    trigrams.dedup();
    trigrams
}

/// The features of a pair, the same in both directions; all are finite.
pub fn features(left: &Sketch, right: &Sketch) -> [f32; FEATURES.len()] {
    let mut sides = [Side::of(left, right), Side::of(right, left)];
    sides.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let [short, long] = &sides;
    let both = common(&left.trigrams, &right.trigrams);
    let (smaller, larger) = {
        let (a, b) = (left.trigrams.len(), right.trigrams.len());
        (a.min(b), a.max(b))
    };
    let first = |side: &Side| side.sketch.words.keys().first().cloned().unwrap_or_default();
    let mut row = Vec::with_capacity(FEATURES.len());
    row.extend(sides.iter().flat_map(|side| side.counts).map(|count| count as f32));
    row.extend(sides.iter().map(|side| side.marks.len() as f32));
    row.extend(sides.iter().map(|side| side.sketch.title_words as f32));
    row.extend(sides.iter().map(|side| side.words_share(side.marks.len())));
    row.extend(sides.iter().map(|side| side.words_share(side.sketch.title_words)));
    row.extend(sides.iter().map(|side| side.letters_share(side.marks.len())));
    row.extend(sides.iter().map(|side| side.letters_share(side.sketch.title_words)));
    row.extend(sides.iter().map(|side| side.leading_words() as f32));
    row.extend(sides.iter().map(|side| side.shared_run() as f32));
    let longest = |is_meant: fn(Mark, &str) -> bool| short.longest(is_meant).max(long.longest(is_meant)) as f32;
    row.push(longest(|mark, _| mark == Mark::SharedWord));
    row.push(longest(|mark, _| mark == Mark::SharedNumber));
    row.push(longest(|mark, key| mark == Mark::SharedNumber && key.chars().any(char::is_alphabetic)));
    row.push(longest(|mark, _| mark == Mark::NearCode));
    row.push(short.unshared_codes().min(long.unshared_codes()) as f32);
    row.push(share(both, smaller + larger - both));
    row.push(share(both, smaller));
    row.push(if first(short) == first(long) { 1.0 } else { 0.0 });
    row.try_into().expect("a value is pushed for each name, and a test of this module counts them")
}

/// One text beside the other of the pair.
struct Side<'s> {
    sketch: &'s Sketch,
    /// Of each word.
    marks: Vec<Mark>,
    /// By mark, the plain one left out.
    counts: [usize; COUNTED],
}

impl<'s> Side<'s> {
    fn of(sketch: &'s Sketch, other: &Sketch) -> Self {
        let marks = sketch.words.marks_beside(&other.words);
        let mut counts = [0; COUNTED];
        for &mark in marks.iter().filter(|&&mark| mark != Mark::Plain) {
            counts[mark as usize - 1] += 1;
        }
        Self { sketch, marks, counts }
    }

    /// What puts the short text first; texts that tie are the same to every feature.
    fn rank(&self) -> (usize, &[String]) {
        (self.marks.len(), self.sketch.words.keys())
    }

    fn shared(&self, words: usize) -> impl Iterator<Item = &String> {
        self.sketch.words.keys()[..words]
            .iter()
            .zip(&self.marks)
            .filter(|(_, mark)| is_shared(**mark))
            .map(|(key, _)| key)
    }

    /// Of the first `words`, the share that the other text says too.
    fn words_share(&self, words: usize) -> f32 {
        share(self.shared(words).count(), words)
    }

    fn letters_share(&self, words: usize) -> f32 {
        let letters = self.sketch.words.keys()[..words].iter().map(String::len).sum();
        share(self.shared(words).map(String::len).sum(), letters)
    }

    fn leading_words(&self) -> usize {
        self.marks.iter().take_while(|mark| is_shared(**mark)).count()
    }

    /// The most neighbouring words that the other text says too.
    fn shared_run(&self) -> usize {
        self.marks.split(|mark| !is_shared(*mark)).map(<[Mark]>::len).max().unwrap_or_default()
    }

    /// Bytes of the longest word that is meant.
    fn longest(&self, is_meant: fn(Mark, &str) -> bool) -> usize {
        let words = self.sketch.words.keys().iter().zip(&self.marks);
        words.filter(|(key, mark)| is_meant(**mark, key)).map(|(key, _)| key.len()).max().unwrap_or_default()
    }

    fn unshared_codes(&self) -> usize {
        self.marks.iter().filter(|mark| matches!(mark, Mark::OwnCode | Mark::RivalCode)).count()
    }
}

fn is_shared(mark: Mark) -> bool {
    matches!(mark, Mark::SharedWord | Mark::SharedNumber)
}

/// 0 of nothing.
fn share(part: usize, whole: usize) -> f32 {
    part as f32 / whole.max(1) as f32
}

/// How many values two sorted lists have in common.
fn common(a: &[u64], b: &[u64]) -> usize {
    let (mut i, mut j, mut found) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        found += usize::from(a[i] == b[j]);
        (i, j) = (i + usize::from(a[i] <= b[j]), j + usize::from(b[j] <= a[i]));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(left: &str, right: &str) -> [f32; FEATURES.len()] {
        features(&Sketch::of(left), &Sketch::of(right))
    }

    fn value(row: &[f32], name: &str) -> f32 {
        row[FEATURES.iter().position(|feature| *feature == name).expect("a feature")]
    }

    #[test]
    fn values_stand_under_their_names() {
        let row = row("norvik kettle kt-1700 black | norvik", "norvik kettle kt1800 white 1.7 l | cordless kettle");
        let expected = [
            ("short_words", 6.0),
            ("long_words", 9.0),
            ("short_title_words", 4.0),
            ("long_title_words", 6.0),
            ("short_shared_words", 3.0),
            ("long_shared_words", 3.0),
            ("short_rival_codes", 1.0),
            ("short_rival_words", 1.0),
            ("long_own_numbers", 1.0),
            ("short_title_share", 0.5),
            ("short_leading_words", 2.0),
            ("long_shared_run", 2.0),
            ("longest_shared_word", 6.0),
            ("unshared_codes_on_both", 1.0),
            ("same_first_word", 1.0),
        ];
        for (name, expected) in expected {
            assert_eq!(value(&row, name), expected, "{name}");
        }
    }

    #[test]
    fn one_text_twice_shares_everything() {
        let row = row("norvik kettle kt1700 1.7 l", "norvik kettle kt1700 1.7 l");
        for name in ["short_words_share", "long_title_letters_share", "trigrams_of_both", "trigrams_of_smaller"] {
            assert_eq!(value(&row, name), 1.0, "{name}");
        }
        assert_eq!(value(&row, "longest_shared_code"), 6.0);
    }

    proptest! {
        #[test]
        fn direction_makes_no_difference(a in "(\\PC|[a-c1-3|. -]){0,40}", b in "(\\PC|[a-c1-3|. -]){0,40}") {
            let there = row(&a, &b);
            prop_assert_eq!(there, row(&b, &a));
            prop_assert!(there.iter().all(|value| value.is_finite()));
        }
    }
}
