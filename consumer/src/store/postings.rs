//! `postings`: which products have which blocking keys.

use std::collections::{HashMap, HashSet};

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::types::{
    Delete, DeleteRequest, Put, PutRequest, ReturnConsumedCapacity, TransactWriteItem, WriteRequest,
};
use futures::{StreamExt, TryStreamExt, stream};
use shared::ProductId;
use shared::item::{Posting, SKETCH_BYTES_MAX};
use shared::table::{POSTINGS, PRODUCTS};

use super::codec::{Item, decode, encode, string};
use super::{Call, StateCheck, StateOutcome, Store, StoreError};

/// Longest partition key of DynamoDB, in bytes.
const KEY_BYTES_MAX: usize = 2048;
/// Queries of one call under way at once.
const CONCURRENT_QUERIES: usize = 16;
/// Changes of one transaction beside its condition; DynamoDB takes 100 parts.
const TRANSACTED_MAX: usize = 99;

impl Store {
    /// Puts postings, replacing those of the same key and product. Not atomic: on an error
    /// some may have been written, and putting them again is harmless.
    pub async fn put_postings(&self, postings: &[Posting]) -> Result<(), StoreError> {
        let call = self.call("BatchWriteItem", &POSTINGS);
        self.batch_write(&POSTINGS, puts(&call, postings)?).await
    }

    /// Deletes a product's postings under these keys; those that do not exist are no error.
    pub async fn delete_postings(&self, id: &ProductId, keys: &[String]) -> Result<(), StoreError> {
        self.replace_postings(id, &[], keys).await
    }

    /// Puts a product's postings and deletes those under the keys `gone`, which none of them has,
    /// in one request where there are up to 25 of both.
    pub async fn replace_postings(
        &self,
        id: &ProductId,
        postings: &[Posting],
        gone: &[String],
    ) -> Result<(), StoreError> {
        let call = self.call("BatchWriteItem", &POSTINGS);
        self.batch_write(&POSTINGS, replacement(&call, id, postings, gone)?).await
    }

    /// The same for the product of `check`, in transactions of up to [`TRANSACTED_MAX`] changes, each
    /// made only while `check` holds, at twice the write units.
    pub async fn replace_postings_while(
        &self,
        check: &StateCheck,
        postings: &[Posting],
        gone: &[String],
    ) -> Result<StateOutcome, StoreError> {
        let call = self.call("TransactWriteItems", &POSTINGS);
        let refused = |error: BuildError| StoreError::Refused { call: call.clone(), source: error.into() };
        for changes in replacement(&call, &check.id, postings, gone)?.chunks(TRANSACTED_MAX) {
            let condition = check.to_condition_check(self.name(&PRODUCTS)).map_err(refused)?;
            let condition = TransactWriteItem::builder().condition_check(condition).build();
            let mut request = self.client.transact_write_items().transact_items(condition);
            for change in changes {
                request = request.transact_items(transacted(change, &call.table).map_err(refused)?);
            }
            if self.transact(&POSTINGS, request, || check.id.to_string()).await?.is_some() {
                return Ok(StateOutcome::Conflict(None));
            }
        }
        Ok(StateOutcome::Written)
    }

    /// The postings of each key, read consistently: by key in the order given (each key
    /// once), then by product id, at most `limit_per_key` of each. A key that returns the
    /// limit may have more: ask for one more than is used to tell.
    pub async fn postings(&self, keys: &[String], limit_per_key: usize) -> Result<Vec<Posting>, StoreError> {
        let mut seen = HashSet::new();
        let keys: Vec<String> = keys.iter().filter(|key| seen.insert(*key)).cloned().collect();
        let postings: Vec<Vec<Posting>> = stream::iter(keys)
            .map(|key| async move { self.postings_of(&key, limit_per_key).await })
            .buffered(CONCURRENT_QUERIES)
            .try_collect()
            .await?;
        Ok(postings.into_iter().flatten().collect())
    }

