//! A lane: where tokenised rows of all callers wait until one of the lane's replicas asks
//! for a batch.
//!
//! Nobody owns a timer or a batching thread: whoever adds rows or asks for a batch plans
//! what can be planned, under one lock. While a replica runs a batch, its next one is
//! prefetched if it is full; one that is not full waits for an idle replica and for more
//! rows, whichever comes first.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::batch::{Batch, Budget, Waiting};
use crate::encode::Encoded;
use crate::engine::{EngineError, RowLogits};
use crate::shape::Shapes;

/// Weight of the newest batch in the running mean of a replica's speed.
const NEWEST_WEIGHT: f64 = 0.1;
/// How often a call that waits looks whether a device hangs.
const LOOKS: u32 = 10;

/// How a lane plans, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneOptions {
    pub budget: Budget,
    /// Most rows that wait or run. A call with a deadline is refused where it finds no
    /// room; one without waits for it.
    pub rows_max: usize,
    /// Threads that take batches.
    pub replicas: usize,
    /// A batch that takes longer never ends: the device hangs.
    pub run_time_max: Duration,
}

/// Why a call has no logits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    #[error("every replica has stopped")]
    Stopped,
    #[error("a replica ended in the middle of a batch")]
    Lost,
    #[error("a batch has not ended in {time_max:?}; the device hangs")]
    Hung { time_max: Duration },
    #[error("what waits already takes longer than the deadline leaves; try again in {retry_after:?}")]
    Overloaded { retry_after: Duration },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The answer to row `index` of a call.
type Answer = (usize, Result<RowLogits, EngineError>);

/// One row on its way to a replica and back.
pub struct Row {
    pub encoded: Encoded,
    index: usize,
    call: UnboundedSender<Answer>,
    /// Given back when the row is answered or dropped.
    _room: OwnedSemaphorePermit,
}

impl Row {
    pub fn answer(self, answer: Result<RowLogits, EngineError>) {
        // A caller that left meanwhile needs none.
        let _ = self.call.send((self.index, answer));
    }

    fn is_wanted(&self) -> bool {
        !self.call.is_closed()
    }
}

pub struct Lane {
    options: LaneOptions,
    shapes: Shapes,
    state: Mutex<State>,
    ended: Condvar,
    room: Arc<Semaphore>,
}

struct State {
    waiting: Waiting<Row>,
    /// Replicas without a batch; the latest goes first, because its caches are warm.
    idle: Vec<oneshot::Sender<Batch<Row>>>,
    /// Replicas that run a batch and have none prefetched.
    busy: VecDeque<oneshot::Sender<Batch<Row>>>,
    running_tokens: usize,
    /// When each batch began that has not ended.
    running: Vec<Instant>,
    /// Of one replica; none before its first batch.
    tokens_per_second: Option<f64>,
    replicas_ended: usize,
    is_closed: bool,
}

impl Lane {
    pub fn new(options: LaneOptions, shapes: Shapes) -> Arc<Self> {
        let state = State {
            waiting: Waiting::new(options.budget, shapes.clone()),
            idle: Vec::new(),
            busy: VecDeque::new(),
            running_tokens: 0,
            running: Vec::new(),
            tokens_per_second: None,
            replicas_ended: 0,
            is_closed: false,
        };
        let room = Arc::new(Semaphore::new(options.rows_max));
        Arc::new(Self { options, shapes, state: Mutex::new(state), ended: Condvar::new(), room })
    }

    pub fn options(&self) -> &LaneOptions {
        &self.options
    }

    /// Opens a call. Its rows are dropped unscored when the call is. A call with a deadline
    /// is refused if what waits already takes longer; keeping it is up to the caller.
    pub fn call(self: &Arc<Self>, deadline: Option<Instant>) -> Call {
        let (sender, answers) = unbounded_channel();
        Call { lane: Arc::clone(self), deadline, entered: 0, sender, answers }
    }

    /// The batches of one replica.
    pub fn batches(self: &Arc<Self>) -> Batches {
        Batches { lane: Arc::clone(self), prefetched: None }
    }

    /// Changes the state of an open lane, then plans what can be planned.
    fn with_open(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        if !state.is_closed {
            change(&mut state);
            state.dispatch();
        }
    }

    /// A replica begins to run a batch; to be told of its end by what this gives.
    pub fn begin(&self) -> Instant {
        let now = Instant::now();
        self.lock().running.push(now);
        now
    }

