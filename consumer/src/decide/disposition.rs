//! What happens to a message after its event was processed.

use std::time::Duration;

use crate::fault::Fault;

/// How a processed event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Labels were written.
    Written,
    /// The tables already said so; nothing was scored.
    Unchanged,
    /// A newer state of the product is known.
    Stale,
}

/// What to do with the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    Delete,
    RetryAfter(Duration),
    Park {
        reason: String,
    },
    /// Every message would fail: keep it, stop intake.
    Halt {
        reason: String,
    },
}

/// The one place where outcomes and faults become dispositions. `back_off` is what a
/// message of this receive count waits.
pub fn disposition(result: &Result<Outcome, Fault>, back_off: Duration) -> Disposition {
    match result {
        Ok(Outcome::Written | Outcome::Unchanged | Outcome::Stale) => Disposition::Delete,
        Err(Fault::Retry { after }) => Disposition::RetryAfter(after.unwrap_or(back_off)),
        Err(Fault::Poison { reason }) => Disposition::Park { reason: reason.clone() },
        Err(Fault::Fatal { reason }) => Disposition::Halt { reason: reason.clone() },
    }
}
