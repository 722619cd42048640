//! The tables, through the DynamoDB SDK, whatever engine answers.
//!
//! Items go in and out as the structs of [`shared::item`]. Every read that decides
//! something is consistent; every write that could lose to a newer one carries a condition
//! and says how it went instead of failing.

mod audit;
mod batch;
mod codec;
mod commit;
pub mod embedded;
mod error;
mod intents;
mod key_epochs;
mod labels;
mod meter;
mod objects;
mod postings;
mod products;
mod put;
mod reconciling;
mod scan;
mod tables;

use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use shared::item::ProductItem;
use shared::table::Table;

pub use commit::{LabelWrite, StateCheck};
pub use embedded::{Embedded, EmbeddedError};
pub use error::{Call, StoreError};
pub use meter::{Meter, MeterSnapshot, Usage};
pub use objects::ObjectProgress;
pub use reconciling::{Reached, Reconciling};
pub use scan::{Page, ProductPage};
pub use tables::TablesError;

/// How a conditional write went, where the caller has to read again after losing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    Written,
    /// Somebody else wrote in between, or a checked state has moved on.
    Conflict,
}

/// How a write went that depends on a product's state.
#[derive(Clone, Debug, PartialEq)]
pub enum StateOutcome {
    Written,
    /// The product has another state, which is the one named where the table did name it, or
    /// none; or somebody else wrote in between.
    Conflict(Option<Box<ProductItem>>),
}

/// How a conditional write went, where losing means that the table already knows better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntentOutcome {
    Written,
    /// A live label of the same or a newer version is there.
    Stale,
}

/// The tables under one prefix. Cheap to clone; clones share the client and the meter.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    prefix: Arc<str>,
    meter: Arc<Meter>,
}

impl Store {
    /// `prefix` goes before each name of [`shared::table::ALL`].
    pub fn new(client: Client, prefix: &str) -> Self {
        Self { client, prefix: prefix.into(), meter: Arc::default() }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What all clones of this store have asked of the tables so far.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    fn name(&self, table: &Table) -> String {
        table.physical_name(&self.prefix)
    }

    fn call(&self, operation: &'static str, table: &Table) -> Call {
        Call { operation, table: self.name(table) }
    }
}
