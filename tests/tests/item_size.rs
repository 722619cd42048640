//! Limits of one label item, by its size as DynamoDB counts it.

use aws_sdk_dynamodb::types::AttributeValue;
use consumer::decide::merge::{self, ENTRIES_MAX, Merged, Owner};
use consumer::store::Embedded;
use shared::item::LabelItem;
use shared::table::LABELS;
use shared::{PairLabel, ProductId, Stage, TextHash, Verdict};
use tests::items::{id, state};

const LOOK_ALIKES: usize = 10_000;

/// The longest ids there are.
fn name(n: usize) -> ProductId {
    id(&format!("{n:0>64}"))
}

/// A label of the largest kind; the higher the number, the stronger.
fn label(n: usize, verdict: Verdict) -> PairLabel {
    PairLabel {
        other: name(n),
        other_hash: TextHash::of(0, &n.to_string()),
        other_version: u64::MAX,
        score: 0.123_456_79 + n as f32 / 20_000.0,
        verdict,
        stage: Stage::CrossEncoder,
        labelled_at: "2026-11-24T10:57:53.123456789Z".parse().expect("a time"),
    }
}

fn owner() -> Owner {
    let own = state(name(0).as_str(), u64::MAX, "own");
    Owner::of(&own, &shared::ModelId("m".repeat(64)))
}

fn assert_strongest(item: &LabelItem) {
    let kept: Vec<ProductId> = (LOOK_ALIKES + 1 - ENTRIES_MAX..=LOOK_ALIKES).map(name).collect();
    assert_eq!(item.pairs.keys().cloned().collect::<Vec<_>>(), kept, "the strongest");
    assert!(item.overflow);
}

/// As they come: each from its own event, in no order, some of them twice.
#[test]
fn of_10000_look_alikes_that_come_one_by_one_the_strongest_stay() {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut order: Vec<usize> = (1..=LOOK_ALIKES).chain((1..=LOOK_ALIKES).step_by(7)).collect();
    rng.shuffle(&mut order);
    let mut item = None;
    for n in order {
        match merge::other_side(item.as_ref(), &owner(), &label(n, Verdict::Duplicate)) {
            Merged::Write(next) => item = Some(next),
            Merged::Unchanged => {}
            Merged::Stale => panic!("its owner has not changed"),
        }
        assert!(item.as_ref().is_some_and(|item: &LabelItem| item.pairs.len() <= ENTRIES_MAX));
    }
    let item = item.expect("it has entries");
    assert_strongest(&item);
    let is_few = (ENTRIES_MAX + 1..LOOK_ALIKES / 10).contains(&(item.revision as usize));
    assert!(is_few, "stronger ones drive weaker ones out, and what is too weak costs no write: {}", item.revision);
}

#[tokio::test]
async fn promise_10_an_item_stays_below_8_kb_with_10000_look_alikes() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = engine.store("large-");
    store.create_tables().await.expect("the tables are created");
    let distinct = (20_000..21_000).map(|n| label(n, Verdict::Distinct));
    let labels: Vec<PairLabel> = (1..=LOOK_ALIKES).map(|n| label(n, Verdict::Duplicate)).chain(distinct).collect();
    let Merged::Write(item) = merge::own(None, &owner(), &labels, &[]) else { panic!("there is something to write") };
    assert_strongest(&item);

    store.put_label_item(&item).await.expect("writes");
    let request = store.client().scan().table_name(LABELS.physical_name(store.prefix()));
    let items = request.send().await.expect("scans").items.expect("one item");
    let bytes: usize = items[0].iter().map(|(name, value)| name.len() + size_bytes(value)).sum();
    assert!((7_000..8_192).contains(&bytes), "{bytes} bytes");
}

/// By "DynamoDB item sizes and formats" of the developer guide.
fn size_bytes(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        AttributeValue::N(number) => number.trim_matches(['0', '.', '-']).len().div_ceil(2) + 1,
        AttributeValue::Bool(_) | AttributeValue::Null(_) => 1,
        AttributeValue::M(map) => 3 + map.iter().map(|(name, value)| 1 + name.len() + size_bytes(value)).sum::<usize>(),
        other => panic!("label items hold no {other:?}"),
    }
}
