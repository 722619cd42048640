//! The key epoch: what blocking knows about how common words are.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, LazyLock};

use super::tokens::{has_digit, tokens};

/// Words in fewer documents than this are left out of an epoch and count as unseen.
const WORD_DOCUMENTS_MIN: u32 = 4;
/// Products that a good key has, about: from the rarity on that gives this many in the whole
/// catalog, words and word groups are keys. Most have fewer, so that a look-up reads the whole of
/// them.
const KEY_PRODUCTS: f64 = 16.0;
/// The least such rarity, in half bits: catalogs of 4,000 products and fewer.
const COOL_CLASS_MIN: u8 = 16;
/// That of epochs whose file does not say: one text in 1,000.
const COOL_CLASS_DEFAULT: u8 = 20;
/// Unseen words with a digit are codes, which are rarer than unseen words.
const CODE_BONUS_BITS: f32 = 1.5;
/// Words below this rarity say nothing and still count for something.
const BITS_MIN: f32 = 0.5;

static SHIPPED: LazyLock<Arc<KeyEpoch>> =
    LazyLock::new(|| Arc::new(KeyEpoch::parse(include_str!("epoch0.txt")).expect("a test parses the shipped epoch")));

/// Document frequencies that keys are derived from. Two workers with the same epoch
/// derive the same keys of a text, whatever else they have seen. Its `Display` is the
/// published file, which [`KeyEpoch::parse`] reads.
///
/// Rarity is kept in half bits: class 20 is 10 bits, a share of 2^-10 of the documents.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyEpoch {
    /// First part of every key, so that two epochs can be written side by side.
    pub number: u32,
    /// How many texts were counted.
    documents: u32,
    /// Rarity, as minus log2 of the share of documents, from which words and word groups are
    /// good keys.
    cool: u8,
    words: HashMap<String, u8>,
    /// Pairs that are too common to be keys by themselves; by their
    /// two words in alphabetical order, with a space between.
    pairs: HashMap<String, u8>,
}

