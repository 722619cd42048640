//! What search sees of the labels: pages, groups, one product, one query.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use consumer::decide::merge::{DISTINCT_MAX, ENTRIES_MAX};
use consumer::store::{Embedded, Store};
use futures::future::join_all;
use jiff::Timestamp;
use reader::{LabelReader, Options, PAGE_PRODUCTS_MAX, PageLabels, ReaderError};
use serde_json::json;
use shared::item::{IntentItem, LabelItem, PairEntry};
use shared::{Intent, ModelId, ProductId, Stage, TextHash, Verdict};
use tests::fleet::counted;
use tests::items::{id, model};
use tests::recorded::{Recording, Sent};
use tests::table_stub::{Answer, Request, TableStub};

/// Longest wait for an answer that will come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Long enough for the first of two answers on a machine that may be busy.
const HALF_ANSWERED: Duration = Duration::from_secs(5);

/// Tables in memory, with one model active.
struct Fixture {
    _embedded: Embedded,
    store: Store,
}

impl Fixture {
    async fn new() -> Self {
        let embedded = Embedded::memory().expect("memory needs nothing");
        let store = embedded.store("reader-");
        store.create_tables().await.expect("creates");
        store.set_active_model(&model(), None).await.expect("activates");
        Self { _embedded: embedded, store }
    }

    /// Labels `owner` as having `text`, with one entry for each (other, other's text,
    /// verdict).
    async fn label(&self, owner: &str, text: &str, entries: &[(&str, &str, Verdict)]) {
        self.put(item(owner, text, entries)).await;
    }

    async fn put(&self, item: LabelItem) {
        self.store.put_label_item(&item).await.expect("puts");
    }

    fn reader(&self, options: Options) -> LabelReader {
        LabelReader::new(self.store.client().clone(), self.store.prefix(), options)
    }

    async fn page(&self, products: &str) -> PageLabels {
        self.reader(patient()).labels_for_page(&ids(products)).await.expect("reads")
    }
}

#[tokio::test]
async fn a_page_shows_pairs_of_its_products_only() {
    let fixture = Fixture::new().await;
    fixture.label("A", "a", &[("B", "b", Verdict::Duplicate), ("C", "c", Verdict::Review)]).await;
    fixture.label("B", "b", &[("A", "a", Verdict::Duplicate)]).await;
    fixture.label("C", "c", &[("A", "a", Verdict::Review)]).await;
    let page = fixture.page("C A X A C").await;
    assert_eq!(page.products, ids("C A X"), "each once, in rank order");
    assert_eq!(page.missing, ids("X"));
    assert_eq!(page.model, model());
    assert_eq!(pairs(&page), [("C", "A", Verdict::Review)], "B is not on the page");
    assert_eq!(pairs(&fixture.page("A B").await), [("A", "B", Verdict::Duplicate)], "both sides are one pair");
    assert_eq!(fixture.page("").await.products, vec![]);
}

#[tokio::test]
async fn an_entry_about_an_older_text_is_dropped() {
    let fixture = Fixture::new().await;
    fixture.label("A", "a", &[("B", "b before", Verdict::Duplicate)]).await;
    fixture.label("B", "b", &[]).await;
    let page = fixture.page("A B").await;
    assert_eq!((pairs(&page), page.missing.as_slice()), (vec![], ids("").as_slice()));
}

#[tokio::test]
async fn one_current_side_is_enough_and_the_later_word_counts() {
    let fixture = Fixture::new().await;
    // B dropped its entry to stay small.
    fixture.label("A", "a", &[("B", "b", Verdict::Duplicate)]).await;
    fixture.put(LabelItem { overflow: true, ..item("B", "b", &[]) }).await;
    assert_eq!(pairs(&fixture.page("B A").await), [("B", "A", Verdict::Duplicate)]);

    fixture.label("C", "c", &[("D", "d", Verdict::Duplicate)]).await;
    let mut later = item("D", "d", &[("C", "c", Verdict::Review)]);
    later.pairs.get_mut(&id("C")).expect("the entry above").labelled_at = Timestamp::from_second(5).expect("in range");
    fixture.put(later).await;
    assert_eq!(pairs(&fixture.page("C D").await), [("C", "D", Verdict::Review)]);
}

