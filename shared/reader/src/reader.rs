use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use jiff::Timestamp;
use shared::item::{ACTIVE_MODEL, ActiveModelItem, IntentItem, LabelItem};
use shared::table::{CONTROL, INTENTS, LABELS, Table};
use shared::text::normalise_query;
use shared::{ModelId, ProductId};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::error::ReaderError;
use crate::page::{PageLabels, current_entry};

/// Most products of one page: the limit of BatchGetItem, so that a page is one round trip.
pub const PAGE_PRODUCTS_MAX: usize = 100;
/// First bound of the back-off between rounds; doubled each time, with full jitter.
const BACK_OFF_FIRST: Duration = Duration::from_millis(10);

type Item = HashMap<String, AttributeValue>;

#[derive(Clone, Debug)]
pub struct Options {
    /// Reads this model's labels instead of the active one's.
    pub model: Option<ModelId>,
    /// How long the active-model pointer is believed. After a switch, readers follow
    /// within this time.
    pub pointer_ttl: Duration,
    /// For one call, all its round trips included. What is unanswered by then is missing.
    pub deadline: Duration,
    /// Round trips of one page: the first, and retries of keys that DynamoDB left
    /// unprocessed. 1 or more.
    pub rounds_max: u32,
    /// Consistent reads cost twice as much and see the latest write. Search needs none.
    pub consistent: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            model: None,
            pointer_ttl: Duration::from_secs(30),
            deadline: Duration::from_millis(250),
            rounds_max: 4,
            consistent: false,
        }
    }
}

/// Reads labels. Cheap to clone; clones share the client and the active-model pointer.
#[derive(Clone, Debug)]
pub struct LabelReader {
    client: Client,
    prefix: Arc<str>,
    options: Options,
    pointer: Arc<Mutex<Option<Pointer>>>,
}

#[derive(Debug)]
struct Pointer {
    model: ModelId,
    read_at: Instant,
}

/// The look-alikes of one product, wherever they rank.
#[derive(Clone, Debug, PartialEq)]
pub struct ProductLabels {
    /// The product's label item with only those pairs that are still about the current
    /// texts of both sides.
    pub item: LabelItem,
    /// Pairs that were left out because the other side has changed or is gone.
    pub outdated: usize,
}

impl LabelReader {
    /// `prefix` is that of the tables, [`shared::table::PREFIX_DEFAULT`] by default. The
    /// client's own time limits and retries apply within [`Options::deadline`].
    pub fn new(client: Client, prefix: &str, options: Options) -> Self {
        Self { client, prefix: prefix.into(), options, pointer: Arc::default() }
    }

    /// The labels among these products, given in rank order; repeated ids count once. One
    /// BatchGetItem round trip, and one GetItem more when the active-model pointer is due.
    ///
    /// Products that DynamoDB leaves unanswered until the deadline end up in `missing`; it
    /// is an error only if there was no answer at all.
    pub async fn labels_for_page(&self, ids: &[ProductId]) -> Result<PageLabels, ReaderError> {
        let mut seen = HashSet::new();
        let products: Vec<ProductId> = ids.iter().filter(|id| seen.insert(*id)).cloned().collect();
        if products.len() > PAGE_PRODUCTS_MAX {
            return Err(ReaderError::PageTooLarge { given: products.len() });
        }
        let until = self.deadline();
        let model = self.active_model_until(until).await?;
        let items = self.label_items(&products, &model, until).await?;
        Ok(PageLabels::of(model, products, items))
    }

    /// The look-alikes of one product; none if it has no labels under this model or is
    /// deleted.
    pub async fn duplicates_of(&self, id: &ProductId) -> Result<Option<ProductLabels>, ReaderError> {
        let until = self.deadline();
        let model = self.active_model_until(until).await?;
        let own = self.label_items(std::slice::from_ref(id), &model, until).await?.pop();
        let Some(mut item) = own.filter(|item| !item.deleted) else { return Ok(None) };
        let others: Vec<ProductId> = item.pairs.keys().cloned().collect();
        let mut current = HashSet::new();
        for chunk in others.chunks(PAGE_PRODUCTS_MAX) {
            for other in self.label_items(chunk, &model, until).await? {
                if current_entry(&item, &other).is_some() {
                    current.insert(other.id);
                }
            }
        }
        item.pairs.retain(|other, _| current.contains(other));
        let outdated = others.len() - item.pairs.len();
        Ok(Some(ProductLabels { item, outdated }))
    }

    /// The intent of a query as a shopper typed it; none if it is unknown under this model
    /// or its label has expired.
    pub async fn intent_for(&self, query: &str) -> Result<Option<IntentItem>, ReaderError> {
        let until = self.deadline();
        let query = normalise_query(query);
        if query.is_empty() {
            return Ok(None);
        }
        let model = self.active_model_until(until).await?;
        let key = Item::from([("query".to_owned(), string(query)), ("model".to_owned(), string(&model))]);
        let found = self.get(&INTENTS, key, until).await?;
        let intent: Option<IntentItem> = found.map(|item| self.decode(&INTENTS, item)).transpose()?;
        Ok(intent.filter(|intent| intent.expires_at > Timestamp::now().as_second()))
    }

    /// The model whose labels are read now.
    pub async fn active_model(&self) -> Result<ModelId, ReaderError> {
        self.active_model_until(self.deadline()).await
    }

