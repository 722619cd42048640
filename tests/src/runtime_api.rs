//! Lambda's runtime API, as a function sees it: it asks for the next event, and posts what
//! became of it.
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

/// Longest wait for an answer; far more than a slow machine needs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a function posted.
#[derive(Clone, Debug, PartialEq)]
pub enum Posted {
    Response(Value),
    /// The invocation failed as a whole.
    Error(Value),
}

/// Serves one function, until dropped.
pub struct RuntimeApi {
    address: SocketAddr,
    server: JoinHandle<()>,
    events: mpsc::Sender<(Value, SystemTime)>,
    posted: mpsc::Receiver<Posted>,
    asked: mpsc::Receiver<()>,
}

#[derive(Clone)]
struct Api {
    events: Arc<Mutex<mpsc::Receiver<(Value, SystemTime)>>>,
    posted: mpsc::Sender<Posted>,
    asked: mpsc::Sender<()>,
}

impl RuntimeApi {
    pub async fn start() -> Self {
        let (events, next) = mpsc::channel(1);
        let (post_to, posted) = mpsc::channel(1);
        let (ask, asked) = mpsc::channel(1);
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next_event))
            .route("/2018-06-01/runtime/invocation/{id}/{kind}", post(take_answer))
            .with_state(Api { events: Arc::new(Mutex::new(next)), posted: post_to, asked: ask });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.expect("the listener works") });
        Self { address, server, events, posted, asked }
    }

    /// What `AWS_LAMBDA_RUNTIME_API` is set to.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Returns once the function has asked for an event, which ends its start.
    pub async fn is_asked(&mut self) {
        tokio::time::timeout(PATIENCE, self.asked.recv()).await.expect("the function starts").expect("the server runs");
    }

    /// One invocation with this much time.
    pub async fn invoke(&mut self, event: Value, time: Duration) -> Posted {
        self.events.send((event, SystemTime::now() + time)).await.expect("the server runs");
        tokio::time::timeout(PATIENCE, self.posted.recv()).await.expect("the function answers").expect("it runs")
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn next_event(State(api): State<Api>) -> Response {
    // Only the first is waited for by anybody.
    let _ = api.asked.try_send(());
    let Some((event, deadline)) = api.events.lock().await.recv().await else {
        return StatusCode::GONE.into_response();
    };
    let deadline_ms = deadline.duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis();
    let headers = [
        ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd".to_owned()),
        ("lambda-runtime-deadline-ms", deadline_ms.to_string()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:000000000000:function:labels".to_owned()),
        ("lambda-runtime-trace-id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700".to_owned()),
        ("content-type", "application/json".to_owned()),
    ];
    (headers, event.to_string()).into_response()
}

async fn take_answer(State(api): State<Api>, Path((_id, kind)): Path<(String, String)>, body: Bytes) -> StatusCode {
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let said = if kind == "response" { Posted::Response(body) } else { Posted::Error(body) };
    match api.posted.send(said).await {
        Ok(()) => StatusCode::ACCEPTED,
        Err(_ended) => StatusCode::GONE,
    }
}
