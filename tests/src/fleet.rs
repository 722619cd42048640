//! Workers of the real flow on shared tables, with a model that is a function of the
//! texts, and crashes before any request to the tables.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::interceptors::BeforeSerializationInterceptorContextRef;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept};
use consumer::decide::blocking::{KeyEpochs, Limits};
use consumer::flow::{KnownEpochs, Pipeline, Score, Versions};
use consumer::source::NoObjects;
use consumer::store::Store;
use models::{IntentScore, PairScore, ScoreError, TextPair};
use shared::item::PairEntry;
use shared::{Intent, ModelId, ProductId, Stage, TextHash, Verdict};

use crate::table_model::Table;

/// Name of the model of workers that run as processes of their own.
pub const FORETOLD: &str = "foretold@1";

/// What queries begin with that the first stage of [`TextModel`] settles.
pub const PLAIN: &str = "plain";

/// A model that can be foretold: texts without a common code are distinct, others get any
/// verdict by their hash.
#[derive(Clone, Debug)]
pub struct TextModel {
    pub id: ModelId,
    pairs_scored: Arc<AtomicI64>,
    queries_scored: Arc<AtomicI64>,
}

impl TextModel {
    pub fn new(id: &str) -> Self {
        Self { id: ModelId(id.to_owned()), pairs_scored: Arc::default(), queries_scored: Arc::default() }
    }

    /// Pairs that it was asked for so far, by all who share it.
    pub fn pairs_scored(&self) -> i64 {
        self.pairs_scored.load(Ordering::SeqCst)
    }

    /// Queries likewise.
    pub fn queries_scored(&self) -> i64 {
        self.queries_scored.load(Ordering::SeqCst)
    }

    pub fn score(&self, left: &str, right: &str) -> (f32, Verdict) {
        let codes = |text: &str| -> Vec<String> {
            let words = text.split_whitespace().filter(|word| word.bytes().any(|b| b.is_ascii_digit()));
            words.map(str::to_owned).collect()
        };
        if !codes(left).iter().any(|code| codes(right).contains(code)) {
            return (0.01, Verdict::Distinct);
        }
        let (first, second) = if left <= right { (left, right) } else { (right, left) };
        let byte = TextHash::of(0, &format!("{}|{first}|{second}", self.id)).0[0];
        let verdict = [Verdict::Distinct, Verdict::Review, Verdict::Duplicate][usize::from(byte) % 3];
        (f32::from(byte) / 255.0, verdict)
    }
}

#[async_trait]
impl Score for TextModel {
    fn model_id(&self) -> &ModelId {
        &self.id
    }

    async fn score_pairs(&self, pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError> {
        self.pairs_scored.fetch_add(pairs.len() as i64, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let score = |pair: &TextPair| {
            let (probability, verdict) = self.score(&pair.left, &pair.right);
            PairScore { probability, verdict, stage: Stage::CrossEncoder, left_early: false, read_twice: false }
        };
        Ok(pairs.iter().map(score).collect())
    }

    async fn score_queries(&self, queries: Vec<String>) -> Result<Vec<IntentScore>, ScoreError> {
        self.queries_scored.fetch_add(queries.len() as i64, Ordering::SeqCst);
        let stage = |query: &String| if query.starts_with(PLAIN) { Stage::Cascade } else { Stage::CrossEncoder };
        let (probabilities, left_early) = ([1.0, 0.0, 0.0, 0.0], false);
        let score = |stage| IntentScore { intent: Intent::Product, probabilities, stage, left_early };
        Ok(queries.iter().map(|query| score(stage(query))).collect())
    }

    async fn probe(&self) -> Result<(), ScoreError> {
        Ok(())
    }
}

/// A worker as `worker` builds it, but for the model.
pub fn pipeline(store: Store, model: &TextModel) -> Pipeline {
    Pipeline {
        store,
        scorer: Box::new(model.clone()),
        objects: Arc::new(NoObjects),
        epochs: KnownEpochs::fixed(KeyEpochs::shipped()),
        limits: Limits::default(),
        versions: Versions::default(),
        intent_ttl: Duration::from_secs(3_600),
        tombstone_ttl: Duration::from_secs(3_600),
        clock: jiff::Timestamp::now,
        next: None,
    }
}

/// What the label table says, item by item, tombstones left out.
///
/// # Panics
/// When an item cannot be read, or a tombstone has pairs or no end.
pub async fn stored(store: &Store, ids: impl IntoIterator<Item = &ProductId>, model: &TextModel) -> Table {
    let mut table = Table::new();
    for id in ids {
        let Some(item) = store.label_item(id, &model.id).await.expect("reads") else { continue };
        if item.deleted {
            assert!(item.pairs.is_empty() && item.expires_at.is_some(), "{item:?}");
            continue;
        }
        let entry = |entry: &PairEntry| (entry.other_hash, entry.score.to_bits(), entry.verdict);
        let pairs = item.pairs.iter().map(|(other, e)| (other.clone(), entry(e))).collect();
        table.insert(item.id, (item.text_hash, pairs));
    }
    table
}

/// The same tables through a worker that stops before its request number `requests` until
/// `go` is sent to or dropped; `stopped` hears of it. Blocks a thread meanwhile.
pub fn paused(store: &Store, requests: i64, stopped: Sender<()>, go: Receiver<()>) -> Store {
    let channels = Mutex::new(Some((stopped, go)));
    before_requests(store, move |number, _| {
        if number == requests
            && let Some((stopped, go)) = channels.lock().ok().and_then(|mut channels| channels.take())
        {
            stopped.send(())?;
            // A test that ended has dropped its end, and nobody waits for this worker.
            tokio::task::block_in_place(|| go.recv()).ok();
        }
        Ok(())
    })
}

/// The same tables through a worker that dies before its request number `requests`,
/// counted from 0: that one and all later ones fail unsent.
pub fn mortal(store: &Store, requests: i64) -> Store {
    before_requests(store, move |number, _| if number < requests { Ok(()) } else { Err("the worker died".into()) })
}

/// The same tables, and the number of requests that are sent to them through it.
pub fn counted(store: &Store) -> (Store, Arc<AtomicI64>) {
    let requests = Arc::new(AtomicI64::new(0));
    let counter = requests.clone();
    let store = before_requests(store, move |_, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    (store, requests)
}

pub(crate) type Unsent = Result<(), Box<dyn std::error::Error + Send + Sync>>;
pub(crate) type Before<'a> = BeforeSerializationInterceptorContextRef<'a>;

/// The same tables, with `act` before each request, which gets its number and what is asked.
pub(crate) fn before_requests(
    store: &Store,
    act: impl Fn(i64, &Before<'_>) -> Unsent + Send + Sync + 'static,
) -> Store {
    let before = BeforeRequests { sent: AtomicI64::new(0), act };
    let config = store.client().config().to_builder().interceptor(before).build();
    Store::new(Client::from_conf(config), store.prefix())
}

struct BeforeRequests<F> {
    sent: AtomicI64,
    act: F,
}

impl<F> std::fmt::Debug for BeforeRequests<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BeforeRequests").field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl<F: Fn(i64, &Before<'_>) -> Unsent + Send + Sync> Intercept for BeforeRequests<F> {
    fn name(&self) -> &'static str {
        "before requests"
    }

    fn read_before_execution(&self, request: &Before<'_>, _config: &mut ConfigBag) -> Unsent {
        (self.act)(self.sent.fetch_add(1, Ordering::SeqCst), request)
    }
}
