//! `serve`: intents and duplicates over HTTP, from the label table where it knows them and
//! from the model otherwise.

mod answer;
mod api;
mod config;
mod openapi;
mod problem;
mod request;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router, middleware};
use models::Lanes;
use reader::{LabelReader, Options};
use tokio::net::TcpListener;
use tower_http::compression::CompressionLayer;
use tower_http::decompression::RequestDecompressionLayer;

use self::answer::{Lane, Service};
use self::config::{ServeArgs, ServeConfig};
use self::problem::Problem;
use super::CommandResult;
use super::descriptors;
use super::health::{self, Health, HealthLimits};
use super::open::Tables;
use super::telemetry;
use crate::source::{Shutdown, StopReason};

pub type Args = ServeArgs;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How often each lane scores a probe, so that readiness always speaks of the device.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A device that has answered nothing for so long is taken for broken.
const LIMITS: HealthLimits =
    HealthLimits { device_age_max: Duration::from_secs(5), queue_age_max: Duration::from_secs(60) };
/// Longest look in the label table.
const LOOKUP_TIME_MAX: Duration = Duration::from_millis(50);

pub fn run(args: Args) -> CommandResult {
    telemetry::init_logs()?;
    let config = args.resolve()?;
    descriptors::raise();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(config.http_threads).enable_all().build()?.block_on(serve(config))
}

async fn serve(config: ServeConfig) -> CommandResult {
    let metrics = telemetry::init_metrics()?;
    let shutdown = Shutdown::new();
    shutdown.listen_to_signals()?;
    let listener = TcpListener::bind(config.address)
        .await
        .map_err(|error| format!("--address: cannot listen on {}: {error}", config.address))?;
    let health = Health::new(LIMITS, shutdown.clone());
    let tables = match &config.tables {
        Some(tables) => Some(Tables::open(tables).await?),
        None => None,
    };
    if let Some(tables) = &tables {
        tables.store.verify_tables().await?;
    }
    health.tables_exist();
    let (model, online_replicas) = (config.model.clone(), config.online_replicas);
    let Lanes { online, bulk } = tokio::task::spawn_blocking(move || model.start_lanes(online_replicas)).await??;
    let online = Lane { scorer: online, pulse: health.device() };
    let bulk = Lane { scorer: bulk, pulse: health.watch_device("device of pairs") };
    let reader = tables.as_ref().map(|Tables { store, .. }| {
        // Late answers are of no use: the model has its own in a few milliseconds.
        let options = Options { deadline: LOOKUP_TIME_MAX, ..Options::default() };
        LabelReader::new(store.client().clone(), store.prefix(), options)
    });
    let service = Service::new((online, bulk), reader, health.clone(), shutdown.clone(), config.deadline);
    let service = Arc::new(service);
    let probes = tokio::spawn(probe(service.clone()));

    let routes = routes(service, health.clone(), metrics.clone());
    // A small answer must not wait for the acknowledgement of the one before.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "answers may be delayed");
        }
    });
    let stop = shutdown.token().clone().cancelled_owned();
    let mut server = tokio::spawn(axum::serve(listener, routes).with_graceful_shutdown(stop).into_future());
    let upkeep = tokio::spawn(health::upkeep(metrics));
    let served = tokio::select! {
        ended = &mut server => ended?.map_err(BoxError::from),
        () = shutdown.begun() => match tokio::time::timeout(config.drain, server).await {
            Ok(ended) => ended?.map_err(BoxError::from),
            Err(_elapsed) => Err("the drain deadline passed with requests in work".into()),
        }
    };
    // Whoever has the service drops it here, and the replicas end with it.
    probes.abort();
    drop(probes.await);
    upkeep.abort();
    if let Some(tables) = tables {
        tables.close().await?;
    }
    match shutdown.reason() {
        Some(StopReason::Fatal(reason)) => {
            Err(format!("stopped for a fault that every request would meet: {reason}").into())
        }
        _ => served.map(|()| ExitCode::SUCCESS),
    }
}

fn routes(
    service: Arc<Service>,
    health: Arc<Health>,
    metrics: metrics_exporter_prometheus::PrometheusHandle,
) -> Router {
    Router::new()
        .route("/v1/intent", post(answer::intent))
        .route("/v1/duplicates", post(answer::duplicates))
        .with_state(service)
        // The bodies' limit holds after unpacking, where they are read.
        .layer(DefaultBodyLimit::disable())
        .layer(RequestDecompressionLayer::new())
        .layer(CompressionLayer::new())
        .route("/openapi.json", get(|| async { Json(openapi::document()) }))
        .merge(health::routes(health, metrics))
        .layer(middleware::map_response(as_problem))
}

/// Gives errors that the router or a layer answered the form of all others.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let is_bare = !response.headers().contains_key(header::CONTENT_TYPE);
    let is_text =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/"));
    if (status.is_client_error() || status == StatusCode::INTERNAL_SERVER_ERROR) && (is_bare || is_text) {
        let mut problem = Problem::of_status(status).into_response();
        if let Some(allowed) = response.headers().get(header::ALLOW) {
            problem.headers_mut().insert(header::ALLOW, allowed.clone());
        }
        return problem;
    }
    response
}

/// Has the network of each lane answer from time to time, whatever requests ask of it.
/// Requests beat the pulses as well.
async fn probe(service: Arc<Service>) {
    let mut ticks = tokio::time::interval(PROBE_INTERVAL);
    loop {
        ticks.tick().await;
        let deadline = Instant::now() + LIMITS.device_age_max;
        let probe = |lane: &Lane| {
            let scorer = lane.scorer.clone();
            async move { scorer.probe(Some(deadline)).await }
        };
        let (online, bulk) = tokio::join!(probe(&service.online), probe(&service.bulk));
        service.note(&service.online, online.as_ref().err());
        service.note(&service.bulk, bulk.as_ref().err());
    }
}
