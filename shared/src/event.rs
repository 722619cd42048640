//! Events as they arrive on the queues, and their validation.
//!
//! A bad event is refused with an error that names the field and the fix; the worker
//! parks the message with that text as its reason.

use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::product::{ATTRIBUTE_CHARS_MAX, BULLET_POINTS_MAX, DESCRIPTION_CHARS_MAX, TITLE_CHARS_MAX};
use crate::{Product, ProductId};

/// The only event schema this build reads.
pub const SCHEMA_VERSION: u32 = 1;
/// Clocks of sources may run ahead of ours by this much.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5 * 60);
/// Longest query, in characters; longer ones are pasted text, not queries.
pub const QUERY_CHARS_MAX: usize = 512;
/// Most pairs in one `score_pairs` event.
pub const PAIRS_MAX: usize = 100;

/// A change of the catalog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CatalogEvent {
    Upsert(Upsert),
    Delete(Delete),
    ScorePairs(ScorePairs),
}

/// A product was created or changed; the event carries its whole snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upsert {
    #[schemars(range(min = 1, max = 1))]
    pub schema_version: u32,
    pub product_id: ProductId,
    /// Set by the source; grows with each change of this product.
    pub version: u64,
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub occurred_at: Timestamp,
    pub product: Product,
}

/// A product left the catalog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    #[schemars(range(min = 1, max = 1))]
    pub schema_version: u32,
    pub product_id: ProductId,
    /// Set by the source; grows with each change of this product, deletes included.
    pub version: u64,
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub occurred_at: Timestamp,
}

/// A request to label named pairs of products, whether or not blocking proposes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScorePairs {
    #[schemars(range(min = 1, max = 1))]
    pub schema_version: u32,
    /// Set by the source; grows with each request.
    pub version: u64,
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub occurred_at: Timestamp,
    /// 1 to 100 pairs of two different products.
    #[schemars(length(min = 1, max = 100))]
    pub pairs: Vec<(ProductId, ProductId)>,
}

/// A shopper's query was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryEvent {
    #[schemars(range(min = 1, max = 1))]
    pub schema_version: u32,
    #[serde(rename = "type")]
    pub kind: QueryEventKind,
    /// 1 to 512 characters.
    #[schemars(length(min = 1, max = QUERY_CHARS_MAX))]
    pub query: String,
    /// Set by the source; grows with each sighting.
    pub version: u64,
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub occurred_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueryEventKind {
    Query,
}

/// Any event, as one queue may carry both kinds.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Catalog(CatalogEvent),
    Query(QueryEvent),
}

/// Why an event was refused. Every variant says which field, and what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("the body is not JSON: {reason}")]
    NotJson { reason: String },
    #[error("the body is JSON but not an object; send one event as an object")]
    NotAnObject,
    #[error("schema_version: {given} is not known to this build, which reads {SCHEMA_VERSION}")]
    UnknownSchemaVersion { given: String },
    #[error("type: {given} is not one of upsert, delete, score_pairs, query")]
    UnknownType { given: String },
    #[error("{field}: {reason}")]
    Field { field: String, reason: String },
    #[error(
        "occurred_at: {occurred_at} is more than 5 minutes ahead of the clocks of this worker and its queue \
         ({now}); check the source's clock"
    )]
    FromTheFuture { occurred_at: Timestamp, now: Timestamp },
}

impl Event {
    /// Parses and validates one event; `now` is the reader's clock, or its queue's where that is ahead.
    pub fn parse(body: &[u8], now: Timestamp) -> Result<Self, EventError> {
        let value: Value =
            serde_json::from_slice(body).map_err(|error| EventError::NotJson { reason: error.to_string() })?;
        Self::from_value(value, now)
    }

    /// As [`Event::parse`], for a body that an envelope has already parsed.
    pub fn from_value(value: Value, now: Timestamp) -> Result<Self, EventError> {
        let Value::Object(mut fields) = value else { return Err(EventError::NotAnObject) };
        let schema_version = fields.get("schema_version").ok_or_else(|| missing("schema_version"))?;
        if schema_version.as_u64() != Some(u64::from(SCHEMA_VERSION)) {
            return Err(EventError::UnknownSchemaVersion { given: short(schema_version) });
        }
        let kind = fields.get("type").ok_or_else(|| missing("type"))?;
        let event = match kind.as_str() {
            Some("query") => Self::Query(read(Value::Object(fields))?),
            Some(kind @ ("upsert" | "delete" | "score_pairs")) => {
                let kind = kind.to_owned();
                fields.remove("type");
                let body = Value::Object(fields);
                Self::Catalog(match kind.as_str() {
                    "upsert" => CatalogEvent::Upsert(read(body)?),
                    "delete" => CatalogEvent::Delete(read(body)?),
                    _ => CatalogEvent::ScorePairs(read(body)?),
                })
            }
            _ => return Err(EventError::UnknownType { given: short(kind) }),
        };
        event.validate(now)?;
        Ok(event)
    }

