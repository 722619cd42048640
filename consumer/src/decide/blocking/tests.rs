use proptest::prelude::*;
use shared::{Product, ProductText};

use super::*;

fn epoch() -> &'static KeyEpoch {
    KeyEpoch::shipped()
}

fn id(name: &str) -> ProductId {
    ProductId::new(name).expect("a valid id")
}

fn shares_a_key(left: &str, right: &str) -> bool {
    let written = posting_keys(right, epoch());
    query_keys(left, epoch(), &Limits::default()).iter().any(|key| written.contains(key))
}

#[test]
fn two_spellings_of_a_product_share_a_key() {
    for (left, right) in [
        ("fenwick electric kettle fk-2714ss steel", "fenwick fk2714 kettle 1.7 l"),
        ("titan pro rolling case | norvale", "norvale titanpro roller case"),
        ("brightline desk organiser 3 drawers black", "black brightline organisers for desk with drawers"),
        ("orbisk speaker dock grey oh16gx", "orbisk portable dock | oh16g"),
        ("lens cleaning kit | 08563", "cleaning kit for lenses 8563"),
    ] {
        assert!(shares_a_key(left, right), "{left} / {right}");
        assert!(shares_a_key(right, left), "{right} / {left}");
    }
    assert!(!shares_a_key("fenwick electric kettle fk-2714ss", "orbisk portable speaker dock"));
}

#[test]
fn a_common_pair_is_a_key_only_with_a_third_word() {
    assert!(epoch().pair_bits("freezer", "fridge").is_some_and(|bits| bits < epoch().cool_bits()));
    let keys = posting_keys("fridge freezer | fenwick | upright white tall steel", epoch());
    assert!(keys.iter().all(|key| key != "0:g:freezer fridge"), "{keys:?}");
    assert!(keys.iter().any(|key| key.contains("freezer") && key.contains("fridge")), "{keys:?}");
}

#[test]
fn texts_of_common_words_have_keys() {
    for text in ["black", "black case", "3", "the and with", "usb"] {
        assert!(!posting_keys(text, epoch()).is_empty(), "{text}");
    }
    assert!(posting_keys("*** | -", epoch()).is_empty());
}

#[test]
fn codes_give_their_cores() {
    assert_eq!(cores_of("ih16gxc"), ["ih16"]);
    assert_eq!(cores_of("va354824my"), ["354824", "a354824"]);
    assert_eq!(cores_of("x002453k7"), ["2453", "x2453"]);
    assert_eq!(cores_of("maß-größe12"), ["ße12"]);
    assert_eq!(cores_of("cp6000/60"), ["6000", "p6000"]);
    assert_eq!(cores_of("b01"), [""; 0]);
}

#[test]
fn the_limits_bound_the_worst_case() {
    let limits = Limits::default();
    assert!(limits.keys_max() < limits.requests_max);
    for keys in 1..=limits.keys_max() {
        assert!(keys * limits.limit_per_key(keys) + limits.candidates_max <= limits.items_max);
    }
    assert_eq!(limits.limit_per_key(0), 0);
    assert_eq!(limits.limit_per_key(1), POSTINGS_PER_KEY_MAX, "one hot key is no reason to read all of it");
    assert_eq!(Limits { requests_max: 6, ..limits }.keys_max(), 0);
    assert_eq!(Limits { items_max: 5, ..limits }.limit_per_key(3), 0);
}

#[test]
fn the_most_similar_come_first_and_ties_go_by_id() {
    let own = "fenwick electric kettle fk2714ss steel";
    let postings = [
        ("c", "orbisk speaker dock"),
        ("b", "fenwick fk-2714ss kettle steel"),
        ("own", own),
        ("a", "fenwick kettle"),
        ("b", "something that b said before"),
    ]
    .map(|(name, text)| (id(name), sketch(text, epoch())));
    let unreadable = [(id("e"), Vec::new()), (id("d"), vec![9, 9, 9, 9])];
    let limits = Limits { candidates_max: 4, ..Limits::default() };
    let ranked = rank(&id("own"), own, epoch(), postings.into_iter().chain(unreadable), &limits);
    assert_eq!(ranked, ["b", "a", "c", "d"].map(id));
}

#[test]
fn the_published_file_is_read_back() {
    let shipped = epoch();
    assert_eq!(shipped.number, 0);
    assert_eq!(KeyEpoch::parse(&shipped.to_string()).as_ref(), Ok(shipped));
    assert_eq!(shipped.to_string(), include_str!("epoch0.txt"), "rebuild epoch0.txt as epoch0.py says");
}

