//! `products`: the newest known state of each product, and the `labelled` marker.

use std::collections::HashSet;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    ReturnConsumedCapacity, ReturnValue, ReturnValuesOnConditionCheckFailure as OnConditionFailure,
};
use shared::item::{LabelledMarker, ProductItem};
use shared::table::PRODUCTS;
use shared::{ProductId, TextHash};

use super::codec::{Item, decode, encode, encode_value, number, string};
use super::{Store, StoreError};

/// How the write of a product's state went.
#[derive(Clone, Debug, PartialEq)]
pub enum StateOutcome {
    /// `previous` is the state that was replaced, with its marker. The marker is still in
    /// the table if the text is the same, and gone if it is not.
    Written { previous: Option<ProductItem> },
    /// The table already holds this very state, as it stands there, marker included: an
    /// earlier delivery got at least as far as this write.
    Same(ProductItem),
    /// The table holds this newer state.
    Stale(ProductItem),
}

/// What to do with the `labelled` marker when the state is replaced.
#[derive(Clone, Copy)]
enum Marker {
    /// Only write if the text stays what it is, so that the marker stays true.
    Keep,
    Drop,
}

/// What one conditional write met: `Ok` is the state it replaced, `Err` the one that
/// the condition refused to replace.
type Attempt = Result<Option<ProductItem>, ProductItem>;

const NEWER: &str = "#version < :version OR (#version = :version AND #content_hash < :content_hash)";

impl Store {
    /// Writes a state or a tombstone if it is newer by (`version`, `content_hash`).
    ///
    /// `item.labelled` is not written: the marker belongs to [`Store::mark_labelled`]. A
    /// new product, and a change that keeps the text (a price), are one write. A change of
    /// text is two, the first refused by its condition: the marker has to go in the same
    /// write that replaces the text, or a text that changes back (A, B, A) would find the
    /// marker of its first time though the labels are already those of B.
    pub async fn put_state(&self, item: &ProductItem) -> Result<StateOutcome, StoreError> {
        for marker in [Marker::Keep, Marker::Drop] {
            let stored = match self.try_put_state(item, marker).await? {
                Ok(previous) => return Ok(StateOutcome::Written { previous }),
                Err(stored) => stored,
            };
            let age = |state: &ProductItem| (state.version, state.content_hash);
            match age(&stored).cmp(&age(item)) {
                std::cmp::Ordering::Greater => return Ok(StateOutcome::Stale(stored)),
                std::cmp::Ordering::Equal => return Ok(StateOutcome::Same(stored)),
                std::cmp::Ordering::Less => {}
            }
        }
        let call = self.call("UpdateItem", &PRODUCTS);
        Err(StoreError::Contradiction { call, reason: "a newer state was refused as not newer" })
    }

    async fn try_put_state(&self, item: &ProductItem, marker: Marker) -> Result<Attempt, StoreError> {
        let call = self.call("UpdateItem", &PRODUCTS);
        let mut attributes = encode(&call, item)?;
        attributes.remove("id");
        attributes.remove("labelled");
        let mut removed = Vec::new();
        if item.expires_at.is_none() {
            removed.push("#expires_at");
        }
        let condition = match marker {
            Marker::Keep => {
                format!("attribute_not_exists(#id) OR (({NEWER}) AND #text_hash = :text_hash AND #deleted = :deleted)")
            }
            Marker::Drop => {
                removed.push("#labelled");
                format!("attribute_not_exists(#id) OR {NEWER}")
            }
        };
        let mut request = self
            .client
            .update_item()
            .table_name(&call.table)
            .key("id", string(&item.id))
            .update_expression(update_expression(&attributes, &removed))
            .condition_expression(condition)
            .expression_attribute_names("#id", "id")
            .return_values(ReturnValue::AllOld)
            .return_values_on_condition_check_failure(OnConditionFailure::AllOld)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        for name in removed {
            request = request.expression_attribute_names(name, &name[1..]);
        }
        for (name, value) in attributes {
            request = request
                .expression_attribute_names(format!("#{name}"), &name)
                .expression_attribute_values(format!(":{name}"), value);
        }

        self.meter.request(&PRODUCTS);
        match request.send().await {
            Ok(answer) => {
                self.meter.wrote(&PRODUCTS, answer.consumed_capacity());
                // Where there was no item DynamoDB answers without attributes; some engines
                // answer with the key alone, or with an empty map.
                let previous = answer.attributes.filter(|old| old.keys().any(|name| name != "id"));
                Ok(Ok(previous.map(|old| decode(&call, old)).transpose()?))
            }
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refusal)) => {
                    let stored: Option<Item> = refusal.item().cloned();
                    let missing = "a failed condition came without the stored item";
                    let stored =
                        stored.ok_or_else(|| StoreError::Contradiction { call: call.clone(), reason: missing })?;
                    Ok(Err(decode(&call, stored)?))
                }
                _ => Err(StoreError::of(call, &item.id, error)),
            },
        }
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
        let mut by_id: std::collections::HashMap<_, _> =
            found.into_iter().map(|item| (item.id.clone(), item)).collect();
        Ok(ids.into_iter().filter_map(|id| by_id.remove(id)).collect())
    }

    /// Sets the `labelled` marker on the state with this version and text. False when the
    /// product has another state by now, whose own event then does the labelling.
    pub async fn mark_labelled(
        &self,
        id: &ProductId,
        version: u64,
        text_hash: TextHash,
        marker: &LabelledMarker,
    ) -> Result<bool, StoreError> {
        let call = self.call("UpdateItem", &PRODUCTS);
        let request = self
            .client
            .update_item()
            .table_name(&call.table)
            .key("id", string(id))
            .update_expression("SET #labelled = :labelled")
            .condition_expression("#version = :version AND #text_hash = :text_hash")
            .expression_attribute_names("#labelled", "labelled")
            .expression_attribute_names("#version", "version")
            .expression_attribute_names("#text_hash", "text_hash")
            .expression_attribute_values(":labelled", encode_value(&call, marker)?)
            .expression_attribute_values(":version", number(version))
            .expression_attribute_values(":text_hash", string(text_hash))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);

        self.meter.request(&PRODUCTS);
        match request.send().await {
            Ok(answer) => {
                self.meter.wrote(&PRODUCTS, answer.consumed_capacity());
                Ok(true)
            }
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(false),
                _ => Err(StoreError::of(call, id, error)),
            },
        }
    }
}

/// `SET` of every attribute to the value of its name, and `REMOVE` of the named ones.
fn update_expression(attributes: &Item, removed: &[&str]) -> String {
    let set: Vec<String> = attributes.keys().map(|name| format!("#{name} = :{name}")).collect();
    let mut expression = format!("SET {}", set.join(", "));
    if !removed.is_empty() {
        expression.push_str(" REMOVE ");
        expression.push_str(&removed.join(", "));
    }
    expression
}
