//! Replicas: OS threads that run a lane's batches, each for life. On CPU they share one
//! module, and with it the weights: N replicas need the memory of one. On a NeuronCore each
//! has its own.

use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::batch::Batch;
use crate::engine::{self, Engine};
use crate::golden::{self, EncodedCase, GoldenError};
use crate::lane::{Lane, LaneOptions, Row};
use crate::priority;
use crate::shape::Shapes;

/// What a replica must reproduce before it serves.
pub struct Checks {
    pub goldens: Vec<EncodedCase>,
    pub tolerance: f32,
}

/// Why a replica is not serving.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("replica {replica} does not reproduce the golden outputs")]
    Golden { replica: usize, source: GoldenError },
    #[error("replica {replica} has no thread")]
    Thread { replica: usize, source: std::io::Error },
    #[error("replica {replica} ended while it was loading")]
    Lost { replica: usize },
}

/// Longest wait for the batches in hand at the end: some batches' time. A device that hangs
/// must not hold up a stop.
const LAST_BATCHES_TIME_MAX: Duration = Duration::from_secs(2);

/// A lane and its threads, which end after the batch in hand when this drops.
pub struct Replicas {
    pub lane: Arc<Lane>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Replicas {
    /// Waits for the threads: libtorch takes its own state down at the exit of the process,
    /// which a batch still under way would crash in.
    fn drop(&mut self) {
        self.lane.close();
        if self.lane.wait_ended(self.threads.len(), LAST_BATCHES_TIME_MAX) {
            // A panic was told of when it happened.
            self.threads.drain(..).for_each(|thread| drop(thread.join()));
        } else {
            tracing::warn!("a replica does not end; it is left to itself");
        }
    }
}

impl Replicas {
    /// Starts a thread for each of `engines` one after the other, and returns when each has
    /// reproduced the goldens. With `yields`, they leave the CPU to whoever else wants it.
    pub fn start(
        engines: Vec<Arc<Engine>>,
        checks: &Arc<Checks>,
        options: LaneOptions,
        yields: bool,
    ) -> Result<Self, StartError> {
        let shapes = engines.first().map_or(Shapes::Packed, |engine| engine.shapes());
        let options = LaneOptions { replicas: engines.len(), ..options };
        let mut replicas = Self { lane: Lane::new(options, shapes), threads: Vec::new() };
        for (replica, engine) in engines.into_iter().enumerate() {
            let (ready, is_ready) = mpsc::sync_channel(1);
            let (checks, lane) = (Arc::clone(checks), Arc::clone(&replicas.lane));
            let thread = thread::Builder::new()
                .name(format!("replica-{replica}"))
                .spawn(move || {
                    engine::use_one_thread();
                    let checked = golden::check(&checks.goldens, &engine, checks.tolerance);
                    let is_good = checked.is_ok();
                    // The starter waits for this answer, so it takes it.
                    let _ = ready.send(checked.map_err(|source| StartError::Golden { replica, source }));
                    if is_good {
                        if yields {
                            priority::give_way();
                        }
                        serve(&engine, &lane);
                    }
                })
                .map_err(|source| StartError::Thread { replica, source })?;
            is_ready.recv().map_err(|_| StartError::Lost { replica })??;
            replicas.threads.push(thread);
        }
        Ok(replicas)
    }
}

fn serve(engine: &Engine, lane: &Arc<Lane>) {
    let _ended = Ended(lane);
    let mut batches = lane.batches();
    while let Some(batch) = batches.next() {
        run(engine, lane, batch);
    }
}

fn run(engine: &Engine, lane: &Lane, batch: Batch<Row>) {
    let tokens = batch.tokens();
    let began = lane.begin();
    let answer = engine.forward(batch.rows.iter().map(|row| &row.encoded), batch.shape);
    lane.end(began);
    lane.finished(tokens, began.elapsed());
    match answer {
        Ok(logits) => batch.rows.into_iter().zip(logits).for_each(|(row, logits)| row.answer(Ok(logits))),
        Err(error) => batch.rows.into_iter().for_each(|row| row.answer(Err(error.clone()))),
    }
}

/// Tells the lane that a thread has ended, be it by a panic.
struct Ended<'l>(&'l Lane);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.replica_ended();
    }
}