    pub fn occurred_at(&self) -> Timestamp {
        match self {
            Self::Catalog(CatalogEvent::Upsert(e)) => e.occurred_at,
            Self::Catalog(CatalogEvent::Delete(e)) => e.occurred_at,
            Self::Catalog(CatalogEvent::ScorePairs(e)) => e.occurred_at,
            Self::Query(e) => e.occurred_at,
        }
    }

    fn validate(&self, now: Timestamp) -> Result<(), EventError> {
        match self {
            Self::Catalog(CatalogEvent::Upsert(upsert)) => validate_product(&upsert.product)?,
            Self::Catalog(CatalogEvent::Delete(_)) => {}
            Self::Catalog(CatalogEvent::ScorePairs(request)) => validate_pairs(&request.pairs)?,
            Self::Query(event) => validate_query(&event.query)?,
        }
        let occurred_at = self.occurred_at();
        if occurred_at.duration_since(now).as_secs() > CLOCK_SKEW_MAX.as_secs() as i64 {
            return Err(EventError::FromTheFuture { occurred_at, now });
        }
        Ok(())
    }
}

/// Refuses a query that is too long or says nothing; the error names the field `query`.
pub fn validate_query(query: &str) -> Result<(), EventError> {
    bounded("query", query, QUERY_CHARS_MAX)?;
    if crate::text::normalise_query(query).is_empty() {
        return Err(field("query", "is empty; send 1 to 512 characters"));
    }
    Ok(())
}

/// Refuses a product with a field out of bounds; the error names it, below `product`.
pub fn validate_product(product: &Product) -> Result<(), EventError> {
    bounded("product.title", &product.title, TITLE_CHARS_MAX)?;
    if product.title.trim().is_empty() {
        return Err(field("product.title", "is empty; every product needs a title"));
    }
    for (name, value) in [
        ("product.product_type", &product.product_type),
        ("product.brand", &product.brand),
        ("product.model_number", &product.model_number),
        ("product.language", &product.language),
    ] {
        bounded(name, value.as_deref().unwrap_or_default(), ATTRIBUTE_CHARS_MAX)?;
    }
    bounded("product.description", product.description.as_deref().unwrap_or_default(), DESCRIPTION_CHARS_MAX)?;
    if product.bullet_points.len() > BULLET_POINTS_MAX {
        let reason = format!("has {} entries; at most {BULLET_POINTS_MAX} are allowed", product.bullet_points.len());
        return Err(field("product.bullet_points", &reason));
    }
    for (i, bullet) in product.bullet_points.iter().enumerate() {
        bounded(&format!("product.bullet_points[{i}]"), bullet, DESCRIPTION_CHARS_MAX)?;
    }
    if let Some(price) = &product.price {
        if !(price.amount.is_finite() && price.amount >= 0.0) {
            return Err(field("product.price.amount", "must be a finite number, 0 or more"));
        }
        bounded("product.price.currency", price.currency.as_deref().unwrap_or_default(), ATTRIBUTE_CHARS_MAX)?;
    }
    Ok(())
}

fn validate_pairs(pairs: &[(ProductId, ProductId)]) -> Result<(), EventError> {
    if pairs.is_empty() || pairs.len() > PAIRS_MAX {
        return Err(field("pairs", &format!("has {} entries; send 1 to {PAIRS_MAX}", pairs.len())));
    }
    match pairs.iter().position(|(left, right)| left == right) {
        Some(i) => Err(field(&format!("pairs[{i}]"), "names one product twice; a pair is two different products")),
        None => Ok(()),
    }
}

fn bounded(name: &str, value: &str, chars_max: usize) -> Result<(), EventError> {
    // Counting bytes first keeps the check cheap for a value of megabytes.
    if value.len() > chars_max && value.chars().count() > chars_max {
        let reason = format!("has {} characters; at most {chars_max} are allowed", value.chars().count());
        return Err(field(name, &reason));
    }
    Ok(())
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, EventError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "the event".to_owned() } else { path };
        EventError::Field { field, reason: error.into_inner().to_string() }
    })
}

