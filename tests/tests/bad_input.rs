//! Each kind of bad input: parked with a reason that names the field, its neighbours
//! labelled, nothing lost.

use serde_json::{Value, json};
use shared::ProductId;
use tests::events::upsert;
use tests::stage::Stage;

/// Sends `bad` between two good events. It has to be parked, as it was sent, with a
/// reason that holds `reason`; its neighbours have to be labelled.
async fn is_parked(bad: String, reason: &str) {
    let stage = Stage::start(&[]).await;
    let first = upsert("A", 1, "Brewline QX17 electric kettle 1.7 litre").to_string();
    let last = upsert("B", 1, "Torqmaster TD-18 cordless hammer drill").to_string();
    stage.send([first, bad.clone(), last]).await;
    stage.drained().await;

    let parked = stage.parked(1).await;
    assert_eq!(parked.len(), 1);
    let why = parked[0]["parked"]["reason"].as_str().expect("a parked message has a reason");
    assert!(why.contains(reason), "{why:?} does not hold {reason:?}");
    assert_eq!(parked[0]["body"], Value::String(bad));
    let neighbours = ["A", "B"].map(|id| ProductId::new(id).expect("a valid id"));
    let page = stage.reader.labels_for_page(&neighbours).await.expect("the page is answered");
    assert_eq!(page.missing, []);
    assert!(stage.stop().await.success());
}

fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut event = upsert("X", 1, "a title");
    change(&mut event);
    event.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_json() {
    is_parked("{\"schema_version\": 1, \"type\": ".to_owned(), "not JSON").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_version() {
    is_parked(changed(|event| event["schema_version"] = json!(2)), "schema_version: 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_field() {
    is_parked(changed(|event| event["product"]["colour"] = json!("red")), "`colour`").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_title() {
    is_parked(changed(|event| event["product"] = json!({"brand": "Brewline"})), "`title`").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_title_of_900_kilobytes() {
    is_parked(changed(|event| event["product"]["title"] = json!("x".repeat(900_000))), "900000 characters").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_id() {
    is_parked(changed(|event| event["product_id"] = json!("two words")), "product_id").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_from_the_future() {
    is_parked(changed(|event| event["occurred_at"] = json!("2999-01-01T00:00:00Z")), "ahead of").await;
}
