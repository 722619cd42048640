//! Promise 2c and the limits of one item: what `reconcile` ends in, whatever came before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use consumer::decide::merge::ENTRIES_MAX;
use consumer::flow::{Pipeline, Reconciled};
use consumer::store::{Embedded, Store};
use proptest::prelude::*;
use shared::table::CONTROL;
use shared::{CatalogEvent, Product, ProductId, Verdict};
use tests::deliveries::{Message, body, process, tables};
use tests::fleet::{TextModel, pipeline, stored};
use tests::history::{delete, upsert};
use tests::items::id;
use tests::table_model::{newest, strongest, table_of};

/// Candidates of each product here: far fewer than a group has products.
const CANDIDATES_MAX: usize = 3;
const PRODUCTS: usize = 10;
const CODES: [&str; 2] = ["qx4471z", "mv8835k"];

type States = BTreeMap<ProductId, Option<Product>>;

/// Titles of the same words in another order are equally similar to each other, so that the
/// best candidates of a product are the first ids of its group.
fn title(code: usize, order: usize) -> String {
    let words = ["steel", "kettle", CODES[code]];
    (0..3).map(|n| words[(n + order) % 3]).collect::<Vec<_>>().join(" ")
}

/// Whether `other` is among the first `most` ids that share the code of `own`, without `own`.
fn is_candidate(states: &States, own: &ProductId, other: &ProductId, most: usize) -> bool {
    let code = |product: &Product| CODES.into_iter().find(|code| product.title.contains(code));
    let code_of = |id: &ProductId| states[id].as_ref().and_then(code);
    let group = states.keys().filter(|id| *id != own && code_of(id).is_some() && code_of(id) == code_of(own));
    group.take(most).any(|id| id == other)
}

fn event() -> impl Strategy<Value = CatalogEvent> {
    let content = prop_oneof![6 => (0..CODES.len(), 0..3_usize).prop_map(Some), 1 => Just(None)];
    (0..PRODUCTS, 1..5_u64, content).prop_map(|(product, version, content)| {
        let name = format!("P{product}");
        match content {
            Some((code, order)) => upsert(&name, version, &title(code, order), 1.0),
            None => delete(&name, version),
        }
    })
}

fn worker(tables: Store, model: &TextModel) -> Pipeline {
    let mut pipeline = pipeline(tables, model);
    pipeline.limits.candidates_max = CANDIDATES_MAX;
    pipeline
}

async fn reconcile(pipeline: &Pipeline) -> Reconciled {
    let done = pipeline.reconcile(4, &|_| {}).await.expect("nothing is in its way");
    assert_eq!((done.failed, &done.reasons[..]), (0, &[][..]));
    done
}

/// A second run scores nothing, and writes nothing where no item is too full. Of those that
/// are, it finds out anew what they have room for, and its own workers may cross.
async fn assert_settled(pipeline: &Pipeline) {
    let before = pipeline.store.meter().snapshot();
    let again = reconcile(pipeline).await;
    assert_eq!(again.tally.pairs_scored, 0, "{again:?}");
    if again.tally.overflows == 0 {
        let usage = pipeline.store.meter().snapshot().since(&before);
        // How far it has come is all that it writes down.
        let written = usage.total().write_units - usage.table(&CONTROL).write_units;
        assert_eq!((again.tally.items_written, written), (0, 0.0), "{again:?}");
    }
}

#[test]
fn promise_2c_reconcile_ends_in_the_union_of_best_candidates() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let engine = Embedded::memory().expect("memory needs nothing");
    let number = AtomicUsize::new(0);
    let config =
        ProptestConfig { cases: 24, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() };
    proptest!(config, |(history in prop::collection::vec(event(), 8..40))| {
        let case = number.fetch_add(1, Ordering::SeqCst);
        runtime.block_on(async {
            let store = tables(&engine, &format!("case{case}-")).await;
            let model = TextModel::new(&format!("model {case}"));
            process(&store, |tables, _| worker(tables, &model), history.iter().map(Message::of).collect()).await;
            let pipeline = worker(store.clone(), &model);
            reconcile(&pipeline).await;
            let states = newest(&history);
            let is_pair = |own: &ProductId, other: &ProductId| is_candidate(&states, own, other, CANDIDATES_MAX);
            let expected = table_of(&states, is_pair, |left, right| model.score(left, right));
            assert_eq!(stored(&store, states.keys(), &model).await, expected, "{history:#?}");
            assert_settled(&pipeline).await;
        });
    });
}

