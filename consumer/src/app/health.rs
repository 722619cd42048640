//! Liveness, readiness and metrics over HTTP.
//!
//! `/healthz` answers as long as the process does. `/readyz` answers 200 only while every
//! fact that the work needs is true, and says which are not. `/metrics` is Prometheus's.

use std::convert::Infallible;
use std::future::IntoFuture;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::source::{Pulse, Shutdown, StopReason};

const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How old the newest sign of life may be.
#[derive(Clone, Copy, Debug)]
pub struct HealthLimits {
    /// Since the scoring device last finished a batch. A worker without work must run a
    /// probe batch more often than this: a probe that never touches the device would keep
    /// a broken one in service.
    pub device_age_max: Duration,
    /// Since a queue last answered; above the longest poll.
    pub queue_age_max: Duration,
}

impl Default for HealthLimits {
    fn default() -> Self {
        Self { device_age_max: Duration::from_secs(60), queue_age_max: Duration::from_secs(60) }
    }
}

/// The facts behind `/readyz`.
#[derive(Debug)]
pub struct Health {
    limits: HealthLimits,
    shutdown: Shutdown,
    tables_exist: AtomicBool,
    device: Pulse,
    watched: Mutex<Vec<Watched>>,
}

/// Something beside the device that has to show that it lives.
#[derive(Debug)]
struct Watched {
    what: String,
    /// What it does when it shows that it lives.
    done: &'static str,
    pulse: Pulse,
    age_max: Duration,
}

/// What `/readyz` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    pub ready: bool,
    /// One sentence for each fact that is not true.
    pub because: Vec<String>,
}

impl Health {
    /// Not ready: nothing has been shown yet. A shutdown, fatal or not, ends readiness.
    pub fn new(limits: HealthLimits, shutdown: Shutdown) -> Arc<Self> {
        let (tables_exist, device) = (AtomicBool::new(false), Pulse::default());
        Arc::new(Self { limits, shutdown, tables_exist, device, watched: Mutex::default() })
    }

    /// Every table was described by the store.
    pub fn tables_exist(&self) {
        self.tables_exist.store(true, Ordering::Relaxed);
    }

    /// Beat it after each batch that the device finished, warm-up included.
    pub fn device(&self) -> Pulse {
        self.device.clone()
    }

    /// Readiness needs this queue's pulse as well from here on.
    pub fn watch_queue(&self, name: impl Into<String>, pulse: Pulse) {
        let (what, age_max) = (format!("queue {}", name.into()), self.limits.queue_age_max);
        self.watch(Watched { what, done: "answered", pulse, age_max });
    }

    /// Another device, whose pulse readiness needs as well from here on.
    pub fn watch_device(&self, what: &str) -> Pulse {
        let (pulse, age_max) = (Pulse::default(), self.limits.device_age_max);
        self.watch(Watched { what: what.to_owned(), done: "finished a batch", pulse: pulse.clone(), age_max });
        pulse
    }

    fn watch(&self, watched: Watched) {
        self.watched.lock().expect("no code panics while it holds the lock").push(watched);
    }

    pub fn readiness(&self) -> Readiness {
        let mut because = Vec::new();
        match self.shutdown.reason() {
            Some(StopReason::Fatal(reason)) => because.push(format!("fatal fault: {reason}")),
            Some(_) => because.push("stopping".to_owned()),
            None => {}
        }
        if !self.tables_exist.load(Ordering::Relaxed) {
            because.push("tables were not found yet".to_owned());
        }
        because.extend(silence("device", "finished a batch", &self.device, self.limits.device_age_max));
        for Watched { what, done, pulse, age_max } in
            self.watched.lock().expect("no code panics while it holds the lock").iter()
        {
            because.extend(silence(what, done, pulse, *age_max));
        }
        Readiness { ready: because.is_empty(), because }
    }
}

fn silence(what: &str, done: &str, pulse: &Pulse, age_max: Duration) -> Option<String> {
    match pulse.age() {
        None => Some(format!("{what} has not {done} yet")),
        Some(age) if age > age_max => {
            Some(format!("{what} has not {done} for {} s, more than {} s", age.as_secs(), age_max.as_secs()))
        }
        Some(_) => None,
    }
}

#[derive(Clone)]
struct Served {
    health: Arc<Health>,
    metrics: PrometheusHandle,
}

/// Serves until `stop` is cancelled, which should be after the drain: a stopping worker
/// says that it is not ready.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> io::Result<()> {
    let server = axum::serve(listener, routes(health, metrics.clone())).with_graceful_shutdown(stop.cancelled_owned());
    tokio::select! {
        served = server.into_future() => served,
        never = upkeep(metrics) => match never {},
    }
}

/// `/healthz`, `/readyz` and `/metrics`.
pub fn routes(health: Arc<Health>, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render_metrics))
        .with_state(Served { health, metrics })
}

/// Histograms grow until they are rendered; this bounds them where nobody scrapes.
pub async fn upkeep(metrics: PrometheusHandle) -> Infallible {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

async fn readyz(State(served): State<Served>) -> impl IntoResponse {
    let readiness = served.health.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}

async fn render_metrics(State(served): State<Served>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], served.metrics.render())
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::metric;

    const LIMITS: HealthLimits =
        HealthLimits { device_age_max: Duration::from_secs(60), queue_age_max: Duration::from_secs(40) };

    fn ready(shutdown: &Shutdown) -> (Arc<Health>, Pulse) {
        let health = Health::new(LIMITS, shutdown.clone());
        let queue = Pulse::default();
        health.watch_queue("catalog", queue.clone());
        health.tables_exist();
        health.device().beat();
        queue.beat();
        (health, queue)
    }

    #[test]
    fn nothing_is_taken_for_granted() {
        let health = Health::new(LIMITS, Shutdown::new());
        health.watch_queue("catalog", Pulse::default());
        let readiness = health.readiness();
        assert!(!readiness.ready);
        assert_eq!(
            readiness.because,
            ["tables were not found yet", "device has not finished a batch yet", "queue catalog has not answered yet"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn silence_of_queue_or_device_ends_readiness_and_a_sign_of_life_restores_it() {
        let (health, queue) = ready(&Shutdown::new());
        assert!(health.readiness().ready);
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(health.readiness().because, ["queue catalog has not answered for 50 s, more than 40 s"]);
        queue.beat();
        assert!(health.readiness().ready);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(health.readiness().because, ["device has not finished a batch for 61 s, more than 60 s"]);
    }

    #[test]
    fn a_stop_ends_readiness_and_a_fatal_one_says_why() {
        let (stopping, fatal) = (Shutdown::new(), Shutdown::new());
        let ((stopped, _), (broken, _)) = (ready(&stopping), ready(&fatal));
        stopping.begin(StopReason::Signal("SIGTERM"));
        fatal.fatal("model hash differs");
        assert_eq!(stopped.readiness().because, ["stopping"]);
        assert_eq!(broken.readiness().because, ["fatal fault: model hash differs"]);
    }

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("the server listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("the server answers");
        answer
    }

    #[tokio::test]
    async fn the_server_answers_and_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || metric::EVENTS_SUPERSEDED.counter(&[]).increment(7));
        let (shutdown, stop) = (Shutdown::new(), CancellationToken::new());
        let (health, _queue) = ready(&shutdown);
        let server = tokio::spawn(serve(listener, health, recorder.handle(), stop.clone()));
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.contains("events_superseded_total 7"));
        shutdown.fatal("device lost");
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("fatal fault: device lost"), "{answer}");
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"), "a draining worker is alive");
        stop.cancel();
        server.await.expect("the server does not panic").expect("the listener works");
    }
}
