//! Many workers change products that share all of their keys at once: what a hot block key costs
//! the partition that it lies in, and that nothing is lost for it.

use std::collections::{BTreeMap, BTreeSet};

use consumer::decide::blocking::{KeyEpoch, KeyEpochs, Limits, posting_keys};
use consumer::store::{Embedded, Store};
use serde_json::Value;
use shared::item::{LabelItem, SKETCH_BYTES_MAX};
use shared::{CatalogEvent, Product, ProductText, Verdict};
use tests::converged::stored_postings;
use tests::deliveries::{Message, process, tables};
use tests::fleet::{TextModel, pipeline};
use tests::history::upsert;
use tests::items::id;
use tests::recorded::{Recording, Sent};

/// More products than a look-up reads of one key.
const PRODUCTS: usize = 44;
/// With as many keys as a product may have.
const TITLE: &str = "fenwick electric kettle fk-2714ss steel cordless jug 1.7 litre va354824my";
/// Longest id and key with a sketch and the names of the attributes.
const POSTING_BYTES_MAX: usize = SKETCH_BYTES_MAX + 200;

fn text() -> String {
    ProductText::of(&Product { title: TITLE.to_owned(), ..Product::default() }).text
}

fn events() -> Vec<CatalogEvent> {
    (0..PRODUCTS).map(|n| upsert(&format!("P{n:02}"), 1, TITLE, 1.0)).collect()
}

/// The same events by several workers at once; what they sent.
async fn at_once(store: &Store, model: &TextModel) -> Vec<Sent> {
    let recording = Recording::default();
    let worker = |tables: Store, _| pipeline(recording.of(&tables), model);
    process(store, worker, events().iter().map(Message::of).collect()).await;
    recording.sent()
}

/// The postings that these requests put, by partition key, each with its size in bytes.
fn postings_put(sent: &[Sent]) -> BTreeMap<String, Vec<usize>> {
    let mut sizes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for sent in sent.iter().filter(|sent| sent.operation == "BatchWriteItem") {
        let tables = sent.body["RequestItems"].as_object().expect("tables");
        for write in tables.values().flat_map(|writes| writes.as_array().expect("writes")) {
            let item = &write["PutRequest"]["Item"];
            if let Some(key) = item["key"]["S"].as_str() {
                sizes.entry(key.to_owned()).or_default().push(item.to_string().len());
            }
        }
    }
    sizes
}

/// The keys that these requests looked up, and how many postings each asked for at most.
fn look_ups(sent: &[Sent]) -> Vec<(String, u64)> {
    let queries = sent.iter().filter(|sent| sent.operation == "Query");
    let look_up = |body: &Value| {
        let key = body["ExpressionAttributeValues"][":key"]["S"].as_str()?;
        Some((key.to_owned(), body["Limit"].as_u64().expect("every look-up has a limit")))
    };
    queries.filter_map(|sent| look_up(&sent.body)).collect()
}

#[tokio::test]
async fn the_load_of_hot_keys_spreads_evenly_over_their_partitions() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "spread-").await;
    let sent = at_once(&store, &TextModel::new("m")).await;
    let keys: BTreeSet<String> = posting_keys(&text(), KeyEpoch::shipped()).into_iter().collect();

    // No key is written more often than another, and never more than one small item at a time:
    // a hot key takes its share of the writes, a tenth here, as one write unit an event.
    let put = postings_put(&sent);
    assert_eq!(put.keys().cloned().collect::<BTreeSet<_>>(), keys);
    let writes: BTreeSet<usize> = put.values().map(Vec::len).collect();
    assert_eq!(writes.len(), 1, "{writes:?}");
    assert!(put.values().flatten().all(|bytes| *bytes <= POSTING_BYTES_MAX), "{put:?}");

    // No key is read more often than another, and never more of it than its share of the limit.
    let limits = Limits::default();
    let mut reads: BTreeMap<String, usize> = BTreeMap::new();
    for (key, limit) in look_ups(&sent) {
        assert!(limit <= limits.limit_per_key(keys.len()) as u64, "{key}: {limit}");
        *reads.entry(key).or_default() += 1;
    }
    assert_eq!(reads.keys().cloned().collect::<BTreeSet<_>>(), keys);
    assert_eq!(reads.values().collect::<BTreeSet<_>>().len(), 1, "{reads:?}");
}

#[tokio::test]
async fn nothing_is_lost_when_products_of_the_same_hot_keys_change_at_once() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "lost-").await;
    let says_duplicate = |model: &TextModel| model.score(&text(), &text()).1 == Verdict::Duplicate;
    let model = (0..).map(|n| TextModel::new(&format!("model {n}"))).find(says_duplicate).expect("one in three does");
    at_once(&store, &model).await;
    let expected: BTreeSet<(String, String)> = events()
        .iter()
        .enumerate()
        .flat_map(|(n, _)| {
            KeyEpochs::shipped().posting_keys(&text()).into_iter().map(move |key| (key, format!("P{n:02}")))
        })
        .collect();
    assert_eq!(stored_postings(&store).await, expected);

    let (score, verdict) = model.score(&text(), &text());
    for n in 0..PRODUCTS {
        let own = id(&format!("P{n:02}"));
        let item: LabelItem = store.label_item(&own, &model.id).await.expect("reads").expect("is labelled");
        assert!(!item.pairs.is_empty(), "{own} has look-alikes");
        for (other, entry) in &item.pairs {
            assert_eq!((entry.score, entry.verdict), (score, verdict), "{own}, {other}");
        }
        let state = store.product(&own).await.expect("reads").expect("is known");
        assert!(state.labelled.contains_key(&model.id), "{own} was labelled to the end");
    }
}
