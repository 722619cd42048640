//! How a worker stops: intake ends, what is in flight is finished within a deadline, what
//! has not begun is released, settlements are flushed. Nothing is left to wait out a
//! visibility timeout.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::intake::{Delivery, Source};
use super::lease::Leases;
use super::queue::{BATCH_MAX, Outcome, Queue, Receipt, VisibilityChange, with_causes};
use super::settle::Disposition;

/// Longest wait for each of the last requests after the deadline.
const LAST_REQUESTS_TIME_MAX: Duration = Duration::from_secs(5);

/// Why a worker stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// SIGTERM or SIGINT.
    Signal(&'static str),
    /// A fault that every message would meet.
    Fatal(String),
    /// There is nothing left to do, as at the end of a bounded run.
    Finished,
    /// The machine is about to go, as by a spot interruption notice.
    Evicted(String),
}

/// The decision to stop, made once and seen by all. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the stop. The first reason stands.
    pub fn begin(&self, reason: StopReason) {
        if self.reason.set(reason.clone()).is_ok() {
            tracing::info!(?reason, "stopping");
        }
        self.token.cancel();
    }

    /// Begins the stop for a fault that every message would meet, before the queue
    /// drains into the dead-letter queue.
    pub fn fatal(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(reason, "fatal fault");
        self.begin(StopReason::Fatal(reason));
    }

    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns once the stop has begun.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// None until the stop has begun.
    pub fn reason(&self) -> Option<&StopReason> {
        self.reason.get()
    }

    /// For those who take a token.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// The first SIGTERM or SIGINT begins the stop; the second ends the process at once
    /// with the status that a shell gives a process killed by it.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen_to_signals(&self) -> io::Result<JoinHandle<()>> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (sender, signals) = mpsc::channel(2);
        tokio::spawn(async move {
            loop {
                let signal = tokio::select! {
                    received = terminate.recv() => received.map(|()| Signal::TERMINATE),
                    received = interrupt.recv() => received.map(|()| Signal::INTERRUPT),
                };
                let Some(signal) = signal else { return };
                if sender.send(signal).await.is_err() {
                    return;
                }
            }
        });
        Ok(tokio::spawn(obey(signals, self.clone(), |status| std::process::exit(status))))
    }
}

#[derive(Clone, Copy, Debug)]
struct Signal {
    name: &'static str,
    /// 128 and the signal's number.
    exit_status: i32,
}

impl Signal {
    const TERMINATE: Self = Self { name: "SIGTERM", exit_status: 128 + 15 };
    const INTERRUPT: Self = Self { name: "SIGINT", exit_status: 128 + 2 };
}

async fn obey(mut signals: mpsc::Receiver<Signal>, shutdown: Shutdown, exit: impl FnOnce(i32)) {
    let Some(first) = signals.recv().await else { return };
    shutdown.begin(StopReason::Signal(first.name));
    let Some(second) = signals.recv().await else { return };
    tracing::warn!(signal = second.name, "second signal: ending at once");
    exit(second.exit_status);
}

/// How a drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Messages given back because they had not begun.
    pub released: usize,
    /// Messages given back by force at the deadline, although somebody still had them.
    pub torn_away: usize,
    pub took: Duration,
}

impl Drained {
    /// True when all permits came home by the deadline.
    pub fn is_clean(&self) -> bool {
        self.torn_away == 0
    }
}

impl Source {
    /// Stops in order: begins the shutdown if nobody has, lets the polls under way end,
    /// releases what was received and not taken, waits until all permits are home or `deadline` has passed, and flushes.
    /// At the deadline, messages that somebody still has are made visible at once, and
    /// their leases are lost to the holder.
    ///
    /// Call it while the tasks that have deliveries still run.
    pub async fn drain(mut self, deadline: Duration) -> Drained {
        let started = Instant::now();
        self.shutdown.begin(StopReason::Finished);
        let (mut waiting, mut released) = (std::mem::take(&mut self.given_back), 0);
        let in_order = async {
            // A poll under way would take a released message straight back, one receive
            // nearer to the redrive limit; so all polls end before the first release.
            while let Some(delivery) = self.deliveries.recv().await {
                waiting.push(delivery);
            }
            released = waiting.len();
            waiting.drain(..).for_each(release);
            self.permits.all_home().await;
        };
        let clean = tokio::time::timeout(deadline, in_order).await.is_ok();
        // Nothing more is handed over from here on: what is left in the channel, in
        // `waiting`, or with somebody, is torn away below.
        self.deliveries.close();
        let flushed = tokio::time::timeout(LAST_REQUESTS_TIME_MAX, self.settling.flush()).await;
        if flushed.is_err() {
            tracing::error!(queue = self.queue.name(), "settlements are not all confirmed");
        }
        let torn_away = if clean { 0 } else { tear_away(&self.leases, self.queue.as_ref()).await };
        self.heartbeat.stop().await;
        self.intake.abort();
        let drained = Drained { released, torn_away, took: started.elapsed() };
        tracing::info!(queue = self.queue.name(), ?drained, "drained");
        drained
    }
}

/// Makes visible what is still held by somebody; returns how many messages that were.
async fn tear_away(leases: &Leases, queue: &dyn Queue) -> usize {
    let receipts = leases.surrender().await;
    for batch in receipts.chunks(BATCH_MAX) {
        let zero = |receipt: &Receipt| VisibilityChange { receipt: receipt.clone(), timeout: Duration::ZERO };
        let changes: Vec<VisibilityChange> = batch.iter().map(zero).collect();
        match tokio::time::timeout(LAST_REQUESTS_TIME_MAX, queue.change_visibility(&changes)).await {
            Ok(Ok(results)) => {
                let kept = results.iter().filter(|result| !matches!(result, Ok(Outcome::Done))).count();
                tracing::warn!(queue = queue.name(), messages = batch.len(), kept, "released at the deadline");
            }
            Ok(Err(error)) => {
                tracing::error!(queue = queue.name(), error = with_causes(&error), "not released at the deadline");
            }
            Err(_elapsed) => tracing::error!(queue = queue.name(), "not released at the deadline: no answer"),
        }
    }
    receipts.len()
}

/// The outcome is counted by the settlement, and waited for through the permit.
fn release(delivery: Delivery) {
    drop(delivery.settle(Disposition::Release));
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