    async fn postings_of(&self, key: &str, limit: usize) -> Result<Vec<Posting>, StoreError> {
        let call = self.call("Query", &POSTINGS);
        check_key(&call, key)?;
        let mut postings = Vec::new();
        let mut from: Option<Item> = None;
        // A page ends at the limit or at 1 MB, whichever comes first.
        while postings.len() < limit {
            let page = i32::try_from(limit - postings.len()).unwrap_or(i32::MAX);
            let request = self
                .client
                .query()
                .table_name(&call.table)
                .key_condition_expression("#key = :key")
                .expression_attribute_names("#key", "key")
                .expression_attribute_values(":key", string(key))
                .consistent_read(true)
                .limit(page)
                .set_exclusive_start_key(from)
                .return_consumed_capacity(ReturnConsumedCapacity::Total);
            self.meter.read_request(&POSTINGS);
            let answer = request.send().await.map_err(|error| StoreError::of(call.clone(), key, error))?;
            self.meter.read(&POSTINGS, answer.items().len(), answer.consumed_capacity());
            for item in answer.items.unwrap_or_default() {
                postings.push(decode(&call, item)?);
            }
            from = answer.last_evaluated_key.filter(|key| !key.is_empty());
            if from.is_none() {
                break;
            }
        }
        Ok(postings)
    }
}

/// Puts of `postings` and deletes of the product's under the keys `gone`.
fn replacement(
    call: &Call,
    id: &ProductId,
    postings: &[Posting],
    gone: &[String],
) -> Result<Vec<WriteRequest>, StoreError> {
    let mut requests = puts(call, postings)?;
    let distinct: HashSet<&String> = gone.iter().collect();
    for key in distinct {
        check_key(call, key)?;
        let delete = DeleteRequest::builder().key("key", string(key)).key("id", string(id)).build();
        let delete = delete.map_err(|error| StoreError::Refused { call: call.clone(), source: error.into() })?;
        requests.push(WriteRequest::builder().delete_request(delete).build());
    }
    Ok(requests)
}

/// One change of a batch as a part of a transaction.
fn transacted(change: &WriteRequest, table: &str) -> Result<TransactWriteItem, BuildError> {
    let mut part = TransactWriteItem::builder();
    if let Some(put) = change.put_request() {
        part = part.put(Put::builder().table_name(table).set_item(Some(put.item().clone())).build()?);
    }
    if let Some(delete) = change.delete_request() {
        part = part.delete(Delete::builder().table_name(table).set_key(Some(delete.key().clone())).build()?);
    }
    Ok(part.build())
}

fn puts(call: &Call, postings: &[Posting]) -> Result<Vec<WriteRequest>, StoreError> {
    // A batch that names an item twice is refused as a whole; the last one wins.
    let distinct: HashMap<_, _> = postings.iter().map(|posting| ((&posting.key, &posting.id), posting)).collect();
    let mut requests = Vec::with_capacity(distinct.len());
    for posting in distinct.into_values() {
        check_key(call, &posting.key)?;
        check_sketch(call, posting)?;
        let put = PutRequest::builder().set_item(Some(encode(call, posting)?)).build();
        let put = put.map_err(|error| StoreError::Refused { call: call.clone(), source: error.into() })?;
        requests.push(WriteRequest::builder().put_request(put).build());
    }
    Ok(requests)
}

fn check_key(call: &Call, key: &str) -> Result<(), StoreError> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) {
        return Ok(());
    }
    let reason = format!("has {} bytes; a blocking key has 1 to {KEY_BYTES_MAX}", key.len());
    Err(StoreError::Invalid { call: call.clone(), field: "key", reason })
}

fn check_sketch(call: &Call, posting: &Posting) -> Result<(), StoreError> {
    let length = posting.sketch.as_ref().map_or(0, Vec::len);
    if length <= SKETCH_BYTES_MAX {
        return Ok(());
    }
    let reason = format!("has {length} bytes; a sketch has at most {SKETCH_BYTES_MAX}");
    Err(StoreError::Invalid { call: call.clone(), field: "sketch", reason })
}
