//! What message bodies are wrapped in: SNS, EventBridge, S3 notifications, pointers of the
//! Extended Client, lists of events, gzip and base64. Pure: what lies behind a pointer is
//! for others to fetch.

use std::io::{self, Read};

use aws_lambda_events::eventbridge::EventBridgeEvent;
use aws_lambda_events::s3::{S3Event, S3EventRecord};
use aws_lambda_events::sns::SnsMessage;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use flate2::read::MultiGzDecoder;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::object::ObjectAt;
use crate::fault::{Fault, Faulty};

/// Longest body after decoding, in bytes: eight times what a queue carries.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// Most events in one body.
pub const EVENTS_MAX: usize = 10_000;
/// Most envelopes around an event. SNS around EventBridge around base64 are three.
pub const ENVELOPES_MAX: usize = 4;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// First item of a pointer, as written by the Extended Client from version 1.1 on, and before.
const POINTER_CLASSES: [&str; 2] =
    ["software.amazon.payloadoffloading.PayloadS3Pointer", "com.amazon.sqs.javamessaging.MessageS3Pointer"];
/// Encoders differ in whether they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a body holds once its envelopes are open.
#[derive(Clone, Debug, PartialEq)]
pub enum Contents {
    /// One event, not validated yet.
    Event(Value),
    /// Several, each of which stands for itself.
    Batch(Vec<Value>),
    /// Objects whose lines are events.
    Objects(Vec<ObjectAt>),
    /// The body lies in this object.
    Payload(ObjectAt),
    /// Nothing to do, as for the message with which S3 tests a notification.
    Nothing,
}

/// Why a body was refused. Every variant says which field, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the body is not JSON: {reason}")]
    NotJson { reason: String },
    #[error("the body is not the gzip that it begins as: {reason}")]
    NotGzip { reason: String },
    #[error(
        "the body decodes to more than {BODY_BYTES_MAX} bytes; send it in parts, or as an S3 object of one event a line"
    )]
    TooLong,
    #[error("the body is wrapped more than {ENVELOPES_MAX} times; send the event with fewer envelopes around it")]
    TooDeep,
    #[error("the body is a list of {events} events; send 1 to {EVENTS_MAX}")]
    EventCount { events: usize },
    #[error("{envelope}: {field}: {reason}")]
    Field { envelope: &'static str, field: String, reason: String },
}

impl Faulty for EnvelopeError {
    fn fault(&self) -> Fault {
        Fault::Poison { reason: self.to_string() }
    }
}

/// Opens every envelope of a body. Whether what is inside is a valid event is left to
/// [`shared::Event`].
pub fn open(body: &[u8]) -> Result<Contents, EnvelopeError> {
    open_bytes(body, 0)
}

fn open_bytes(body: &[u8], depth: usize) -> Result<Contents, EnvelopeError> {
    if depth > ENVELOPES_MAX {
        return Err(EnvelopeError::TooDeep);
    }
    if body.len() > BODY_BYTES_MAX {
        return Err(EnvelopeError::TooLong);
    }
    if body.starts_with(&GZIP_MAGIC) {
        return open_bytes(&gunzip(body)?, depth + 1);
    }
    if let Some(decoded) = from_base64(body) {
        return open_bytes(&decoded, depth + 1);
    }
    // Its own limit on nesting, 128, is far above any event's.
    let value = serde_json::from_slice(body).map_err(|error| EnvelopeError::NotJson { reason: error.to_string() })?;
    open_value(value, depth)
}

fn open_value(value: Value, depth: usize) -> Result<Contents, EnvelopeError> {
    if depth > ENVELOPES_MAX {
        return Err(EnvelopeError::TooDeep);
    }
    match value {
        Value::Array(items) => open_list(items),
        Value::Object(fields) => open_object(fields, depth),
        scalar => Ok(Contents::Event(scalar)),
    }
}

fn open_list(mut items: Vec<Value>) -> Result<Contents, EnvelopeError> {
    if let [class, _] = items.as_slice()
        && class.as_str().is_some_and(|class| POINTER_CLASSES.contains(&class))
    {
        return pointer(items.swap_remove(1));
    }
    if items.is_empty() || items.len() > EVENTS_MAX {
        return Err(EnvelopeError::EventCount { events: items.len() });
    }
    Ok(Contents::Batch(items))
}

/// An envelope is known by fields that no event has.
fn open_object(fields: Map<String, Value>, depth: usize) -> Result<Contents, EnvelopeError> {
    let has = |name: &str| fields.contains_key(name);
    if has("schema_version") {
        Ok(Contents::Event(Value::Object(fields)))
    } else if has("Type") && has("TopicArn") {
        open_sns(fields, depth)
    } else if has("detail-type") && has("detail") {
        open_eventbridge(fields, depth)
    } else if has("Records") {
        s3_notification(fields)
    } else if fields.get("Event").is_some_and(|event| event == "s3:TestEvent") {
        Ok(Contents::Nothing)
    } else {
        Ok(Contents::Event(Value::Object(fields)))
    }
}

