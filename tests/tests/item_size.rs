//! Limits of one label item, by its size as DynamoDB counts it.

use aws_sdk_dynamodb::types::AttributeValue;
use consumer::decide::merge::{self, ENTRIES_MAX, Merged, Owner};
use consumer::store::Embedded;
use shared::table::LABELS;
use shared::{PairLabel, ProductId, Stage, TextHash, Verdict};
use tests::items::{id, state};

#[tokio::test]
async fn promise_10_an_item_stays_below_8_kb_with_10000_look_alikes() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = engine.store("large-");
    store.create_tables().await.expect("the tables are created");
    let name = |n: usize| id(&format!("{n:0>64}"));
    let long_ago = "2026-11-24T10:57:53.123456789Z".parse().expect("a time");
    let label = |n: usize, verdict| PairLabel {
        other: name(n),
        other_hash: TextHash::of(0, &n.to_string()),
        other_version: u64::MAX,
        score: 0.123_456_79 + n as f32 / 20_000.0,
        verdict,
        stage: Stage::CrossEncoder,
        labelled_at: long_ago,
    };
    let own = state(name(0).as_str(), u64::MAX, "own");
    let owner = Owner::of(&own, &shared::ModelId("m".repeat(64)));
    let distinct = (20_000..21_000).map(|n| label(n, Verdict::Distinct));
    let labels: Vec<PairLabel> = (1..=10_000).map(|n| label(n, Verdict::Duplicate)).chain(distinct).collect();
    let Merged::Write(item) = merge::own(None, &owner, &labels, &[]) else { panic!("there is something to write") };
    let kept: Vec<ProductId> = (10_001 - ENTRIES_MAX..=10_000).map(name).collect();
    assert_eq!(item.pairs.keys().cloned().collect::<Vec<_>>(), kept, "the strongest");
    assert!(item.overflow);

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
