//! Opens the tables that a command names.

use super::config::TableArgs;
use crate::aws::dynamo::{self, Limits};
use crate::aws::{AwsOptions, sdk_config};
use crate::store::{Embedded, EmbeddedError, Store};

/// Tables, and the engine that answers for them where it is inside this process.
pub struct Tables {
    pub store: Store,
    engine: Option<Embedded>,
}

impl Tables {
    /// Embedded tables with `--local`, which have to be there; else the configured endpoint's.
    pub async fn open(args: &TableArgs) -> Result<Self, EmbeddedError> {
        let engine = args.local.as_deref().map(Embedded::open_existing).transpose()?;
        let store = match &engine {
            Some(engine) => engine.store(&args.table_prefix),
            None => {
                let options = AwsOptions { region: args.region.clone(), endpoint_url: args.endpoint_url.clone() };
                Store::new(dynamo::client(&sdk_config(&options).await, &Limits::default()), &args.table_prefix)
            }
        };
        Ok(Self { store, engine })
    }

    /// Closes embedded tables; others need nothing.
    pub async fn close(self) -> Result<(), EmbeddedError> {
        match self.engine {
            Some(engine) => engine.stop().await,
            None => Ok(()),
        }
    }
}
