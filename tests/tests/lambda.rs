//! The real binary as a Lambda function: the runtime API is served by the test, the queue's
//! part is played by its records, tables and dead letters are a real local engine's.

use std::time::Duration;

use consumer::aws::{AwsOptions, dynamo, sdk_config};
use consumer::source::Parked;
use consumer::store::Store;
use reader::{LabelReader, Options};
use serde_json::{Value, json};
use tests::events::upsert;
use tests::function::Function;
use tests::items::id;
use tests::ministack::Ministack;
use tests::runtime_api::{Posted, RuntimeApi};

const PREFIX: &str = Function::TABLE_PREFIX;
const LONG: Duration = Duration::from_secs(60);

fn record(id: &str, body: &str, group: Option<&str>) -> Value {
    let queue = if group.is_some() { "catalog.fifo" } else { "catalog" };
    let mut record = json!({"messageId": id, "receiptHandle": "r", "body": body, "eventSource": "aws:sqs", "awsRegion": "us-east-1",
           "eventSourceARN": format!("arn:aws:sqs:us-east-1:000000000000:{queue}"), "md5OfBody": "",
           "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1790000000000"}, "messageAttributes": {}});
    if let Some(group) = group {
        record["attributes"]["MessageGroupId"] = json!(group);
    }
    record
}

fn failed(posted: Posted) -> Vec<String> {
    let Posted::Response(body) = posted else { panic!("the invocation failed: {posted:?}") };
    let failures = body["batchItemFailures"].as_array().expect("a batch response").iter();
    failures.map(|failure| failure["itemIdentifier"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_labelled_parked_or_reported_by_its_deadline() {
    let engine = Ministack::start();
    let options = AwsOptions { region: None, endpoint_url: Some(engine.endpoint_url()) };
    let sdk = sdk_config(&options).await;
    let store = Store::new(dynamo::client(&sdk, &dynamo::Limits::default()), PREFIX);
    store.create_tables().await.expect("a fresh engine takes the tables");
    let sqs = consumer::aws::sqs_client(&sdk);
    let dead = sqs.create_queue().queue_name("dead").send().await.expect("created").queue_url.expect("a URL");

    let mut api = RuntimeApi::start().await;
    let _function = Function::start(&engine, &api, &["--dead-letter-queue-url", &dead]);
    api.is_asked().await;

    // Good, several, poison: none is left for the queue to deliver again.
    let kettle = upsert("A", 1, "Brewline QX17 electric kettle 1.7 litre").to_string();
    let list = json!([upsert("B", 1, "Torqmaster TD-18 cordless drill"), {"schema_version": 9}]).to_string();
    let records = [record("m1", &kettle, None), record("m2", &list, None), record("m3", "{\"broken\":", None)];
    assert_eq!(failed(api.invoke(json!({"Records": records}), LONG).await), Vec::<String>::new());
    let reader_options = Options { deadline: LONG, consistent: true, ..Options::default() };
    let reader = LabelReader::new(aws_sdk_dynamodb::Client::new(&sdk), PREFIX, reader_options);
    let page = reader.labels_for_page(&[id("A"), id("B")]).await.expect("the page is answered");
    assert_eq!(page.missing, []);
    let mut parked = parked(&sqs, &dead, 2).await;
    parked.sort_by_key(|(parked, _)| parked.message_id.clone());
    assert_eq!(parked[0].0.part.as_ref().map(|part| part.index), Some(1));
    assert_eq!(parked[0].1, "{\"schema_version\":9}");
    assert_eq!((parked[1].0.message_id.as_str(), parked[1].1.as_str()), ("m3", "{\"broken\":"));

    // No time: everything is reported, in its order, and nothing is lost.
    let late = [record("m4", &upsert("C", 1, "x").to_string(), Some("g")), record("m5", &kettle, Some("g"))];
    let posted = api.invoke(json!({"Records": late.clone()}), Duration::ZERO).await;
    assert_eq!(failed(posted), ["m4", "m5"]);
    assert_eq!(failed(api.invoke(json!({"Records": late}), LONG).await), Vec::<String>::new());
    let page = reader.labels_for_page(&[id("C")]).await.expect("the page is answered");
    assert_eq!(page.missing, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_place_to_park_poison_is_reported_and_a_fatal_fault_fails_the_batch() {
    let engine = Ministack::start();
    let options = AwsOptions { region: None, endpoint_url: Some(engine.endpoint_url()) };
    let sdk = sdk_config(&options).await;
    let store = Store::new(dynamo::client(&sdk, &dynamo::Limits::default()), PREFIX);
    store.create_tables().await.expect("a fresh engine takes the tables");
    let mut api = RuntimeApi::start().await;
    let _function = Function::start(&engine, &api, &[]);
    api.is_asked().await;

    let good = upsert("A", 1, "Brewline QX17 electric kettle 1.7 litre").to_string();
    let records = [record("m1", &good, None), record("m2", "[1]", None), record("m3", &good, None)];
    assert_eq!(failed(api.invoke(json!({"Records": records}), LONG).await), ["m2"]);

    let table = format!("{PREFIX}products");
    store.client().delete_table().table_name(table).send().await.expect("the engine deletes it");
    let posted = api.invoke(json!({"Records": [record("m4", &good, None)]}), LONG).await;
    assert!(matches!(&posted, Posted::Error(error) if error.to_string().contains("no such table")), "{posted:?}");
}

async fn parked(sqs: &aws_sdk_sqs::Client, url: &str, count: usize) -> Vec<(Parked, String)> {
    let mut parked = Vec::new();
    while parked.len() < count {
        let request = sqs.receive_message().queue_url(url).max_number_of_messages(10);
        let answer = request.send().await.expect("the engine answers");
        assert!(!answer.messages().is_empty(), "{} of {count} were parked", parked.len());
        let unwrap = |message: &aws_sdk_sqs::types::Message| {
            Parked::unwrap(message.body().expect("a parked message has a body")).expect("it reads back")
        };
        parked.extend(answer.messages().iter().map(unwrap));
    }
    parked
}