#[tokio::test]
async fn a_deleted_product_has_no_pairs_on_either_side() {
    let fixture = Fixture::new().await;
    fixture.label("A", "a", &[("B", "b", Verdict::Duplicate)]).await;
    fixture.put(LabelItem { deleted: true, ..item("B", "b", &[("A", "a", Verdict::Duplicate)]) }).await;
    let page = fixture.page("A B").await;
    assert_eq!(pairs(&page), []);
    assert_eq!(page.groups().len(), 2);
}

#[tokio::test]
async fn groups_collapse_only_into_a_kept_direct_duplicate() {
    let fixture = Fixture::new().await;
    // A ~ B, B ~ C, and C ? D, where ? is review.
    fixture.label("A", "a", &[("B", "b", Verdict::Duplicate)]).await;
    fixture.label("B", "b", &[("A", "a", Verdict::Duplicate), ("C", "c", Verdict::Duplicate)]).await;
    fixture.label("C", "c", &[("B", "b", Verdict::Duplicate), ("D", "d", Verdict::Review)]).await;
    fixture.label("D", "d", &[("C", "c", Verdict::Review)]).await;
    assert_eq!(groups(&fixture.page("A B C D").await), ["A>B", "C", "D"], "A ~ B and B ~ C do not make A ~ C");
    assert_eq!(groups(&fixture.page("D B C A").await), ["D", "B>CA"]);
    assert_eq!(groups(&fixture.page("C A B").await), ["C>B", "A"], "B goes to the best-ranked kept one");
    assert_eq!(groups(&fixture.page("X Y").await), ["X", "Y"], "products without labels stay");
}

/// A is B more surely than C, and B is no C: of two labels that exclude each other the surer holds, on every page and
/// for each product, and the other one says what contests it.
#[tokio::test]
async fn promise_12_a_duplicate_that_a_surer_one_contests_is_for_review() {
    let fixture = Fixture::new().await;
    let scored = |name: &str, text: &str, entries: &[(&str, &str, f32)]| {
        let labels: Vec<_> = entries.iter().map(|(other, text, _)| (*other, *text, Verdict::Duplicate)).collect();
        let mut item = item(name, text, &labels);
        for (other, _, score) in entries {
            item.pairs.get_mut(&id(other)).expect("an entry").score = *score;
        }
        item
    };
    fixture.put(scored("A", "a", &[("B", "b", 0.9), ("C", "c", 0.6)])).await;
    fixture.put(scored("B", "b", &[("A", "a", 0.9)])).await;
    fixture.put(scored("C", "c", &[("A", "a", 0.6)])).await;
    let page = fixture.page("C A B").await;
    assert_eq!(pairs(&page), [("C", "A", Verdict::Review), ("A", "B", Verdict::Duplicate)]);
    assert_eq!(page.pairs[0].contested_by, Some(id("B")));
    assert_eq!(groups(&page), ["C", "A>B"]);
    assert_eq!(groups(&fixture.page("C A").await), ["C", "A"], "the third product need not be on the page");

    let reader = fixture.reader(patient());
    let labels = reader.duplicates_of(&id("C")).await.expect("reads").expect("labelled");
    assert_eq!(labels.item.pairs[&id("A")].verdict, Verdict::Review);
    assert_eq!(labels.contested_by, BTreeMap::from([(id("A"), id("B"))]));

    // Once B is C as well, all three are one.
    fixture.put(LabelItem { revision: 2, ..scored("B", "b", &[("A", "a", 0.9), ("C", "c", 0.5)]) }).await;
    fixture.put(LabelItem { revision: 2, ..scored("C", "c", &[("A", "a", 0.6), ("B", "b", 0.5)]) }).await;
    assert_eq!(groups(&fixture.page("C A B").await), ["C>AB"]);
}

