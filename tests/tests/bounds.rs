//! What one event may cost, whatever the catalog holds: hot keys on every side.

use consumer::decide::blocking::{KeyEpoch, Limits, posting_keys, query_keys, sketch};
use consumer::flow::{Outcome, candidates};
use consumer::store::{Embedded, Store, Usage};
use shared::Verdict;
use shared::item::Posting;
use shared::table::{LABELS, POSTINGS, PRODUCTS};
use tests::deliveries::{body, tables};
use tests::fleet::{TextModel, pipeline};
use tests::history::{delete, upsert};
use tests::items::{id, state};

/// A title with as many keys as a look-up reads.
const TITLE: &str = "fenwick electric kettle fk-2714ss steel cordless jug 1.7 litre va354824my";
/// Products under each key: more than any look-up reads of one.
const HOT: usize = 40;
/// Items that an event reads besides those of its look-up: its state and label item, and the
/// label item of each candidate.
const OTHER_ITEMS: u64 = 2;
/// Requests of a delete: the state read and written, the postings, the label items of both sides,
/// one transaction, and the marker.
const DELETE_REQUESTS: u64 = 7;

/// Fills every key of [`TITLE`] with other products, all of them look-alikes.
async fn heat(store: &Store) {
    let (text, epoch) = (text(), KeyEpoch::shipped());
    let sketch = sketch(&text, epoch);
    let mut postings = Vec::new();
    for (key_number, key) in posting_keys(&text, epoch).into_iter().enumerate() {
        for n in 0..HOT {
            let other = id(&format!("H{key_number:02}-{n:02}"));
            store.put_state(&state(other.as_str(), 1, &text), None).await.expect("writes");
            postings.push(Posting { key: key.clone(), id: other, sketch: Some(sketch.clone()) });
        }
    }
    store.put_postings(&postings).await.expect("writes");
}

fn text() -> String {
    let product = shared::Product { title: TITLE.to_owned(), ..shared::Product::default() };
    shared::ProductText::of(&product).text
}

#[tokio::test]
async fn a_look_up_among_hot_keys_stays_within_its_limits() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "hot-").await;
    heat(&store).await;
    let (limits, epoch) = (Limits::default(), KeyEpoch::shipped());
    assert_eq!((limits.requests_max, limits.candidates_max, limits.items_max), (16, 20, 400));
    let keys = query_keys(&text(), epoch, &limits).len();
    assert_eq!(keys, limits.keys_max(), "the title asks for as many keys as it may");

    let before = store.meter().snapshot();
    let found = candidates(&store, epoch, &limits, &state("own", 1, &text())).await.expect("reads");
    let read = store.meter().snapshot().since(&before);
    let usage = read.total();
    assert_eq!(found.len(), limits.candidates_max);
    // Every key to its limit, and the texts of the candidates, not one item more.
    let items = keys * limits.limit_per_key(keys) + limits.candidates_max;
    assert_eq!((usage.requests(), usage.items_read), (keys as u64 + 1, items as u64));
    assert!(usage.requests() <= limits.requests_max as u64 && usage.items_read <= limits.items_max as u64);
    assert_eq!(read.table(&PRODUCTS).items_read, limits.candidates_max as u64);
    // 4 KB each at most: the units do not grow with the catalog either.
    assert!(usage.read_units > 0.0 && usage.read_units <= usage.items_read as f64, "{usage:?}");
    assert_eq!(usage.write_units, 0.0);
}

/// A model that takes every candidate here for a duplicate.
fn duplicate_model() -> TextModel {
    let renewed = format!("{} renewed", text());
    let says_duplicate = |model: &TextModel| {
        [&text(), &renewed].into_iter().all(|own| model.score(own, &text()).1 == Verdict::Duplicate)
    };
    (0..).map(|n| TextModel::new(&format!("model {n}"))).find(says_duplicate).expect("one in nine does")
}

#[tokio::test]
async fn an_event_among_hot_keys_has_a_bounded_fan_out() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "fan-").await;
    heat(&store).await;
    let model = duplicate_model();
    let worker = pipeline(store.clone(), &model);
    let most = Limits::default().candidates_max as u64;
    let cost = async |event: &shared::CatalogEvent| -> (Usage, Usage) {
        let before = store.meter().snapshot();
        let done = worker.process(&body(event), 1).await.expect("nothing is in its way");
        assert_eq!(done.outcome, Outcome::Written);
        assert!(done.tally.pairs_scored <= most);
        let usage = store.meter().snapshot().since(&before);
        (usage.total(), usage.table(&LABELS))
    };
    let limits = Limits::default();
    // Every candidate a duplicate: as many other sides as there can be, first none of which has
    // labels yet, then under another text.
    for (version, title) in [(1, TITLE.to_owned()), (2, format!("{TITLE} renewed"))] {
        let (usage, labels) = cost(&upsert("own", version, &title, 1.0)).await;
        assert_eq!(labels.write_requests, 1, "both sides of all pairs together");
        assert_eq!(usage.requests(), limits.requests_max as u64, "{usage:?}");
        assert!(usage.items_read <= limits.items_max as u64 + most + OTHER_ITEMS, "{usage:?}");
        let item = store.label_item(&id("own"), &model.id).await.expect("reads").expect("is labelled");
        assert_eq!(item.pairs.len() as u64, most);
    }
    let (usage, labels) = cost(&delete("own", 3)).await;
    assert_eq!((usage.requests(), labels.write_requests), (DELETE_REQUESTS, 1), "{usage:?}");
    let left = store.label_items(&[(id("H00-00"), model.id.clone())]).await.expect("reads");
    assert!(left.iter().all(|item| item.pairs.is_empty()), "{left:?}");
}

/// The hottest key a catalog can have still holds one small item a product, under a
/// partition key of its own for each key: no list grows, and none is rewritten.
#[tokio::test]
async fn a_hot_key_costs_its_writers_one_small_item_each() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "key-").await;
    let model = TextModel::new("m");
    let mut units = Vec::new();
    for n in 0..60 {
        let before = store.meter().snapshot();
        let event = upsert(&format!("P{n:02}"), 1, TITLE, 1.0);
        pipeline(store.clone(), &model).process(&body(&event), 1).await.expect("nothing is in its way");
        units.push(store.meter().snapshot().since(&before).table(&POSTINGS).write_units);
    }
    assert!(units[0] > 0.0);
    assert_eq!(units.first(), units.last(), "the sixtieth product pays what the first did");
}
