//! Reads of single and many items, and writes of many, with what DynamoDB left undone.

use std::time::Duration;

use aws_sdk_dynamodb::types::{KeysAndAttributes, ReturnConsumedCapacity, WriteRequest};
use futures::{StreamExt, TryStreamExt, stream};
use serde::de::DeserializeOwned;
use shared::table::Table;

use super::codec::{Item, decode};
use super::{Call, Store, StoreError};

/// Limit of BatchGetItem.
const GET_KEYS_MAX: usize = 100;
/// Limit of BatchWriteItem.
const WRITE_ITEMS_MAX: usize = 25;
/// Batches of one call under way at once. Enough to hide the latency of a plan's few
/// batches without taking the whole connection pool.
const CONCURRENT_BATCHES: usize = 4;
/// Rounds in a row that leave everything undone before giving up. With the delays below
/// that is about six seconds of an overloaded partition.
const IDLE_ROUNDS_MAX: u32 = 8;
const DELAY_FIRST: Duration = Duration::from_millis(25);
const DELAY_MAX: Duration = Duration::from_secs(2);

impl Store {
    /// One item, read consistently.
    pub(super) async fn get<T: DeserializeOwned>(&self, table: &Table, key: Item) -> Result<Option<T>, StoreError> {
        let call = self.call("GetItem", table);
        self.meter.read_request(table);
        let answer = self
            .client
            .get_item()
            .table_name(&call.table)
            .set_key(Some(key))
            .consistent_read(true)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await
            .map_err(|error| StoreError::of(call.clone(), "", error))?;
        self.meter.read(table, usize::from(answer.item.is_some()), answer.consumed_capacity());
        answer.item.map(|item| decode(&call, item)).transpose()
    }

    /// The items of these keys, read consistently, in any order. Keys must be distinct.
    pub(super) async fn batch_get<T: DeserializeOwned>(
        &self,
        table: &Table,
        keys: Vec<Item>,
    ) -> Result<Vec<T>, StoreError> {
        let call = self.call("BatchGetItem", table);
        let found = self.batch_get_any(&call, keys.into_iter().map(|key| (*table, key)).collect()).await?;
        found.into_iter().map(|(_, item)| decode(&call, item)).collect()
    }

    /// The same for keys of several tables. `call` names the request in errors.
    pub(super) async fn batch_get_any(
        &self,
        call: &Call,
        keys: Vec<(Table, Item)>,
    ) -> Result<Vec<(Table, Item)>, StoreError> {
        let chunks: Vec<Vec<(Table, Item)>> = keys.chunks(GET_KEYS_MAX).map(<[_]>::to_vec).collect();
        let items: Vec<Vec<(Table, Item)>> = stream::iter(chunks)
            .map(|keys| self.batch_get_chunk(call, keys))
            .buffer_unordered(CONCURRENT_BATCHES)
            .try_collect()
            .await?;
        Ok(items.into_iter().flatten().collect())
    }

    async fn batch_get_chunk(
        &self,
        call: &Call,
        mut keys: Vec<(Table, Item)>,
    ) -> Result<Vec<(Table, Item)>, StoreError> {
        let mut items = Vec::with_capacity(keys.len());
        let mut rounds = Rounds::new(call, keys.len());
        while !keys.is_empty() {
            rounds.before_next(keys.len()).await?;
            let (found, left) = self.batch_get_round(call, keys).await?;
            items.extend(found);
            keys = left;
        }
        Ok(items)
    }

    /// One request: the items found and the keys left undone. It counts for the first
    /// table of `keys`, what it read for the table that it was read from.
    async fn batch_get_round(
        &self,
        call: &Call,
        keys: Vec<(Table, Item)>,
    ) -> Result<(Vec<(Table, Item)>, Vec<(Table, Item)>), StoreError> {
        let mut tables: Vec<Table> = Vec::new();
        let mut request = self.client.batch_get_item().return_consumed_capacity(ReturnConsumedCapacity::Total);
        for (table, _) in &keys {
            if tables.contains(table) {
                continue;
            }
            tables.push(*table);
            let of_table = keys.iter().filter(|(of, _)| of == table).map(|(_, key)| key.clone());
            let wanted = KeysAndAttributes::builder().set_keys(Some(of_table.collect())).consistent_read(true).build();
            let wanted = wanted.map_err(|error| StoreError::Refused { call: call.clone(), source: error.into() })?;
            request = request.request_items(self.name(table), wanted);
        }
        tables.first().into_iter().for_each(|table| self.meter.read_request(table));
        let mut answer = request.send().await.map_err(|error| StoreError::of(call.clone(), "", error))?;
        let (mut found, mut left) = (Vec::new(), Vec::new());
        for table in tables {
            let name = self.name(&table);
            let items = answer.responses.as_mut().and_then(|tables| tables.remove(&name)).unwrap_or_default();
            let capacity = answer.consumed_capacity().iter().find(|capacity| capacity.table_name() == Some(&name));
            self.meter.read(&table, items.len(), capacity);
            found.extend(items.into_iter().map(|item| (table, item)));
            let undone = answer.unprocessed_keys.as_mut().and_then(|tables| tables.remove(&name));
            left.extend(undone.into_iter().flat_map(|undone| undone.keys).map(|key| (table, key)));
        }
        Ok((found, left))
    }

