//! Product text: the one serialisation that training, workers and readers share.
//!
//! A pair's score depends on nothing but two of these texts, so everything that must
//! not cost inference (price, image, stock) is left out here, and only here.

mod words;

use std::collections::HashSet;

use unicode_normalization::UnicodeNormalization;

use crate::Product;
use crate::hash::TextHash;
use words::words;

/// Names the serialisation below. A change to any rule here or in `words` changes texts,
/// therefore hashes, therefore needs a new number and a model trained on it.
pub const TEXT_VERSION: u32 = 2;

/// Words kept of the title. The longest title in the WDC and DeepMatcher sets that
/// says anything new after this point is a keyword list.
const TITLE_WORDS_MAX: usize = 40;
/// Words kept of the product type.
const TYPE_WORDS_MAX: usize = 6;
/// Words kept of description and bullet points, counted after words that the text
/// already holds were left out, so that the budget goes to what may differ.
const DETAIL_WORDS_MAX: usize = 24;
/// Field separator; one token in BERT's vocabulary.
const SEPARATOR: &str = " | ";

/// What the pair model reads of one product, and its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProductText {
    pub text: String,
    pub hash: TextHash,
}

impl ProductText {
    /// Serialises a product: title, brand, model number, product type and the words of
    /// description and bullet points that say something new, separated by `|`. A brand,
    /// model number or type that the text already says is left out.
    pub fn of(product: &Product) -> Self {
        let mut seen = Seen::default();
        let mut fields = Vec::with_capacity(5);

        let title: Vec<String> = words(&product.title).take(TITLE_WORDS_MAX).collect();
        seen.extend(&title);
        fields.push(title);
        for (value, words_max) in
            [(&product.brand, usize::MAX), (&product.model_number, usize::MAX), (&product.product_type, TYPE_WORDS_MAX)]
        {
            let said: Vec<String> = words(value.as_deref().unwrap_or_default()).take(words_max).collect();
            if !seen.contains_all(&said) {
                seen.extend(&said);
                fields.push(said);
            }
        }
        let mut detail = Vec::new();
        let bullets = product.bullet_points.iter().map(String::as_str);
        for part in product.description.as_deref().into_iter().chain(bullets) {
            for word in words(part) {
                if detail.len() < DETAIL_WORDS_MAX && seen.insert(&word) {
                    detail.push(word);
                }
            }
        }
        fields.push(detail);

        let fields: Vec<String> = fields.iter().filter(|f| !f.is_empty()).map(|f| f.join(" ")).collect();
        let text = fields.join(SEPARATOR);
        let hash = TextHash::of(TEXT_VERSION, &text);
        Self { text, hash }
    }
}

/// The key under which a query's intent is stored: compatibility-normalised, lower
/// case, single spaces. Queries that differ only in these are one query.
pub fn normalise_query(query: &str) -> String {
    // Most queries are ASCII, which is normalised as it is, and a request asks for this three times.
    let folded = if query.is_ascii() { query.to_ascii_lowercase() } else { folded(query) };
    folded.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Compatibility-normalised and in lower case.
fn folded(text: &str) -> String {
    text.nfkc().flat_map(char::to_lowercase).collect()
}

/// Words that the text already holds, compared by letters and digits alone.
#[derive(Default)]
struct Seen {
    words: HashSet<String>,
    squashed: String,
}

impl Seen {
    fn extend(&mut self, words: &[String]) {
        for word in words {
            self.insert(word);
        }
    }

    /// True when the word adds something: it holds a letter or digit and is new.
    fn insert(&mut self, word: &str) -> bool {
        let key = squash(word);
        if key.is_empty() {
            return false;
        }
        self.squashed.push_str(&key);
        self.words.insert(key)
    }

    /// True when every word was said before, or when all of them run together were,
    /// as in model number "DSC-W55" in a title that says "dscw55".
    fn contains_all(&self, words: &[String]) -> bool {
        let keys: Vec<String> = words.iter().map(|w| squash(w)).collect();
        let joined: String = keys.concat();
        keys.iter().all(|k| k.is_empty() || self.words.contains(k))
            || (joined.len() >= 4 && self.squashed.contains(&joined))
    }
}

/// A word's letters and digits, by which words are compared: "dsc-w55" is "dscw55".
pub fn squash(word: &str) -> String {
    word.chars().filter(|c| c.is_alphanumeric()).collect()
}
