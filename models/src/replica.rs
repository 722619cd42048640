//! Replicas: each loaded module belongs to one OS thread for life. All of them take
//! batches from one bounded channel.

use std::sync::{Arc, Mutex, mpsc as std_mpsc};
use std::thread;

use tokio::sync::{mpsc, oneshot};

use crate::encode::Encoded;
use crate::engine::{self, Engine, EngineError, Logits, Numeric};
use crate::golden::{self, EncodedCase, GoldenError};

/// Batches that wait for each replica: one, so that none idles between two batches.
const WAITING_PER_REPLICA: usize = 1;

/// What every replica is started from.
pub struct Start {
    pub module: Vec<u8>,
    pub numeric: Numeric,
    pub goldens: Vec<EncodedCase>,
    pub tolerance: f32,
}

struct Job {
    rows: Vec<Encoded>,
    length: usize,
    reply: oneshot::Sender<Result<Logits, EngineError>>,
}

/// Why a replica is not serving.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("replica {replica} cannot load the module")]
    Load { replica: usize, source: EngineError },
    #[error("replica {replica} does not reproduce the golden outputs")]
    Golden { replica: usize, source: GoldenError },
    #[error("replica {replica} has no thread")]
    Thread { replica: usize, source: std::io::Error },
    #[error("replica {replica} ended while it was loading")]
    Lost { replica: usize },
}

/// Why a batch has no logits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    #[error("every replica has stopped")]
    Stopped,
    #[error("a replica ended in the middle of a batch")]
    Lost,
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The threads' only handle: when the last clone drops, they end after the batch in hand.
#[derive(Clone)]
pub struct Replicas {
    jobs: mpsc::Sender<Job>,
}

impl Replicas {
    /// Starts `count` threads one after the other (on a device with several cores, core i
    /// holds load i), and returns when each has reproduced the goldens.
    pub fn start(count: usize, start: Start) -> Result<Self, StartError> {
        let count = count.max(1);
        let start = Arc::new(start);
        let (jobs, queue) = mpsc::channel(count * WAITING_PER_REPLICA);
        let queue = Arc::new(Mutex::new(queue));
        for replica in 0..count {
            let (ready, is_ready) = std_mpsc::sync_channel(1);
            let (start, queue) = (Arc::clone(&start), Arc::clone(&queue));
            thread::Builder::new()
                .name(format!("replica-{replica}"))
                .spawn(move || {
                    let loaded = load(&start, replica);
                    drop(start);
                    match loaded {
                        Ok(engine) => {
                            // The starter waits for this answer, so it takes it.
                            let _ = ready.send(Ok(()));
                            serve(&engine, &queue);
                        }
                        Err(error) => {
                            let _ = ready.send(Err(error));
                        }
                    }
                })
                .map_err(|source| StartError::Thread { replica, source })?;
            is_ready.recv().map_err(|_| StartError::Lost { replica })??;
        }
        Ok(Self { jobs })
    }

    /// Queues a batch and returns where its logits will arrive; waits while the queue is full.
    pub async fn submit(&self, rows: Vec<Encoded>, length: usize) -> Result<Pending, RunError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job { rows, length, reply }).await.map_err(|_| RunError::Stopped)?;
        Ok(Pending { answer })
    }
}

/// A queued batch.
pub struct Pending {
    answer: oneshot::Receiver<Result<Logits, EngineError>>,
}

impl Pending {
    pub async fn logits(self) -> Result<Logits, RunError> {
        Ok(self.answer.await.map_err(|_| RunError::Lost)??)
    }
}

fn load(start: &Start, replica: usize) -> Result<Engine, StartError> {
    engine::use_one_thread();
    let engine = Engine::load(&start.module, start.numeric).map_err(|source| StartError::Load { replica, source })?;
    golden::check(&start.goldens, &engine, start.tolerance).map_err(|source| StartError::Golden { replica, source })?;
    Ok(engine)
}

fn serve(engine: &Engine, queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // Held only while waiting; a replica that fails in `forward` does not poison it.
        let job = match queue.lock() {
            Ok(mut queue) => queue.blocking_recv(),
            Err(_) => None,
        };
        let Some(job) = job else { return };
        // A caller that gave up needs no answer.
        if !job.reply.is_closed() {
            let _ = job.reply.send(engine.forward(&job.rows, job.length));
        }
    }
}
