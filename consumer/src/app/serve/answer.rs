//! The API's two answers: each request from its deadline to its response.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt};
use metrics::Gauge;
use models::{IntentScore, PairScore, ScoreError, Scorer, TextPair};
use reader::LabelReader;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::item::IntentItem;
use shared::{ProductText, Stage};
use tokio::sync::Semaphore;

use super::api::{
    DuplicatesRequest, DuplicatesResponse, IntentRequest, IntentResponse, IntentResult, PairResult, Source,
};
use super::problem::Problem;
use super::request;
use crate::app::health::Health;
use crate::metric;
use crate::source::{Pulse, Shutdown};

/// Requests in work at once, whatever they ask: bounds the memory that bodies take.
const REQUESTS_MAX: usize = 1_024;
/// Table lookups of one request under way at once.
const LOOKUPS_AT_ONCE: usize = 32;

/// A scorer whose pulse beats with each answer of the device, for readiness.
pub struct Lane {
    pub scorer: Scorer,
    pub pulse: Pulse,
}

/// Everything that a request needs on its way to an answer.
pub struct Service {
    /// For queries.
    pub online: Lane,
    /// For pairs of products, whose batches would hold up queries.
    pub bulk: Lane,
    /// None: every query is scored.
    pub reader: Option<LabelReader>,
    pub health: Arc<Health>,
    pub shutdown: Shutdown,
    /// Of requests that name none.
    pub deadline: Duration,
    room: Semaphore,
}

impl Service {
    pub fn new(
        (online, bulk): (Lane, Lane),
        reader: Option<LabelReader>,
        health: Arc<Health>,
        shutdown: Shutdown,
        deadline: Duration,
    ) -> Self {
        Self { online, bulk, reader, health, shutdown, deadline, room: Semaphore::new(REQUESTS_MAX) }
    }

    /// Intents of checked queries, in their order: from the table where it has a live
    /// label, else from the model.
    async fn intents(&self, request: IntentRequest, deadline: Instant) -> Result<IntentResponse, Problem> {
        let queries = request.checked()?;
        let known = self.known(&queries, deadline).await;
        let is_unknown = |&i: &usize| known[i].is_none();
        let unknown: Vec<usize> = (0..queries.len()).filter(is_unknown).collect();
        let texts: Vec<String> = unknown.iter().map(|&i| queries[i].clone()).collect();
        let scores = match texts.is_empty() {
            true => Vec::new(),
            false => {
                let scores = self.online.scorer.score_queries_by(texts, deadline).await;
                // What the first stage settles says nothing of the device.
                let is_of_device = |score: &IntentScore| score.stage == Stage::CrossEncoder;
                self.judged(scores, &self.online, is_of_device, "queries", |row| unknown[row])?
            }
        };
        metric::QUERIES_SCORED.counter(&[]).increment(scores.len() as u64);
        let settled = scores.iter().filter(|score| score.stage == Stage::Cascade).count();
        metric::QUERIES_SETTLED.counter(&[]).increment(settled as u64);
        let early = scores.iter().filter(|score| score.left_early).count();
        metric::QUERIES_LEFT_EARLY.counter(&[]).increment(early as u64);
        let model = self.online.scorer.model_id();
        let mut scored = scores.into_iter().map(|score| IntentResult {
            intent: score.intent,
            probabilities: score.probabilities.into(),
            stage: score.stage,
            model: model.to_string(),
            source: Source::Model,
        });
        let results = known.into_iter().filter_map(|item| item.map(IntentResult::from).or_else(|| scored.next()));
        Ok(IntentResponse { results: results.collect() })
    }

    /// Verdicts of checked pairs, in their order.
    async fn duplicates(&self, request: DuplicatesRequest, deadline: Instant) -> Result<DuplicatesResponse, Problem> {
        let pairs = request.checked()?;
        let text = |product| Arc::from(ProductText::of(product).text);
        let texts = pairs.iter().map(|pair| TextPair { left: text(&pair.left), right: text(&pair.right) }).collect();
        let scores = self.bulk.scorer.score_pairs_by(texts, deadline).await;
        // What the cascade settles says nothing of the device.
        let is_of_device = |score: &PairScore| score.stage == Stage::CrossEncoder;
        let scores = self.judged(scores, &self.bulk, is_of_device, "pairs", |row| row)?;
        metric::PAIRS_SCORED.counter(&[]).increment(scores.len() as u64);
        let settled = scores.iter().filter(|score| score.stage == Stage::Cascade).count();
        metric::PAIRS_SETTLED.counter(&[]).increment(settled as u64);
        let early = scores.iter().filter(|score| score.left_early).count();
        metric::PAIRS_LEFT_EARLY.counter(&[]).increment(early as u64);
        let twice = scores.iter().filter(|score| score.read_twice).count();
        metric::PAIRS_READ_TWICE.counter(&[]).increment(twice as u64);
        let results = scores.into_iter().map(|score| PairResult {
            verdict: score.verdict,
            probability: score.probability,
            stage: score.stage,
        });
        Ok(DuplicatesResponse { model: self.bulk.scorer.model_id().to_string(), results: results.collect() })
    }

