//! Everything that an event may be wrapped in, through the real worker: SNS, S3 and SQS of a
//! local engine wrap and deliver it.

use std::io::Write;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Event, NotificationConfiguration, QueueConfiguration};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use consumer::aws::{AwsOptions, Buckets, sdk_config};
use consumer::fault::{Fault, Faulty};
use consumer::source::{ObjectAt, ObjectError, Objects};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tests::events::upsert;
use tests::items::id;
use tests::ministack::Ministack;
use tests::stage::Stage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BUCKET: &str = "drops";

async fn s3(endpoint_url: &str) -> aws_sdk_s3::Client {
    let options = AwsOptions { region: None, endpoint_url: Some(endpoint_url.to_owned()) };
    let config = aws_sdk_s3::config::Builder::from(&sdk_config(&options).await).force_path_style(true).build();
    let client = aws_sdk_s3::Client::from_conf(config);
    client.create_bucket().bucket(BUCKET).send().await.expect("the engine makes the bucket");
    client
}

async fn put(s3: &aws_sdk_s3::Client, key: &str, body: Vec<u8>) -> String {
    let request = s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from(body));
    let answer = request.send().await.expect("the engine keeps it");
    answer.e_tag.expect("an object has an ETag").trim_matches('"').to_owned()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).expect("writing into memory does not fail")
}

/// Products named `<name>0`, `<name>1`, and so on, with no word in common.
fn upserts(name: &str, count: usize) -> Vec<Value> {
    (0..count).map(|n| upsert(&format!("{name}{n}"), 1, &format!("{name}{n}"))).collect()
}