    pub fn end(&self, began: Instant) {
        let mut state = self.lock();
        if let Some(i) = state.running.iter().position(|&other| other == began) {
            state.running.swap_remove(i);
        }
    }

    /// A batch of so many tokens left its replica after `took`.
    pub fn finished(&self, tokens: usize, took: Duration) {
        let mut state = self.lock();
        state.running_tokens -= tokens;
        let newest = (tokens + self.options.budget.batch_tokens) as f64 / took.as_secs_f64().max(1e-6);
        let mean = |old: f64| old + NEWEST_WEIGHT * (newest - old);
        state.tokens_per_second = Some(state.tokens_per_second.map_or(newest, mean));
    }

    /// A replica's thread ends. Without any, whoever waits would wait for ever.
    pub fn replica_ended(&self) {
        let ended = {
            let mut state = self.lock();
            state.replicas_ended += 1;
            state.replicas_ended
        };
        self.ended.notify_all();
        if ended == self.options.replicas {
            self.close();
        }
    }

    /// Waits until `replicas` threads have ended; false if they have not after `limit`.
    pub fn wait_ended(&self, replicas: usize, limit: Duration) -> bool {
        let waited = self.ended.wait_timeout_while(self.lock(), limit, |state| state.replicas_ended < replicas);
        !waited.expect("no code panics while it holds the lock").1.timed_out()
    }

    /// Ends the lane: replicas end after the batch in hand, waiting rows are dropped.
    pub fn close(&self) {
        self.room.close();
        let mut state = self.lock();
        state.is_closed = true;
        state.idle.clear();
        state.busy.clear();
        state.waiting = Waiting::new(self.options.budget, self.shapes.clone());
    }

    /// Whether some replica's batch has run for longer than any batch does.
    fn hangs(&self) -> bool {
        self.lock().running.iter().any(|began| began.elapsed() > self.options.run_time_max)
    }

    /// How much longer than `time_left` the answer to `own_tokens` more would take.
    fn excess(&self, state: &State, own_tokens: usize, time_left: Duration) -> Option<Duration> {
        let ahead = state.waiting.tokens() + state.running_tokens;
        let speed = state.tokens_per_second?;
        // An idle lane tries: waiting would not make it any faster.
        if ahead == 0 {
            return None;
        }
        let Budget { batch_tokens, tokens_max, .. } = self.options.budget;
        let cost = (ahead + own_tokens) as f64 * (1.0 + batch_tokens as f64 / tokens_max as f64);
        let takes = Duration::from_secs_f64(cost / (speed * self.options.replicas as f64));
        takes.checked_sub(time_left).filter(|excess| !excess.is_zero())
    }

    /// The next answer to a call. A device hangs if it does so at two looks: after a pause of the
    /// whole process, the first one finds a batch that began long ago, and may yet end.
    async fn answer(&self, answers: &mut UnboundedReceiver<Answer>) -> Result<Answer, RunError> {
        let time_max = self.options.run_time_max;
        let mut hung = false;
        loop {
            match tokio::time::timeout(time_max / LOOKS, answers.recv()).await {
                Ok(answer) => return answer.ok_or(RunError::Lost),
                Err(_elapsed) if hung && self.hangs() => return Err(RunError::Hung { time_max }),
                Err(_elapsed) => hung = self.hangs(),
            }
        }
    }

    /// Tokens of these rows, each with the padding of its own length.
    fn tokens_of(&self, rows: &[Encoded]) -> usize {
        rows.iter().map(|row| self.shapes.tokens_of(row.ids.len())).sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the lock")
    }
}

impl State {
    /// Gives each idle replica a batch as long as there are rows, then each busy one as
    /// long as there are full batches.
    fn dispatch(&mut self) {
        let now = Instant::now();
        while self.waiting.tokens() > 0 {
            let ask = match self.idle.pop() {
                None if self.waiting.has_full_batch() => self.busy.pop_front(),
                idle => idle,
            };
            let Some(ask) = ask else { return };
            if ask.is_closed() {
                continue;
            }
            let Some(batch) = self.waiting.next(now, Row::is_wanted) else {
                self.idle.push(ask);
                return;
            };
            let tokens = batch.tokens();
            // A replica that ended just now drops the rows, and their callers hear of it.
            if ask.send(batch).is_ok() {
                self.running_tokens += tokens;
            }
        }
    }
}

