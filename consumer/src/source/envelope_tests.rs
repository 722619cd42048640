use std::io::Write;

use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn event(id: &str) -> Value {
    json!({"schema_version": 1, "type": "delete", "product_id": id, "version": 1, "occurred_at": "2026-09-01T00:00:00Z"})
}

/// As SNS writes it into a queue without raw delivery.
fn sns(message: &str) -> Value {
    json!({"Type": "Notification", "MessageId": "22b80b92", "TopicArn": "arn:aws:sns:eu-west-1:1:catalog",
           "Message": message, "Timestamp": "2026-09-01T00:00:00.000Z", "SignatureVersion": "1", "Signature": "x",
           "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/x.pem",
           "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe"})
}

fn eventbridge(source: &str, detail_type: &str, detail: Value) -> Value {
    json!({"version": "0", "id": "6a7e8feb", "detail-type": detail_type, "source": source, "account": "1",
           "time": "2026-09-01T00:00:00Z", "region": "eu-west-1", "resources": [], "detail": detail})
}

fn s3(key: &str) -> Value {
    json!({"Records": [{"eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-west-1",
           "eventTime": "2026-09-01T00:00:00.000Z", "eventName": "ObjectCreated:Put",
           "userIdentity": {"principalId": "A"}, "requestParameters": {"sourceIPAddress": "10.0.0.1"},
           "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": "drops", "arn": "arn:aws:s3:::drops"},
                  "object": {"key": key, "size": 10, "eTag": "0123", "versionId": "v7"}}}]})
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing into memory does not fail")
}

fn opened(body: &Value) -> Contents {
    open(body.to_string().as_bytes()).expect("the body can be opened")
}

fn refused(body: impl AsRef<[u8]>) -> String {
    open(body.as_ref()).expect_err("the body is bad").to_string()
}

#[test]
fn an_event_needs_no_envelope() {
    assert_eq!(opened(&event("a")), Contents::Event(event("a")));
    // SNS's raw delivery is the same.
    assert_eq!(open(format!(" {}\n", event("a")).as_bytes()), Ok(Contents::Event(event("a"))));
    // What is no event is for the event's own validation to refuse.
    assert_eq!(opened(&json!({"a": 1})), Contents::Event(json!({"a": 1})));
    assert_eq!(opened(&json!("text")), Contents::Event(json!("text")));
    assert_eq!(opened(&json!(1234)), Contents::Event(json!(1234)));
}

#[test]
fn sns_and_eventbridge_are_opened_in_any_order() {
    let inner = event("a");
    assert_eq!(opened(&sns(&inner.to_string())), Contents::Event(inner.clone()));
    let bridged = eventbridge("shop", "product changed", inner.clone());
    assert_eq!(opened(&bridged), Contents::Event(inner.clone()));
    assert_eq!(opened(&sns(&bridged.to_string())), Contents::Event(inner.clone()));
    let listed = eventbridge("shop", "products changed", json!([inner, event("b")]));
    assert_eq!(opened(&listed), Contents::Batch(vec![event("a"), event("b")]));
}

#[test]
fn compressed_and_encoded_bodies_are_decoded() {
    let text = json!([event("a"), event("b")]).to_string();
    let batch = Contents::Batch(vec![event("a"), event("b")]);
    let zipped = BASE64_STANDARD.encode(gzip(text.as_bytes()));
    assert_eq!(open(zipped.as_bytes()), Ok(batch.clone()));
    assert_eq!(open(BASE64_STANDARD.encode(&text).as_bytes()), Ok(batch.clone()));
    assert_eq!(open(zipped.trim_end_matches('=').as_bytes()), Ok(batch.clone()));
    let broken: Vec<String> = zipped.as_bytes().chunks(76).map(|l| String::from_utf8_lossy(l).into_owned()).collect();
    assert_eq!(open(broken.join("\r\n").as_bytes()), Ok(batch.clone()));
    assert_eq!(open(&gzip(text.as_bytes())), Ok(batch.clone()));
    assert_eq!(opened(&sns(&zipped)), batch);
}

