//! `control`: how far a reconciliation got, so that one that was cut off goes on there.

use aws_sdk_dynamodb::types::ReturnConsumedCapacity;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::table::CONTROL;
use shared::{ModelId, ProductId};

use super::codec::{Item, string};
use super::{Store, StoreError};

/// How far one segment of the products is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reached {
    Start,
    /// Everything up to this product, in the order of a scan.
    After(ProductId),
    End,
}

/// `control` item `reconcile/MODEL`: what a reconciliation has done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reconciling {
    pub name: String,
    /// The key epochs in use when it began: under others, what was done counts for nothing.
    pub key_epoch: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also_epoch: Option<u32>,
    /// In the second pass, which fills items up.
    pub refills: bool,
    /// Products planned, by all runs that had a part in it.
    pub planned: u64,
    /// Label items met in the first pass that had overflowed.
    pub overflows: u64,
    pub saved_at: Timestamp,
    pub segments: Vec<Reached>,
}

impl Reconciling {
    pub fn name(model: &ModelId) -> String {
        format!("reconcile/{model}")
    }
}

impl Store {
    /// What a reconciliation for this model has left to be gone on with.
    pub async fn reconciling(&self, model: &ModelId) -> Result<Option<Reconciling>, StoreError> {
        self.get(&CONTROL, Item::from([("name".to_owned(), string(Reconciling::name(model)))])).await
    }

    /// Each thing that it says is true whoever says it last, so it carries no condition.
    pub async fn save_reconciling(&self, progress: &Reconciling) -> Result<(), StoreError> {
        self.put_if(&CONTROL, progress, &progress.name, |put| put).await.map(drop)
    }

    /// Once every product is done.
    pub async fn forget_reconciling(&self, progress: &Reconciling) -> Result<(), StoreError> {
        self.forget(&progress.name).await
    }

    /// Deletes a control item.
    pub(super) async fn forget(&self, name: &str) -> Result<(), StoreError> {
        let call = self.call("DeleteItem", &CONTROL);
        let request = self.client.delete_item().table_name(&call.table).key("name", string(name));
        self.meter.write_request(&CONTROL);
        let answer = request.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await;
        let answer = answer.map_err(|error| StoreError::of(call, name, error))?;
        self.meter.wrote(&CONTROL, answer.consumed_capacity());
        Ok(())
    }
}