/// An action of SNS, in its own protocol; gives what stands in the answer's `element`.
async fn sns(endpoint_url: &str, parameters: &[(&str, &str)], element: &str) -> String {
    let mut form = String::from("Version=2010-03-31");
    for (name, value) in parameters {
        let encoded: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
        form.push_str(&format!("&{name}={encoded}"));
    }
    let address = endpoint_url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("the engine listens");
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=local/20260901/us-east-1/sns/aws4_request, Signature=0\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(request.as_bytes()).await.expect("the engine reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("the engine answers");
    let (start, end) = (format!("<{element}>"), format!("</{element}>"));
    let found = text.split_once(&start).and_then(|(_, rest)| rest.split_once(&end));
    found.unwrap_or_else(|| panic!("no {element} in {text}")).0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_envelope_is_opened_and_only_its_poison_is_parked() {
    let engine = Ministack::start();
    let endpoint_url = engine.endpoint_url();
    let s3 = s3(&endpoint_url).await;
    let stage = Stage::on(engine, &["--object-bucket", BUCKET]).await;
    let queue_arn = "arn:aws:sqs:us-east-1:000000000000:catalog";

    // SNS, with and without raw delivery: both queues of the topic are the worker's.
    let topic = sns(&endpoint_url, &[("Action", "CreateTopic"), ("Name", "changes")], "TopicArn").await;
    let subscribe = [("Action", "Subscribe"), ("Protocol", "sqs"), ("Endpoint", queue_arn), ("TopicArn", &topic)];
    sns(&endpoint_url, &subscribe, "SubscriptionArn").await;
    let single = upserts("sns", 1)[0].to_string();
    sns(&endpoint_url, &[("Action", "Publish"), ("TopicArn", &topic), ("Message", &single)], "MessageId").await;
    let zipped = BASE64_STANDARD.encode(gzip(&json!(upserts("zip", 3)).to_string()));
    sns(&endpoint_url, &[("Action", "Publish"), ("TopicArn", &topic), ("Message", &zipped)], "MessageId").await;

    // S3's own notifications, its test message among them.
    let notify = QueueConfiguration::builder().queue_arn(queue_arn).events(Event::S3ObjectCreated).build();
    let notify = NotificationConfiguration::builder().queue_configurations(notify.expect("ARN and events are set"));
    let request = s3.put_bucket_notification_configuration().bucket(BUCKET);
    request.notification_configuration(notify.build()).send().await.expect("the engine takes it");
    let lines = |events: &[Value]| events.iter().map(|event| format!("{event}\n")).collect::<String>();
    let mut with_poison = upserts("line", 80);
    with_poison[69] = json!({"schema_version": 1, "type": "patch"});
    put(&s3, "day 1/ünits.ndjson", lines(&with_poison).into_bytes()).await;
    put(&s3, "day 1/more.ndjson.gz", gzip(&lines(&upserts("gz", 5)))).await;

    // What senders wrap by themselves.
    let mut list = upserts("list", 3);
    list[1]["product"]["title"] = json!("");
    let bridged = json!({"version": "0", "id": "1", "detail-type": "changed", "source": "shop", "account": "1",
                         "time": "2026-09-01T00:00:00Z", "region": "us-east-1", "resources": [],
                         "detail": upserts("bridge", 1)[0]});
    let pointer =
        |key| json!(["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": BUCKET, "s3Key": key}]);
    s3.put_bucket_notification_configuration()
        .bucket(BUCKET)
        .notification_configuration(NotificationConfiguration::builder().build())
        .send()
        .await
        .expect("the engine takes it");
    put(&s3, "payload", json!(upserts("far", 2)).to_string().into_bytes()).await;
    stage.send_events([json!(list), bridged, pointer("payload"), pointer("gone")]).await;
    stage.drained().await;

    let counts = [("sns", 1), ("zip", 3), ("line", 80), ("gz", 5), ("list", 3), ("bridge", 1), ("far", 2)];
    let names = counts.iter().flat_map(|(name, count)| (0..*count).map(move |n| format!("{name}{n}")));
    let good: Vec<_> =
        names.filter(|name| !["line69", "list1"].contains(&name.as_str())).map(|name| id(&name)).collect();
    for page in good.chunks(100) {
        let page = stage.reader.labels_for_page(page).await.expect("the page is answered");
        assert_eq!(page.missing, []);
    }
    let mut parked = stage.parked(3).await;
    parked.sort_by_key(|message| message["parked"]["part"]["of"].as_str().unwrap_or_default().to_owned());
    let part = |index: usize| (parked[index]["parked"]["part"].clone(), parked[index]["parked"]["reason"].to_string());
    assert_eq!(part(0).0, Value::Null);
    assert!(part(0).1.contains("there is no object s3://drops/gone"), "{}", part(0).1);
    assert_eq!(part(1).0, json!({"of": "list", "index": 1}));
    assert!(part(1).1.contains("product.title"), "{}", part(1).1);
    assert_eq!(part(2).0, json!({"of": "s3://drops/day 1/ünits.ndjson", "index": 70}));
    assert_eq!(parked[2]["body"], with_poison[69].to_string());
    assert!(stage.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_gives_what_is_meant_or_says_why_not() {
    let engine = Ministack::start();
    let s3 = s3(&engine.endpoint_url()).await;
    let options = AwsOptions { region: None, endpoint_url: Some(engine.endpoint_url()) };
    let sdk = sdk_config(&options).await;
    let error = Buckets::open(&sdk, ["nowhere".to_owned()]).await.expect_err("it is not there").to_string();
    assert!(error.contains("--object-bucket: nowhere"), "{error}");

    let buckets = Buckets::open(&sdk, [BUCKET.to_owned()]).await.expect("it is there");
    let etag = put(&s3, "k", b"0123456789".to_vec()).await;
    let at = |key: &str, etag: Option<&str>| ObjectAt {
        bucket: BUCKET.to_owned(),
        key: key.to_owned(),
        etag: etag.map(str::to_owned),
        version: None,
    };
    let read = async |at: ObjectAt, from_byte| -> Result<Vec<u8>, ObjectError> {
        use futures::TryStreamExt;
        buckets
            .read(&at, from_byte)
            .await?
            .try_fold(Vec::new(), async |all, piece| Ok([all, piece.to_vec()].concat()))
            .await
    };
    assert_eq!(read(at("k", Some(&etag)), 0).await.expect("it is as it was"), b"0123456789");
    assert_eq!(read(at("k", Some(&etag)), 7).await.expect("it is as it was"), b"789");
    assert_eq!(read(at("k", None), 10).await.expect("nothing is left"), b"");

    let is_poison = |error: &ObjectError| matches!(error.fault(), Fault::Poison { .. });
    let gone = read(at("gone", None), 0).await.expect_err("it is not there");
    assert!(matches!(gone, ObjectError::Missing { .. }) && is_poison(&gone), "{gone:?}");
    put(&s3, "k", b"other".to_vec()).await;
    let replaced = read(at("k", Some(&etag)), 0).await.expect_err("it is another one");
    assert!(matches!(replaced, ObjectError::Replaced { .. }) && is_poison(&replaced), "{replaced:?}");
    let elsewhere = ObjectAt { bucket: "secrets".to_owned(), ..at("k", None) };
    let other = read(elsewhere, 0).await.expect_err("nobody allowed it");
    assert!(matches!(other, ObjectError::OtherBucket { .. }) && is_poison(&other), "{other:?}");
    drop(engine);
    let unreachable = read(at("k", None), 0).await.expect_err("nobody answers");
    assert!(matches!(unreachable.fault(), Fault::Retry { .. }), "{unreachable:?}");
}
