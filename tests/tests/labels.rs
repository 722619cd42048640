//! What a label says, and what writing it costs: the items of both products of a pair after the
//! real pipeline, for each verdict and each stage.

use std::collections::BTreeSet;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use consumer::flow::{Pipeline, Score};
use consumer::store::{Embedded, Store};
use jiff::Timestamp;
use models::{IntentScore, PairScore, ScoreError, TextPair};
use serde_json::Value;
use shared::item::LabelItem;
use shared::table::LABELS;
use shared::{CatalogEvent, ModelId, Product, ProductText, Stage, Verdict};
use tests::deliveries::{body, tables};
use tests::fleet::{TextModel, pipeline};
use tests::history::upsert;
use tests::items::id;
use tests::recorded::{Recording, Sent};

/// Titles of A and B, and the versions of the events that bring them.
const TITLES: [&str; 2] = ["kettle qx4471z", "steel kettle qx4471z"];
const VERSIONS: [u64; 2] = [3, 7];
/// What the workers' clock says.
const NOW: i64 = 2_000_000_000;

/// A model whose labels of pairs all come from one stage.
#[derive(Clone)]
struct Staged {
    model: TextModel,
    stage: Stage,
}

#[async_trait]
impl Score for Staged {
    fn model_id(&self) -> &ModelId {
        &self.model.id
    }

    async fn score_pairs(&self, pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError> {
        let scores = self.model.score_pairs(pairs).await?;
        Ok(scores.into_iter().map(|score| PairScore { stage: self.stage, ..score }).collect())
    }

    async fn score_queries(&self, queries: Vec<String>) -> Result<Vec<IntentScore>, ScoreError> {
        self.model.score_queries(queries).await
    }

    async fn probe(&self) -> Result<(), ScoreError> {
        Ok(())
    }
}

fn texts() -> [ProductText; 2] {
    TITLES.map(|title| ProductText::of(&Product { title: title.to_owned(), ..Product::default() }))
}

/// A model that has this verdict on A and B.
fn model_that_says(verdict: Verdict) -> TextModel {
    let [a, b] = texts();
    let says = |model: &TextModel| model.score(&a.text, &b.text).1 == verdict;
    (0..).map(|n| TextModel::new(&format!("model {n}"))).find(says).expect("one in three does")
}

fn worker(store: &Store, model: &Staged) -> Pipeline {
    let clock = || Timestamp::from_second(NOW).expect("a time");
    Pipeline { clock, scorer: Box::new(model.clone()), ..pipeline(store.clone(), &model.model) }
}

fn events() -> [CatalogEvent; 2] {
    [upsert("A", VERSIONS[0], TITLES[0], 1.0), upsert("B", VERSIONS[1], TITLES[1], 1.0)]
}

async fn item(store: &Store, name: &str, model: &Staged) -> LabelItem {
    store.label_item(&id(name), &model.model.id).await.expect("reads").expect("is labelled")
}

/// An item's attributes as any client reads them.
async fn attributes(store: &Store, name: &str, model: &Staged) -> std::collections::HashMap<String, AttributeValue> {
    let request = store.client().get_item().table_name(LABELS.physical_name(store.prefix())).consistent_read(true);
    let request = request.key("id", AttributeValue::S(name.to_owned()));
    let request = request.key("model", AttributeValue::S(model.model.id.0.clone()));
    request.send().await.expect("reads").item.expect("is labelled")
}

/// Duplicate and review labels stand on both sides, each in full.
#[tokio::test]
async fn each_label_says_score_verdict_stage_hashes_version_and_time() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let text = |value: &str| AttributeValue::S(value.to_owned());
    let number = |value: u64| AttributeValue::N(value.to_string());
    for verdict in [Verdict::Duplicate, Verdict::Review] {
        for stage in [Stage::Cascade, Stage::CrossEncoder] {
            let store = tables(&engine, &format!("says-{}-{}-", verdict.as_str(), stage.as_str())).await;
            let model = Staged { model: model_that_says(verdict), stage };
            for event in events() {
                worker(&store, &model).process(&body(&event), 1).await.expect("nothing is in its way");
            }
            let [a, b] = texts();
            let (score, _) = model.model.score(&a.text, &b.text);
            for (own, other, [own_text, other_text], [own_version, other_version]) in
                [("A", "B", [&a, &b], VERSIONS), ("B", "A", [&b, &a], [VERSIONS[1], VERSIONS[0]])]
            {
                let item = attributes(&store, own, &model).await;
                assert_eq!(item["text_hash"], text(&own_text.hash.to_hex()), "{own}: {item:?}");
                assert_eq!(item["version"], number(own_version), "{own}: {item:?}");
                let entry = item["pairs"].as_m().expect("a map")[other].as_m().expect("a map");
                let names: BTreeSet<&str> = entry.keys().map(String::as_str).collect();
                let all = ["labelled_at", "other_hash", "other_version", "score", "stage", "verdict"];
                assert_eq!(names, BTreeSet::from(all), "{own}");
                assert_eq!(entry["other_hash"], text(&other_text.hash.to_hex()), "{own}");
                assert_eq!(entry["other_version"], number(other_version), "{own}");
                assert_eq!(entry["score"].as_n().expect("a number").parse(), Ok(score), "{own}");
                assert_eq!(entry["verdict"], text(verdict.as_str()), "{own}");
                assert_eq!(entry["stage"], text(stage.as_str()), "{own}");
                let labelled_at: Timestamp = entry["labelled_at"].as_s().expect("text").parse().expect("a time");
                assert_eq!(labelled_at.as_second(), NOW, "{own}");
            }
        }
    }
}

