//! The six steps of an event as the tables see them, and workers that die between two of them.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use aws_sdk_dynamodb::operation::batch_write_item::BatchWriteItemInput;
use aws_sdk_dynamodb::operation::put_item::PutItemInput;
use aws_sdk_dynamodb::operation::query::QueryInput;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsInput;
use aws_sdk_dynamodb::operation::update_item::UpdateItemInput;
use consumer::decide::blocking::{KeyEpoch, posting_keys};
use consumer::flow::Score;
use consumer::store::Store;
use models::{IntentScore, PairScore, ScoreError, TextPair};
use shared::table::{LABELS, POSTINGS};
use shared::{ModelId, ProductId};

use crate::converged::stored_postings;
use crate::fleet::{Before, TextModel, before_requests};

/// The request that a step begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// Step 1, once the state that was there is read.
    State,
    /// Step 2.
    Postings,
    /// Step 3; of a delete, the read of its label items.
    LookUp,
    /// Step 5, with step 6 in it where another product's label item changes.
    Labels,
    /// Step 6 where it is a request of its own.
    Marker,
}

impl Begins {
    fn of(request: &Before<'_>, store: &Store) -> Option<Self> {
        let input = request.input();
        let [labels, postings] = [LABELS, POSTINGS].map(|table| table.physical_name(store.prefix()));
        if let Some(put) = input.downcast_ref::<PutItemInput>() {
            return Some(if put.table_name() == Some(labels.as_str()) { Self::Labels } else { Self::State });
        }
        let begins = [
            (input.downcast_ref::<BatchWriteItemInput>().is_some(), Self::Postings),
            (input.downcast_ref::<QueryInput>().is_some(), Self::LookUp),
            (input.downcast_ref().is_some_and(|write| writes(write, &postings)), Self::Postings),
            (input.downcast_ref::<TransactWriteItemsInput>().is_some(), Self::Labels),
            (input.downcast_ref::<UpdateItemInput>().is_some(), Self::Marker),
        ];
        begins.into_iter().find_map(|(is, step)| is.then_some(step))
    }
}

/// Whether a transaction writes into this table.
fn writes(write: &TransactWriteItemsInput, table: &str) -> bool {
    let puts = write.transact_items().iter().filter_map(|item| item.put()).map(|put| put.table_name());
    let deletes = write.transact_items().iter().filter_map(|item| item.delete()).map(|delete| delete.table_name());
    puts.chain(deletes).any(|name| name == table)
}

/// The same tables through a worker that dies when `step` begins: its request and all later
/// ones fail unsent.
pub fn dying_before(store: &Store, step: Begins) -> Store {
    let (tables, is_dead) = (store.clone(), AtomicBool::new(false));
    before_requests(store, move |_, request| {
        if Begins::of(request, &tables) == Some(step) {
            is_dead.store(true, Ordering::SeqCst);
        }
        if is_dead.load(Ordering::SeqCst) { Err("the worker died".into()) } else { Ok(()) }
    })
}

/// A worker whose process ends when it is asked for the first scores, step 4.
#[derive(Debug)]
pub struct DiesAtScoring(pub TextModel);

#[async_trait]
impl Score for DiesAtScoring {
    fn model_id(&self) -> &ModelId {
        &self.0.id
    }

    async fn score_pairs(&self, _pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError> {
        Err(ScoreError::Stopped)
    }

    async fn score_queries(&self, _queries: Vec<String>) -> Result<Vec<IntentScore>, ScoreError> {
        Err(ScoreError::Stopped)
    }

    async fn probe(&self) -> Result<(), ScoreError> {
        Ok(())
    }
}

/// Which of the steps that write the tables show as done for one version of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub state: bool,
    pub postings: bool,
    pub labels: bool,
    pub marker: bool,
}

impl Written {
    /// `text` is that of the version, empty for a delete.
    ///
    /// # Panics
    /// When the tables cannot be read.
    pub async fn of(store: &Store, model: &TextModel, id: &ProductId, version: u64, text: &str) -> Self {
        let state = store.product(id).await.expect("reads").filter(|state| state.version == version);
        let labels = store.label_item(id, &model.id).await.expect("reads");
        let mut wanted = posting_keys(text, KeyEpoch::shipped());
        wanted.sort_unstable();
        let stored = stored_postings(store).await.into_iter();
        let stored: Vec<String> = stored.filter(|(_, of)| of == id.as_str()).map(|(key, _)| key).collect();
        let marker = state.as_ref().and_then(|state| state.labelled.get(&model.id));
        Self {
            state: state.is_some(),
            postings: stored == wanted,
            labels: labels.is_some_and(|item| item.version == version),
            marker: marker.is_some(),
        }
    }
}
