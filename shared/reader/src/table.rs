//! What is asked of DynamoDB, and what came back.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use serde::de::DeserializeOwned;
use shared::item::{ACTIVE_MODEL, ActiveModelItem, IntentItem, LabelItem};
use shared::table::{CONTROL, INTENTS, LABELS, Table};
use shared::{ModelId, ProductId};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::error::ReaderError;

/// First bound of the back-off between rounds; doubled each time, with full jitter.
const BACK_OFF_FIRST: Duration = Duration::from_millis(10);
/// Attributes of a label item that a reader needs: all but `distinct`, which is half of a
/// large item and says nothing here. Several are reserved words, so all go by alias.
const LABEL_ATTRIBUTES: [&str; 9] =
    ["id", "model", "text_hash", "version", "content_hash", "pairs", "overflow", "deleted", "revision"];

type Item = HashMap<String, AttributeValue>;

/// The three tables that a reader reads.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    pub client: Client,
    pub prefix: Arc<str>,
    /// For one call, all its round trips included.
    pub deadline: Duration,
    pub rounds_max: u32,
    pub consistent: bool,
}

/// The label items of a page by product, none for products without one. Products that are
/// left out were not answered.
pub(crate) type LabelItems = HashMap<ProductId, Option<Arc<LabelItem>>>;

impl Tables {
    pub async fn active_model(&self, until: Instant) -> Result<ModelId, ReaderError> {
        let key = Item::from([("name".to_owned(), string(ACTIVE_MODEL))]);
        let item = self.get(&CONTROL, key, until).await?;
        let item = item.ok_or_else(|| ReaderError::NoActiveModel { table: self.name(&CONTROL) })?;
        self.decode::<ActiveModelItem>(&CONTROL, item).map(|active| active.model)
    }

    pub async fn intent(
        &self,
        query: &str,
        model: &ModelId,
        until: Instant,
    ) -> Result<Option<IntentItem>, ReaderError> {
        let key = Item::from([("query".to_owned(), string(query)), ("model".to_owned(), string(model))]);
        self.get(&INTENTS, key, until).await?.map(|item| self.decode(&INTENTS, item)).transpose()
    }

