//! Product text: the one serialisation that training, workers and readers share.
//!
//! A pair's score depends on nothing but two of these texts, so everything that must
//! not cost inference (price, image, stock) is left out here, and only here.

use std::collections::HashSet;

use unicode_normalization::UnicodeNormalization;

use crate::Product;
use crate::hash::TextHash;

/// Names the serialisation below. A change to any rule in this file changes texts,
/// therefore hashes, therefore needs a new number and a model trained on it.
pub const TEXT_VERSION: u32 = 1;

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

/// Units that are split from their number and written in one way, so that "64GB",
/// "64 gb" and "64-GB" are the same tokens.
#[rustfmt::skip]
const UNITS: &[(&str, &str)] = &[
    ("gb", "gb"),
    ("tb", "tb"),
    ("mb", "mb"),
    ("kb", "kb"),
    ("ghz", "ghz"),
    ("mhz", "mhz"),
    ("hz", "hz"),
    ("mm", "mm"),
    ("cm", "cm"),
    ("ml", "ml"),
    ("oz", "oz"),
    ("lb", "lb"),
    ("lbs", "lb"),
    ("kg", "kg"),
    ("inch", "inch"),
    ("inches", "inch"),
    ("in", "inch"),
    ("ft", "ft"),
    ("feet", "ft"),
    ("mp", "mp"),
    ("megapixel", "mp"),
    ("megapixels", "mp"),
    ("mah", "mah"),
    ("watt", "watt"),
    ("watts", "watt"),
    ("volt", "volt"),
    ("volts", "volt"),
    ("pk", "pack"),
    ("pack", "pack"),
    ("packs", "pack"),
    ("ct", "count"),
    ("count", "count"),
    ("pcs", "piece"),
    ("pc", "piece"),
    ("piece", "piece"),
    ("pieces", "piece"),
    ("rpm", "rpm"),
    ("ppm", "ppm"),
    ("dpi", "dpi"),
    ("fps", "fps"),
];

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
    let folded: String = query.nfkc().flat_map(char::to_lowercase).collect();
    folded.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
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

/// Lower-case words of one field after clean-up: entities decoded, tags and quotes
/// dropped, compatibility characters folded, numbers split from their units.
fn words(raw: &str) -> impl Iterator<Item = String> {
    let decoded = html_escape::decode_html_entities(raw);
    let folded: String = strip_tags(&decoded).nfkc().flat_map(char::to_lowercase).collect();
    let mut out: Vec<String> = Vec::new();
    for word in folded.split(|c: char| c.is_whitespace() || c.is_control() || "|\u{200b}".contains(c)) {
        push_word(&mut out, word);
    }
    out.into_iter()
}

/// Appends one whitespace-separated word, with inch marks, thousands separators and
/// units in their normal form.
fn push_word(out: &mut Vec<String>, raw: &str) {
    let inches = ends_in_inch_mark(raw);
    let word = raw.trim_matches(|c: char| "\"'“”‘’`*,;:!?()[]{}<>".contains(c)).trim_end_matches(['.', '-']);
    if word.is_empty() {
        return;
    }
    let number_end = word.find(|c: char| !(c.is_ascii_digit() || ".,/".contains(c))).unwrap_or(word.len());
    let (number, rest) = word.split_at(number_end);
    if number.is_empty() || !number.starts_with(|c: char| c.is_ascii_digit()) {
        // A free-standing "in" is more often the word ("3 in 1") than the unit.
        let after_number = word != "in" && out.last().is_some_and(|last| is_number(last));
        out.push(unit(word).filter(|_| after_number).unwrap_or(word).to_owned());
        return;
    }
    let unit_of_rest = unit(rest.trim_start_matches('-'));
    if rest.is_empty() || unit_of_rest.is_some() {
        out.push(without_thousands(number));
        if let Some(unit) = unit_of_rest.or(inches.then_some("inch")) {
            out.push(unit.to_owned());
        }
    } else {
        out.push(word.to_owned());
    }
}

fn unit(word: &str) -> Option<&'static str> {
    UNITS.iter().find(|(written, _)| *written == word).map(|(_, normal)| *normal)
}

fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit()) && word.chars().all(|c| c.is_ascii_digit() || "./".contains(c))
}

fn ends_in_inch_mark(word: &str) -> bool {
    let digits = word.trim_end_matches(|c: char| "\"'”″,;:)]".contains(c));
    let tail = &word[digits.len()..];
    digits.ends_with(|c: char| c.is_ascii_digit()) && (tail.contains(['"', '”', '″']) || tail.contains("''"))
}

/// "1,000" becomes "1000"; a comma elsewhere stays, since "2,5" may be a decimal.
fn without_thousands(number: &str) -> String {
    let number = number.trim_end_matches(['.', ',', '/']);
    let groups: Vec<&str> = number.split(',').collect();
    let grouped = groups.len() > 1
        && (1..=3).contains(&groups[0].len())
        && groups[1..].iter().all(|g| g.len() == 3 && g.bytes().all(|b| b.is_ascii_digit()));
    if grouped { groups.concat() } else { number.to_owned() }
}

/// Replaces `<tag ...>` by a space. A lone `<` as in "< 5 kg" is no tag and stays.
fn strip_tags(html: &str) -> String {
    let mut out = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        let (before, tail) = rest.split_at(open);
        out.push_str(before);
        let is_tag = tail[1..].starts_with(|c: char| c.is_ascii_alphabetic() || "/!".contains(c));
        match tail.find('>').filter(|_| is_tag) {
            Some(close) => {
                out.push(' ');
                rest = &tail[close + 1..];
            }
            None => {
                out.push('<');
                rest = &tail[1..];
            }
        }
    }
    out.push_str(rest);
    out
}
