//! Kinds of words of which a product has one: where two texts name two of a kind, they
//! are rarely about one product.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Each row holds words of one kind; words joined by a space inside an entry mean the same.
#[rustfmt::skip]
const KINDS: &[&[&str]] = &[
    // Colours and finishes. Shades that sellers mix up ("navy" and "blue") are one entry.
    &["black blk", "white wht", "silver", "grey gray", "gold golden", "red", "blue navy", "green", "yellow", "orange",
      "purple violet", "pink rose", "brown", "beige sand", "teal turquoise", "ivory cream", "bronze", "copper", "magenta",
      "cyan", "charcoal anthracite graphite", "burgundy maroon", "walnut", "oak", "chrome"],
    // Clothing sizes.
    &["xs", "small", "medium", "large", "xl", "xxl", "xxxl"],
    &["single", "double", "queen", "king"],
    // Whom it is for.
    &["men mens man", "women womens ladies woman", "boys", "girls"],
    &["adult", "kids kid children childrens junior", "baby infant", "toddler"],
    &["puppy", "kitten", "senior"],
    // Bindings and media.
    &["paperback softcover", "hardcover hardback", "ebook kindle", "audiobook", "spiral"],
    &["dvd", "bluray", "cd", "vinyl lp", "cassette", "vhs"],
    // Platforms.
    &["windows win", "mac macos", "linux", "android", "ios iphone"],
    &["xbox", "playstation ps4 ps5 ps3", "switch nintendo wii"],
    // Languages.
    &["english", "spanish", "french", "german", "italian", "portuguese", "dutch", "japanese", "chinese", "russian"],
    // Editions and licences.
    &["home", "business", "professional", "student academic", "enterprise", "ultimate", "premium", "standard", "deluxe"],
    &["upgrade", "full"],
    // What holds or drives it.
    &["wired corded", "wireless cordless"],
    &["left", "right"],
    &["indoor", "outdoor"],
];

/// By word: its kind and its value there, both as numbers.
static VALUES: LazyLock<HashMap<&str, (usize, usize)>> = LazyLock::new(|| {
    let entries = KINDS
        .iter()
        .enumerate()
        .flat_map(|(kind, entries)| entries.iter().enumerate().map(move |(value, entry)| (entry, (kind, value))));
    entries.flat_map(|(entry, value)| entry.split(' ').map(move |word| (word, value))).collect()
});

/// A word's kind and its value there, both as numbers; None for a word of no kind.
pub(crate) fn of(word: &str) -> Option<(usize, usize)> {
    VALUES.get(word).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_word_has_one_kind() {
        let words: Vec<&str> = KINDS.iter().flat_map(|kind| kind.iter()).flat_map(|entry| entry.split(' ')).collect();
        assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len());
    }

    #[test]
    fn spellings_of_one_value_are_equal() {
        assert_eq!(of("grey"), of("gray"));
        assert_ne!(of("grey"), of("black"));
        assert_eq!(of("grey").map(|(kind, _)| kind), of("black").map(|(kind, _)| kind));
        assert_eq!(of("kettle"), None);
    }
}