    /// Gives `found` the label items of at most 100 distinct products, as answers come. An error
    /// only before the first answer; after it, what came is better than nothing.
    pub async fn label_items(
        &self,
        ids: &[ProductId],
        model: &ModelId,
        until: Instant,
        mut found: impl FnMut(LabelItems),
    ) -> Result<(), ReaderError> {
        let mut asked = ids.to_vec();
        for round in 0..self.rounds_max.max(1) {
            if asked.is_empty() {
                break;
            }
            if round > 0 {
                let back_off = BACK_OFF_FIRST.saturating_mul(2_u32.saturating_pow(round)).mul_f64(fastrand::f64());
                sleep_until((Instant::now() + back_off).min(until)).await;
            }
            match self.label_round(&asked, model, until).await {
                Ok((items, left)) => {
                    let answered = asked.into_iter().filter(|id| !left.contains(id));
                    let mut answers: LabelItems = answered.map(|id| (id, None)).collect();
                    answers.extend(items.into_iter().map(|item| (item.id.clone(), Some(Arc::new(item)))));
                    found(answers);
                    asked = left;
                }
                Err(error) if round == 0 => return Err(error),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn Error, unanswered = asked.len(), "page is incomplete");
                    break;
                }
            }
        }
        Ok(())
    }

    /// One BatchGetItem: the items found, and the products left unprocessed.
    async fn label_round(
        &self,
        ids: &[ProductId],
        model: &ModelId,
        until: Instant,
    ) -> Result<(Vec<LabelItem>, Vec<ProductId>), ReaderError> {
        const OPERATION: &str = "BatchGetItem";
        let table = self.name(&LABELS);
        let key = |id| Item::from([("id".to_owned(), string(id)), ("model".to_owned(), string(model))]);
        let keys = ids.iter().map(key).collect();
        let mut wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(self.consistent);
        for name in LABEL_ATTRIBUTES {
            wanted = wanted.expression_attribute_names(format!("#{name}"), name);
        }
        let aliases = LABEL_ATTRIBUTES.map(|name| format!("#{name}"));
        let wanted = wanted.projection_expression(aliases.join(", ")).build().expect("the keys are set");
        let request = self.client.batch_get_item().request_items(&table, wanted);
        let answer = timeout_at(until, request.send())
            .await
            .map_err(|_| self.late(OPERATION, &LABELS))?
            .map_err(|error| self.failed(OPERATION, &LABELS, error))?;

        let found = answer.responses.and_then(|mut tables| tables.remove(&table)).unwrap_or_default();
        let readable = found.into_iter().filter_map(|item| self.decode_or_skip(item)).collect();
        let left = answer.unprocessed_keys.and_then(|mut tables| tables.remove(&table));
        let left: Vec<Item> = left.map(|left| left.keys).unwrap_or_default();
        let is_left = |id: &&ProductId| left.iter().any(|key| key.get("id") == Some(&string(id)));
        Ok((readable, ids.iter().filter(is_left).cloned().collect()))
    }

    async fn get(&self, table: &Table, key: Item, until: Instant) -> Result<Option<Item>, ReaderError> {
        const OPERATION: &str = "GetItem";
        let request = self.client.get_item().table_name(self.name(table)).set_key(Some(key));
        let answer = timeout_at(until, request.consistent_read(self.consistent).send())
            .await
            .map_err(|_| self.late(OPERATION, table))?
            .map_err(|error| self.failed(OPERATION, table, error))?;
        Ok(answer.item)
    }

    /// One broken item costs its product the labels, not the page.
    fn decode_or_skip(&self, item: Item) -> Option<LabelItem> {
        let decoded = self.decode(&LABELS, item);
        decoded.inspect_err(|error| tracing::warn!(error = error as &dyn Error, "label item skipped")).ok()
    }

    fn decode<T: DeserializeOwned>(&self, table: &Table, item: Item) -> Result<T, ReaderError> {
        serde_dynamo::from_item(item).map_err(|source| ReaderError::Decode { table: self.name(table), source })
    }

    fn name(&self, table: &Table) -> String {
        table.physical_name(&self.prefix)
    }

    pub fn late_labels(&self) -> ReaderError {
        self.late("BatchGetItem", &LABELS)
    }

    pub fn late_intent(&self) -> ReaderError {
        self.late("GetItem", &INTENTS)
    }

    pub fn late_pointer(&self) -> ReaderError {
        self.late("GetItem", &CONTROL)
    }

    fn late(&self, operation: &'static str, table: &Table) -> ReaderError {
        ReaderError::Deadline { operation, table: self.name(table), after: self.deadline }
    }

    fn failed<E>(&self, operation: &'static str, table: &Table, error: SdkError<E, HttpResponse>) -> ReaderError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let (table, passes) = (self.name(table), passes(&error));
        let source: Box<dyn Error + Send + Sync> = error.into();
        let source = source.into();
        if passes {
            ReaderError::Unavailable { operation, table, source }
        } else {
            ReaderError::Service { operation, table, source }
        }
    }
}

/// Throttles, server errors and lost connections pass; what is wrong with the request, the
/// permissions or the credentials does not.
fn passes<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let throttles = [
                "ProvisionedThroughputExceededException",
                "ThrottlingException",
                "RequestLimitExceeded",
                "InternalServerError",
            ];
            status >= 500 || status == 429 || answer.err().code().is_some_and(|code| throttles.contains(&code))
        }
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => true,
        SdkError::DispatchFailure(failure) => failure.is_io() || failure.is_timeout(),
        _ => false,
    }
}

fn string(value: impl Display) -> AttributeValue {
    AttributeValue::S(value.to_string())
}
