//! An HTTP server that answers DynamoDB requests as a test says: for what no local engine
//! does, such as throttling and unprocessed keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_dynamodb::Client;
use consumer::aws::dynamo::{Limits, local_client};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

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
    endpoint_url: String,
    requests: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl TableStub {
    pub async fn start(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (script, requests) = (Arc::new(script), Arc::new(AtomicUsize::new(0)));
        let counter = requests.clone();
        let server = tokio::spawn(async move {
            // A connection that fails is the client's to notice.
            while let Ok((stream, _)) = listener.accept().await {
                let (script, counter) = (script.clone(), counter.clone());
                tokio::spawn(async move { serve(stream, script.as_ref(), &counter).await.ok() });
            }
        });
        Self { endpoint_url: format!("http://{address}"), requests, server }
    }

    pub fn endpoint_url(&self) -> &str {
        &self.endpoint_url
    }

    /// A client that gives up on one attempt late and tries a call three times.
    pub fn client(&self) -> Client {
        local_client(&self.endpoint_url, &Limits { attempts: 3, ..Limits::default() })
    }

    /// Requests that have arrived.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for TableStub {
    fn drop(&mut self) {
        self.server.abort();
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

async fn serve(stream: TcpStream, script: &impl Fn(&Request) -> Answer, counter: &AtomicUsize) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some((operation, body)) = read_request(&mut stream).await? {
        let request = Request { operation, body, number: counter.fetch_add(1, Ordering::SeqCst) };
        let (status, body) = match script(&request) {
            Answer::Ok(body) => (200, body),
            Answer::Error(status, code) => (status, json!({ "__type": format!("{ERROR_NAMESPACE}{code}") })),
            Answer::ErrorBody(status, body) => (status, body),
            Answer::Never => std::future::pending().await,
        };
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} -\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// The operation and the body of the next request; none when the client has closed.
async fn read_request(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<(String, Value)>> {
    let (mut operation, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "x-amz-target" => operation = value.rsplit('.').next().unwrap_or_default().to_owned(),
            "content-length" => length = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some((operation, serde_json::from_slice(&body)?)))
}
