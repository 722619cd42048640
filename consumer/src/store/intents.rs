//! `intents` and `control`: what kind of query this is, and which model readers take.

use shared::ModelId;
use shared::item::{ACTIVE_MODEL, ActiveModelItem, IntentItem};
use shared::table::{CONTROL, INTENTS};

use super::codec::{Item, number, string};
use super::{IntentOutcome, Store, StoreError, WriteOutcome};

impl Store {
    /// The intent of a normalised query, read consistently. It may have expired: DynamoDB
    /// removes items days after their time.
    pub async fn intent(&self, query: &str, model: &ModelId) -> Result<Option<IntentItem>, StoreError> {
        let key = Item::from([("query".to_owned(), string(query)), ("model".to_owned(), string(model))]);
        self.get(&INTENTS, key).await
    }

    /// Writes an intent if there is none, or one of an older version, or one that had
    /// expired when this one was labelled.
    pub async fn put_intent(&self, item: &IntentItem) -> Result<IntentOutcome, StoreError> {
        let condition = "attribute_not_exists(#query) OR #version < :version OR #expires_at <= :now";
        let put = self.put_if(&INTENTS, item, &item.query, |put| {
            put.condition_expression(condition)
                .expression_attribute_names("#query", "query")
                .expression_attribute_names("#version", "version")
                .expression_attribute_names("#expires_at", "expires_at")
                .expression_attribute_values(":version", number(item.version))
                .expression_attribute_values(":now", number(item.labelled_at.as_second()))
        });
        Ok(match put.await? {
            WriteOutcome::Written => IntentOutcome::Written,
            WriteOutcome::Conflict => IntentOutcome::Stale,
        })
    }

    /// Which slot readers take; none before the first activation.
    pub async fn active_model(&self) -> Result<Option<ActiveModelItem>, StoreError> {
        self.get(&CONTROL, Item::from([("name".to_owned(), string(ACTIVE_MODEL))])).await
    }

    /// Switches readers to `model` if `known` is still what the table says (none: if no
    /// model is active yet), whose model becomes the previous one. The epoch grows by one
    /// and starts at 1.
    pub async fn set_active_model(
        &self,
        model: &ModelId,
        known: Option<&ActiveModelItem>,
    ) -> Result<WriteOutcome, StoreError> {
        let item = ActiveModelItem {
            name: ACTIVE_MODEL.to_owned(),
            model: model.clone(),
            previous: known.map(|known| known.model.clone()),
            activation_epoch: known.map_or(0, |known| known.activation_epoch) + 1,
        };
        let condition = match known {
            None => "attribute_not_exists(#epoch)",
            Some(_) => "#epoch = :epoch",
        };
        let values = known.map(|known| Item::from([(":epoch".to_owned(), number(known.activation_epoch))]));
        self.put_if(&CONTROL, &item, ACTIVE_MODEL, |put| {
            put.condition_expression(condition)
                .expression_attribute_names("#epoch", "activation_epoch")
                .set_expression_attribute_values(values)
        })
        .await
    }
}
