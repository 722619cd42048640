//! Queries: one label for all ways to write one, and no inference while it lives.

use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, TimeToLiveStatus};
use consumer::flow::{Outcome, Pipeline};
use consumer::store::{Embedded, Store};
use jiff::Timestamp;
use shared::Stage;
use shared::table::INTENTS;
use tests::events::query;
use tests::fleet::{PLAIN, TextModel, pipeline};

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

#[tokio::test]
async fn an_intent_says_which_stage_decided() {
    let (_embedded, store) = tables().await;
    let model = TextModel::new("m");
    let worker = pipeline(store.clone(), &model);
    for (text, stage) in [("red kettle", Stage::CrossEncoder), (&*format!("{PLAIN} kettle"), Stage::Cascade)] {
        let tally = worker.process(&query(text, 1).to_string(), 1).await.expect("labelled").tally;
        assert_eq!((tally.queries_scored, tally.queries_settled), (1, u64::from(stage == Stage::Cascade)));
        let stored = store.intent(text, &model.id).await.expect("reads").expect("labelled");
        assert_eq!(stored.stage, stage);
    }
}

/// DynamoDB removes it by the attribute that the table's TTL names.
#[tokio::test]
async fn the_label_of_a_query_has_a_ttl() {
    const NOW: i64 = 2_000_000_000;
    const TTL: Duration = Duration::from_secs(90 * 24 * 3_600);
    let (_embedded, store) = tables().await;
    let clock = || Timestamp::from_second(NOW).expect("a time");
    let model = TextModel::new("m");
    let worker = Pipeline { clock, intent_ttl: TTL, ..pipeline(store.clone(), &model) };
    let mut event = query(" Red  KETTLE", 1);
    event["occurred_at"] = Timestamp::UNIX_EPOCH.to_string().into();
    worker.process(&event.to_string(), 1).await.expect("labelled");

    let table = INTENTS.physical_name(store.prefix());
    let request = store.client().get_item().table_name(&table).consistent_read(true);
    let request = request.key("query", AttributeValue::S("red kettle".to_owned()));
    let request = request.key("model", AttributeValue::S(model.id.0.clone()));
    let item = request.send().await.expect("reads").item.expect("lies under the normalised query");
    let ttl = INTENTS.ttl_attribute.expect("labels of queries expire");
    assert_eq!(item[ttl], AttributeValue::N((NOW + TTL.as_secs() as i64).to_string()));
    let described = store.client().describe_time_to_live().table_name(&table).send().await.expect("answers");
    let described = described.time_to_live_description.expect("has one");
    let is_enabled = described.time_to_live_status() == Some(&TimeToLiveStatus::Enabled);
    assert_eq!((described.attribute_name(), is_enabled), (Some(ttl), true));
}
