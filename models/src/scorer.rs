//! Scores for pairs of product texts and for queries.

mod error;
mod load;
#[cfg(test)]
mod tests;

use std::iter;
use std::num::NonZero;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use futures::stream::{self, Stream, StreamExt as _};
use shared::{Intent, ModelId, Stage, Verdict};

use crate::batch::Budget;
use crate::cascade::Cascade;
use crate::encode::{EncodeError, Encoded, Encoder};
use crate::engine::{Numeric, RowLogits};
use crate::kernel::Kernel;
use crate::manifest::{Manifest, SecondReading, Thresholds};
use crate::query_cascade::QueryCascade;
use crate::replica::Replicas;
use crate::tokenise::{TokeniseError, Tokenisers};
pub use error::{LoadError, ScoreError};
use load::Loaded;

/// Throughput first. Of 512, 1,024, 2,048 and 4,096 tokens this was the fastest for a core
/// in fp32 (by up to a quarter) and no slower than the others in bf16; larger activations
/// leave the caches and are paged in anew each time.
pub(crate) const BULK: Budget =
    Budget { tokens_max: 1_024, rows_max: 128, batch_tokens: 16, wait_max: Duration::from_millis(500) };
const BULK_ROWS_MAX: usize = 8_192;
/// Latency first: a query that comes while a batch runs waits for it, so batches are short. With 64 tokens AMX answers
/// a quarter more queries than with 32 and AVX2 a twentieth more, at the same P99 (ADR 36).
pub(crate) const ONLINE: Budget =
    Budget { tokens_max: 64, rows_max: 8, batch_tokens: 8, wait_max: Duration::from_millis(2) };
const ONLINE_ROWS_MAX: usize = 2_048;
/// Rows of one call that one thread tokenises, while others do the next ones and those before are scored.
const TOKENISED_ROWS: usize = 512;
/// Bytes that a text counts for at least: an empty one takes its time as well.
const TEXT_BYTES_MIN: usize = 64;
/// What a probe asks: as short as most queries.
const PROBE_QUERY: &str = "usb c cable";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScorerOptions {
    /// Threads that each hold the model; at least 1.
    pub replicas: usize,
    pub numeric: Numeric,
    pub kernel: Kernel,
}

impl Default for ScorerOptions {
    /// A replica for each core, the numeric path that the CPU computes best, and its fastest kernel.
    fn default() -> Self {
        Self { replicas: cores(), numeric: Numeric::Auto, kernel: Kernel::Auto }
    }
}

fn cores() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}

/// Two scorers of one model, each with replicas of its own: a bulk batch takes many times
/// the deadline of a query. Bulk replicas leave the CPU to online ones.
pub struct Lanes {
    pub online: Scorer,
    pub bulk: Scorer,
}

/// Texts of two products, as [`shared::ProductText`] writes them. Their order is of no
/// consequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextPair {
    pub left: Arc<str>,
    pub right: Arc<str>,
}

impl TextPair {
    /// Both texts, in order of their bytes.
    pub fn in_order(&self) -> (&str, &str) {
        let (left, right) = (self.left.as_ref(), self.right.as_ref());
        (left.min(right), left.max(right))
    }
}

/// From texts to rows.
type Encode<T> = fn(&Encoder, &[T]) -> Result<Vec<Encoded>, EncodeError>;

/// What is tokenised: of a row, the bytes of its texts, each of at least [`TEXT_BYTES_MIN`].
trait Texts {
    fn bytes(&self) -> usize;
}

/// Of all rows.
fn bytes_of<T: Texts>(rows: &[T]) -> usize {
    rows.iter().map(Texts::bytes).sum()
}

fn bytes_of_text(text: &str) -> usize {
    text.len().max(TEXT_BYTES_MIN)
}

impl Texts for TextPair {
    fn bytes(&self) -> usize {
        bytes_of_text(&self.left) + bytes_of_text(&self.right)
    }
}