fn field(name: &str, reason: &str) -> EventError {
    EventError::Field { field: name.to_owned(), reason: reason.to_owned() }
}

fn missing(name: &str) -> EventError {
    field(name, "is missing; every event needs it")
}

/// A value as it stands in an error, cut so that a reason stays readable.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp::constant(1_790_000_000, 0);

    fn upsert() -> Value {
        json!({"schema_version": 1, "type": "upsert", "product_id": "B01", "version": 7,
               "occurred_at": "2026-09-01T00:00:00Z", "product": {"title": "Kettle 1.7 l"}})
    }

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        let mut event = upsert();
        change(&mut event);
        Event::from_value(event, NOW).expect_err("the event is bad").to_string()
    }

    #[test]
    fn events_survive_a_round_trip() {
        let events = [
            upsert(),
            json!({"schema_version": 1, "type": "delete", "product_id": "B01", "version": u64::MAX,
                   "occurred_at": "2026-09-01T00:00:00Z"}),
            json!({"schema_version": 1, "type": "score_pairs", "version": 1,
                   "occurred_at": "2026-09-01T00:00:00Z", "pairs": [["a", "b"]]}),
        ];
        for value in events {
            let Event::Catalog(event) = Event::from_value(value.clone(), NOW).expect("the event is good") else {
                panic!("{value} is a catalog event");
            };
            assert_eq!(serde_json::to_value(&event).expect("events serialise"), value);
        }
        let query = json!({"schema_version": 1, "type": "query", "query": "usb c hub", "version": 3,
                           "occurred_at": "2026-09-01T00:00:00Z"});
        let Event::Query(event) = Event::from_value(query.clone(), NOW).expect("the event is good") else {
            panic!("{query} is a query event");
        };
        assert_eq!(serde_json::to_value(&event).expect("events serialise"), query);
    }

    #[test]
    fn each_refusal_names_the_field() {
        assert!(refused(|e| e["schema_version"] = json!(9)).contains("schema_version: 9"));
        assert!(refused(|e| e["type"] = json!("patch")).contains("type: \"patch\""));
        assert!(refused(|e| e["colour"] = json!("red")).contains("`colour`"));
        assert!(refused(|e| e["product"]["colour"] = json!("red")).contains("`colour`"));
        assert!(refused(|e| e["product"] = json!({})).contains("`title`"));
        assert!(refused(|e| e["product"]["title"] = json!(" ")).contains("product.title"));
        assert!(refused(|e| e["product"]["title"] = json!("x".repeat(900_000))).contains("900000 characters"));
        assert!(refused(|e| e["product_id"] = json!("two words")).contains("product_id"));
        assert!(refused(|e| e["product_id"] = json!("x".repeat(65))).contains("1 to 64"));
        assert!(refused(|e| e["version"] = json!(-1)).contains("version"));
        assert!(refused(|e| e["occurred_at"] = json!("yesterday")).contains("occurred_at"));
        assert!(refused(|e| e["occurred_at"] = json!("2027-01-01T00:00:00Z")).contains("ahead of"));
        assert!(refused(|e| e["product"]["price"] = json!({"amount": -2.0})).contains("product.price.amount"));
    }

    #[test]
    fn required_fields_are_required() {
        for name in ["schema_version", "type", "product_id", "version", "occurred_at", "product"] {
            let reason = refused(|e| {
                e.as_object_mut().expect("an object").remove(name);
            });
            assert!(reason.contains(name), "{name}: {reason}");
        }
    }

    #[test]
    fn bodies_that_are_no_event_are_refused() {
        assert!(matches!(Event::parse(b"{\"a\":", NOW), Err(EventError::NotJson { .. })));
        assert!(matches!(Event::parse(b"\xff\xfe", NOW), Err(EventError::NotJson { .. })));
        assert_eq!(Event::parse(b"[1]", NOW), Err(EventError::NotAnObject));
        let bomb = "[".repeat(100_000);
        assert!(matches!(Event::parse(bomb.as_bytes(), NOW), Err(EventError::NotJson { .. })));
    }

    #[test]
    fn a_pair_is_two_products() {
        let event = json!({"schema_version": 1, "type": "score_pairs", "version": 1,
                           "occurred_at": "2026-09-01T00:00:00Z", "pairs": [["a", "b"], ["c", "c"]]});
        let reason = Event::from_value(event, NOW).expect_err("a self-pair").to_string();
        assert!(reason.starts_with("pairs[1]:"), "{reason}");
    }
}
