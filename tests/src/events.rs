//! Events as a source would send them.

use jiff::Timestamp;
use serde_json::{Value, json};

pub fn upsert(id: &str, version: u64, title: &str) -> Value {
    json!({"schema_version": 1, "type": "upsert", "product_id": id, "version": version,
           "occurred_at": Timestamp::now(), "product": {"title": title}})
}

pub fn delete(id: &str, version: u64) -> Value {
    json!({"schema_version": 1, "type": "delete", "product_id": id, "version": version,
           "occurred_at": Timestamp::now()})
}

pub fn score_pairs(version: u64, pairs: &[(&str, &str)]) -> Value {
    json!({"schema_version": 1, "type": "score_pairs", "version": version,
           "occurred_at": Timestamp::now(), "pairs": pairs})
}

pub fn query(text: &str, version: u64) -> Value {
    json!({"schema_version": 1, "type": "query", "query": text, "version": version, "occurred_at": Timestamp::now()})
}
