//! Tokenisation, and the cascade before it, on threads of their own, behind a bounded channel: they neither hold up
//! the runtime, which has deadlines to keep, nor take a replica's time.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::encode::Encoder;

/// Calls that wait for each thread.
const WAITING_PER_THREAD: usize = 64;

/// Does its work, and sends the answer off.
type Job = Box<dyn FnOnce(&Encoder) + Send>;

/// Why work was not done.
#[derive(Debug)]
pub enum TokeniseError {
    /// The channel is full, and the caller did not want to wait.
    Full,
    Stopped,
}

/// The threads' only handle: when the last clone drops, they end.
#[derive(Clone)]
pub struct Tokenisers {
    jobs: mpsc::Sender<Job>,
}

impl Tokenisers {
    pub fn start(encoder: Encoder, threads: usize) -> io::Result<Self> {
        let threads = threads.max(1);
        let (jobs, queue) = mpsc::channel(threads * WAITING_PER_THREAD);
        let (encoder, queue) = (Arc::new(encoder), Arc::new(Mutex::new(queue)));
        for thread in 0..threads {
            let (encoder, queue) = (Arc::clone(&encoder), Arc::clone(&queue));
            thread::Builder::new().name(format!("tokenise-{thread}")).spawn(move || serve(&encoder, &queue))?;
        }
        Ok(Self { jobs })
    }

    /// Runs `work` on one of the threads. A full channel is waited for, or refused at once.
    pub async fn run<T: Send + 'static>(
        &self,
        wait: bool,
        work: impl FnOnce(&Encoder) -> T + Send + 'static,
    ) -> Result<T, TokeniseError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |encoder| {
            // A caller that left needs no answer.
            if !reply.is_closed() {
                let _ = reply.send(work(encoder));
            }
        });
        if wait {
            self.jobs.send(job).await.map_err(|_closed| TokeniseError::Stopped)?;
        } else {
            self.jobs.try_send(job).map_err(|refused| match refused {
                TrySendError::Full(_) => TokeniseError::Full,
                TrySendError::Closed(_) => TokeniseError::Stopped,
            })?;
        }
        answer.await.map_err(|_| TokeniseError::Stopped)
    }
}

fn serve(encoder: &Encoder, queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // Held only while waiting, so nothing poisons it.
        let job = match queue.lock() {
            Ok(mut queue) => queue.blocking_recv(),
            Err(_) => None,
        };
        let Some(job) = job else { return };
        job(encoder);
    }
}
