//! `products`: the newest known state of each product, and the `labelled` marker.

use std::collections::{HashMap, HashSet};

use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{ReturnConsumedCapacity, ReturnValuesOnConditionCheckFailure};
use shared::item::{LabelItem, LabelledMarker, ProductItem};
use shared::table::{LABELS, PRODUCTS};
use shared::{ModelId, ProductId};

use super::codec::{Item, decode, encode_value, number, string};
use super::labels::label_key;
use super::put::Put;
use super::{Call, StateOutcome, Store, StoreError};

/// Sets one model's marker.
pub(super) const SET_MARKER: &str = "SET #labelled.#model = :labelled REMOVE #previous_texts";
/// Holds while the product still has the state of this version and content.
pub(super) const SAME_STATE: &str = "#version = :version AND #content_hash = :content_hash";

impl Store {
    /// Replaces the state `known` (none: no state yet) by `state`, if it is still there.
    /// Which of the two is newer is decided by `decide::state`, which also says what
    /// becomes of the marker; here it is written as it stands.
    pub async fn put_state(
        &self,
        state: &ProductItem,
        known: Option<&ProductItem>,
    ) -> Result<StateOutcome, StoreError> {
        let put = self.put_or_old(&PRODUCTS, state, &state.id, |put| match known {
            None => old(put).condition_expression("attribute_not_exists(#id)").expression_attribute_names("#id", "id"),
            Some(known) => old(put)
                .condition_expression(SAME_STATE)
                .expression_attribute_names("#version", "version")
                .expression_attribute_names("#content_hash", "content_hash")
                .expression_attribute_values(":version", number(known.version))
                .expression_attribute_values(":content_hash", string(known.content_hash)),
        });
        match put.await? {
            Put::Written => Ok(StateOutcome::Written),
            Put::Conflict(old) => self.conflict(&self.call("PutItem", &PRODUCTS), old),
        }
    }

    /// With the state that is there instead of the expected one.
    pub(super) fn conflict(&self, call: &Call, old: Option<Item>) -> Result<StateOutcome, StoreError> {
        let old = old.filter(|item| !item.is_empty()).map(|item| decode(call, item)).transpose()?;
        Ok(StateOutcome::Conflict(old.map(Box::new)))
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

    /// The states of many products, as [`Store::products`] has them, and one product's label
    /// item, in one request.
    pub async fn products_and_label_item(
        &self,
        ids: &[ProductId],
        own: &ProductId,
        model: &ModelId,
    ) -> Result<(Vec<ProductItem>, Option<LabelItem>), StoreError> {
        let call = self.call("BatchGetItem", &PRODUCTS);
        let mut seen = HashSet::new();
        let ids: Vec<&ProductId> = ids.iter().filter(|id| seen.insert(*id)).collect();
        let states = ids.iter().map(|id| (PRODUCTS, Item::from([("id".to_owned(), string(id))])));
        let keys = states.chain([(LABELS, label_key(own, model))]).collect();
        let (mut by_id, mut label_item) = (HashMap::new(), None);
        for (table, item) in self.batch_get_any(&call, keys).await? {
            if table == LABELS {
                label_item = Some(decode(&call, item)?);
            } else {
                let state: ProductItem = decode(&call, item)?;
                by_id.insert(state.id.clone(), state);
            }
        }
        Ok((ids.into_iter().filter_map(|id| by_id.remove(id)).collect(), label_item))
    }

    /// Sets the model's `labelled` marker on `state` and forgets its earlier texts, whose postings
    /// are gone by then. A conflict means that the product has another state by now.
    pub async fn mark_labelled(
        &self,
        state: &ProductItem,
        model: &ModelId,
        marker: &LabelledMarker,
    ) -> Result<StateOutcome, StoreError> {
        let call = self.call("UpdateItem", &PRODUCTS);
        let request = self
            .client
            .update_item()
            .table_name(&call.table)
            .key("id", string(&state.id))
            .update_expression(SET_MARKER)
            .condition_expression(SAME_STATE)
            .set_expression_attribute_names(Some(marker_names(model)))
            .set_expression_attribute_values(Some(marker_values(&call, state, marker)?))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);

        self.meter.write_request(&PRODUCTS);
        match request.send().await {
            Ok(answer) => {
                self.meter.wrote(&PRODUCTS, answer.consumed_capacity());
                Ok(StateOutcome::Written)
            }
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    self.conflict(&call, failed.item.clone())
                }
                _ => Err(StoreError::of(call, &state.id, error)),
            },
        }
    }
}

/// Names of [`SET_MARKER`] and [`SAME_STATE`]. All are written with `#`: several are words that
/// DynamoDB reserves, and it may reserve more.
pub(super) fn marker_names(model: &ModelId) -> HashMap<String, String> {
    let fields = ["labelled", "previous_texts", "version", "content_hash"];
    let names = fields.into_iter().map(|field| (format!("#{field}"), field.to_owned()));
    names.chain([("#model".to_owned(), model.0.clone())]).collect()
}

/// Values of [`SET_MARKER`] and [`SAME_STATE`].
pub(super) fn marker_values(call: &Call, state: &ProductItem, marker: &LabelledMarker) -> Result<Item, StoreError> {
    Ok(Item::from([
        (":labelled".to_owned(), encode_value(call, marker)?),
        (":version".to_owned(), number(state.version)),
        (":content_hash".to_owned(), string(state.content_hash)),
    ]))
}

fn old(put: PutItemFluentBuilder) -> PutItemFluentBuilder {
    put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
}
