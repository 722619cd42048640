//! What a failure means for the message that met it.

use std::time::Duration;

/// Every error of the pipeline knows which of these it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Passes by itself: the message becomes visible again after a back-off, or after
    /// `after` where the failing side said so.
    Retry { after: Option<Duration> },
    /// Fails for ever because of this message alone: park it with the reason.
    Poison { reason: String },
    /// Fails for every message: stop intake, so that the queue does not drain into the
    /// dead-letter queue, and exit for the supervisor to see.
    Fatal { reason: String },
}

/// Errors that know their [`Fault`].
pub trait Faulty {
    fn fault(&self) -> Fault;
}
