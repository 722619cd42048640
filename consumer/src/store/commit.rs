//! Label items of several products that stand or fall together, with what has to hold for them.

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::transact_write_items::builders::TransactWriteItemsFluentBuilder;
use aws_sdk_dynamodb::types::error::TransactionCanceledException;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, ConditionCheck, Put, ReturnConsumedCapacity,
    ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use shared::item::{LabelItem, LabelledMarker, ProductItem};
use shared::table::{LABELS, PRODUCTS, Table};
use shared::{ModelId, ProductId, TextHash};

use super::codec::{encode, number, string};
use super::error::is_about_size;
use super::products::{SAME_STATE, SET_MARKER, marker_names, marker_values};
use super::put::{revision_condition, revision_value};
use super::{Call, StateOutcome, Store, StoreError};

/// One transaction; at most 100 parts in all, of distinct products.
#[derive(Clone, Debug, Default)]
pub struct LabelWrite<'a> {
    /// Each is written if the one before it, `revision - 1`, is still there (for revision 1: if
    /// there is none).
    pub items: &'a [LabelItem],
    pub checks: &'a [StateCheck],
    /// Sets this marker too, if the product still has this state.
    pub marker: Option<(&'a ProductItem, &'a ModelId, LabelledMarker)>,
}

/// A product state that has to hold for a write: it exists, is deleted or not, and has this text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateCheck {
    pub id: ProductId,
    /// Where given, the state has exactly this version as well.
    pub version: Option<u64>,
    pub text_hash: TextHash,
    pub deleted: bool,
}

impl Store {
    /// Writes all of it or nothing. A transaction costs twice the write units of single writes.
    pub async fn put_label_items(&self, write: &LabelWrite<'_>) -> Result<StateOutcome, StoreError> {
        let call = self.call("TransactWriteItems", &LABELS);
        let request = self.transaction(&call, write)?;
        match self.transact(&LABELS, request, || ids_of(write.items)).await? {
            None => Ok(StateOutcome::Written),
            Some(cancelled) => self.conflict(&call, old_state(write, &cancelled)),
        }
    }

    /// Sends a transaction of this table and the states; with what it was cancelled for, where that
    /// was a condition or another transaction. `key` names its items for a message about their size.
    pub(super) async fn transact(
        &self,
        table: &Table,
        request: TransactWriteItemsFluentBuilder,
        key: impl FnOnce() -> String,
    ) -> Result<Option<TransactionCanceledException>, StoreError> {
        let call = self.call("TransactWriteItems", table);
        self.meter.write_request(table);
        let error = match request.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await {
            Ok(answer) => {
                for table in [*table, PRODUCTS] {
                    let is_of_table = |name: Option<&str>| name == Some(self.name(&table).as_str());
                    let capacity = answer.consumed_capacity().iter().find(|c| is_of_table(c.table_name()));
                    self.meter.wrote(&table, capacity);
                }
                return Ok(None);
            }
            Err(error) => error,
        };
        let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error() else {
            return Err(StoreError::of(call, key(), error));
        };
        match Cancellation::of(cancelled.cancellation_reasons()) {
            Cancellation::Conflict => Ok(Some(cancelled.clone())),
            Cancellation::TooLarge => Err(StoreError::TooLarge { call, key: key(), source: error.into() }),
            Cancellation::Overloaded => Err(StoreError::Unavailable { call, source: error.into() }),
            Cancellation::Refused => Err(StoreError::Refused { call, source: error.into() }),
        }
    }

    /// The marker comes first, so that its reason does.
    fn transaction(&self, call: &Call, write: &LabelWrite<'_>) -> Result<TransactWriteItemsFluentBuilder, StoreError> {
        let refused = |error: BuildError| StoreError::Refused { call: call.clone(), source: error.into() };
        let mut request = self.client.transact_write_items();
        if let Some((state, model, marker)) = &write.marker {
            let update = Update::builder()
                .table_name(self.name(&PRODUCTS))
                .key("id", string(&state.id))
                .update_expression(SET_MARKER)
                .condition_expression(SAME_STATE)
                .set_expression_attribute_names(Some(marker_names(model)))
                .set_expression_attribute_values(Some(marker_values(call, state, marker)?))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                .build()
                .map_err(refused)?;
            request = request.transact_items(TransactWriteItem::builder().update(update).build());
        }
        for check in write.checks {
            let check = check.to_condition_check(self.name(&PRODUCTS)).map_err(refused)?;
            request = request.transact_items(TransactWriteItem::builder().condition_check(check).build());
        }
        for item in write.items {
            let put = Put::builder()
                .table_name(&call.table)
                .set_item(Some(encode(call, item)?))
                .condition_expression(revision_condition(item.revision))
                .expression_attribute_names("#revision", "revision")
                .set_expression_attribute_values(revision_value(item.revision))
                .build()
                .map_err(refused)?;
            request = request.transact_items(TransactWriteItem::builder().put(put).build());
        }
        Ok(request)
    }
}

