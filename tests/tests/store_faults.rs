//! What the store makes of answers that no local engine gives.

use consumer::fault::{Fault, Faulty};
use consumer::store::{LabelWrite, StateOutcome, Store, StoreError};
use serde_json::{Value, json};
use shared::ModelId;
use shared::item::{Posting, ProductItem};
use tests::items::{check, id, label, marker, posting, state};
use tests::table_stub::{Answer, ERROR_NAMESPACE, Request, TableStub};

#[tokio::test]
async fn unprocessed_items_are_written_again() {
    let stub = TableStub::start(|request| write_at_most(request, 10)).await;
    let postings: Vec<Posting> = (0..30).map(|n| posting(&format!("k{n}"), "A")).collect();
    store(&stub).put_postings(&postings).await.expect("all written in the end");
    // 25 as 10, 10, 5, and 5.
    assert_eq!(stub.requests(), 4);
}

#[tokio::test]
async fn keys_that_stay_unprocessed_are_a_retry() {
    let stub = TableStub::start(|request| {
        Answer::Ok(json!({ "Responses": {}, "UnprocessedKeys": request.body["RequestItems"] }))
    })
    .await;
    let error = store(&stub).products(&[id("A"), id("B")]).await.expect_err("nothing is ever processed");
    assert!(matches!(error, StoreError::Unprocessed { left: 2, asked: 2, .. }), "{error:?}");
    assert_eq!(error.fault(), Fault::Retry { after: None });
    assert!(stub.requests() > 3, "it was tried more than once");
}

#[tokio::test]
async fn a_throttle_that_passes_is_not_seen() {
    let stub = TableStub::start(|request| match request.number {
        0 => Answer::Error(400, "ProvisionedThroughputExceededException"),
        1 => Answer::Error(500, "InternalServerError"),
        _ => Answer::Ok(json!({})),
    })
    .await;
    assert_eq!(store(&stub).product(&id("A")).await.expect("the third attempt"), None);
    assert_eq!(stub.requests(), 3);
}

#[tokio::test]
async fn a_throttle_that_stays_is_a_retry() {
    for (status, code) in [(400, "ThrottlingException"), (500, "InternalServerError"), (503, "ServiceUnavailable")] {
        let stub = TableStub::start(move |_| Answer::Error(status, code)).await;
        let error = store(&stub).put_state(&state("A", 1, "a"), None).await.expect_err(code);
        assert_eq!(error.fault(), Fault::Retry { after: None }, "{error:?}");
        assert_eq!(stub.requests(), 3, "{code} is tried three times");
    }
}

#[tokio::test]
async fn refusals_are_fatal_at_once() {
    for code in ["AccessDeniedException", "UnrecognizedClientException", "ValidationException"] {
        let stub = TableStub::start(move |_| Answer::Error(400, code)).await;
        let error = store(&stub).put_state(&state("A", 1, "a"), None).await.expect_err(code);
        assert!(matches!(error.fault(), Fault::Fatal { .. }), "{error:?}");
        assert_eq!(stub.requests(), 1, "{code} is not tried again");
    }
}

#[tokio::test]
async fn a_write_waits_for_another_ones_transaction() {
    let stub = TableStub::start(|request| match request.number {
        0 | 1 => Answer::Error(400, "TransactionConflictException"),
        _ => Answer::Ok(json!({})),
    })
    .await;
    store(&stub).put_state(&state("A", 1, "a"), None).await.expect("the third attempt");
    assert_eq!(stub.requests(), 3);
}

