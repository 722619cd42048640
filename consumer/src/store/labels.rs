//! `labels`: all labels of one product under one model, in one item.

use aws_sdk_dynamodb::types::ReturnConsumedCapacity;
use shared::item::LabelItem;
use shared::table::LABELS;
use shared::{ModelId, ProductId};

use super::codec::{Item, decode, string};
use super::{Store, StoreError, WriteOutcome};

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
    /// revision 1: if there is none).
    pub async fn put_label_item(&self, item: &LabelItem) -> Result<WriteOutcome, StoreError> {
        self.put_revision(&LABELS, item, item.revision, &item.id).await
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

pub(super) fn label_key(id: &ProductId, model: &ModelId) -> Item {
    Item::from([("id".to_owned(), string(id)), ("model".to_owned(), string(model))])
}
