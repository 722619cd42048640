use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crate::reader::PAGE_PRODUCTS_MAX;

type Source = Arc<dyn Error + Send + Sync>;

/// Why labels could not be read. A search engine shows the page without them. Clones, so
/// that all who wait for one read learn why it failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReaderError {
    #[error("a page has at most {PAGE_PRODUCTS_MAX} different products, not {given}; ask for the visible ones")]
    PageTooLarge { given: usize },
    #[error("no model is active in table {table}; has a worker labelled anything under this prefix?")]
    NoActiveModel { table: String },
    #[error("{operation} on table {table}: no answer within {} ms", .after.as_millis())]
    Deadline { operation: &'static str, table: String, after: Duration },
    #[error("{operation} on table {table}: the table is overloaded or out of reach")]
    Unavailable { operation: &'static str, table: String, source: Source },
    #[error("{operation} on table {table} failed; are prefix, region and permissions right?")]
    Service { operation: &'static str, table: String, source: Source },
    #[error("table {table}: this build cannot read the item; was it written by a newer one?")]
    Decode { table: String, source: serde_dynamo::Error },
}

impl ReaderError {
    /// True when the same call may succeed in a moment: a page is shown with what is known.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Deadline { .. } | Self::Unavailable { .. })
    }
}
