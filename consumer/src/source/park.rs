//! How a message looks in the dead-letter queue after it was parked: its body unchanged,
//! beside the reason and where it comes from. The body is JSON, since message attributes
//! are limited to ten and the original may use them all.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::queue::{MESSAGE_BYTES_MAX, Message, Outgoing};

/// Longest reason kept, in bytes.
const REASON_BYTES_MAX: usize = 4 << 10;
/// How a body too long for the wrapper is written.
const GZIP_BASE64: &str = "gzip+base64";

/// Why a message was parked, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    pub reason: String,
    /// Stage of the pipeline that gave up, such as `parse`.
    pub stage: String,
    /// Version of the worker that gave up.
    pub build: String,
    /// Queue that the message came from.
    pub queue: String,
    pub message_id: String,
    pub receive_count: u32,
    pub parked_at: Timestamp,
    /// Message attributes of the original.
    pub attributes: BTreeMap<String, String>,
    /// Which of the message's events this is, where it holds several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// One event of several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// `list` for the list that the body is; an object as `s3://bucket/key`.
    pub of: String,
    /// In a list from 0 on; in an object the number of its line, from 1 on.
    pub index: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Wrapper<'a> {
    parked: Cow<'a, Parked>,
    body: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_encoding: Option<Cow<'a, str>>,
}

