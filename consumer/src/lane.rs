//! What kind of work an event is: the series that it counts to, and its queue's share.

use std::fmt;

/// Lanes share one process; each has its own freshness, since nobody waits for bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Changes of products.
    Catalog,
    /// Queries to label.
    Queries,
    /// Whatever comes from the bulk queue: back-fills, replays, periodic runs.
    Bulk,
}

impl Lane {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Catalog => "catalog",
            Self::Queries => "queries",
            Self::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
