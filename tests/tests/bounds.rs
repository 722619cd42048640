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
/// Requests of an event besides its candidate search: the state read and written, the state
/// and the label item read again, the partners, postings in two batches, the own labels, the
/// marker.
const OTHER_REQUESTS_MAX: u64 = 10;

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
    // Every key to its limit, and the texts of the candidates: at the bound, not over it.
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
    let models = (0..1_000).map(|n| TextModel::new(&format!("model {n}")));
    let mut duplicates = models.into_iter().filter(|model| model.score(&text(), &text()).1 == Verdict::Duplicate);
    duplicates.next().expect("one of three is")
}

#[tokio::test]
async fn an_event_among_hot_keys_has_a_bounded_fan_out() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "fan-").await;
    heat(&store).await;
    let worker = pipeline(store.clone(), &duplicate_model());
    let most = Limits::default().candidates_max as u64;
    let cost = async |event: &shared::CatalogEvent| -> (Usage, Usage) {
        let before = store.meter().snapshot();
        let done = worker.process(&body(event), 1).await.expect("nothing is in its way");
        assert_eq!(done.outcome, Outcome::Written);
        assert!(done.tally.pairs_scored <= most);
        let usage = store.meter().snapshot().since(&before);
        (usage.total(), usage.table(&LABELS))
    };
    // Every candidate a duplicate: as many other sides as there can be.
    let (usage, labels) = cost(&upsert("own", 1, TITLE, 1.0)).await;
    assert_eq!(labels.write_requests, most + 1, "the own side and each other one");
    let lookup = Limits::default().requests_max as u64;
    assert!(usage.requests() <= lookup + OTHER_REQUESTS_MAX + 2 * most, "{usage:?}");
    assert!(usage.items_read <= Limits::default().items_max as u64 + 2 * most + 4, "{usage:?}");
    let (usage, labels) = cost(&delete("own", 2)).await;
    assert_eq!(labels.write_requests, most + 1, "the own side and each other one");
    assert!(usage.requests() <= OTHER_REQUESTS_MAX + 2 * most, "{usage:?}");
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
