//! The JSON Schemas in `docs/schema/` are those of the types that the worker parses.
//!
//! `UPDATE_SCHEMAS=1 cargo test --release -p catalog-labels-shared --test schemas` writes
//! them anew.

use std::path::PathBuf;

use schemars::{JsonSchema, schema_for};
use shared::{CatalogEvent, QueryEvent};

fn check<T: JsonSchema>(file: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/schema").join(file);
    let mut schema = serde_json::to_string_pretty(&schema_for!(T)).expect("schemas are JSON");
    schema.push('\n');
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(&path, &schema).expect("docs/schema is writable");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == schema,
        "docs/schema/{file} is not the schema of the type; write it anew with \
         UPDATE_SCHEMAS=1 cargo test --release -p catalog-labels-shared --test schemas"
    );
}

#[test]
fn catalog_event_schema_is_current() {
    check::<CatalogEvent>("catalog-event.schema.json");
}

#[test]
fn query_event_schema_is_current() {
    check::<QueryEvent>("query-event.schema.json");
}