impl Texts for String {
    fn bytes(&self) -> usize {
        bytes_of_text(self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairScore {
    /// Calibrated probability of `duplicate`, 0 to 1.
    pub probability: f32,
    pub verdict: Verdict,
    pub stage: Stage,
    /// The network answered after its early layers.
    pub left_early: bool,
    /// The network read both orders of the texts.
    pub read_twice: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IntentScore {
    /// The most probable one.
    pub intent: Intent,
    /// In the order of [`Intent::ALL`]; sums to 1.
    pub probabilities: [f32; 4],
    /// The first stage for queries, or the network.
    pub stage: Stage,
    /// The network answered after its early layers.
    pub left_early: bool,
}

impl IntentScore {
    /// What `stage` says with these logits.
    pub(crate) fn of(logits: [f32; 4], stage: Stage) -> Self {
        let (mut best, mut largest) = (Intent::ALL[0], logits[0]);
        for (intent, logit) in Intent::ALL.into_iter().zip(logits) {
            if logit > largest {
                (best, largest) = (intent, logit);
            }
        }
        let powers = logits.map(|logit| (logit - largest).exp());
        let sum: f32 = powers.iter().sum();
        Self { intent: best, probabilities: powers.map(|power| power / sum), stage, left_early: false }
    }
}

/// A verified model with the replicas of one lane. Clones share them; the replicas end
/// when the last clone drops. Rows of all callers share batches.
#[derive(Clone)]
pub struct Scorer {
    manifest: Arc<Manifest>,
    /// None where the cross-encoder judges every pair.
    cascade: Option<Arc<Cascade>>,
    /// None where the network reads every query.
    query_cascade: Option<Arc<QueryCascade>>,
    /// Whether rows leave the network by its early exits, where it has some.
    may_leave: bool,
    /// None where no pair is read in both orders.
    second_reading: Option<SecondReading>,
    tokenisers: Tokenisers,
    replicas: Arc<Replicas>,
    numeric: Numeric,
    kernel: Kernel,
}

impl Scorer {
    /// Loads the artifact in `folder` with a lane for throughput. Returns only after its
    /// files matched the manifest and every replica reproduced the golden outputs. Blocks
    /// for a second or more.
    pub fn start(folder: &Path, options: ScorerOptions) -> Result<Self, LoadError> {
        let replicas = options.replicas.max(1);
        Loaded::open(folder, options, replicas)?.lane(BULK, BULK_ROWS_MAX, replicas, false)
    }

    /// As [`Scorer::start`], with two lanes: `options` speak of the bulk one, which yields to
    /// the other on CPU.
    pub fn start_lanes(folder: &Path, online_replicas: usize, options: ScorerOptions) -> Result<Lanes, LoadError> {
        let (online, bulk) = (online_replicas.max(1), options.replicas.max(1));
        let mut loaded = Loaded::open(folder, options, online + bulk)?;
        let online = loaded.lane(ONLINE, ONLINE_ROWS_MAX, online, false)?;
        let bulk = loaded.lane(BULK, BULK_ROWS_MAX, bulk, true)?;
        Ok(Lanes { online, bulk })
    }

    pub fn model_id(&self) -> &ModelId {
        &self.manifest.model_id
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The numeric path in use; never `Auto`.
    pub fn numeric(&self) -> Numeric {
        self.numeric
    }

    /// The same model with every pair and query left to the whole network: what it says is not what
    /// its `model_id` stands for, so this is for measuring alone.
    pub fn without_cascade(self) -> Self {
        Self { cascade: None, query_cascade: None, may_leave: false, ..self }
    }

    /// The same model with no pair read in both orders, likewise for measuring alone.
    pub fn reading_once(self) -> Self {
        Self { second_reading: None, ..self }
    }

    /// What computes; never [`Kernel::Auto`].
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Scores pairs; results are in the order of `pairs`. Waits while the lane is full.
    pub async fn score_pairs(&self, pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError> {
        self.pairs(pairs, None).await
    }

    /// As [`Scorer::score_pairs`], but [`ScoreError::Overloaded`] at once if the answer would
    /// come after the deadline, and [`ScoreError::Late`] if it does not come before.
    pub async fn score_pairs_by(&self, pairs: Vec<TextPair>, deadline: Instant) -> Result<Vec<PairScore>, ScoreError> {
        self.pairs(pairs, Some(deadline)).await
    }

    /// Scores queries, which are normalised first; results are in the order of `queries`.
    /// Waits while the lane is full.
    pub async fn score_queries(&self, queries: Vec<String>) -> Result<Vec<IntentScore>, ScoreError> {
        self.queries(queries, None).await
    }

    /// As [`Scorer::score_queries`], with a deadline as in [`Scorer::score_pairs_by`].
    pub async fn score_queries_by(
        &self,
        queries: Vec<String>,
        deadline: Instant,
    ) -> Result<Vec<IntentScore>, ScoreError> {
        self.queries(queries, Some(deadline)).await
    }

    async fn pairs(&self, pairs: Vec<TextPair>, deadline: Option<Instant>) -> Result<Vec<PairScore>, ScoreError> {
        by(deadline, async {
            let mut scores = self.settled(&pairs, deadline).await?;
            let open: Vec<usize> = (0..pairs.len()).filter(|&row| scores[row].is_none()).collect();
            let rest = open.iter().map(|&row| pairs[row].clone()).collect();
            for (&row, score) in open.iter().zip(self.cross_encoded(rest, &open, deadline).await?) {
                scores[row] = Some(score);
            }
            Ok(scores.into_iter().flatten().collect())
        })
        .await
    }

    /// What the cascade says of the pairs that it is sure of, in their order.
    async fn settled(
        &self,
        pairs: &[TextPair],
        deadline: Option<Instant>,
    ) -> Result<Vec<Option<PairScore>>, ScoreError> {
        let Some(cascade) = &self.cascade else { return Ok(vec![None; pairs.len()]) };
        let score = |probability| PairScore {
            probability,
            verdict: Verdict::Distinct,
            stage: Stage::Cascade,
            left_early: false,
            read_twice: false,
        };
        let cascade = Arc::clone(cascade);
        let settle =
            move |_: &Encoder, pairs: &[TextPair]| cascade.settle(pairs).into_iter().map(|p| p.map(score)).collect();
        self.settled_by(pairs, deadline, settle).await
    }

    /// What the cross-encoder says of pairs, in their order; `rows` are their numbers in the
    /// whole call, by which an error names them.
    async fn cross_encoded(
        &self,
        pairs: Vec<TextPair>,
        rows: &[usize],
        deadline: Option<Instant>,
    ) -> Result<Vec<PairScore>, ScoreError> {
        let encode = if self.may_leave { Encoder::leaving_pairs } else { Encoder::pairs };
        let read = self.logits(pairs.clone(), deadline, encode).await?;
        let once = finite(read.iter().map(|row| row.pair)).map_err(|error| error.renumbered(rows))?;
        let judged = |(&logits, row): (&[f32; 2], &RowLogits)| self.judged(logits, row.left_early);
        let mut scores: Vec<PairScore> = once.iter().zip(&read).map(judged).collect();
        let doubtful: Vec<usize> = (0..scores.len()).filter(|&row| self.is_doubtful(scores[row])).collect();
        let turned = doubtful.iter().map(|&row| pairs[row].clone()).collect();
        let again = self.logits(turned, deadline, Encoder::turned_pairs).await?;
        let again = finite(again.iter().map(|row| row.pair));
        let again = again.map_err(|error| error.renumbered(&doubtful).renumbered(rows))?;
        for (&row, again) in doubtful.iter().zip(again) {
            scores[row] = PairScore { read_twice: true, ..self.judged(mean(once[row], again), false) };
        }
        Ok(scores)
    }

    /// What the cross-encoder says with these logits, `[distinct, duplicate]`.
    fn judged(&self, logits: [f32; 2], left_early: bool) -> PairScore {
        let probability = duplicate_probability(logits, self.manifest.temperature);
        let verdict = verdict(probability, self.manifest.thresholds);
        PairScore { probability, verdict, stage: Stage::CrossEncoder, left_early, read_twice: false }
    }

    /// Whether one reading of a pair leaves so much in doubt that the other order is read too.
    fn is_doubtful(&self, once: PairScore) -> bool {
        !once.left_early && self.second_reading.is_some_and(|reading| reading.is_asked(once.probability))
    }

    /// Has the whole network read a query, to see that it answers; of deadlines see
    /// [`Scorer::score_pairs_by`].
    pub async fn probe(&self, deadline: Option<Instant>) -> Result<(), ScoreError> {
        by(deadline, self.read(vec![PROBE_QUERY.to_owned()], deadline, Encoder::queries)).await.map(|_| ())
    }

    async fn queries(&self, queries: Vec<String>, deadline: Option<Instant>) -> Result<Vec<IntentScore>, ScoreError> {
        by(deadline, async {
            let mut scores = self.settled_queries(&queries, deadline).await?;
            let open: Vec<usize> = (0..queries.len()).filter(|&row| scores[row].is_none()).collect();
            let rest = open.iter().map(|&row| queries[row].clone()).collect();
            let encode = if self.may_leave { Encoder::leaving_queries } else { Encoder::queries };
            let read = self.read(rest, deadline, encode).await.map_err(|error| error.renumbered(&open))?;
            for (&row, score) in open.iter().zip(read) {
                scores[row] = Some(score);
            }
            Ok(scores.into_iter().flatten().collect())
        })
        .await
    }

    /// What the first stage says of the queries that it is sure of, in their order.
    async fn settled_queries(
        &self,
        queries: &[String],
        deadline: Option<Instant>,
    ) -> Result<Vec<Option<IntentScore>>, ScoreError> {
        let Some(cascade) = &self.query_cascade else { return Ok(vec![None; queries.len()]) };
        let cascade = Arc::clone(cascade);
        let settle = move |encoder: &Encoder, queries: &[String]| {
            queries.iter().map(|query| cascade.settle(encoder, query)).collect()
        };
        self.settled_by(queries, deadline, settle).await
    }

    /// What a first stage says of `items`, in their order.
    async fn settled_by<T: Texts + Clone + Send + 'static, S: Send + 'static>(
        &self,
        items: &[T],
        deadline: Option<Instant>,
        settle: impl Fn(&Encoder, &[T]) -> Vec<Option<S>> + Clone + Send + 'static,
    ) -> Result<Vec<Option<S>>, ScoreError> {
        let mut settled = Vec::with_capacity(items.len());
        let mut chunks = pin!(self.in_chunks(items.to_vec(), deadline, settle));
        while let Some(found) = chunks.next().await {
            settled.extend(found?);
        }
        Ok(settled)
    }

    /// What the network says of queries, in their order.
    async fn read(
        &self,
        queries: Vec<String>,
        deadline: Option<Instant>,
        encode: Encode<String>,
    ) -> Result<Vec<IntentScore>, ScoreError> {
        let rows = self.logits(queries, deadline, encode).await?;
        let logits = finite(rows.iter().map(|row| row.intent))?;
        let score = |(logits, row): ([f32; 4], RowLogits)| IntentScore {
            left_early: row.left_early,
            ..IntentScore::of(logits, Stage::CrossEncoder)
        };
        Ok(logits.into_iter().zip(rows).map(score).collect())
    }

    /// Logits of all items, in their order.
    async fn logits<T: Texts + Send + 'static>(
        &self,
        items: Vec<T>,
        deadline: Option<Instant>,
        encode: Encode<T>,
    ) -> Result<Vec<RowLogits>, ScoreError> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = self.replicas.lane.call(deadline);
        let mut chunks = pin!(self.in_chunks(items, deadline, encode));
        while let Some(rows) = chunks.next().await {
            call.enter(rows??).await?;
        }
        Ok(call.answers().await?)
    }

    /// What `work` makes of `items`, [`TOKENISED_ROWS`] at a time and as many of those side by side as there are
    /// threads for it; in their order.
    fn in_chunks<T: Texts + Send + 'static, R: Send + 'static>(
        &self,
        items: Vec<T>,
        deadline: Option<Instant>,
        work: impl Fn(&Encoder, &[T]) -> R + Clone + Send + 'static,
    ) -> impl Stream<Item = Result<R, TokeniseError>> {
        let begin = move |chunk: Vec<T>| {
            let work = work.clone();
            self.tokenisers.run(bytes_of(&chunk), deadline.is_none(), move |encoder| work(encoder, &chunk))
        };
        // What keeps chunks side by side would take a single query longer than its first stage does.
        if items.len() <= TOKENISED_ROWS {
            return stream::once(begin(items)).left_stream();
        }
        let mut items = items.into_iter();
        let chunk =
            move || Some(items.by_ref().take(TOKENISED_ROWS).collect()).filter(|chunk: &Vec<T>| !chunk.is_empty());
        stream::iter(iter::from_fn(chunk)).map(begin).buffered(self.tokenisers.threads()).right_stream()
    }
}

/// The answer, if it comes before the deadline.
async fn by<T>(
    deadline: Option<Instant>,
    answer: impl Future<Output = Result<T, ScoreError>>,
) -> Result<T, ScoreError> {
    let Some(at) = deadline else { return answer.await };
    tokio::time::timeout_at(at.into(), answer).await.map_err(|_elapsed| ScoreError::Late)?
}

/// The logits of one head, if all of them are finite.
fn finite<const N: usize>(logits: impl Iterator<Item = [f32; N]>) -> Result<Vec<[f32; N]>, ScoreError> {
    let logits: Vec<[f32; N]> = logits.collect();
    match non_finite(&logits) {
        rows if rows.is_empty() => Ok(logits),
        rows => Err(ScoreError::NonFinite { rows }),
    }
}

fn non_finite<const N: usize>(logits: &[[f32; N]]) -> Vec<usize> {
    let finite = |row: &[f32; N]| row.iter().all(|x| x.is_finite());
    (0..logits.len()).filter(|&row| !finite(&logits[row])).collect()
}

fn mean(one: [f32; 2], other: [f32; 2]) -> [f32; 2] {
    std::array::from_fn(|label| (one[label] + other[label]) / 2.0)
}

/// Softmax of `[distinct, duplicate]` after division by `temperature`.
fn duplicate_probability([distinct, duplicate]: [f32; 2], temperature: f32) -> f32 {
    1.0 / (1.0 + ((distinct - duplicate) / temperature).exp())
}

fn verdict(probability: f32, thresholds: Thresholds) -> Verdict {
    if probability >= thresholds.duplicate {
        Verdict::Duplicate
    } else if probability >= thresholds.review {
        Verdict::Review
    } else {
        Verdict::Distinct
    }
}