#[tokio::test]
async fn a_page_is_one_batch_of_100_products() {
    let fixture = Fixture::new().await;
    let names: Vec<String> = (0..PAGE_PRODUCTS_MAX).map(|n| format!("P{n:03}")).collect();
    for pair in names.chunks(2) {
        let [first, second] = pair else { panic!("the page is even") };
        fixture.label(first, first, &[(second, second, Verdict::Duplicate)]).await;
        fixture.label(second, second, &[(first, first, Verdict::Duplicate)]).await;
    }
    let page = fixture.page(&names.join(" ")).await;
    assert_eq!((page.pairs.len(), page.missing.len()), (50, 0));
    assert_eq!(page.groups().len(), 50);

    let mut too_many = ids(&names.join(" "));
    too_many.extend(too_many.clone());
    fixture.reader(patient()).labels_for_page(&too_many).await.expect("repeated ids count once");
    too_many.push(id("one-more"));
    let error = fixture.reader(patient()).labels_for_page(&too_many).await.expect_err("101 products");
    assert!(matches!(error, ReaderError::PageTooLarge { given: 101 }), "{error:?}");
}

#[tokio::test]
async fn readers_follow_the_active_model_after_its_ttl() {
    let fixture = Fixture::new().await;
    fixture.label("A", "a", &[("B", "b", Verdict::Duplicate)]).await;
    fixture.label("B", "b", &[]).await;
    let forgetful = fixture.reader(Options { pointer_ttl: Duration::ZERO, ..patient() });
    let caching = fixture.reader(Options { pointer_ttl: Duration::from_secs(3600), ..patient() });
    let pinned = fixture.reader(Options { model: Some(model()), ..patient() });
    let page = ids("A B");
    for reader in [&forgetful, &caching, &pinned] {
        assert_eq!(reader.labels_for_page(&page).await.expect("reads").pairs.len(), 1);
    }
    let next = ModelId("next".to_owned());
    let active = fixture.store.active_model().await.expect("reads");
    fixture.store.set_active_model(&next, active.as_ref()).await.expect("switches");
    let switched = forgetful.labels_for_page(&page).await.expect("reads");
    assert_eq!((switched.model, switched.pairs.len(), switched.missing), (next, 0, page.clone()));
    for reader in [&caching, &pinned] {
        assert_eq!(reader.labels_for_page(&page).await.expect("reads").model, model());
    }
}

#[tokio::test]
async fn without_an_active_model_the_error_says_so() {
    let embedded = Embedded::memory().expect("memory needs nothing");
    let store = embedded.store("empty-");
    store.create_tables().await.expect("creates");
    let reader = LabelReader::new(store.client().clone(), store.prefix(), patient());
    let error = reader.labels_for_page(&ids("A")).await.expect_err("nothing is active");
    assert!(matches!(&error, ReaderError::NoActiveModel { table } if table == "empty-control"), "{error:?}");
    let elsewhere = LabelReader::new(store.client().clone(), "elsewhere-", patient());
    let error = elsewhere.labels_for_page(&ids("A")).await.expect_err("no tables");
    assert!(matches!(&error, ReaderError::Service { table, .. } if table == "elsewhere-control"), "{error:?}");
}

#[tokio::test]
async fn one_product_shows_current_pairs_and_counts_the_rest() {
    let fixture = Fixture::new().await;
    let entries = [
        ("B", "b", Verdict::Duplicate),
        ("C", "c before", Verdict::Duplicate),
        ("D", "d", Verdict::Review),
        ("X", "x", Verdict::Duplicate),
    ];
    fixture.label("A", "a", &entries).await;
    fixture.label("B", "b", &[]).await;
    fixture.label("C", "c", &[]).await;
    fixture.put(LabelItem { deleted: true, ..item("D", "d", &[]) }).await;
    let reader = fixture.reader(patient());
    let labels = reader.duplicates_of(&id("A")).await.expect("reads").expect("labelled");
    assert_eq!(labels.item.pairs.keys().map(ProductId::as_str).collect::<Vec<_>>(), ["B"]);
    assert_eq!(labels.outdated, 3);
    assert_eq!(reader.duplicates_of(&id("D")).await.expect("reads"), None, "deleted");
    assert_eq!(reader.duplicates_of(&id("X")).await.expect("reads"), None, "never labelled");
}

