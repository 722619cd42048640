//! `labels`: all labels of one product under one model, in one item.

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, ConditionCheck, Put, ReturnConsumedCapacity, TransactWriteItem,
};
use shared::item::{LabelItem, ProductItem};
use shared::table::{LABELS, PRODUCTS};
use shared::{ModelId, ProductId, TextHash};

use super::codec::{Item, decode, encode, number, string};
use super::error::is_about_size;
use super::put::{revision_condition, revision_value};
use super::{Store, StoreError, WriteOutcome};

/// A product state that has to hold for a label to be written: it exists, is not deleted,
/// and has this text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateCheck {
    pub id: ProductId,
    /// Where given, the state has exactly this version as well.
    pub version: Option<u64>,
    pub text_hash: TextHash,
}

impl Store {
    /// One label item, read consistently; tombstones included.
    pub async fn label_item(&self, id: &ProductId, model: &ModelId) -> Result<Option<LabelItem>, StoreError> {
        self.get(&LABELS, label_key(id, model)).await
    }

    /// Many label items, read consistently, each once, in any order; what does not exist
    /// is left out.
    pub async fn label_items(&self, keys: &[(ProductId, ModelId)]) -> Result<Vec<LabelItem>, StoreError> {
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        self.batch_get(&LABELS, distinct.into_iter().map(|(id, model)| label_key(id, model)).collect()).await
    }

    /// Writes a label item if the one before it, `item.revision - 1`, is still there (for
    /// revision 1: if there is none) and every check holds.
    ///
    /// Without checks this is one conditional put, with them a transaction, which costs
    /// twice the write units. At most 99 checks, of distinct products.
    pub async fn put_label_item(&self, item: &LabelItem, checks: &[StateCheck]) -> Result<WriteOutcome, StoreError> {
        if checks.is_empty() {
            self.put_revision(&LABELS, item, item.revision, &item.id).await
        } else {
            self.put_label_checked(item, checks).await
        }
    }

    async fn put_label_checked(&self, item: &LabelItem, checks: &[StateCheck]) -> Result<WriteOutcome, StoreError> {
        let call = self.call("TransactWriteItems", &LABELS);
        let refused = |source| StoreError::Refused { call: call.clone(), source };
        let put = Put::builder()
            .table_name(&call.table)
            .set_item(Some(encode(&call, item)?))
            .condition_expression(revision_condition(item.revision))
            .expression_attribute_names("#revision", "revision")
            .set_expression_attribute_values(revision_value(item.revision))
            .build()
            .map_err(|error| refused(error.into()))?;
        let mut request = self
            .client
            .transact_write_items()
            .transact_items(TransactWriteItem::builder().put(put).build())
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        for check in checks {
            let check = check.to_condition_check(self.name(&PRODUCTS)).map_err(|error| refused(error.into()))?;
            request = request.transact_items(TransactWriteItem::builder().condition_check(check).build());
        }
        self.meter.write_request(&LABELS);
        match request.send().await {
            Ok(answer) => {
                for table in [LABELS, PRODUCTS] {
                    let is_of_table = |name: Option<&str>| name == Some(self.name(&table).as_str());
                    let capacity = answer.consumed_capacity().iter().find(|c| is_of_table(c.table_name()));
                    self.meter.wrote(&table, capacity);
                }
                Ok(WriteOutcome::Written)
            }
            Err(error) => match error.as_service_error() {
                Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                    match Cancellation::of(cancelled.cancellation_reasons()) {
                        Cancellation::Conflict => Ok(WriteOutcome::Conflict),
                        Cancellation::TooLarge => {
                            let key = item.id.to_string();
                            Err(StoreError::TooLarge { call, key, source: error.into() })
                        }
                        Cancellation::Overloaded => Err(StoreError::Unavailable { call, source: error.into() }),
                        Cancellation::Refused => Err(StoreError::Refused { call, source: error.into() }),
                    }
                }
                _ => Err(StoreError::of(call, &item.id, error)),
            },
        }
    }

    /// The label items of one product under every model, read consistently.
    pub async fn label_slots(&self, id: &ProductId) -> Result<Vec<LabelItem>, StoreError> {
        let call = self.call("Query", &LABELS);
        let (mut slots, mut from) = (Vec::new(), None);
        loop {
            let request = self
                .client
                .query()
                .table_name(&call.table)
                .key_condition_expression("#id = :id")
                .expression_attribute_names("#id", "id")
                .expression_attribute_values(":id", string(id))
                .consistent_read(true)
                .set_exclusive_start_key(from)
                .return_consumed_capacity(ReturnConsumedCapacity::Total);
            self.meter.read_request(&LABELS);
            let answer = request.send().await.map_err(|error| StoreError::of(call.clone(), id, error))?;
            self.meter.read(&LABELS, answer.items().len(), answer.consumed_capacity());
            for item in answer.items.unwrap_or_default() {
                slots.push(decode(&call, item)?);
            }
            from = answer.last_evaluated_key.filter(|key| !key.is_empty());
            if from.is_none() {
                return Ok(slots);
            }
        }
    }
}

impl StateCheck {
    /// The state is exactly this one.
    pub fn exact(state: &ProductItem) -> Self {
        Self { id: state.id.clone(), version: Some(state.version), text_hash: state.text_hash }
    }

    /// The product still has the text of this state.
    pub fn text(state: &ProductItem) -> Self {
        Self { id: state.id.clone(), version: None, text_hash: state.text_hash }
    }

    fn to_condition_check(&self, table: String) -> Result<ConditionCheck, aws_sdk_dynamodb::error::BuildError> {
        let mut check = ConditionCheck::builder()
            .table_name(table)
            .key("id", string(&self.id))
            .expression_attribute_names("#deleted", "deleted")
            .expression_attribute_names("#text_hash", "text_hash")
            .expression_attribute_values(":deleted", AttributeValue::Bool(false))
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

fn label_key(id: &ProductId, model: &ModelId) -> Item {
    Item::from([("id".to_owned(), string(id)), ("model".to_owned(), string(model))])
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
