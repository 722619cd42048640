//! An HTTP server that answers DynamoDB requests as a test says: for what no local engine
//! does, such as throttling and unprocessed keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_dynamodb::Client;
use consumer::aws::dynamo::{Limits, local_client};
use serde_json::{Map, Value, json};

use crate::http_server::{Reply, Response, Server};

/// Goes before an error's code in `__type`.
pub const ERROR_NAMESPACE: &str = "com.amazonaws.dynamodb.v20120810#";

/// One request of the DynamoDB API.
#[derive(Debug)]
pub struct Request {
    /// For example `BatchGetItem`.
    pub operation: String,
    pub body: Value,
    /// Requests before this one.
    pub number: usize,
}

#[derive(Debug)]
pub enum Answer {
    Ok(Value),
    /// An HTTP status and an error code.
    Error(u16, &'static str),
    /// An HTTP status and an error as it goes over the wire.
    ErrorBody(u16, Value),
    /// Keeps the client waiting.
    Never,
}

/// Serves on a free loopback port until dropped.
#[derive(Debug)]
pub struct TableStub {
    requests: Arc<AtomicUsize>,
    server: Server,
}

impl TableStub {
    pub async fn start(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = requests.clone();
        let server = Server::start(move |request| {
            let operation = request.target().map(|(_, operation)| operation.to_owned()).unwrap_or_default();
            let body = serde_json::from_slice(&request.body).expect("the SDK sends JSON");
            let request = Request { operation, body, number: counter.fetch_add(1, Ordering::SeqCst) };
            let reply = reply(script(&request));
            async move { reply }
        });
        Self { requests, server: server.await }
    }

    pub fn endpoint_url(&self) -> &str {
        self.server.url()
    }

    /// A client that gives up on one attempt late and tries a call three times.
    pub fn client(&self) -> Client {
        local_client(self.server.url(), &Limits { attempts: 3, ..Limits::default() })
    }

    /// Requests that have arrived.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Request {
    /// Answers the first half of a BatchGetItem's keys, rounded up, with minimal label
    /// items, and leaves the other half unprocessed.
    pub fn batch_get_half(&self) -> Answer {
        let (table, wanted) = self.only_table("RequestItems");
        let keys = wanted["Keys"].as_array().expect("a batch has keys");
        let (first, rest) = keys.split_at(keys.len().div_ceil(2));
        let items: Vec<Value> = first.iter().map(label_item).collect();
        let mut left = Map::new();
        if !rest.is_empty() {
            left.insert(table.clone(), with_keys(wanted, rest));
        }
        Answer::Ok(json!({ "Responses": { table: items }, "UnprocessedKeys": left }))
    }

    /// The only entry of a field that maps table names.
    pub fn only_table(&self, field: &str) -> (&String, &Value) {
        self.body[field].as_object().and_then(|tables| tables.iter().next()).expect("a batch names its table")
    }
}

fn with_keys(wanted: &Value, keys: &[Value]) -> Value {
    let mut wanted = wanted.clone();
    wanted["Keys"] = keys.into();
    wanted
}

fn label_item(key: &Value) -> Value {
    let mut item = key.clone();
    item["text_hash"] = json!({ "S": "0".repeat(32) });
    item["content_hash"] = json!({ "S": "0".repeat(32) });
    item["version"] = json!({ "N": "1" });
    item["revision"] = json!({ "N": "1" });
    item["pairs"] = json!({ "M": {} });
    item
}

fn reply(answer: Answer) -> Reply {
    match answer {
        Answer::Ok(body) => Reply::Answer(Response::json(200, &body)),
        Answer::Error(status, code) => {
            Reply::Answer(Response::json(status, &json!({ "__type": format!("{ERROR_NAMESPACE}{code}") })))
        }
        Answer::ErrorBody(status, body) => Reply::Answer(Response::json(status, &body)),
        Answer::Never => Reply::Never,
    }
}
