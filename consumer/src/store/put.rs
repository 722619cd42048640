//! The conditional put, by which single items of every table are written.

use std::fmt::Display;

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::types::ReturnConsumedCapacity;
use serde::Serialize;
use shared::table::Table;

use super::codec::{Item, encode, number};
use super::{Store, StoreError, WriteOutcome};

/// How a conditional put went; a conflict has the item that is there instead, if the put asked
/// for it and the engine tells.
#[derive(Debug)]
pub(super) enum Put {
    Written,
    Conflict(Option<Item>),
}

impl Store {
    /// Writes `item` if the condition that `with_condition` adds holds. `key` names it in
    /// errors.
    pub(super) async fn put_if(
        &self,
        table: &Table,
        item: &impl Serialize,
        key: impl Display,
        with_condition: impl FnOnce(PutItemFluentBuilder) -> PutItemFluentBuilder,
    ) -> Result<WriteOutcome, StoreError> {
        Ok(match self.put_or_old(table, item, key, with_condition).await? {
            Put::Written => WriteOutcome::Written,
            Put::Conflict(_) => WriteOutcome::Conflict,
        })
    }

    /// The same for those who want to know what is there instead.
    pub(super) async fn put_or_old(
        &self,
        table: &Table,
        item: &impl Serialize,
        key: impl Display,
        with_condition: impl FnOnce(PutItemFluentBuilder) -> PutItemFluentBuilder,
    ) -> Result<Put, StoreError> {
        let call = self.call("PutItem", table);
        let put = self.client.put_item().table_name(&call.table).set_item(Some(encode(&call, item)?));
        let put = with_condition(put).return_consumed_capacity(ReturnConsumedCapacity::Total);
        self.meter.write_request(table);
        match put.send().await {
            Ok(answer) => {
                self.meter.wrote(table, answer.consumed_capacity());
                Ok(Put::Written)
            }
            Err(error) => match error.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(failed)) => Ok(Put::Conflict(failed.item.clone())),
                _ => Err(StoreError::of(call, key, error)),
            },
        }
    }

    /// Writes an item with this `revision` if the one before it is still there (for revision
    /// 1: if there is none).
    pub(super) async fn put_revision(
        &self,
        table: &Table,
        item: &impl Serialize,
        revision: u64,
        key: impl Display,
    ) -> Result<WriteOutcome, StoreError> {
        self.put_if(table, item, key, |put| {
            put.condition_expression(revision_condition(revision))
                .expression_attribute_names("#revision", "revision")
                .set_expression_attribute_values(revision_value(revision))
        })
        .await
    }
}

/// The condition under which this revision may be written.
pub(super) fn revision_condition(revision: u64) -> &'static str {
    if revision <= 1 { "attribute_not_exists(#revision)" } else { "#revision = :revision" }
}

pub(super) fn revision_value(revision: u64) -> Option<Item> {
    (revision > 1).then(|| Item::from([(":revision".to_owned(), number(revision - 1))]))
}