#[test]
fn a_broken_epoch_file_is_refused_by_line() {
    let refused = |file: &str| KeyEpoch::parse(file).expect_err("the file is bad").to_string();
    assert!(refused("epoch 1\nwords 300 a").contains("line 2: the class"));
    assert!(refused("epoch one").contains("line 1"));
    assert!(refused("epoch 1\nwords 3").contains("no members"));
    assert!(refused("epoch 1\nstop the").contains("line 2: starts with"));
    assert!(refused("documents 1").contains("`epoch` is missing"));
    assert!(refused("epoch 1").contains("`documents` is missing"));
}

#[test]
fn an_epoch_counts_texts() {
    let texts: Vec<String> =
        (0..64).map(|i| format!("kettle steel item{i}{}", if i < 4 { " rare" } else { "" })).collect();
    let built = KeyEpoch::build(3, &texts, texts.len());
    assert_eq!(built.word_bits("rare"), 4.0);
    assert_eq!(built.pair_bits("steel", "kettle"), Some(0.0));
    assert_eq!(built.pair_bits("rare", "kettle"), Some(4.0));
    assert!(built.word_bits("item7") >= built.cool_bits(), "a word of one text is unseen");
    assert_eq!(KeyEpoch::parse(&built.to_string()).as_ref(), Ok(&built));
    assert!(posting_keys("kettle x99", &built).iter().all(|key| key.starts_with("3:")));
}

/// The share of products that makes a key too common falls as the catalog grows.
#[test]
fn a_key_has_about_as_many_products_in_a_catalog_of_any_size() {
    let texts = ["kettle", "lamp"];
    for (products, bits) in [(10_000, 9.5), (100_000, 12.5), (1_000_000, 16.0)] {
        let built = KeyEpoch::build(1, &texts, products);
        assert_eq!(built.cool_bits(), bits);
        assert!((11.0..23.0).contains(&(products as f32 / f32::exp2(bits))), "{products}");
        assert_eq!(KeyEpoch::parse(&built.to_string()).as_ref(), Ok(&built));
    }
    assert_eq!(KeyEpoch::parse("epoch 1\ndocuments 9").expect("an old file").cool_bits(), 10.0);
}

/// Texts of every kind: any Unicode, and words that look like a product's.
fn any_text() -> impl Strategy<Value = String> {
    let word = "[a-z]{1,9}|[a-z]{0,3}[0-9]{1,7}[a-z]{0,3}|[0-9]{1,3}\\.[0-9]|\\| |black|usb|\\PC{1,6}";
    prop_oneof![any::<String>(), prop::collection::vec(word, 0..80).prop_map(|words| words.join(" "))]
}

proptest! {
    #[test]
    fn keys_are_bounded_distinct_and_repeatable(text in any_text()) {
        let keys = posting_keys(&text, epoch());
        prop_assert!(keys.len() <= KEYS_MAX);
        prop_assert_eq!(&keys, &posting_keys(&text, epoch()));
        let mut distinct = keys.clone();
        distinct.sort_unstable();
        distinct.dedup();
        prop_assert_eq!(distinct.len(), keys.len());
        // DynamoDB's limit for a partition key.
        prop_assert!(keys.iter().all(|key| key.starts_with("0:") && key.len() <= 2_048));
        let queried = query_keys(&text, epoch(), &Limits::default());
        prop_assert!(queried.len() <= KEYS_MAX);
        prop_assert_eq!(&queried[..], &keys[..queried.len()]);
        prop_assert!(sketch(&text, epoch()).len() <= SKETCH_BYTES_MAX);
    }

    #[test]
    fn any_product_text_finds_its_equal(title in "\\PC{0,60}[a-z]{2,8}\\PC{0,20}", brand in "\\PC{0,20}") {
        let product = Product { title, brand: Some(brand), ..Product::default() };
        let text = ProductText::of(&product).text;
        prop_assert!(shares_a_key(&text, &text), "{}", text);
    }

    #[test]
    fn rank_does_not_depend_on_the_order_of_postings(
        own in any_text(),
        postings in prop::collection::vec(("[a-d]{1,2}", any_text()), 0..40).prop_flat_map(|postings| {
            (Just(postings.clone()), Just(postings).prop_shuffle())
        }),
        candidates_max in 0_usize..30,
    ) {
        let limits = Limits { candidates_max, ..Limits::default() };
        let ranked = |postings: &[(String, String)]| {
            let postings = postings.iter().map(|(name, text)| (id(name), sketch(text, epoch())));
            rank(&id("a"), &own, epoch(), postings, &limits)
        };
        let (ordered, shuffled) = postings;
        let candidates = ranked(&ordered);
        prop_assert_eq!(&candidates, &ranked(&shuffled));
        prop_assert!(candidates.len() <= candidates_max);
        prop_assert!(!candidates.contains(&id("a")));
    }

    #[test]
    fn any_bytes_are_a_sketch(own in any_text(), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let ranked = rank(&id("own"), &own, epoch(), [(id("other"), bytes)], &Limits::default());
        prop_assert_eq!(ranked, [id("other")]);
    }
}