#[tokio::test]
async fn a_query_is_found_as_typed_until_it_expires() {
    let fixture = Fixture::new().await;
    let now = Timestamp::now();
    let intent = |query: &str, expires_at| IntentItem {
        query: query.to_owned(),
        model: model(),
        intent: Intent::Help,
        scores: [0.1, 0.1, 0.7, 0.1],
        stage: Stage::CrossEncoder,
        version: 1,
        labelled_at: now,
        expires_at,
    };
    let live = intent("wie bügle ich", now.as_second() + 3600);
    fixture.store.put_intent(&live).await.expect("puts");
    fixture.store.put_intent(&intent("gone", now.as_second() - 1)).await.expect("puts");
    let reader = fixture.reader(patient());
    assert_eq!(reader.intent_for("  Wie BÜGLE\tich ").await.expect("reads"), Some(live));
    assert_eq!(reader.intent_for("gone").await.expect("reads"), None, "expired");
    assert_eq!(reader.intent_for("unknown").await.expect("reads"), None);
    assert_eq!(reader.intent_for(" \t").await.expect("reads"), None, "an empty query is nothing");
}

#[tokio::test]
async fn unprocessed_keys_are_asked_for_again() {
    let stub = TableStub::start(|request| request.batch_get_half()).await;
    let options = Options { model: Some(model()), rounds_max: 9, ..patient() };
    let page = LabelReader::new(stub.client(), "p-", options).labels_for_page(&ids("A B C D E F G")).await;
    let page = page.expect("all answered in the end");
    assert_eq!((page.missing, stub.requests()), (vec![], 3), "4, then 2, then 1 keys");
}

#[tokio::test]
async fn what_stays_unanswered_is_missing() {
    let stub = TableStub::start(|request| request.batch_get_half()).await;
    let options = Options { model: Some(model()), rounds_max: 2, ..patient() };
    let page = LabelReader::new(stub.client(), "p-", options).labels_for_page(&ids("A B C D E F G")).await;
    let page = page.expect("a part is better than nothing");
    assert_eq!((page.missing.len(), page.products.len(), stub.requests()), (1, 7, 2));
    assert_eq!(page.unanswered, page.missing);
}

/// The table answers a half and is then heard of no more: the page comes at its deadline, with
/// the half that is known.
#[tokio::test]
async fn what_came_before_the_deadline_is_shown_and_the_rest_is_named() {
    for cache_entries_max in [0, 100] {
        let answers = |request: &Request| if request.number == 0 { request.batch_get_half() } else { Answer::Never };
        let stub = TableStub::start(answers).await;
        let options =
            Options { model: Some(model()), cache_entries_max, deadline: HALF_ANSWERED, ..Options::default() };
        let reader = LabelReader::new(stub.client(), "p-", options);
        let page = reader.labels_for_page(&ids("A B C D E F G")).await.expect("a part is better than nothing");
        assert_eq!((page.unanswered, page.missing), (ids("E F G"), ids("E F G")), "cache of {cache_entries_max}");
    }
}