/// Look-alikes of one product, as many as name it among their candidates.
#[tokio::test]
async fn a_full_item_says_overflow_and_reconcile_fills_it_up_after_deletes() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "full-").await;
    let model = duplicate_model();
    let pipeline = worker(store.clone(), &model);
    let mut history: Vec<CatalogEvent> =
        (0..ENTRIES_MAX + 12).map(|n| upsert(&format!("P{n:02}"), 1, &title(0, 0), 1.0)).collect();
    process(&store, |tables, _| worker(tables, &model), history.iter().map(Message::of).collect()).await;
    let hub = id("P00");
    assert!(store.label_item(&hub, &model.id).await.expect("reads").expect("is labelled").overflow);

    // First so many that it is full again, then so many that it has room.
    for gone in [4..8, 8..20] {
        let deletes: Vec<CatalogEvent> = gone.map(|n| delete(&format!("P{n:02}"), 2)).collect();
        process(&store, |tables, _| worker(tables, &model), deletes.iter().map(Message::of).collect()).await;
        history.extend(deletes);
        let scored = model.pairs_scored();
        reconcile(&pipeline).await;
        assert_eq!(model.pairs_scored(), scored, "every pair that came in was labelled on its other side");
        let (is_full, entries) = assert_strongest(&store, &history, &model).await;
        assert_eq!(is_full.contains(&hub), entries == ENTRIES_MAX);
        assert_settled(&pipeline).await;
        assert_strongest(&store, &history, &model).await;
    }
}

/// A pair of which only the side that came later knows that it is distinct.
#[tokio::test]
async fn promise_2c_a_distinct_pair_is_not_scored_again_from_its_other_side() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "distinct-").await;
    let model = model_that_says(Verdict::Distinct);
    let pipeline = worker(store.clone(), &model);
    for n in 0..CANDIDATES_MAX {
        let event = upsert(&format!("P{n}"), 1, &title(0, 0), 1.0);
        pipeline.process(&body(&event), 1).await.expect("nothing is in its way");
    }
    let pairs = (CANDIDATES_MAX * (CANDIDATES_MAX - 1) / 2) as i64;
    assert_eq!(model.pairs_scored(), pairs);
    let done = reconcile(&pipeline).await;
    assert_eq!((model.pairs_scored(), done.tally.pairs_skipped), (pairs, 2 * pairs as u64));
    assert_settled(&pipeline).await;
}

fn duplicate_model() -> TextModel {
    model_that_says(Verdict::Duplicate)
}

/// A model with this verdict on equal texts.
fn model_that_says(verdict: Verdict) -> TextModel {
    let text = "steel kettle qx4471z";
    let models = (0..).map(|n| TextModel::new(&format!("model {n}")));
    models.into_iter().find(|model| model.score(text, text).1 == verdict).expect("one of three does")
}

/// Compares every item and its `overflow` with what brute force says; which are full, and
/// the entries of P00.
async fn assert_strongest(store: &Store, history: &[CatalogEvent], model: &TextModel) -> (BTreeSet<ProductId>, usize) {
    let states = newest(history);
    let is_pair = |own: &ProductId, other: &ProductId| is_candidate(&states, own, other, CANDIDATES_MAX);
    let (expected, full) = strongest(table_of(&states, is_pair, |left, right| model.score(left, right)), ENTRIES_MAX);
    assert_eq!(stored(store, states.keys(), model).await, expected);
    for id in expected.keys() {
        let item = store.label_item(id, &model.id).await.expect("reads").expect("is labelled");
        assert_eq!(item.overflow, full.contains(id), "{id}");
    }
    let entries = expected[&id("P00")].1.len();
    (full, entries)
}

#[tokio::test]
async fn a_pair_that_was_asked_for_by_name_lasts_until_reconcile() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "named-").await;
    let model = duplicate_model();
    let pipeline = worker(store.clone(), &model);
    for n in 0..8 {
        let event = upsert(&format!("P{n}"), 1, &title(0, 0), 1.0);
        pipeline.process(&body(&event), 1).await.expect("nothing is in its way");
    }
    let named = tests::events::score_pairs(1, &[("P6", "P7")]).to_string();
    pipeline.process(&named, 1).await.expect("both are known");
    let has_entry = async |own: &str, other: &str| {
        let item = store.label_item(&id(own), &model.id).await.expect("reads").expect("is labelled");
        item.pairs.contains_key(&id(other))
    };
    assert!(has_entry("P6", "P7").await && has_entry("P7", "P6").await);
    reconcile(&pipeline).await;
    assert!(!has_entry("P6", "P7").await && !has_entry("P7", "P6").await);
    assert!(has_entry("P6", "P0").await && has_entry("P0", "P6").await);
}