#[tokio::test]
async fn a_conflict_of_transactions_is_told_from_overload() {
    for (code, conflict) in
        [("TransactionConflict", true), ("ConditionalCheckFailed", true), ("ThrottlingError", false)]
    {
        let stub = TableStub::start(move |_| cancelled(code)).await;
        let write = LabelWrite { items: &[label("A", 1)], checks: &[check("A", "a")], marker: None };
        let outcome = store(&stub).put_label_items(&write).await;
        match outcome {
            Ok(outcome) => assert!(conflict && outcome == StateOutcome::Conflict(None), "{code}: {outcome:?}"),
            Err(error) => assert!(!conflict && error.fault() == Fault::Retry { after: None }, "{code}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn an_unreadable_item_is_fatal() {
    let stub = TableStub::start(|_| Answer::Ok(json!({ "Item": { "id": { "S": "A" } } }))).await;
    let error = store(&stub).product(&id("A")).await.expect_err("fields are missing");
    assert!(matches!(error, StoreError::Decode { .. }), "{error:?}");
    assert!(matches!(error.fault(), Fault::Fatal { .. }));
}

#[tokio::test]
async fn query_pages_are_followed_up_to_the_limit() {
    let stub = TableStub::start(|request| {
        let asked = request.body["Limit"].as_u64().expect("a limit");
        let items: Vec<Value> = (0..asked.min(2))
            .map(|n| json!({ "key": { "S": "k" }, "id": { "S": format!("{}-{n}", request.number) } }))
            .collect();
        Answer::Ok(json!({ "Items": items, "Count": items.len(), "LastEvaluatedKey": { "key": { "S": "k" } } }))
    })
    .await;
    let postings = store(&stub).postings(&["k".to_owned()], 5).await.expect("reads");
    let ids: Vec<&str> = postings.iter().map(|posting| posting.id.as_str()).collect();
    assert_eq!(ids, ["0-0", "0-1", "1-0", "1-1", "2-0"]);
    assert_eq!(stub.requests(), 3);
}

/// Some engines send the item that was there along; it spares a second read.
#[tokio::test]
async fn a_failed_condition_is_a_conflict_with_or_without_the_old_item() {
    let old = state("A", 9, "newer");
    for there in [None, Some(&old)] {
        let item = there.map(|state| json!({ "Item": dynamo_json(state) })).unwrap_or_else(|| json!({}));
        let stub = TableStub::start(move |request| {
            assert_eq!(request.body["ReturnValuesOnConditionCheckFailure"], "ALL_OLD");
            let mut body = json!({ "__type": format!("{ERROR_NAMESPACE}ConditionalCheckFailedException") });
            body.as_object_mut().expect("an object").extend(item.as_object().expect("an object").clone());
            Answer::ErrorBody(400, body)
        })
        .await;
        let (store, state, model) = (store(&stub), state("A", 1, "a"), ModelId("m".to_owned()));
        let conflict = StateOutcome::Conflict(there.cloned().map(Box::new));
        let outcome = store.put_state(&state, None).await.expect("no error");
        assert_eq!((&outcome, stub.requests()), (&conflict, 1), "it is not tried again");
        let outcome = store.mark_labelled(&state, &model, &marker(&state)).await.expect("no error");
        assert_eq!(outcome, conflict);
    }
}

/// One key that throttles and its neighbours that do not: what is left comes later, and
/// nothing is lost or read twice.
#[tokio::test]
async fn a_hot_key_that_throttles_delays_its_own_reads_only() {
    let stub = TableStub::start(|request| {
        let hot = request.body["ExpressionAttributeValues"][":key"]["S"] == "hot";
        if hot && request.number < 4 {
            return Answer::Error(400, "ThrottlingException");
        }
        let key = request.body["ExpressionAttributeValues"][":key"].clone();
        Answer::Ok(json!({ "Items": [{ "key": key, "id": { "S": "A" } }], "Count": 1 }))
    })
    .await;
    let keys = ["a", "hot", "b", "c"].map(str::to_owned);
    let postings = store(&stub).postings(&keys, 5).await.expect("the throttle passes");
    assert_eq!(postings.iter().map(|posting| posting.key.as_str()).collect::<Vec<_>>(), ["a", "hot", "b", "c"]);
    assert!(stub.requests() > keys.len());
}

/// Accepts the first items of a BatchWriteItem and leaves the rest unprocessed.
fn write_at_most(request: &Request, most: usize) -> Answer {
    let (table, writes) = request.only_table("RequestItems");
    let writes = writes.as_array().expect("a list of writes");
    let left = &writes[most.min(writes.len())..];
    let left = if left.is_empty() { json!({}) } else { json!({ table: left }) };
    Answer::Ok(json!({ "UnprocessedItems": left }))
}

fn cancelled(code: &'static str) -> Answer {
    Answer::ErrorBody(
        400,
        json!({
            "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
            "CancellationReasons": [{ "Code": "None" }, { "Code": code }],
        }),
    )
}

/// A state without markers, as it goes over the wire.
fn dynamo_json(state: &ProductItem) -> Value {
    json!({
        "id": { "S": state.id }, "version": { "N": state.version.to_string() },
        "content_hash": { "S": state.content_hash }, "text_hash": { "S": state.text_hash },
        "text": { "S": state.text }, "title": { "S": state.title }, "deleted": { "BOOL": state.deleted },
        "occurred_at": { "S": state.occurred_at }, "labelled": { "M": {} },
    })
}

fn store(stub: &TableStub) -> Store {
    Store::new(stub.client(), "p-")
}