#[tokio::test]
async fn a_silent_or_throttled_table_leaves_the_page_unanswered() {
    let silent = TableStub::start(|_| Answer::Never).await;
    let throttled = TableStub::start(|_| Answer::Error(400, "ProvisionedThroughputExceededException")).await;
    let broken = TableStub::start(|_| Answer::Error(503, "ServiceUnavailable")).await;
    for cache_entries_max in [0, 100] {
        for stub in [&silent, &throttled, &broken] {
            let options = Options { model: Some(model()), cache_entries_max, ..hasty() };
            let reader = LabelReader::new(stub.client(), "p-", options);
            let page = reader.labels_for_page(&ids("A B")).await.expect("a page without labels is a page");
            assert_eq!(
                (page.unanswered.as_slice(), groups(&page)),
                (ids("A B").as_slice(), vec!["A".into(), "B".into()])
            );
            let error = reader.intent_for("kettle").await.expect_err("no part of an intent is an intent");
            assert!(matches!(error, ReaderError::Deadline { .. } | ReaderError::Unavailable { .. }), "{error:?}");
            let error = reader.duplicates_of(&id("A")).await.expect_err("all or nothing");
            assert!(matches!(error, ReaderError::Deadline { .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_is_an_error_at_once() {
    let stub = TableStub::start(|_| Answer::Error(400, "AccessDeniedException")).await;
    let reader = LabelReader::new(stub.client(), "p-", Options { model: Some(model()), ..Options::default() });
    let error = reader.labels_for_page(&ids("A")).await.expect_err("no permission");
    assert!(matches!(&error, ReaderError::Service { table, .. } if table == "p-labels"), "{error:?}");
}

#[tokio::test]
async fn promise_10_a_page_of_100_full_items_is_one_request() {
    let fixture = Fixture::new().await;
    let names: Vec<String> = (0..PAGE_PRODUCTS_MAX).map(|n| format!("product-with-a-long-name-{n:03}")).collect();
    for (rank, name) in names.iter().enumerate() {
        // As many look-alikes as an item holds; three of them are on the page.
        let on_page = (1..=3).map(|step| names[(rank + step) % names.len()].clone());
        let elsewhere = (3..ENTRIES_MAX).map(|n| format!("look-alike-{n:03}-elsewhere"));
        let others: Vec<String> = on_page.chain(elsewhere).collect();
        let entries: Vec<_> = others.iter().map(|other| (other.as_str(), other.as_str(), Verdict::Duplicate)).collect();
        let mut full = item(name, name, &entries);
        full.distinct = (0..DISTINCT_MAX as u64).collect();
        fixture.put(full).await;
    }
    let recording = Recording::default();
    let store = recording.of(&fixture.store);
    let reader = LabelReader::new(store.client().clone(), store.prefix(), patient());
    let page = reader.labels_for_page(&ids(&names.join(" "))).await.expect("reads");
    assert_eq!((page.missing.len(), page.pairs.len()), (0, 3 * PAGE_PRODUCTS_MAX));
    let again = reader.labels_for_page(&ids(&names.join(" "))).await.expect("reads");
    assert_eq!(again.pairs, page.pairs);
    let sent: Vec<(String, usize)> = recording.sent().iter().map(operation_and_keys).collect();
    let page = || ("BatchGetItem".to_owned(), PAGE_PRODUCTS_MAX);
    let pointer = ("GetItem".to_owned(), 1);
    assert_eq!(sent, [pointer, page(), page()], "the pointer once, and one request a page; no scan, no query");
}

/// What was asked, and for how many keys.
fn operation_and_keys(sent: &Sent) -> (String, usize) {
    let tables = sent.body["RequestItems"].as_object();
    let keys = tables.map(|tables| tables.values().flat_map(|wanted| wanted["Keys"].as_array()).map(Vec::len).sum());
    (sent.operation.clone(), keys.unwrap_or(1))
}

#[tokio::test]
async fn what_is_cached_costs_no_request() {
    let fixture = Fixture::new().await;
    fixture.label("A", "a", &[("B", "b", Verdict::Duplicate)]).await;
    fixture.label("B", "b", &[]).await;
    let (store, requests) = counted(&fixture.store);
    let options = Options { cache_ttl: Duration::from_secs(3600), deadline: PATIENCE, ..Options::default() };
    let reader = LabelReader::new(store.client().clone(), store.prefix(), options);
    let mut spent = 0;
    let mut spends = |expected, why: &str| {
        let now = requests.load(Ordering::SeqCst);
        assert_eq!(now - spent, expected, "{why}");
        spent = now;
    };
    for _ in 0..3 {
        assert_eq!(reader.labels_for_page(&ids("A B X")).await.expect("reads").pairs.len(), 1);
    }
    spends(2, "the pointer and one page; that X has no labels is remembered too");
    let page_of_three = ids("C D A");
    let pages = (0..20).map(|_| reader.labels_for_page(&page_of_three));
    for page in join_all(pages).await {
        assert_eq!(page.expect("reads").missing, ids("C D"));
    }
    spends(1, "twenty pages at once ask once, for what is new");
    for query in ["Red kettle", " red  KETTLE", "red kettle"] {
        assert_eq!(reader.intent_for(query).await.expect("reads"), None);
    }
    spends(1, "an unknown query is remembered too");
    assert_eq!(reader.duplicates_of(&id("A")).await.expect("reads").expect("labelled").item.pairs.len(), 1);
    spends(0, "both items are here");
}

#[tokio::test]
async fn pages_go_on_under_the_known_model_while_the_pointer_is_out_of_reach() {
    let stub = TableStub::start(|request| match (request.operation.as_str(), request.number) {
        ("GetItem", 0) => Answer::Ok(json!({"Item": {"name": {"S": "model"}, "model": {"S": "pair-1@2"},
            "activation_epoch": {"N": "1"}}})),
        ("GetItem", _) => Answer::Never,
        _ => request.batch_get_half(),
    })
    .await;
    let options = Options { pointer_ttl: Duration::ZERO, ..hasty() };
    let reader = LabelReader::new(stub.client(), "p-", options);
    for _ in 0..2 {
        let page = reader.labels_for_page(&ids("A")).await.expect("reads");
        assert_eq!((page.model, page.missing), (model(), vec![]));
    }
}

/// Reads what was just written, on a machine that may be busy.
fn patient() -> Options {
    Options { deadline: PATIENCE, consistent: true, ..Options::default() }
}

/// Gives up soon, for tables that never answer.
fn hasty() -> Options {
    Options { deadline: Duration::from_millis(300), ..Options::default() }
}

fn ids(separated: &str) -> Vec<ProductId> {
    separated.split_whitespace().map(id).collect()
}

fn pairs(page: &PageLabels) -> Vec<(&str, &str, Verdict)> {
    page.pairs.iter().map(|pair| (pair.first.as_str(), pair.second.as_str(), pair.verdict)).collect()
}

/// Each group as "kept>collapsed".
fn groups(page: &PageLabels) -> Vec<String> {
    let names = |group: &reader::Group| group.collapsed.iter().map(ProductId::as_str).collect::<String>();
    let shown = |group: &reader::Group| match names(group) {
        collapsed if collapsed.is_empty() => group.kept.to_string(),
        collapsed => format!("{}>{collapsed}", group.kept),
    };
    page.groups().iter().map(shown).collect()
}

fn item(owner: &str, text: &str, entries: &[(&str, &str, Verdict)]) -> LabelItem {
    let entry = |&(other, other_text, verdict): &(&str, &str, Verdict)| {
        let entry = PairEntry {
            other_hash: TextHash::of(1, other_text),
            other_version: 1,
            score: 0.9,
            verdict,
            stage: Stage::CrossEncoder,
            labelled_at: Timestamp::UNIX_EPOCH,
        };
        (id(other), entry)
    };
    LabelItem {
        id: id(owner),
        model: model(),
        text_hash: TextHash::of(1, text),
        content_hash: TextHash::of(0, text),
        version: 1,
        pairs: entries.iter().map(entry).collect::<BTreeMap<_, _>>(),
        distinct: vec![],
        overflow: false,
        deleted: false,
        expires_at: None,
        revision: 1,
    }
}
