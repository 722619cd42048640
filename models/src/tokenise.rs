//! Tokenisation, and the cascade before it, on threads of their own, behind a bounded channel: they neither hold up
//! the runtime, which has deadlines to keep, nor take a replica's time. A short text is done where it is.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::encode::Encoder;
use crate::priority;

/// Calls that wait for each thread.
const WAITING_PER_THREAD: usize = 64;
/// Bytes of text up to which the caller's own thread does the work: tens of microseconds, less than two
/// changes of threads take on busy cores.
pub(crate) const OWN_THREAD_BYTES_MAX: usize = 512;

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
    encoder: Arc<Encoder>,
    jobs: mpsc::Sender<Job>,
    threads: usize,
}

impl Tokenisers {
    /// With `yields`, the threads leave the CPU to whoever else wants it.
    pub fn start(encoder: Encoder, threads: usize, yields: bool) -> io::Result<Self> {
        let threads = threads.max(1);
        let (jobs, queue) = mpsc::channel(threads * WAITING_PER_THREAD);
        let (encoder, queue) = (Arc::new(encoder), Arc::new(Mutex::new(queue)));
        for thread in 0..threads {
            let (encoder, queue) = (Arc::clone(&encoder), Arc::clone(&queue));
            thread::Builder::new().name(format!("tokenise-{thread}")).spawn(move || {
                if yields {
                    priority::give_way();
                }
                serve(&encoder, &queue);
            })?;
        }
        Ok(Self { encoder, jobs, threads })
    }

    /// How many chunks of texts can be worked on side by side.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work` on texts of so many `bytes`, on one of the threads unless they are few. A full channel is
    /// waited for, or refused at once.
    pub async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        wait: bool,
        work: impl FnOnce(&Encoder) -> T + Send + 'static,
    ) -> Result<T, TokeniseError> {
        if bytes <= OWN_THREAD_BYTES_MAX {
            return Ok(work(&self.encoder));
        }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::manifest::Artifact;

    const ARTIFACT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/artifacts/minilm-l6-v6");

    fn one_thread(yields: bool) -> Tokenisers {
        let artifact = Artifact::open(Path::new(ARTIFACT)).expect("the shipped artifact is good");
        let encoder = Encoder::new(&artifact.tokenizer, 128, 32).expect("the tokenizer is good");
        Tokenisers::start(encoder, 1, yields).expect("a thread")
    }

    /// Linux keeps a priority for each thread.
    #[tokio::test]
    async fn threads_that_yield_have_the_lowest_priority() {
        let own = rustix::process::getpriority_process(None).expect("Linux has it");
        for (yields, expected) in [(false, own), (true, 19)] {
            let niceness = |_: &Encoder| rustix::process::getpriority_process(None);
            let found = one_thread(yields).run(OWN_THREAD_BYTES_MAX + 1, true, niceness).await;
            assert_eq!(found.expect("it runs"), Ok(expected));
        }
    }

    #[tokio::test]
    async fn few_bytes_stay_in_the_callers_thread() {
        let tokenisers = one_thread(false);
        let thread_of = async |bytes| tokenisers.run(bytes, true, |_| thread::current().id()).await.expect("it runs");
        assert_eq!(thread_of(OWN_THREAD_BYTES_MAX).await, thread::current().id());
        assert_ne!(thread_of(OWN_THREAD_BYTES_MAX + 1).await, thread::current().id());
    }
}