fn open_sns(fields: Map<String, Value>, depth: usize) -> Result<Contents, EnvelopeError> {
    const SNS: &str = "SNS";
    let kind = fields["Type"].as_str().unwrap_or_default();
    if kind != "Notification" {
        let reason = format!("{kind:?} is not \"Notification\"; confirm the subscription of this queue");
        return Err(field(SNS, "Type", reason));
    }
    let message: SnsMessage = read(SNS, Value::Object(fields))?;
    open_bytes(message.message.as_bytes(), depth + 1)
}

fn open_eventbridge(fields: Map<String, Value>, depth: usize) -> Result<Contents, EnvelopeError> {
    const EVENTBRIDGE: &str = "EventBridge";
    let event: EventBridgeEvent = read(EVENTBRIDGE, Value::Object(fields))?;
    if event.source != "aws.s3" {
        return open_value(event.detail, depth + 1);
    }
    if event.detail_type != "Object Created" {
        return Err(field(EVENTBRIDGE, "detail-type", not_created(&event.detail_type, "Object Created")));
    }
    let S3Detail { bucket, object } = read(EVENTBRIDGE, event.detail)?;
    let S3DetailObject { key, etag, version_id } = object;
    Ok(Contents::Objects(vec![ObjectAt { bucket: bucket.name, key, etag, version: version_id }]))
}

/// `detail` of S3's "Object Created", whose key is not encoded.
#[derive(Deserialize)]
struct S3Detail {
    bucket: S3DetailBucket,
    object: S3DetailObject,
}

#[derive(Deserialize)]
struct S3DetailBucket {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct S3DetailObject {
    key: String,
    etag: Option<String>,
    version_id: Option<String>,
}

const S3: &str = "S3 notification";

fn s3_notification(fields: Map<String, Value>) -> Result<Contents, EnvelopeError> {
    let event: S3Event = read(S3, Value::Object(fields))?;
    let objects = event.records.into_iter().enumerate().map(|(index, record)| s3_object(index, record));
    match objects.collect::<Result<Vec<ObjectAt>, EnvelopeError>>()? {
        objects if objects.is_empty() => Err(field(S3, "Records", "is empty".to_owned())),
        objects => Ok(Contents::Objects(objects)),
    }
}

fn s3_object(index: usize, record: S3EventRecord) -> Result<ObjectAt, EnvelopeError> {
    let refused = |name: &str, reason: String| Err(field(S3, &format!("Records[{index}].{name}"), reason));
    let event_name = record.event_name.unwrap_or_default();
    if !event_name.starts_with("ObjectCreated:") {
        return refused("eventName", not_created(&event_name, "s3:ObjectCreated:*"));
    }
    let Some(bucket) = record.s3.bucket.name.filter(|name| !name.is_empty()) else {
        return refused("s3.bucket.name", "is missing; every notification has it".to_owned());
    };
    let object = record.s3.object;
    // Keys come as in a form: percent signs, and plus for a space.
    let encoded = object.key.unwrap_or_default().replace('+', " ");
    match percent_decode_str(&encoded).decode_utf8() {
        Ok(key) if !key.is_empty() => {
            Ok(ObjectAt { bucket, key: key.into_owned(), etag: object.e_tag, version: object.version_id })
        }
        Ok(_) => refused("s3.object.key", "is missing; every notification has it".to_owned()),
        Err(_) => refused("s3.object.key", "is not the percent-encoding of a text".to_owned()),
    }
}

fn not_created(given: &str, wanted: &str) -> String {
    format!("{given:?} brings no new object; send only {wanted} to this queue")
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pointer {
    s3_bucket_name: String,
    s3_key: String,
}

fn pointer(value: Value) -> Result<Contents, EnvelopeError> {
    let Pointer { s3_bucket_name, s3_key } = read("payload pointer", value)?;
    Ok(Contents::Payload(ObjectAt { bucket: s3_bucket_name, key: s3_key, etag: None, version: None }))
}

/// None unless it decodes to something that can be opened: a number is base64 as well.
fn from_base64(body: &[u8]) -> Option<Vec<u8>> {
    let body = body.trim_ascii();
    if matches!(body.first()?, b'{' | b'[' | b'"') {
        return None;
    }
    // Some encoders break lines.
    let unbroken: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let decoded = BASE64.decode(unbroken).ok()?;
    let opens =
        |bytes: &[u8]| bytes.starts_with(&GZIP_MAGIC) || matches!(bytes.trim_ascii().first(), Some(b'{' | b'['));
    opens(&decoded).then_some(decoded)
}

/// Stops a byte beyond the limit, so that a bomb costs no more than a long body.
fn gunzip(body: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let mut text = Vec::new();
    let mut bounded = MultiGzDecoder::new(body).take(BODY_BYTES_MAX as u64 + 1);
    bounded.read_to_end(&mut text).map_err(|error: io::Error| EnvelopeError::NotGzip { reason: error.to_string() })?;
    if text.len() > BODY_BYTES_MAX { Err(EnvelopeError::TooLong) } else { Ok(text) }
}

fn read<T: DeserializeOwned>(envelope: &'static str, value: Value) -> Result<T, EnvelopeError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let name = if path == "." { "the whole" } else { path.as_str() };
        field(envelope, name, error.inner().to_string())
    })
}

fn field(envelope: &'static str, name: &str, reason: String) -> EnvelopeError {
    EnvelopeError::Field { envelope, field: name.to_owned(), reason }
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