/// The state that the marker found instead of its own.
fn old_state(write: &LabelWrite<'_>, cancelled: &TransactionCanceledException) -> Option<super::codec::Item> {
    write.marker.as_ref()?;
    let of_marker = cancelled.cancellation_reasons().first()?;
    of_marker.item().cloned()
}

fn ids_of(items: &[LabelItem]) -> String {
    items.iter().map(|item| item.id.as_str()).collect::<Vec<_>>().join(", ")
}

impl StateCheck {
    /// The state is exactly this one.
    pub fn exact(state: &ProductItem) -> Self {
        Self { version: Some(state.version), ..Self::text(state) }
    }

    /// The product still has the text of this state.
    pub fn text(state: &ProductItem) -> Self {
        Self { id: state.id.clone(), version: None, text_hash: state.text_hash, deleted: state.deleted }
    }

    pub(super) fn to_condition_check(&self, table: String) -> Result<ConditionCheck, BuildError> {
        let mut check = ConditionCheck::builder()
            .table_name(table)
            .key("id", string(&self.id))
            .expression_attribute_names("#deleted", "deleted")
            .expression_attribute_names("#text_hash", "text_hash")
            .expression_attribute_values(":deleted", AttributeValue::Bool(self.deleted))
            .expression_attribute_values(":text_hash", string(self.text_hash));
        // Comparisons fail on an item that does not exist, so existence needs no test.
        let mut condition = "#deleted = :deleted AND #text_hash = :text_hash".to_owned();
        if let Some(version) = self.version {
            condition.push_str(" AND #version = :version");
            check = check
                .expression_attribute_names("#version", "version")
                .expression_attribute_values(":version", number(version));
        }
        check.condition_expression(condition).build()
    }
}

/// Why a transaction was cancelled, by what the caller can do about it.
#[derive(Debug, PartialEq)]
enum Cancellation {
    Conflict,
    TooLarge,
    Overloaded,
    Refused,
}

impl Cancellation {
    /// A condition that failed is certain to fail again, so it outweighs the rest.
    fn of(reasons: &[CancellationReason]) -> Self {
        let has = |codes: &[&str]| reasons.iter().any(|reason| codes.contains(&reason.code().unwrap_or_default()));
        if has(&["ConditionalCheckFailed", "TransactionConflict"]) {
            Self::Conflict
        } else if reasons.iter().any(|reason| is_about_size(reason.message().unwrap_or_default())) {
            Self::TooLarge
        } else if has(&["ThrottlingError", "ProvisionedThroughputExceeded", "RequestLimitExceeded"]) {
            Self::Overloaded
        } else {
            Self::Refused
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancellation(reasons: &[(&str, &str)]) -> Cancellation {
        let reasons: Vec<CancellationReason> = reasons
            .iter()
            .map(|(code, message)| CancellationReason::builder().code(*code).message(*message).build())
            .collect();
        Cancellation::of(&reasons)
    }

    #[test]
    fn cancellations_are_told_apart() {
        assert_eq!(cancellation(&[("None", ""), ("ConditionalCheckFailed", "")]), Cancellation::Conflict);
        assert_eq!(cancellation(&[("TransactionConflict", ""), ("ThrottlingError", "")]), Cancellation::Conflict);
        assert_eq!(cancellation(&[("None", ""), ("ThrottlingError", "")]), Cancellation::Overloaded);
        assert_eq!(cancellation(&[("ValidationError", "bad")]), Cancellation::Refused);
        let size = "Item size has exceeded the maximum allowed size";
        assert_eq!(cancellation(&[("ValidationError", size)]), Cancellation::TooLarge);
    }
}
