use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use jiff::Timestamp;
use shared::item::{IntentItem, LabelItem};
use shared::text::normalise_query;
use shared::{ModelId, ProductId};
use tokio::time::Instant;

use crate::cache::{Answers, Cache, Landing};
use crate::contest::said;
use crate::error::ReaderError;
use crate::page::PageLabels;
use crate::table::{LabelItems, Tables};

/// Most products of one page: the limit of BatchGetItem, so that a page is one round trip.
pub const PAGE_PRODUCTS_MAX: usize = 100;

#[derive(Clone, Debug)]
pub struct Options {
    /// Reads this model's labels instead of the active one's.
    pub model: Option<ModelId>,
    /// How long the active-model pointer is believed. After a switch, readers follow
    /// within this time.
    pub pointer_ttl: Duration,
    /// How long a label that was read is believed: a label is at most this much older than
    /// what the table says.
    pub cache_ttl: Duration,
    /// Most label items kept in memory, and as many intents; 0 keeps none, and lets every
    /// call ask for itself. An item is at most 8 KB, and usually a tenth of that.
    pub cache_entries_max: usize,
    /// For one call, all its round trips included. What is unanswered by then is missing.
    pub deadline: Duration,
    /// Round trips of one page: the first, and retries of keys that DynamoDB left
    /// unprocessed. 1 or more.
    pub rounds_max: u32,
    /// Consistent reads cost twice as much and see the latest write; they pass the cache
    /// by. Search needs none.
    pub consistent: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            model: None,
            pointer_ttl: Duration::from_secs(30),
            cache_ttl: Duration::from_secs(5),
            cache_entries_max: 10_000,
            deadline: Duration::from_millis(250),
            rounds_max: 4,
            consistent: false,
        }
    }
}

/// Reads labels; needs a running tokio runtime. Cheap to clone; clones share the client,
/// the cache and the active-model pointer.
#[derive(Clone)]
pub struct LabelReader {
    tables: Tables,
    options: Options,
    pointer: Arc<Cache<(), ModelId>>,
    /// What to go on with while the pointer cannot be read.
    last_model: Arc<Mutex<Option<ModelId>>>,
    labels: Arc<LabelCache>,
    intents: Arc<Cache<(ModelId, String), Option<IntentItem>>>,
}

/// By model and product; none for a product without labels.
type LabelCache = Cache<(ModelId, ProductId), Option<Arc<LabelItem>>>;

/// The look-alikes of one product, wherever they rank.
#[derive(Clone, Debug, PartialEq)]
pub struct ProductLabels {
    /// The product's label item with only those pairs that are still about the current
    /// texts of both sides, and review as the verdict of those that are contested.
    pub item: LabelItem,
    /// By the other product of a contested pair: the one that contests it.
    pub contested_by: BTreeMap<ProductId, ProductId>,
    /// Pairs that were left out because the other side has changed or is gone.
    pub outdated: usize,
}

impl LabelReader {
    /// `prefix` is that of the tables, [`shared::table::PREFIX_DEFAULT`] by default. The
    /// client's own time limits and retries apply within [`Options::deadline`].
    pub fn new(client: Client, prefix: &str, options: Options) -> Self {
        let Options { deadline, rounds_max, consistent, cache_entries_max, cache_ttl, .. } = options;
        Self {
            tables: Tables { client, prefix: prefix.into(), deadline, rounds_max, consistent },
            pointer: Arc::new(Cache::new(1, options.pointer_ttl)),
            last_model: Arc::default(),
            labels: Arc::new(Cache::new(cache_entries_max, cache_ttl)),
            intents: Arc::new(Cache::new(cache_entries_max, cache_ttl)),
            options,
        }
    }

    /// The labels among these products, given in rank order; repeated ids count once. One
    /// BatchGetItem round trip for those that are not in the cache, and one GetItem more
    /// when the active-model pointer is due.
    ///
    /// A table that is slow, throttles or is out of reach is no error: the products that
    /// were not answered until the deadline are in `missing` and in `unanswered`.
    pub async fn labels_for_page(&self, ids: &[ProductId]) -> Result<PageLabels, ReaderError> {
        let mut seen = HashSet::new();
        let products: Vec<ProductId> = ids.iter().filter(|id| seen.insert(*id)).cloned().collect();
        if products.len() > PAGE_PRODUCTS_MAX {
            return Err(ReaderError::PageTooLarge { given: products.len() });
        }
        let until = self.deadline();
        let model = self.active_model_until(until).await?;
        let items = self.label_items(&products, &model, until).await?;
        Ok(PageLabels::of(model, products, &items))
    }

