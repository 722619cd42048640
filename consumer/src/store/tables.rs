//! Creates the tables of [`shared::table::ALL`] and checks existing ones against it.

use std::time::Duration;

use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, StreamSpecification,
    StreamViewType, TableDescription, TableStatus, TimeToLiveSpecification, TimeToLiveStatus,
};
use shared::table::{ALL, Table};
use tokio::time::Instant;

use super::{Store, StoreError};
use crate::fault::{Fault, Faulty};

/// AWS creates a table in seconds, and says that it may take minutes.
const ACTIVE_WITHIN: Duration = Duration::from_secs(180);
const POLL_FIRST: Duration = Duration::from_millis(50);
const POLL_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Every difference of every table, as "table: what is, what it should be".
    #[error("existing tables are not as defined: {}", .differences.join("; "))]
    Different { differences: Vec<String> },
    #[error("table {table} is {status} after {seconds} s; wait for ACTIVE and start again", seconds = ACTIVE_WITHIN.as_secs())]
    NotActive { table: String, status: String },
}

impl Faulty for TablesError {
    fn fault(&self) -> Fault {
        match self {
            Self::Store(error) => error.fault(),
            Self::Different { .. } => Fault::Fatal { reason: self.to_string() },
            Self::NotActive { .. } => Fault::Retry { after: None },
        }
    }
}

impl Store {
    /// Creates what is missing, waits until all is active, and verifies. Idempotent, and
    /// finishes what an interrupted call began. Returns the names of the tables created.
    pub async fn create_tables(&self) -> Result<Vec<String>, TablesError> {
        let mut created = Vec::new();
        for table in &ALL {
            if self.create_table(table).await? {
                created.push(self.name(table));
            }
        }
        for table in &ALL {
            self.wait_until_active(table).await?;
            self.enable_ttl(table).await?;
        }
        self.verify_tables().await?;
        Ok(created)
    }

    /// Checks that every table exists and is as defined; changes nothing.
    pub async fn verify_tables(&self) -> Result<(), TablesError> {
        let mut differences = Vec::new();
        for table in &ALL {
            let name = self.name(table);
            let found = match self.describe(table).await {
                Ok(description) => differences_of(table, &description, self.ttl_attribute(table).await?.as_deref()),
                Err(StoreError::NoTable { .. }) => vec!["does not exist".to_owned()],
                Err(error) => return Err(error.into()),
            };
            differences.extend(found.into_iter().map(|difference| format!("{name}: {difference}")));
        }
        if differences.is_empty() { Ok(()) } else { Err(TablesError::Different { differences }) }
    }