/// A negative is eight bytes on the side that scored it, which say by which stage, and go on
/// saying it once the other side has taken them over.
#[tokio::test]
async fn a_distinct_pair_is_eight_bytes_that_keep_its_stage() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let [a, b] = texts();
    for stage in [Stage::Cascade, Stage::CrossEncoder] {
        let store = tables(&engine, &format!("distinct-{}-", stage.as_str())).await;
        let model = Staged { model: model_that_says(Verdict::Distinct), stage };
        let worker = worker(&store, &model);
        for event in events() {
            worker.process(&body(&event), 1).await.expect("nothing is in its way");
        }
        let raw = attributes(&store, "B", &model).await;
        assert_eq!(raw["distinct"].as_b().expect("one Binary").as_ref().len(), 8);
        assert!(raw["pairs"].as_m().expect("a map").is_empty());
        assert_eq!(item(&store, "B", &model).await.distinct_stage(&id("A"), a.hash), Some(stage));
        assert!(item(&store, "A", &model).await.distinct.is_empty(), "A came first, and scored nothing");

        let scored = model.model.pairs_scored();
        worker.reconcile(1, &|_| {}).await.expect("nothing is in its way");
        assert_eq!(model.model.pairs_scored(), scored, "A takes over what B knows");
        for (own, other, hash) in [("A", "B", b.hash), ("B", "A", a.hash)] {
            assert_eq!(item(&store, own, &model).await.distinct_stage(&id(other), hash), Some(stage), "{own}");
        }
    }
}

/// The products whose label items each request puts, in order.
fn label_writes(sent: &[Sent], store: &Store) -> Vec<(String, Vec<String>)> {
    let table = LABELS.physical_name(store.prefix());
    let mut writes = Vec::new();
    for Sent { operation, body } in sent {
        let parts = body["TransactItems"].as_array().map(|parts| parts.iter().map(|part| &part["Put"]).collect());
        let puts: Vec<&Value> = parts.unwrap_or_else(|| vec![body]);
        let of_labels = puts.into_iter().filter(|put| put["TableName"] == table.as_str());
        let ids: Vec<String> = of_labels.filter_map(|put| put["Item"]["id"]["S"].as_str().map(str::to_owned)).collect();
        if !ids.is_empty() {
            writes.push((operation.clone(), ids));
        }
    }
    writes
}

#[tokio::test]
async fn an_event_writes_its_own_side_once_and_the_other_for_duplicates_and_reviews_only() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let [first, second] = events();
    for verdict in [Verdict::Distinct, Verdict::Review, Verdict::Duplicate] {
        let store = tables(&engine, &format!("writes-{}-", verdict.as_str())).await;
        let model = Staged { model: model_that_says(verdict), stage: Stage::CrossEncoder };
        worker(&store, &model).process(&body(&first), 1).await.expect("nothing is in its way");
        let before = item(&store, "A", &model).await;
        let recording = Recording::default();
        worker(&recording.of(&store), &model).process(&body(&second), 1).await.expect("nothing is in its way");

        let expected = match verdict {
            Verdict::Distinct => ("PutItem".to_owned(), vec!["B".to_owned()]),
            Verdict::Review | Verdict::Duplicate => {
                ("TransactWriteItems".to_owned(), ["B", "A"].map(str::to_owned).to_vec())
            }
        };
        assert_eq!(label_writes(&recording.sent(), &store), [expected], "{verdict:?}");
        let after = item(&store, "A", &model).await;
        assert_eq!(after.pairs.contains_key(&id("B")), verdict != Verdict::Distinct, "{verdict:?}");
        assert_eq!(after == before, verdict == Verdict::Distinct, "{verdict:?}");
    }
}