#[test]
fn s3_notifications_name_their_objects() {
    let at = |key: &str| ObjectAt {
        bucket: "drops".to_owned(),
        key: key.to_owned(),
        etag: Some("0123".to_owned()),
        version: Some("v7".to_owned()),
    };
    assert_eq!(opened(&s3("day+1/h%C3%BCte.ndjson")), Contents::Objects(vec![at("day 1/hüte.ndjson")]));
    let detail = json!({"bucket": {"name": "drops"}, "object": {"key": "day 1", "etag": "0123", "version-id": "v7"}});
    assert_eq!(opened(&eventbridge("aws.s3", "Object Created", detail)), Contents::Objects(vec![at("day 1")]));
    assert_eq!(opened(&json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "drops"})), Contents::Nothing);
}

#[test]
fn both_forms_of_payload_pointers_are_known() {
    for class in POINTER_CLASSES {
        let body = json!([class, {"s3BucketName": "payloads", "s3Key": "7a0c"}]);
        let at = ObjectAt { bucket: "payloads".to_owned(), key: "7a0c".to_owned(), etag: None, version: None };
        assert_eq!(opened(&body), Contents::Payload(at.clone()));
        assert_eq!(opened(&sns(&body.to_string())), Contents::Payload(at));
    }
}

#[test]
fn each_refusal_names_the_field_and_the_fix() {
    let changed = |mut body: Value, change: &dyn Fn(&mut Value)| {
        change(&mut body);
        refused(body.to_string())
    };
    let reason = changed(sns("{}"), &|body| body["Type"] = json!("SubscriptionConfirmation"));
    assert!(reason.contains("SNS: Type: \"SubscriptionConfirmation\""), "{reason}");
    let reason = changed(sns("{}"), &|body| body["Message"] = json!(7));
    assert!(reason.contains("SNS: Message: "), "{reason}");
    let reason = changed(s3("k"), &|body| body["Records"][0]["eventName"] = json!("ObjectRemoved:Delete"));
    assert!(reason.contains("Records[0].eventName: ") && reason.contains("s3:ObjectCreated:*"), "{reason}");
    let reason = changed(s3("k"), &|body| body["Records"][0]["s3"]["object"]["key"] = json!("%FF"));
    assert!(reason.contains("Records[0].s3.object.key: "), "{reason}");
    let reason = changed(s3("k"), &|body| body["Records"] = json!([]));
    assert!(reason.contains("Records: is empty"), "{reason}");
    let reason = refused(json!([POINTER_CLASSES[0], {"s3Key": "k"}]).to_string());
    assert!(reason.contains("payload pointer: ") && reason.contains("`s3BucketName`"), "{reason}");
    assert!(refused("[]").contains("a list of 0 events; send 1 to 10000"));
    assert!(refused(format!("[{}0]", "0,".repeat(EVENTS_MAX))).contains("a list of 10001 events"));
    assert!(refused("{\"a\":").contains("not JSON"));
}

#[test]
fn bombs_are_refused() {
    let long = gzip(&vec![b' '; BODY_BYTES_MAX + 1]);
    assert!(long.len() < 16 << 10, "a bomb is short: {}", long.len());
    assert!(refused(&long).contains("send it in parts"));
    assert!(refused(BASE64_STANDARD.encode(&long)).contains("send it in parts"));
    let mut nested = gzip(b"{}");
    for _ in 0..ENVELOPES_MAX {
        nested = gzip(&nested);
    }
    assert!(refused(&nested).contains("wrapped more than 4 times"));
    let mut wrapped = event("a");
    for _ in 0..=ENVELOPES_MAX {
        wrapped = eventbridge("shop", "x", wrapped);
    }
    assert!(refused(wrapped.to_string()).contains("wrapped more than 4 times"));
    assert!(refused("[".repeat(100_000)).contains("recursion limit"));
    let cut = &gzip(event("a").to_string().as_bytes())[..30];
    assert!(refused(cut).contains("not the gzip"));
}

proptest! {
    /// Whatever comes is opened or refused, in bounded space.
    #[test]
    fn nothing_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = open(&body);
        let _ = open(&gzip(&body));
        let _ = open(BASE64_STANDARD.encode(&body).as_bytes());
    }
}
