//! Any text through the serialiser: what sellers write is read, or left out, and never
//! breaks anything.

use proptest::prelude::*;
use serde_json::json;
use shared::text::normalise_query;
use shared::{Product, ProductText};

/// Words of title, brand, model number, type and details, at most, with their separators:
/// the bound of what a scorer is ever handed.
const WORDS_MAX: usize = 2_000;

fn text(product: serde_json::Value) -> String {
    let product: Product = serde_json::from_value(product).expect("a product");
    ProductText::of(&product).text
}

fn titled(title: &str) -> String {
    text(json!({ "title": title }))
}

#[test]
fn languages_other_than_english_keep_their_letters() {
    for title in
        ["Küchenmesser Größe 20 cm", "чайник электрический 1.7 л", "電気ケトル 1.5l", "غلاية كهربائية", "전기 주전자"]
    {
        let said = titled(title);
        assert!(!said.is_empty(), "{title} is read");
        assert_eq!(said, titled(&said), "{title} is written in one way");
    }
    assert_eq!(titled("ＫＥＴＴＬＥ １．５"), titled("kettle 1.5"), "full-width letters are letters");
}

#[test]
fn all_capitals_say_no_more_than_small_letters() {
    assert_eq!(titled("BRAND NEW KETTLE 1.5L"), titled("brand new kettle 1.5l"));
    assert_eq!(titled("GROSSE KÜCHE"), titled("grosse küche"));
}

#[test]
fn emoji_do_not_hide_a_word() {
    let said = titled("🔥 HOT 🔥 kettle 1.5l ☕️👨‍👩‍👧");
    assert!(said.contains("kettle 1.5 l"), "{said}");
}

#[test]
fn markup_in_a_description_is_no_text() {
    let said = |description: &str| text(json!({ "title": "kettle", "description": description }));
    assert_eq!(said("<ul><li>Cordless</li><li>Auto&nbsp;off</li></ul>"), said("cordless auto off"));
    assert_eq!(said("<p>unclosed <b>tag"), said("unclosed tag"));
}

#[test]
fn an_empty_description_is_none() {
    let none = text(json!({ "title": "kettle" }));
    for description in ["", " ", "\n\t", "<p></p>", "&nbsp;", "-"] {
        assert_eq!(text(json!({ "title": "kettle", "description": description })), none, "{description:?}");
    }
}

#[test]
fn a_description_of_1400_words_is_cut_to_what_is_new() {
    let words: Vec<String> = (0..1_400).map(|number| format!("word{number}")).collect();
    let said = text(json!({ "title": "kettle word0", "description": words.join(" ") }));
    assert!(said.starts_with("kettle word0 | word1 word2 "), "{said}");
    assert!(said.split(' ').count() < 40, "{said}");
}

proptest! {
    /// ASCII goes a shorter way, which a letter beside it does not.
    #[test]
    fn queries_of_ascii_are_normalised_as_all_others(query in "[\\x00-\\x7f]{0,40}") {
        let longer = normalise_query(&format!("{query} Ü"));
        prop_assert_eq!(longer.strip_suffix('ü').expect("the letter stays last").trim_end(), normalise_query(&query));
    }

    /// Whatever the fields hold: no panic, one line of single spaces, bounded, and the same
    /// text from the same product.
    #[test]
    fn any_fields_give_one_bounded_line(
        title in "\\PC{1,300}|[\\x00-\\x7f]{1,300}",
        brand in proptest::option::of("\\PC{0,60}"),
        description in proptest::option::of("(\\PC|<[a-z/]{1,4}>|&[a-z]{2,5};|\\s){0,800}"),
        bullet_points in proptest::collection::vec("\\PC{0,80}", 0..4),
    ) {
        let product = json!({ "title": title, "brand": brand, "description": description, "bullet_points": bullet_points });
        let said = text(product.clone());
        prop_assert!(said.split(' ').count() <= WORDS_MAX);
        prop_assert!(!said.contains("  ") && !said.contains(['\n', '\t', '\r']), "{:?}", said);
        prop_assert_eq!(text(product), said);
    }

    /// Titles of what measures are made of, which any characters hardly ever are.
    #[test]
    fn figures_and_signs_give_single_spaces(title in "([0-9][x/.,-]{0,2}([0-9]|in|gb)? ){1,9}") {
        let said = titled(&title);
        prop_assert!(!said.contains("  ") && said == said.trim(), "{:?}", said);
    }
}