    /// False when the table was there.
    async fn create_table(&self, table: &Table) -> Result<bool, StoreError> {
        let call = self.call("CreateTable", table);
        let refused = |source| StoreError::Refused { call: call.clone(), source };
        let mut request = self.client.create_table().table_name(&call.table).billing_mode(BillingMode::PayPerRequest);
        for (name, kind) in keys_of(table) {
            let attribute =
                AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build();
            let key = KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
            request = request
                .attribute_definitions(attribute.map_err(|error| refused(error.into()))?)
                .key_schema(key.map_err(|error| refused(error.into()))?);
        }
        if table.stream {
            let stream = StreamSpecification::builder()
                .stream_enabled(true)
                .stream_view_type(StreamViewType::NewAndOldImages)
                .build()
                .map_err(|error| refused(error.into()))?;
            request = request.stream_specification(stream);
        }
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                Some(CreateTableError::ResourceInUseException(_)) => Ok(false),
                _ => Err(StoreError::of(call, "", error)),
            },
        }
    }

    async fn wait_until_active(&self, table: &Table) -> Result<(), TablesError> {
        let until = Instant::now() + ACTIVE_WITHIN;
        let mut pause = POLL_FIRST;
        loop {
            let status = match self.describe(table).await {
                Ok(description) => description.table_status,
                // A table just created may not be visible yet.
                Err(StoreError::NoTable { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            if status == Some(TableStatus::Active) {
                return Ok(());
            }
            if Instant::now() >= until {
                let status = status.map_or("MISSING".to_owned(), |status| status.as_str().to_owned());
                return Err(TablesError::NotActive { table: self.name(table), status });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_MAX);
        }
    }

    /// Enables TTL where it is defined and off; a wrong attribute is left for the
    /// verification to report, since changing it takes DynamoDB an hour.
    async fn enable_ttl(&self, table: &Table) -> Result<(), StoreError> {
        let Some(attribute) = table.ttl_attribute else { return Ok(()) };
        if self.ttl_attribute(table).await?.is_some() {
            return Ok(());
        }
        let call = self.call("UpdateTimeToLive", table);
        let ttl = TimeToLiveSpecification::builder().enabled(true).attribute_name(attribute).build();
        let ttl = ttl.map_err(|error| StoreError::Refused { call: call.clone(), source: error.into() })?;
        let request = self.client.update_time_to_live().table_name(&call.table).time_to_live_specification(ttl);
        request.send().await.map(|_| ()).map_err(|error| StoreError::of(call, "", error))
    }

    async fn ttl_attribute(&self, table: &Table) -> Result<Option<String>, StoreError> {
        let call = self.call("DescribeTimeToLive", table);
        let request = self.client.describe_time_to_live().table_name(&call.table);
        let answer = request.send().await.map_err(|error| StoreError::of(call, "", error))?;
        let on = [TimeToLiveStatus::Enabled, TimeToLiveStatus::Enabling];
        Ok(answer
            .time_to_live_description
            .filter(|ttl| ttl.time_to_live_status().is_some_and(|status| on.contains(status)))
            .and_then(|ttl| ttl.attribute_name))
    }

    pub(super) async fn describe(&self, table: &Table) -> Result<TableDescription, StoreError> {
        let call = self.call("DescribeTable", table);
        let request = self.client.describe_table().table_name(&call.table);
        let answer = request.send().await.map_err(|error| StoreError::of(call.clone(), "", error))?;
        answer.table.ok_or(StoreError::Contradiction { call, reason: "no description came back" })
    }
}

fn keys_of(table: &Table) -> impl Iterator<Item = (&'static str, KeyType)> + use<> {
    [(table.partition_key, KeyType::Hash)].into_iter().chain(table.sort_key.map(|name| (name, KeyType::Range)))
}

/// Each difference as "what is, what it should be"; empty when the table is as defined.
fn differences_of(table: &Table, found: &TableDescription, ttl_attribute: Option<&str>) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, is: String, should: String| {
        if is != should {
            differences.push(format!("{what} is {is}, should be {should}"));
        }
    };
    let type_of = |name: &str| {
        let attribute = found.attribute_definitions().iter().find(|attribute| attribute.attribute_name() == name);
        attribute.map_or("?", |attribute| attribute.attribute_type().as_str())
    };
    let keys: Vec<String> = found
        .key_schema()
        .iter()
        .map(|key| format!("{} {} {}", key.attribute_name(), key.key_type().as_str(), type_of(key.attribute_name())))
        .collect();
    let defined_keys: Vec<String> = keys_of(table).map(|(name, kind)| format!("{name} {} S", kind.as_str())).collect();
    compare("the key", keys.join(" + "), defined_keys.join(" + "));

    // Tables that were never anything but provisioned have no summary.
    let billing = found.billing_mode_summary().and_then(|summary| summary.billing_mode());
    let billing = billing.unwrap_or(&BillingMode::Provisioned);
    compare("the billing mode", billing.as_str().to_owned(), BillingMode::PayPerRequest.as_str().to_owned());

    let named = |attribute: Option<&str>| attribute.unwrap_or("off").to_owned();
    compare("the TTL attribute", named(ttl_attribute), named(table.ttl_attribute));

    let stream = found.stream_specification().filter(|stream| stream.stream_enabled());
    let stream = stream.and_then(|stream| stream.stream_view_type()).map(StreamViewType::as_str);
    let defined_stream = table.stream.then_some(StreamViewType::NewAndOldImages.as_str());
    compare("the stream", named(stream), named(defined_stream));
    differences
}
