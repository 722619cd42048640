//! The one definition of the tables. The worker, `demo`, the tests and the CDK create
//! them from it.

use serde::Serialize;

/// One DynamoDB table, on demand, all key attributes strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Table {
    /// Follows the configured prefix.
    pub name: &'static str,
    pub partition_key: &'static str,
    pub sort_key: Option<&'static str>,
    /// Attribute with the epoch second at which DynamoDB may remove the item.
    pub ttl_attribute: Option<&'static str>,
    /// Whether changes are streamed (new and old images), for index feeds.
    pub stream: bool,
}

pub const PRODUCTS: Table =
    Table { name: "products", partition_key: "id", sort_key: None, ttl_attribute: Some("expires_at"), stream: false };
pub const POSTINGS: Table =
    Table { name: "postings", partition_key: "key", sort_key: Some("id"), ttl_attribute: None, stream: false };
pub const LABELS: Table = Table {
    name: "labels",
    partition_key: "id",
    sort_key: Some("model"),
    ttl_attribute: Some("expires_at"),
    stream: true,
};
pub const INTENTS: Table = Table {
    name: "intents",
    partition_key: "query",
    sort_key: Some("model"),
    ttl_attribute: Some("expires_at"),
    stream: true,
};
pub const CONTROL: Table =
    Table { name: "control", partition_key: "name", sort_key: None, ttl_attribute: None, stream: false };

/// Prefix of the table names unless one is configured.
pub const PREFIX_DEFAULT: &str = "catalog-labels-";

impl Table {
    /// The table's name in DynamoDB.
    pub fn physical_name(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.name)
    }
}

pub const ALL: [Table; 5] = [PRODUCTS, POSTINGS, LABELS, INTENTS, CONTROL];
