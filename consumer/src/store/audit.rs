//! What the worker may do with the tables, found by asking for it in ways that change nothing.

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeValue, ConditionCheck, DeleteRequest, KeysAndAttributes, TransactWriteItem, WriteRequest,
};
use shared::table::{ALL, CONTROL, INTENTS, PRODUCTS, Table};

use super::codec::Item;
use super::{Call, Store, StoreError};

/// Key of an item that is never there.
const NOWHERE: &str = "catalog-labels-check";
/// No item is there and not there, so that a write with this condition never happens.
const NEVER: &str = "attribute_exists(#key) AND attribute_not_exists(#key)";

impl Store {
    /// Each operation on each table that is denied to this identity.
    ///
    /// # Errors
    /// The first that is neither an answer nor a denial, such as a table that is not there.
    pub async fn refused_operations(&self) -> Result<Vec<Call>, StoreError> {
        let mut refused = Vec::new();
        for table in &ALL {
            refused.extend(denied([
                self.may_get(table).await,
                self.may_batch_get(table).await,
                self.may_query(table).await,
                self.may_put(table).await,
                self.may_update(table).await,
                self.may_delete(table).await,
                self.may_batch_write(table).await,
                self.may_check(table).await,
            ])?);
        }
        Ok(refused)
    }

    /// As [`Store::refused_operations`], of what a reader of intents does.
    pub async fn refused_look_ups(&self) -> Result<Vec<Call>, StoreError> {
        denied([self.may_get(&CONTROL).await, self.may_get(&INTENTS).await])
    }

    /// As [`Store::refused_operations`], with the walks of a run that plans every product.
    pub async fn refused_walks(&self) -> Result<Vec<Call>, StoreError> {
        let mut refused = self.refused_operations().await?;
        refused.extend(denied([self.may_scan(&PRODUCTS).await, self.may_scan(&INTENTS).await])?);
        Ok(refused)
    }

    async fn may_get(&self, table: &Table) -> Result<(), StoreError> {
        let call = self.call("GetItem", table);
        let request = self.client.get_item().table_name(&call.table).set_key(Some(nowhere(table)));
        answered(call, request.send().await)
    }

    async fn may_batch_get(&self, table: &Table) -> Result<(), StoreError> {
        let call = self.call("BatchGetItem", table);
        let keys = KeysAndAttributes::builder().keys(nowhere(table)).build().expect("a key is given");
        answered(call.clone(), self.client.batch_get_item().request_items(call.table, keys).send().await)
    }

    async fn may_query(&self, table: &Table) -> Result<(), StoreError> {
        let call = self.call("Query", table);
        let request = self
            .client
            .query()
            .table_name(&call.table)
            .key_condition_expression("#key = :nowhere")
            .expression_attribute_names("#key", table.partition_key)
            .expression_attribute_values(":nowhere", AttributeValue::S(NOWHERE.to_owned()))
            .limit(1);
        answered(call, request.send().await)
    }

    async fn may_scan(&self, table: &Table) -> Result<(), StoreError> {
        let call = self.call("Scan", table);
        answered(call.clone(), self.client.scan().table_name(&call.table).limit(1).send().await)
    }

    async fn may_put(&self, table: &Table) -> Result<(), StoreError> {
        let call = self.call("PutItem", table);
        let request = self.client.put_item().table_name(&call.table).set_item(Some(nowhere(table)));
        let request = request.condition_expression(NEVER).expression_attribute_names("#key", table.partition_key);
        answered(call, request.send().await)
    }

    async fn may_update(&self, table: &Table) -> Result<(), StoreError> {
        let call = self.call("UpdateItem", table);
        let request = self.client.update_item().table_name(&call.table).set_key(Some(nowhere(table)));
        let request = request.condition_expression(NEVER).expression_attribute_names("#key", table.partition_key);
        answered(call, request.send().await)
    }

    async fn may_delete(&self, table: &Table) -> Result<(), StoreError> {
        let call = self.call("DeleteItem", table);
        let request = self.client.delete_item().table_name(&call.table).set_key(Some(nowhere(table)));
        let request = request.condition_expression(NEVER).expression_attribute_names("#key", table.partition_key);
        answered(call, request.send().await)
    }

    /// A batch takes no conditions, but to delete what is not there changes nothing.
    async fn may_batch_write(&self, table: &Table) -> Result<(), StoreError> {
        let call = self.call("BatchWriteItem", table);
        let delete = DeleteRequest::builder().set_key(Some(nowhere(table))).build().expect("a key is given");
        let writes = vec![WriteRequest::builder().delete_request(delete).build()];
        answered(call.clone(), self.client.batch_write_item().request_items(call.table, writes).send().await)
    }

    async fn may_check(&self, table: &Table) -> Result<(), StoreError> {
        let call = self.call("ConditionCheckItem", table);
        let check = ConditionCheck::builder()
            .table_name(&call.table)
            .set_key(Some(nowhere(table)))
            .condition_expression(NEVER)
            .expression_attribute_names("#key", table.partition_key)
            .build()
            .expect("table, key and condition are given");
        let item = TransactWriteItem::builder().condition_check(check).build();
        answered(call, self.client.transact_write_items().transact_items(item).send().await)
    }
}

fn denied<const N: usize>(answers: [Result<(), StoreError>; N]) -> Result<Vec<Call>, StoreError> {
    let mut denied = Vec::new();
    for answer in answers {
        match answer {
            // That a table is not there, its verification says.
            Ok(()) | Err(StoreError::NoTable { .. }) => {}
            Err(StoreError::AccessDenied { call, .. }) => denied.push(call),
            Err(error) => return Err(error),
        }
    }
    Ok(denied)
}

fn nowhere(table: &Table) -> Item {
    let keys = [Some(table.partition_key), table.sort_key];
    keys.into_iter().flatten().map(|key| (key.to_owned(), AttributeValue::S(NOWHERE.to_owned()))).collect()
}

/// A condition that did not hold is an answer: whoever may not ask is told so first.
fn answered<T, E>(call: Call, answer: Result<T, SdkError<E, HttpResponse>>) -> Result<(), StoreError>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match answer {
        Ok(_) => Ok(()),
        Err(error) => match error.code() {
            Some("ConditionalCheckFailedException" | "TransactionCanceledException") => Ok(()),
            _ => Err(StoreError::of(call, NOWHERE, error)),
        },
    }
}