/// One replica's batches: while it runs one, the next is planned for it as soon as it is full.
pub struct Batches {
    lane: Arc<Lane>,
    /// Where the next batch comes, if it is full before this replica asks for it.
    prefetched: Option<oneshot::Receiver<Batch<Row>>>,
}

impl Batches {
    /// Waits for the replica's next batch, full or not; to be called when it has run the one
    /// before. None once the lane is closed.
    pub fn next(&mut self) -> Option<Batch<Row>> {
        let batch = self.take_prefetched().or_else(|| {
            let (ask, batch) = oneshot::channel();
            self.lane.with_open(|state| state.idle.push(ask));
            batch.blocking_recv().ok()
        })?;
        let (ask, prefetched) = oneshot::channel();
        self.lane.with_open(|state| state.busy.push_back(ask));
        self.prefetched = Some(prefetched);
        Some(batch)
    }

    fn take_prefetched(&mut self) -> Option<Batch<Row>> {
        let mut prefetched = self.prefetched.take()?;
        // Under the lock: a batch on its way to a place that is given up would be lost.
        let _nobody_plans = self.lane.lock();
        prefetched.close();
        prefetched.try_recv().ok()
    }
}

/// One caller's rows in a lane.
pub struct Call {
    lane: Arc<Lane>,
    deadline: Option<Instant>,
    entered: usize,
    sender: UnboundedSender<Answer>,
    answers: UnboundedReceiver<Answer>,
}

impl Call {
    /// Adds rows to the call. Without a deadline it waits for room, at most `rows_max` rows
    /// at a time; with one, all of `rows` enter at once or none do.
    pub async fn enter(&mut self, mut rows: Vec<Encoded>) -> Result<(), RunError> {
        if self.deadline.is_some() {
            return self.enter_at_once(rows);
        }
        while !rows.is_empty() {
            let rest = rows.split_off(rows.len().min(self.lane.options.rows_max));
            let wanted = rows.len() as u32;
            let room = Arc::clone(&self.lane.room).acquire_many_owned(wanted).await;
            self.push(rows, room.map_err(|_closed| RunError::Stopped)?, None)?;
            rows = rest;
        }
        Ok(())
    }

    fn enter_at_once(&mut self, rows: Vec<Encoded>) -> Result<(), RunError> {
        let room = Arc::clone(&self.lane.room).try_acquire_many_owned(rows.len() as u32);
        let time_left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match room {
            Ok(room) => self.push(rows, room, time_left),
            Err(tokio::sync::TryAcquireError::Closed) => Err(RunError::Stopped),
            Err(tokio::sync::TryAcquireError::NoPermits) => {
                let own_tokens = self.lane.tokens_of(&rows);
                let state = self.lane.lock();
                let retry_after = self.lane.excess(&state, own_tokens, Duration::ZERO).unwrap_or_default();
                Err(RunError::Overloaded { retry_after })
            }
        }
    }

    fn push(
        &mut self,
        rows: Vec<Encoded>,
        mut room: OwnedSemaphorePermit,
        time_left: Option<Duration>,
    ) -> Result<(), RunError> {
        let mut state = self.lane.lock();
        if state.is_closed {
            return Err(RunError::Stopped);
        }
        if let Some(time_left) = time_left
            && let Some(retry_after) = self.lane.excess(&state, self.lane.tokens_of(&rows), time_left)
        {
            return Err(RunError::Overloaded { retry_after });
        }
        let now = Instant::now();
        for encoded in rows {
            let length = encoded.ids.len();
            let one = room.split(1).expect("as many permits were taken as there are rows");
            let row = Row { encoded, index: self.entered, call: self.sender.clone(), _room: one };
            state.waiting.push(row, length, now);
            self.entered += 1;
        }
        state.dispatch();
        Ok(())
    }

    /// The logits of all rows, in the order in which they entered.
    pub async fn answers(self) -> Result<Vec<RowLogits>, RunError> {
        let Self { lane, entered, sender, mut answers, .. } = self;
        // From here on the channel ends when no row is left to be answered.
        drop(sender);
        let mut logits = vec![RowLogits::default(); entered];
        for _ in 0..entered {
            let (index, answer) = lane.answer(&mut answers).await?;
            logits[index] = answer?;
        }
        Ok(logits)
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
