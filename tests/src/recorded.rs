//! What is sent to the tables, as DynamoDB reads it.

use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use consumer::store::Store;
use serde_json::Value;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// For example `PutItem`.
    pub operation: String,
    pub body: Value,
}

/// The requests so far, in the order in which they were sent.
#[derive(Clone, Debug, Default)]
pub struct Recording(Arc<Mutex<Vec<Sent>>>);

impl Recording {
    /// The same tables, with every request recorded here; shared by all who record here.
    pub fn of(&self, store: &Store) -> Store {
        let config = store.client().config().to_builder().interceptor(self.clone()).build();
        Store::new(Client::from_conf(config), store.prefix())
    }

    /// # Panics
    /// When a request could not be recorded.
    pub fn sent(&self) -> Vec<Sent> {
        self.0.lock().expect("nobody panics with it").clone()
    }
}

impl Intercept for Recording {
    fn name(&self) -> &'static str {
        "recording"
    }

    fn read_before_transmit(
        &self,
        request: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let request = request.request();
        let target = request.headers().get("x-amz-target").ok_or("a request without a target")?;
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let body = serde_json::from_slice(request.body().bytes().ok_or("a request whose body is a stream")?)?;
        self.0.lock().map_err(|error| error.to_string())?.push(Sent { operation, body });
        Ok(())
    }
}