    async fn active_model_until(&self, until: Instant) -> Result<ModelId, ReaderError> {
        if let Some(model) = &self.options.model {
            return Ok(model.clone());
        }
        // Held over the read, so that an expired pointer is read once, not by every page.
        let mut pointer = self.pointer.lock().await;
        if let Some(known) = pointer.as_ref().filter(|known| known.read_at.elapsed() < self.options.pointer_ttl) {
            return Ok(known.model.clone());
        }
        let model = match (self.read_pointer(until).await, pointer.as_ref()) {
            (Ok(model), _) => model,
            (Err(error), Some(known)) => {
                tracing::warn!(error = &error as &dyn Error, model = %known.model, "keeping the known active model");
                known.model.clone()
            }
            (Err(error), None) => return Err(error),
        };
        *pointer = Some(Pointer { model: model.clone(), read_at: Instant::now() });
        Ok(model)
    }

    async fn read_pointer(&self, until: Instant) -> Result<ModelId, ReaderError> {
        let key = Item::from([("name".to_owned(), string(ACTIVE_MODEL))]);
        let item = self.get(&CONTROL, key, until).await?;
        let item = item.ok_or_else(|| ReaderError::NoActiveModel { table: self.name(&CONTROL) })?;
        self.decode::<ActiveModelItem>(&CONTROL, item).map(|active| active.model)
    }

    async fn get(&self, table: &Table, key: Item, until: Instant) -> Result<Option<Item>, ReaderError> {
        let request = self.client.get_item().table_name(self.name(table)).set_key(Some(key));
        let answer = timeout_at(until, request.consistent_read(self.options.consistent).send())
            .await
            .map_err(|_| self.late("GetItem", table))?
            .map_err(|error| self.failed("GetItem", table, error.into()))?;
        Ok(answer.item)
    }

    /// Label items of at most 100 distinct products. An error only before the first
    /// answer; after it, what came is better than nothing.
    async fn label_items(
        &self,
        ids: &[ProductId],
        model: &ModelId,
        until: Instant,
    ) -> Result<Vec<LabelItem>, ReaderError> {
        let key = |id| Item::from([("id".to_owned(), string(id)), ("model".to_owned(), string(model))]);
        let mut keys: Vec<Item> = ids.iter().map(key).collect();
        let mut items = Vec::with_capacity(keys.len());
        for round in 0..self.options.rounds_max.max(1) {
            if keys.is_empty() {
                break;
            }
            if round > 0 {
                let back_off = BACK_OFF_FIRST.saturating_mul(2_u32.saturating_pow(round)).mul_f64(fastrand::f64());
                sleep_until((Instant::now() + back_off).min(until)).await;
            }
            match self.label_round(keys.clone(), until).await {
                Ok((found, left)) => {
                    items.extend(found);
                    keys = left;
                }
                Err(error) if round == 0 => return Err(error),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn Error, unanswered = keys.len(), "page is incomplete");
                    break;
                }
            }
        }
        Ok(items)
    }

    /// One BatchGetItem: the items found and the keys left unprocessed.
    async fn label_round(&self, keys: Vec<Item>, until: Instant) -> Result<(Vec<LabelItem>, Vec<Item>), ReaderError> {
        let table = self.name(&LABELS);
        let failed = |source| self.failed("BatchGetItem", &LABELS, source);
        let mut wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(self.options.consistent);
        // Everything but `distinct`, which is half of a large item and says nothing here.
        let names = ["id", "model", "text_hash", "version", "content_hash", "pairs", "overflow", "deleted", "revision"];
        for name in names {
            wanted = wanted.expression_attribute_names(format!("#{name}"), name);
        }
        let projection: Vec<String> = names.iter().map(|name| format!("#{name}")).collect();
        let wanted = wanted.projection_expression(projection.join(", ")).build();
        let request = self.client.batch_get_item().request_items(&table, wanted.map_err(|error| failed(error.into()))?);
        let answer = timeout_at(until, request.send())
            .await
            .map_err(|_| self.late("BatchGetItem", &LABELS))?
            .map_err(|error| failed(error.into()))?;

        let found = answer.responses.and_then(|mut tables| tables.remove(&table)).unwrap_or_default();
        let readable = found.into_iter().filter_map(|item| self.decode_or_skip(item)).collect();
        let left = answer.unprocessed_keys.and_then(|mut tables| tables.remove(&table));
        Ok((readable, left.map(|left| left.keys).unwrap_or_default()))
    }

    /// One broken item costs its product the labels, not the page.
    fn decode_or_skip(&self, item: Item) -> Option<LabelItem> {
        let decoded = self.decode(&LABELS, item);
        decoded.inspect_err(|error| tracing::warn!(error = error as &dyn Error, "label item skipped")).ok()
    }

    fn decode<T: serde::de::DeserializeOwned>(&self, table: &Table, item: Item) -> Result<T, ReaderError> {
        serde_dynamo::from_item(item).map_err(|source| ReaderError::Decode { table: self.name(table), source })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.options.deadline
    }

    fn name(&self, table: &Table) -> String {
        table.physical_name(&self.prefix)
    }

    fn late(&self, operation: &'static str, table: &Table) -> ReaderError {
        ReaderError::Deadline { operation, table: self.name(table), after: self.options.deadline }
    }

    fn failed(&self, operation: &'static str, table: &Table, source: Box<dyn Error + Send + Sync>) -> ReaderError {
        ReaderError::Service { operation, table: self.name(table), source }
    }
}

fn string(value: impl Display) -> AttributeValue {
    AttributeValue::S(value.to_string())
}