/// Why a key epoch file was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EpochError {
    #[error("key epoch, line {line}: {reason}")]
    Line { line: usize, reason: &'static str },
    #[error("key epoch: `{field}` is missing; build the file with `catalog-labels key-epoch build`")]
    Missing { field: &'static str },
}

impl KeyEpoch {
    /// Epoch 0, made of words of public product titles; good until a catalog has an
    /// epoch of its own.
    pub fn shipped() -> &'static Arc<Self> {
        &SHIPPED
    }

    /// Counts words and pairs of words in `texts`, one document each, for a catalog of
    /// `products` products.
    pub fn build<S: AsRef<str>>(number: u32, texts: &[S], products: usize) -> Self {
        let documents = u32::try_from(texts.len()).unwrap_or(u32::MAX);
        let mut counts: HashMap<String, u32> = HashMap::new();
        for text in texts {
            for token in tokens(text.as_ref()) {
                *counts.entry(token.text).or_default() += 1;
            }
        }
        counts.retain(|_, count| *count >= WORD_DOCUMENTS_MIN);
        let words = counts.into_iter().map(|(word, count)| (word, class(count, documents))).collect();
        let mut epoch = Self { number, documents, cool: cool_class(products), words, pairs: HashMap::new() };
        epoch.pairs = epoch.common_pairs(texts);
        epoch
    }

    /// Pairs of common words outside prose that occur together too often to be a key.
    fn common_pairs<S: AsRef<str>>(&self, texts: &[S]) -> HashMap<String, u8> {
        let mut counts: HashMap<String, u32> = HashMap::new();
        for text in texts {
            let words: Vec<String> = tokens(text.as_ref())
                .into_iter()
                .filter(|token| !token.detail && self.words.get(&token.text).is_some_and(|c| *c <= self.cool))
                .map(|token| token.text)
                .collect();
            for (i, first) in words.iter().enumerate() {
                for second in &words[i + 1..] {
                    *counts.entry(pair(first, second)).or_default() += 1;
                }
            }
        }
        let classes = counts.into_iter().map(|(pair, count)| (pair, class(count, self.documents)));
        classes.filter(|(_, class)| *class < self.cool).collect()
    }

    /// Rarity in bits from which words and word groups are good keys.
    pub fn cool_bits(&self) -> f32 {
        half(self.cool)
    }

    /// Rarity of a word in bits.
    pub(super) fn word_bits(&self, word: &str) -> f32 {
        match self.words.get(word) {
            Some(class) => half(*class).max(BITS_MIN),
            None if has_digit(word) && word.len() >= 4 => self.unseen_bits() + CODE_BONUS_BITS,
            None => self.unseen_bits(),
        }
    }

    /// Rarity in bits of two words in one text. None of a pair that is not in the epoch, of which
    /// it is only known that it is rarer than [`KeyEpoch::cool_bits`].
    pub(super) fn pair_bits(&self, first: &str, second: &str) -> Option<f32> {
        self.pairs.get(&pair(first, second)).map(|class| half(*class))
    }

    /// As rare as a word that half the documents needed for a place would have.
    fn unseen_bits(&self) -> f32 {
        (self.documents.max(2) as f32 / (WORD_DOCUMENTS_MIN as f32 / 2.0)).log2().max(self.cool_bits())
    }

    /// Reads what `Display` writes.
    pub fn parse(file: &str) -> Result<Self, EpochError> {
        let (mut number, mut documents, mut cool) = (None, None, COOL_CLASS_DEFAULT);
        let (mut words, mut pairs) = (HashMap::new(), HashMap::new());
        for (index, content) in file.lines().enumerate() {
            let bad = |reason| EpochError::Line { line: index + 1, reason };
            let (kind, rest) = content.split_once(' ').unwrap_or((content, ""));
            let count = || rest.trim().parse().map_err(|_| bad("is not a whole number"));
            match kind {
                "" | "#" => {}
                "epoch" => number = Some(count()?),
                "documents" => documents = Some(count()?),
                "cool" => cool = u8::try_from(count()?).map_err(|_| bad("the class is not 0 to 255"))?,
                "words" | "pairs" => {
                    let (class, members) = rest.split_once(' ').ok_or_else(|| bad("has no members"))?;
                    let class: u8 = class.parse().map_err(|_| bad("the class is not 0 to 255"))?;
                    let into = if kind == "words" { &mut words } else { &mut pairs };
                    into.extend(members.split_whitespace().map(|member| (member.replace('+', " "), class)));
                }
                _ => return Err(bad("starts with none of #, epoch, documents, cool, words, pairs")),
            }
        }
        let number = number.ok_or(EpochError::Missing { field: "epoch" })?;
        let documents = documents.ok_or(EpochError::Missing { field: "documents" })?;
        Ok(Self { number, documents, cool, words, pairs })
    }
}

impl fmt::Display for KeyEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Rarity of words and of pairs of words, in half bits: class 20 is one text in 2^10.")?;
        writeln!(f, "epoch {}", self.number)?;
        writeln!(f, "documents {}", self.documents)?;
        writeln!(f, "cool {}", self.cool)?;
        for (kind, members) in [("words", &self.words), ("pairs", &self.pairs)] {
            let mut classes: BTreeMap<u8, Vec<&str>> = BTreeMap::new();
            for (member, class) in members {
                classes.entry(*class).or_default().push(member);
            }
            for (class, mut members) in classes {
                members.sort_unstable();
                writeln!(
                    f,
                    "{kind} {class} {}",
                    members.iter().map(|m| m.replace(' ', "+")).collect::<Vec<_>>().join(" ")
                )?;
            }
        }
        Ok(())
    }
}

/// Rarity, in half bits, of what [`KEY_PRODUCTS`] of `products` products have.
fn cool_class(products: usize) -> u8 {
    // At most 2 * 60, whatever the catalog.
    let class = (2.0 * (products.max(1) as f64 / KEY_PRODUCTS).log2()).round().max(0.0) as u8;
    class.max(COOL_CLASS_MIN)
}

/// Half bits of rarity of something that `count` of `documents` texts have.
fn class(count: u32, documents: u32) -> u8 {
    // At most 2 * 32, since count is at least 1 and documents fit in 32 bits.
    (2.0 * (f64::from(documents) / f64::from(count)).log2()).round().max(0.0) as u8
}

fn half(class: u8) -> f32 {
    f32::from(class) / 2.0
}

fn pair(first: &str, second: &str) -> String {
    let (first, second) = if first <= second { (first, second) } else { (second, first) };
    format!("{first} {second}")
}
