//! Queries: one label for all ways to write one, and no inference while it lives.

use std::time::Duration;

use consumer::flow::Outcome;
use consumer::store::{Embedded, Store};
use tests::events::query;
use tests::fleet::{TextModel, pipeline};

async fn tables() -> (Embedded, Store) {
    let embedded = Embedded::memory().expect("memory needs nothing");
    let store = embedded.store("queries-");
    store.create_tables().await.expect("creates");
    (embedded, store)
}

#[tokio::test]
async fn queries_that_differ_in_writing_only_are_one_and_cost_one_inference() {
    let (_embedded, store) = tables().await;
    let model = TextModel::new("m");
    let worker = pipeline(store.clone(), &model);
    // Case, white space, a full-width letter and a ligature.
    let ways = ["Wireless Office kettle", "  wireless\toffice  KETTLE ", "ｗireless oﬃce kettle"];
    let mut outcomes = Vec::new();
    for (number, text) in ways.into_iter().enumerate() {
        let event = query(text, 1 + number as u64).to_string();
        outcomes.push(worker.process(&event, 1).await.expect("labelled").outcome);
    }
    assert_eq!(outcomes, [Outcome::Written, Outcome::Unchanged, Outcome::Unchanged]);
    assert_eq!(model.queries_scored(), 1);
    let stored = store.intent("wireless office kettle", &model.id).await.expect("reads").expect("labelled");
    assert_eq!(stored.version, 1);
    worker.process(&query("wireless office kettles", 1).to_string(), 1).await.expect("labelled");
    assert_eq!(model.queries_scored(), 2, "another word is another query");
}

#[tokio::test]
async fn a_query_is_scored_again_once_its_label_has_expired_or_the_model_is_another() {
    let (_embedded, store) = tables().await;
    let (model, next) = (TextModel::new("m"), TextModel::new("n"));
    let event = query("red kettle", 1).to_string();
    let mut brief = pipeline(store.clone(), &model);
    brief.intent_ttl = Duration::ZERO;
    for scored in 1..=2 {
        assert_eq!(brief.process(&event, 1).await.expect("labelled").outcome, Outcome::Written);
        assert_eq!(model.queries_scored(), scored, "the label is dead as soon as it is written");
    }
    let worker = pipeline(store.clone(), &next);
    for outcome in [Outcome::Written, Outcome::Unchanged] {
        assert_eq!(worker.process(&event, 1).await.expect("labelled").outcome, outcome);
    }
    assert_eq!(next.queries_scored(), 1);
}