/// Why a message is no parked one.
#[derive(Debug, thiserror::Error)]
pub enum UnwrapError {
    #[error("the body is not that of a parked message")]
    NotParked(#[source] serde_json::Error),
    #[error("body_encoding: {given:?} is not {GZIP_BASE64:?}")]
    UnknownEncoding { given: String },
    #[error("body: is not base64")]
    NotBase64(#[source] base64::DecodeError),
    #[error("body: is not the gzip of a text of at most {MESSAGE_BYTES_MAX} bytes")]
    NotGzip(#[source] io::Error),
}

impl Parked {
    /// A description of `message`, which `queue` delivered.
    pub fn new(message: &Message, queue: &str, stage: &str, reason: &str, build: &str, parked_at: Timestamp) -> Self {
        Self {
            reason: cut(reason, REASON_BYTES_MAX).to_owned(),
            stage: stage.to_owned(),
            build: build.to_owned(),
            queue: queue.to_owned(),
            message_id: message.id.clone(),
            receive_count: message.receive_count,
            parked_at,
            attributes: message.attributes.clone(),
            part: None,
        }
    }

    /// Wraps the original body. Where the result would be too long for a message, the
    /// body is compressed; where even that is too long, it goes unwrapped, with reason
    /// and stage as attributes if there is room: the text outweighs the reason.
    pub fn wrap(&self, body: &str) -> Outgoing {
        let plain = Wrapper { parked: Cow::Borrowed(self), body: body.into(), body_encoding: None };
        // Escapes make JSON longer than its text, so a long body need not be tried.
        if body.len() < MESSAGE_BYTES_MAX
            && let Some(wrapped) = fitting(&plain)
        {
            return wrapped;
        }
        let compressed =
            Wrapper { body: compress(body).into(), body_encoding: Some(GZIP_BASE64.into()), ..plain.clone() };
        fitting(&compressed).unwrap_or_else(|| self.beside(body))
    }

    fn beside(&self, body: &str) -> Outgoing {
        let attributes = [("parked_reason", &self.reason), ("parked_stage", &self.stage)];
        let attributes = attributes.into_iter().filter(|(_, value)| !value.is_empty());
        let explained = Outgoing {
            body: body.to_owned(),
            attributes: attributes.map(|(name, value)| (name.to_owned(), value.clone())).collect(),
            ..Outgoing::default()
        };
        if explained.size_bytes() <= MESSAGE_BYTES_MAX { explained } else { Outgoing::new(explained.body) }
    }

    /// Reads a parked message: its description and its original body.
    pub fn unwrap(parked_body: &str) -> Result<(Self, String), UnwrapError> {
        let wrapper: Wrapper = serde_json::from_str(parked_body).map_err(UnwrapError::NotParked)?;
        let body = match wrapper.body_encoding.as_deref() {
            None => wrapper.body.into_owned(),
            Some(GZIP_BASE64) => decompress(&wrapper.body)?,
            Some(given) => return Err(UnwrapError::UnknownEncoding { given: given.to_owned() }),
        };
        Ok((wrapper.parked.into_owned(), body))
    }
}

fn fitting(wrapper: &Wrapper) -> Option<Outgoing> {
    let body = serde_json::to_string(wrapper).expect("strings, numbers and a map by strings are JSON");
    let message = Outgoing::new(body);
    (message.size_bytes() <= MESSAGE_BYTES_MAX).then_some(message)
}

fn compress(body: &str) -> String {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(body.as_bytes()).and_then(|()| encoder.finish());
    BASE64_STANDARD.encode(written.expect("writing into memory does not fail"))
}

fn decompress(body: &str) -> Result<String, UnwrapError> {
    let compressed = BASE64_STANDARD.decode(body).map_err(UnwrapError::NotBase64)?;
    let mut text = String::new();
    // One byte more than allowed, to tell a body of the longest length from a bomb.
    let mut bounded = GzDecoder::new(compressed.as_slice()).take(MESSAGE_BYTES_MAX as u64 + 1);
    bounded.read_to_string(&mut text).map_err(UnwrapError::NotGzip)?;
    if text.len() > MESSAGE_BYTES_MAX {
        return Err(UnwrapError::NotGzip(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer")));
    }
    Ok(text)
}

/// The longest start of `text` that has at most `bytes_max` bytes and ends between
/// characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::queue::Receipt;

    fn message(body: String) -> Message {
        Message {
            id: "m-1".to_owned(),
            body,
            receipt: Receipt::new("r"),
            receive_count: 3,
            sent_at: None,
            attributes: BTreeMap::from([("trace".to_owned(), "t-1".to_owned())]),
            group: None,
        }
    }

    fn parked(message: &Message, reason: &str) -> Parked {
        Parked::new(message, "catalog", "parse", reason, "0.1.0", Timestamp::UNIX_EPOCH)
    }

    /// Text that gzip and base64 together cannot shorten.
    fn noise(bytes: usize) -> String {
        let mut rng = fastrand::Rng::with_seed(1);
        (0..bytes).map(|_| char::from(rng.u8(35..127))).collect()
    }

    #[test]
    fn wraps_reason_origin_and_unchanged_body() {
        let message = message("{\"type\": \"upsert\"".to_owned());
        let wrapped = parked(&message, "the body is not JSON").wrap(&message.body);
        let json: serde_json::Value = serde_json::from_str(&wrapped.body).expect("a wrapper is JSON");
        assert_eq!(json["parked"]["reason"], "the body is not JSON");
        assert_eq!(json["parked"]["stage"], "parse");
        assert_eq!(json["parked"]["build"], "0.1.0");
        assert_eq!(json["parked"]["queue"], "catalog");
        assert_eq!(json["parked"]["message_id"], "m-1");
        assert_eq!(json["parked"]["receive_count"], 3);
        assert_eq!(json["parked"]["parked_at"], "1970-01-01T00:00:00Z");
        assert_eq!(json["parked"]["attributes"]["trace"], "t-1");
        assert_eq!(json["body"], message.body);
        assert_eq!((json.get("body_encoding"), json["parked"].get("part")), (None, None));
    }

    #[test]
    fn a_body_too_long_for_the_wrapper_is_compressed_and_reads_back() {
        for body in ["\"".repeat(MESSAGE_BYTES_MAX), "\"".repeat(600 << 10)] {
            let message = message(body);
            let wrapped = parked(&message, "title is too long").wrap(&message.body);
            assert!(wrapped.size_bytes() <= MESSAGE_BYTES_MAX);
            let json: serde_json::Value = serde_json::from_str(&wrapped.body).expect("a wrapper is JSON");
            assert_eq!(json["body_encoding"], "gzip+base64");
            let (back, body) = Parked::unwrap(&wrapped.body).expect("what was wrapped reads back");
            assert_eq!(back.reason, "title is too long");
            assert!(body == message.body, "the body has changed");
        }
    }

    #[test]
    fn a_body_that_cannot_be_wrapped_is_kept_before_its_reason() {
        for (spare_bytes, explained) in [(512, true), (0, false)] {
            let message = message(noise(MESSAGE_BYTES_MAX - spare_bytes));
            let wrapped = parked(&message, "no such type").wrap(&message.body);
            assert!(wrapped.size_bytes() <= MESSAGE_BYTES_MAX);
            assert!(wrapped.body == message.body, "the body has changed");
            assert_eq!(wrapped.attributes.contains_key("parked_reason"), explained);
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = "é".repeat(REASON_BYTES_MAX);
        let kept = parked(&message(String::new()), &reason).reason;
        assert_eq!(kept.len(), REASON_BYTES_MAX);
        assert_eq!(cut("aé", 2), "a");
    }

    #[test]
    fn refuses_bombs_and_unknown_encodings() {
        let message = message(String::new());
        let bomb = Wrapper {
            parked: Cow::Owned(parked(&message, "")),
            body: compress(&"a".repeat(MESSAGE_BYTES_MAX + 1)).into(),
            body_encoding: Some(GZIP_BASE64.into()),
        };
        let json = serde_json::to_string(&bomb).expect("a wrapper is JSON");
        assert!(matches!(Parked::unwrap(&json), Err(UnwrapError::NotGzip(_))));
        let json = json.replace(GZIP_BASE64, "rot13");
        assert!(matches!(Parked::unwrap(&json), Err(UnwrapError::UnknownEncoding { .. })));
        assert!(matches!(Parked::unwrap("{}"), Err(UnwrapError::NotParked(_))));
    }
}