    /// Live labels of the table, in the order of the queries. A table that fails or is slow
    /// costs time, not the answer: the model knows as well.
    async fn known(&self, queries: &[String], deadline: Instant) -> Vec<Option<IntentItem>> {
        let nothing = || vec![None; queries.len()];
        let Some(reader) = &self.reader else { return nothing() };
        let look_up = |query: String| {
            let reader = reader.clone();
            async move { reader.intent_for(&query).await }
        };
        let lookups = futures::stream::iter(queries.to_vec()).map(look_up).buffered(LOOKUPS_AT_ONCE);
        let half_the_time = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
        let found = tokio::time::timeout_at(half_the_time.into(), lookups.try_collect::<Vec<_>>()).await;
        let (known, result) = match found {
            Ok(Ok(known)) => (known, "answered"),
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "label table not read");
                (nothing(), "failed")
            }
            Err(_elapsed) => (nothing(), "late"),
        };
        metric::INTENT_LOOKUPS.counter(&[("result", result)]).increment(1);
        metric::INTENTS_KNOWN.counter(&[]).increment(known.iter().flatten().count() as u64);
        known
    }

    /// The scores of a lane, or the problem; `row_of` says which row of the request a
    /// scored row is. A device that fails ends the service, for its supervisor to see.
    fn judged<T>(
        &self,
        scores: Result<Vec<T>, ScoreError>,
        lane: &Lane,
        is_of_device: impl Fn(&T) -> bool,
        rows_field: &str,
        row_of: impl Fn(usize) -> usize,
    ) -> Result<Vec<T>, Problem> {
        if scores.as_ref().map_or(true, |scores| scores.iter().any(is_of_device)) {
            self.note(lane, scores.as_ref().err());
        }
        scores.map_err(|error| match error {
            ScoreError::NonFinite { rows } => {
                let rows = rows.into_iter().map(row_of).collect();
                Problem::of_score(&ScoreError::NonFinite { rows }, rows_field)
            }
            error => Problem::of_score(&error, rows_field),
        })
    }

    /// Takes note of how a lane answered.
    pub fn note(&self, lane: &Lane, error: Option<&ScoreError>) {
        match error {
            None | Some(ScoreError::NonFinite { .. }) => lane.pulse.beat(),
            Some(error) if error.is_fatal() => self.shutdown.fatal(error.to_string()),
            Some(_) => {}
        }
    }
}

impl From<IntentItem> for IntentResult {
    fn from(item: IntentItem) -> Self {
        Self {
            intent: item.intent,
            probabilities: item.scores.into(),
            stage: item.stage,
            model: item.model.to_string(),
            source: Source::Table,
        }
    }
}

pub async fn intent(State(service): State<Arc<Service>>, request: Request<Body>) -> Response {
    let answering = answer(&service, request, |request, deadline| service.intents(request, deadline));
    counted("intent", answering).await
}

pub async fn duplicates(State(service): State<Arc<Service>>, request: Request<Body>) -> Response {
    let answering = answer(&service, request, |request, deadline| service.duplicates(request, deadline));
    counted("duplicates", answering).await
}

/// Everything around the work itself, which may rely on a parsed body and a deadline.
async fn answer<Q: DeserializeOwned, A>(
    service: &Service,
    request: Request<Body>,
    work: impl AsyncFnOnce(Q, Instant) -> Result<A, Problem>,
) -> Result<A, Problem> {
    let started = Instant::now();
    let deadline = request::deadline(request.headers(), started, service.deadline)?;
    let readiness = service.health.readiness();
    if !readiness.ready {
        return Err(Problem::not_ready(&readiness.because));
    }
    let _room = service.room.try_acquire().map_err(|_full| Problem::overloaded(Duration::ZERO))?;
    let body = request::json(request, deadline).await?;
    work(body, deadline).await
}

async fn counted<A: Serialize>(route: &'static str, answering: impl Future<Output = Result<A, Problem>>) -> Response {
    let started = Instant::now();
    let _in_work = InWork::begin(route);
    let response = answering.await.map(Json).into_response();
    let status = response.status();
    metric::HTTP_REQUESTS.counter(&[("route", route), ("status", status.as_str())]).increment(1);
    metric::HTTP_TIME.histogram(&[("route", route)]).record(started.elapsed().as_secs_f64());
    response
}

/// Counts a request for as long as somebody waits for its answer.
struct InWork(Gauge);

impl InWork {
    fn begin(route: &'static str) -> Self {
        let gauge = metric::HTTP_IN_WORK.gauge(&[("route", route)]);
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