    /// Puts and deletes items without conditions. No two requests may name one item.
    pub(super) async fn batch_write(&self, table: &Table, requests: Vec<WriteRequest>) -> Result<(), StoreError> {
        let chunks: Vec<Vec<WriteRequest>> = requests.chunks(WRITE_ITEMS_MAX).map(<[WriteRequest]>::to_vec).collect();
        stream::iter(chunks)
            .map(|requests| self.batch_write_chunk(table, requests))
            .buffer_unordered(CONCURRENT_BATCHES)
            .try_collect()
            .await
    }

    async fn batch_write_chunk(&self, table: &Table, mut requests: Vec<WriteRequest>) -> Result<(), StoreError> {
        let call = self.call("BatchWriteItem", table);
        let mut rounds = Rounds::new(&call, requests.len());
        while !requests.is_empty() {
            rounds.before_next(requests.len()).await?;
            self.meter.write_request(table);
            let answer = self
                .client
                .batch_write_item()
                .request_items(&call.table, requests)
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .send()
                .await
                .map_err(|error| StoreError::of(call.clone(), "", error))?;
            self.meter.wrote(table, answer.consumed_capacity().first());
            requests = answer.unprocessed_items.and_then(|mut tables| tables.remove(&call.table)).unwrap_or_default();
        }
        Ok(())
    }
}

/// Counts the requests of one batch and waits between them.
struct Rounds<'a> {
    call: &'a Call,
    asked: usize,
    /// Undone after the last request; none before the first.
    left: Option<usize>,
    /// Requests in a row that got nothing done.
    idle: u32,
}

impl<'a> Rounds<'a> {
    fn new(call: &'a Call, asked: usize) -> Self {
        Self { call, asked, left: None, idle: 0 }
    }

    /// Waits before every request but the first; see [`Rounds::back_off`].
    async fn before_next(&mut self, left: usize) -> Result<(), StoreError> {
        if let Some(pause) = self.back_off(left)? {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// How long to wait before the next request, and none before the first; an error once
    /// [`IDLE_ROUNDS_MAX`] requests in a row have got nothing done.
    fn back_off(&mut self, left: usize) -> Result<Option<Duration>, StoreError> {
        let Some(before) = self.left.replace(left) else { return Ok(None) };
        self.idle = if left < before { 0 } else { self.idle + 1 };
        if self.idle >= IDLE_ROUNDS_MAX {
            return Err(StoreError::Unprocessed {
                call: self.call.clone(),
                left,
                asked: self.asked,
                rounds: self.idle,
            });
        }
        Ok(Some(delay(self.idle)))
    }
}

/// Exponential with full jitter: uniform between nothing and the doubled bound, so that
/// workers that met the same hot partition do not come back together.
fn delay(idle_rounds: u32) -> Duration {
    DELAY_FIRST.saturating_mul(2_u32.saturating_pow(idle_rounds)).min(DELAY_MAX).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_end_only_without_progress() {
        let call = Call { operation: "BatchGetItem", table: "products".to_owned() };
        let mut rounds = Rounds::new(&call, 100);
        assert_eq!(rounds.back_off(100).expect("the first request"), None);
        for left in (1..100).rev() {
            assert!(rounds.back_off(left).expect("every round made progress").is_some());
        }
        for _ in 1..IDLE_ROUNDS_MAX {
            assert!(rounds.back_off(1).expect("not yet at the limit").is_some());
        }
        let error = rounds.back_off(1).expect_err("at the limit");
        assert!(matches!(error, StoreError::Unprocessed { left: 1, asked: 100, rounds: IDLE_ROUNDS_MAX, .. }));
    }

    #[test]
    fn delays_are_bounded() {
        assert!((0..100).all(|round| delay(round) <= DELAY_MAX));
        assert!((0..100).all(|_| delay(0) <= DELAY_FIRST));
    }
}
