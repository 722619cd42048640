//! A product text as blocking sees it: words and codes that survive another shop's
//! spelling.

/// Tokens read of one text; the serialiser's longest texts have about 100 words.
const TOKENS_MAX: usize = 160;
/// Longer tokens are cut, so that keys stay far below DynamoDB's 2,048 bytes.
const TOKEN_CHARS_MAX: usize = 32;
/// Longest "word-with-hyphens" that is also read as one code.
const JOINED_CHARS_MAX: usize = 24;
/// A field after the title with more words than this is prose, not brand, model number
/// or type, which are shorter.
const SHORT_FIELD_WORDS_MAX: usize = 6;

/// One distinct token of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    /// Whether it was first met in prose; such words say less about identity.
    pub(super) detail: bool,
    /// How many tokens came before it.
    pub(super) position: usize,
}

/// Distinct tokens in order of first appearance, at most [`TOKENS_MAX`].
///
/// Words are cut at everything but letters and digits, decimals aside; a cut word that
/// holds a digit is also read whole ("dsc-w55/b" gives "dsc", "w55", "b" and "dscw55b").
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut found = Tokens::default();
    for (number, field) in text.split(" | ").enumerate() {
        let words = field.split_whitespace();
        found.detail = number > 0 && words.clone().count() > SHORT_FIELD_WORDS_MAX;
        for word in words {
            found.push_word(word);
            if found.tokens.len() >= TOKENS_MAX {
                return found.tokens;
            }
        }
    }
    found.tokens
}

/// The stemmed parts of the title, in order, repeats included, for joining neighbours.
pub(super) fn title_parts(text: &str) -> Vec<String> {
    let title = text.split(" | ").next().unwrap_or_default();
    title.split_whitespace().flat_map(parts).map(|part| stem(&part)).take(TOKENS_MAX).collect()
}

#[derive(Default)]
struct Tokens {
    tokens: Vec<Token>,
    detail: bool,
    position: usize,
}

impl Tokens {
    fn push_word(&mut self, word: &str) {
        let parts = parts(word);
        for part in &parts {
            self.push(stem(part), self.position);
            self.position += 1;
        }
        if parts.len() > 1 {
            let joined = parts.concat();
            if has_digit(&joined) && joined.chars().count() <= JOINED_CHARS_MAX {
                self.push(stem(&joined), self.position - 1);
            }
        }
    }

    fn push(&mut self, text: String, position: usize) {
        // Texts are about 40 tokens: looking through them beats a second table.
        if self.tokens.len() < TOKENS_MAX && self.tokens.iter().all(|known| known.text != text) {
            self.tokens.push(Token { text, detail: self.detail, position });
        }
    }
}

/// A word cut at everything but letters and digits. A decimal stays whole and loses
/// zeros at its end, so that "3.0" is "3".
fn parts(word: &str) -> Vec<String> {
    if is_decimal(word) {
        return vec![word.trim_end_matches('0').trim_end_matches('.').to_owned()];
    }
    let word = word.strip_suffix("'s").unwrap_or(word);
    word.split(|c: char| !c.is_alphanumeric())
        .filter(|part| !part.is_empty())
        .map(|part| part.chars().take(TOKEN_CHARS_MAX).collect())
        .collect()
}

fn is_decimal(word: &str) -> bool {
    word.split_once('.').is_some_and(|(whole, fraction)| is_number(whole) && is_number(fraction))
}

/// The form in which singular and plural, "08563" and "8563", are one token.
pub(super) fn stem(word: &str) -> String {
    if is_number(word) {
        let significant = word.trim_start_matches('0');
        return if significant.is_empty() { "0".to_owned() } else { significant.to_owned() };
    }
    if has_digit(word) || word.chars().count() <= 4 {
        return word.to_owned();
    }
    if let Some(stem) = word.strip_suffix("ies") {
        return format!("{stem}y");
    }
    match word.strip_suffix('s') {
        Some(stem) if !stem.ends_with('s') => stem.to_owned(),
        _ => word.to_owned(),
    }
}

pub(super) fn has_digit(word: &str) -> bool {
    word.bytes().any(|b| b.is_ascii_digit())
}

pub(super) fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn shops_spellings_meet() {
        assert_eq!(texts("printers dsc-w55/b 3.0 08563"), ["printer", "dsc", "w55", "b", "dscw55b", "3", "8563"]);
        assert_eq!(texts("batteries glass maker's 10.2"), ["battery", "glass", "maker", "10.2"]);
        assert_eq!(texts("win/mac | | *** _"), ["win", "mac"]);
    }

    #[test]
    fn prose_is_told_from_attributes() {
        let found = tokens("kettle | acme | boils water for tea in two minutes flat");
        let detail: Vec<&str> = found.iter().filter(|t| t.detail).map(|t| t.text.as_str()).collect();
        assert_eq!(detail, ["boil", "water", "for", "tea", "in", "two", "minute", "flat"]);
        assert_eq!(found[1], Token { text: "acme".to_owned(), detail: false, position: 1 });
    }

    #[test]
    fn a_wall_of_text_is_cut() {
        let wall: String = (0..10_000).map(|i| format!("word{i} ")).collect();
        assert_eq!(tokens(&wall).len(), TOKENS_MAX);
        assert_eq!(texts(&"x".repeat(100_000)), ["x".repeat(TOKEN_CHARS_MAX)]);
    }
}
