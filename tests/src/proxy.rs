//! A proxy in front of the local engines that does to requests what networks and busy
//! services do: throttles, failures, resets, hangs, lost answers, batches done in part.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::http_server::{Reply, Request, Response, Server, send};

/// One request, as those who decide on it see it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// For example `ReceiveMessage` or `PutItem`.
    pub operation: &'a str,
    /// Requests of this operation before this one.
    pub number: usize,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upset {
    /// It is refused with this status and error code, and not carried out.
    Refuse(u16, &'static str),
    /// Its connection is reset before it is carried out.
    Reset,
    /// It is carried out, and its connection reset before the answer.
    LoseAnswer,
    /// It is carried out, and its answer breaks off half way.
    CutAnswer,
    /// It is not carried out, and never answered.
    Hang,
    /// It is carried out this much later.
    Slow(Duration),
    /// The first entry of a batch is not carried out, and the answer says so.
    LeaveOut,
}

/// Both engines behind one address; counts what passes.
#[derive(Debug)]
pub struct Proxy {
    server: Server,
    counts: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Proxy {
    /// Sends SQS's requests to one URL and DynamoDB's to another. `upset` says what
    /// happens to each.
    pub async fn start(
        sqs_url: &str,
        dynamodb_url: &str,
        upset: impl Fn(Call<'_>) -> Option<Upset> + Send + Sync + 'static,
    ) -> Self {
        let counts: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let counter = counts.clone();
        let (sqs_url, dynamodb_url) = (sqs_url.to_owned(), dynamodb_url.to_owned());
        let server = Server::start(move |request| {
            let (service, operation) = request.target().unwrap_or_default();
            let url = if service == "AmazonSQS" { &sqs_url } else { &dynamodb_url }.clone();
            let number = count(&counter, operation);
            let upset = upset(Call { operation, number });
            async move { pass(&url, request, upset).await }
        });
        Self { server: server.await, counts }
    }

    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// Requests of this operation so far.
    pub fn requests(&self, operation: &str) -> usize {
        self.counts.lock().expect("nobody panics with it").get(operation).copied().unwrap_or_default()
    }
}

fn count(counts: &Mutex<BTreeMap<String, usize>>, operation: &str) -> usize {
    let mut counts = counts.lock().expect("nobody panics with it");
    let count = counts.entry(operation.to_owned()).or_default();
    *count += 1;
    *count - 1
}

async fn pass(url: &str, request: Request, upset: Option<Upset>) -> Reply {
    match upset {
        None => forward(url, &request, Reply::Answer).await,
        Some(Upset::Refuse(status, code)) => refuse(status, code),
        Some(Upset::Reset) => Reply::Reset,
        Some(Upset::LoseAnswer) => forward(url, &request, |_answer| Reply::Reset).await,
        Some(Upset::CutAnswer) => forward(url, &request, Reply::Cut).await,
        Some(Upset::Hang) => Reply::Never,
        Some(Upset::Slow(time)) => {
            tokio::time::sleep(time).await;
            forward(url, &request, Reply::Answer).await
        }
        Some(Upset::LeaveOut) => leave_out(url, request).await,
    }
}

async fn forward(url: &str, request: &Request, reply: impl Fn(Response) -> Reply) -> Reply {
    match send(url, request).await {
        Ok(response) => reply(response),
        Err(_gone) => Reply::Reset,
    }
}

/// DynamoDB reads the type of an error up to its name, SQS takes the name alone.
fn refuse(status: u16, code: &str) -> Reply {
    Reply::Answer(Response::json(status, &json!({ "__type": format!("com.amazonaws#{code}"), "message": "as asked" })))
}

/// A request that is no batch passes whole.
async fn leave_out(url: &str, mut request: Request) -> Reply {
    let mut body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let operation = request.target().map(|(_, operation)| operation.to_owned()).unwrap_or_default();
    let left = match operation.as_str() {
        "BatchWriteItem" => first_write(&mut body),
        "BatchGetItem" => first_key(&mut body),
        _ => first_entry(&mut body),
    };
    let Some(left) = left else { return forward(url, &request, Reply::Answer).await };
    request.body = body.to_string().into_bytes();
    let done = if left.is_all {
        Response::json(200, &json!({}))
    } else {
        match send(url, &request).await {
            Ok(response) if response.status == 200 => response,
            Ok(response) => return Reply::Answer(response),
            Err(_gone) => return Reply::Reset,
        }
    };
    let mut answer: Value = serde_json::from_slice(&done.body).unwrap_or_else(|_| json!({}));
    answer[left.field] = left.answer;
    Reply::Answer(Response::json(200, &answer))
}

/// What was taken out of a batch.
struct LeftOut {
    /// Nothing is left in the request.
    is_all: bool,
    /// The answer's field that tells of it, and its value.
    field: &'static str,
    answer: Value,
}

fn first_entry(body: &mut Value) -> Option<LeftOut> {
    let entries = body["Entries"].as_array_mut().filter(|entries| !entries.is_empty())?;
    let entry = entries.remove(0);
    let failed = json!([{ "Id": entry["Id"], "Code": "InternalError", "Message": "as asked", "SenderFault": false }]);
    Some(LeftOut { is_all: entries.is_empty(), field: "Failed", answer: failed })
}

fn first_write(body: &mut Value) -> Option<LeftOut> {
    let tables = body["RequestItems"].as_object_mut()?;
    let (table, writes) = tables.iter_mut().next()?;
    let writes = writes.as_array_mut().filter(|writes| !writes.is_empty())?;
    let answer = json!({ table: [writes.remove(0)] });
    tables.retain(|_, writes| writes.as_array().is_some_and(|writes| !writes.is_empty()));
    Some(LeftOut { is_all: tables.is_empty(), field: "UnprocessedItems", answer })
}

/// Of the first table; a table of which no key is left is no longer asked, others are.
fn first_key(body: &mut Value) -> Option<LeftOut> {
    let tables = body["RequestItems"].as_object_mut()?;
    let (table, wanted) = tables.iter_mut().next()?;
    let mut left = wanted.clone();
    let keys = wanted["Keys"].as_array_mut().filter(|keys| !keys.is_empty())?;
    left["Keys"] = json!([keys.remove(0)]);
    let answer = json!({ table: left });
    tables.retain(|_, wanted| wanted["Keys"].as_array().is_some_and(|keys| !keys.is_empty()));
    Some(LeftOut { is_all: tables.is_empty(), field: "UnprocessedKeys", answer })
}
