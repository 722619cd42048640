//! `products`: the newest known state of each product, and the `labelled` marker.

use std::collections::{HashMap, HashSet};

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::ReturnConsumedCapacity;
use shared::item::{LabelledMarker, ProductItem};
use shared::table::PRODUCTS;
use shared::{ModelId, ProductId};

use super::codec::{Item, encode_value, number, string};
use super::{Store, StoreError, WriteOutcome};

/// Holds while the product still has the state of this version and content.
const SAME_STATE: &str = "#version = :version AND #content_hash = :content_hash";

impl Store {
    /// Replaces the state `known` (none: no state yet) by `state`, if it is still there.
    /// Which of the two is newer is decided by `decide::state`, which also says what
    /// becomes of the marker; here it is written as it stands.
    pub async fn put_state(
        &self,
        state: &ProductItem,
        known: Option<&ProductItem>,
    ) -> Result<WriteOutcome, StoreError> {
        self.put_if(&PRODUCTS, state, &state.id, |put| match known {
            None => put.condition_expression("attribute_not_exists(#id)").expression_attribute_names("#id", "id"),
            Some(known) => put
                .condition_expression(SAME_STATE)
                .expression_attribute_names("#version", "version")
                .expression_attribute_names("#content_hash", "content_hash")
                .expression_attribute_values(":version", number(known.version))
                .expression_attribute_values(":content_hash", string(known.content_hash)),
        })
        .await
    }

    /// The state of one product, read consistently; tombstones included.
    pub async fn product(&self, id: &ProductId) -> Result<Option<ProductItem>, StoreError> {
        self.get(&PRODUCTS, Item::from([("id".to_owned(), string(id))])).await
    }

    /// The states of many products, read consistently, each once, in the order in which
    /// they are first asked for; products without a state are left out.
    pub async fn products(&self, ids: &[ProductId]) -> Result<Vec<ProductItem>, StoreError> {
        let mut seen = HashSet::new();
        let ids: Vec<&ProductId> = ids.iter().filter(|id| seen.insert(*id)).collect();
        let keys = ids.iter().map(|id| Item::from([("id".to_owned(), string(id))])).collect();
        let found: Vec<ProductItem> = self.batch_get(&PRODUCTS, keys).await?;
        let mut by_id: HashMap<_, _> = found.into_iter().map(|item| (item.id.clone(), item)).collect();
        Ok(ids.into_iter().filter_map(|id| by_id.remove(id)).collect())
    }

    /// Sets the model's `labelled` marker on `state` and forgets its earlier texts, whose postings
    /// are gone by then. A conflict means that the product has another state by now.
    pub async fn mark_labelled(
        &self,
        state: &ProductItem,
        model: &ModelId,
        marker: &LabelledMarker,
    ) -> Result<WriteOutcome, StoreError> {
        let call = self.call("UpdateItem", &PRODUCTS);
        let request = self
            .client
            .update_item()
            .table_name(&call.table)
            .key("id", string(&state.id))
            .update_expression("SET #labelled.#model = :labelled REMOVE #previous_texts")
            .condition_expression(SAME_STATE)
            .expression_attribute_names("#labelled", "labelled")
            .expression_attribute_names("#model", &model.0)
            .expression_attribute_names("#previous_texts", "previous_texts")
            .expression_attribute_names("#version", "version")
            .expression_attribute_names("#content_hash", "content_hash")
            .expression_attribute_values(":labelled", encode_value(&call, marker)?)
            .expression_attribute_values(":version", number(state.version))
            .expression_attribute_values(":content_hash", string(state.content_hash))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);

        self.meter.write_request(&PRODUCTS);
        match request.send().await {
            Ok(answer) => {
                self.meter.wrote(&PRODUCTS, answer.consumed_capacity());
                Ok(WriteOutcome::Written)
            }
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(WriteOutcome::Conflict),
                _ => Err(StoreError::of(call, &state.id, error)),
            },
        }
    }
}