    /// The look-alikes of one product; none if it has no labels under this model or is
    /// deleted. All of them, or an error.
    pub async fn duplicates_of(&self, id: &ProductId) -> Result<Option<ProductLabels>, ReaderError> {
        let until = self.deadline();
        let model = self.active_model_until(until).await?;
        let own = self.all_label_items(std::slice::from_ref(id), &model, until).await?.remove(id).flatten();
        let Some(own) = own.filter(|item| !item.deleted) else { return Ok(None) };
        let others: Vec<ProductId> = own.pairs.keys().cloned().collect();
        let (mut verdicts, mut contested_by) = (HashMap::new(), BTreeMap::new());
        for chunk in others.chunks(PAGE_PRODUCTS_MAX) {
            for other in self.all_label_items(chunk, &model, until).await?.into_values().flatten() {
                let Some(said) = said(&own, &other) else { continue };
                verdicts.insert(other.id.clone(), said.verdict());
                contested_by.extend(said.contested_by.map(|rival| (other.id.clone(), rival.clone())));
            }
        }
        let mut item = (*own).clone();
        item.pairs.retain(|other, entry| match verdicts.get(other) {
            Some(verdict) => {
                entry.verdict = *verdict;
                true
            }
            None => false,
        });
        let outdated = others.len() - item.pairs.len();
        Ok(Some(ProductLabels { item, contested_by, outdated }))
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
        let intent = if self.caches() {
            let (tables, key) = (self.tables.clone(), (model, query));
            let read = |keys: Vec<(ModelId, String)>| async move {
                let until = Instant::now() + tables.deadline;
                let mut found = HashMap::new();
                for (model, query) in keys {
                    let intent = tables.intent(&query, &model, until).await?;
                    found.insert((model, query), intent);
                }
                Ok(found)
            };
            let Answers { mut values, error } = self.intents.get(std::slice::from_ref(&key), until, read).await;
            values.remove(&key).ok_or_else(|| error.unwrap_or_else(|| self.tables.late_intent()))?
        } else {
            self.tables.intent(&query, &model, until).await?
        };
        Ok(intent.filter(|intent| intent.expires_at > Timestamp::now().as_second()))
    }

    /// The model whose labels are read now.
    pub async fn active_model(&self) -> Result<ModelId, ReaderError> {
        self.active_model_until(self.deadline()).await
    }

    /// Half of the time is for the pointer, so that where it cannot be read a page can still
    /// be filled under the model that was active last.
    async fn active_model_until(&self, until: Instant) -> Result<ModelId, ReaderError> {
        if let Some(model) = &self.options.model {
            return Ok(model.clone());
        }
        let last = || self.last_model.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last().clone();
        let (tables, now) = (self.tables.clone(), Instant::now());
        let wait_until = if known.is_some() { now + (until - now) / 2 } else { until };
        let read = |_| async move {
            let until = Instant::now() + tables.deadline;
            Ok(HashMap::from([((), tables.active_model(until).await?)]))
        };
        let Answers { mut values, error } = self.pointer.get(&[()], wait_until, read).await;
        let error = match (values.remove(&()), known) {
            (Some(model), _) => {
                *last() = Some(model.clone());
                return Ok(model);
            }
            (None, Some(known)) => {
                let error = error.unwrap_or_else(|| self.tables.late_pointer());
                tracing::warn!(error = &error as &dyn Error, model = %known, "keeping the known active model");
                // Believed for another while, so that not every page waits for half its time.
                self.pointer.put((), known.clone());
                return Ok(known);
            }
            (None, None) => error,
        };
        Err(error.unwrap_or_else(|| self.tables.late_pointer()))
    }

    /// As [`Self::label_items`], with an error where a product was not answered.
    async fn all_label_items(
        &self,
        ids: &[ProductId],
        model: &ModelId,
        until: Instant,
    ) -> Result<LabelItems, ReaderError> {
        let items = self.label_items(ids, model, until).await?;
        if items.len() == ids.len() { Ok(items) } else { Err(self.tables.late_labels()) }
    }

    /// Label items of at most 100 distinct products. A failure that passes leaves products
    /// unanswered; any other is an error.
    async fn label_items(&self, ids: &[ProductId], model: &ModelId, until: Instant) -> Result<LabelItems, ReaderError> {
        let (items, error) = if self.caches() {
            self.cached_label_items(ids, model, until).await
        } else {
            let mut items = LabelItems::new();
            let read = self.tables.label_items(ids, model, until, |found| items.extend(found)).await;
            (items, read.err())
        };
        match error {
            Some(error) if !error.is_passing() => Err(error),
            Some(error) => {
                tracing::warn!(
                    error = &error as &dyn Error,
                    unanswered = ids.len() - items.len(),
                    "page is incomplete"
                );
                Ok(items)
            }
            None => Ok(items),
        }
    }

    async fn cached_label_items(
        &self,
        ids: &[ProductId],
        model: &ModelId,
        until: Instant,
    ) -> (LabelItems, Option<ReaderError>) {
        let keys: Vec<(ModelId, ProductId)> = ids.iter().map(|id| (model.clone(), id.clone())).collect();
        let (tables, of) = (self.tables.clone(), model.clone());
        let read = |keys: Vec<(ModelId, ProductId)>, landing: Arc<Landing<_, _>>| async move {
            let until = Instant::now() + tables.deadline;
            let ids: Vec<ProductId> = keys.into_iter().map(|(_, id)| id).collect();
            let keyed = |found: LabelItems| found.into_iter().map(|(id, item)| ((of.clone(), id), item)).collect();
            tables.label_items(&ids, &of, until, |found| landing.found(keyed(found))).await
        };
        let Answers { values, error } = self.labels.get_in_parts(&keys, until, read).await;
        (values.into_iter().map(|((_, id), item)| (id, item)).collect(), error)
    }

    fn caches(&self) -> bool {
        self.options.cache_entries_max > 0 && !self.options.consistent
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.options.deadline
    }
}

impl fmt::Debug for LabelReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LabelReader")
            .field("prefix", &self.tables.prefix)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
