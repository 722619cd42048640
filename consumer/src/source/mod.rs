//! Queues: receive, lease, settle, drain.
//!
//! A [`Source`] consumes one [`Queue`]. A message's way: a permit is taken, the message is
//! received, its lease begins, it waits in a bounded channel, [`Source::next`] gives it as
//! a [`Delivery`], somebody settles it with a [`Disposition`], the lease ends, the queue
//! confirms, the permit goes home.

mod dead_letters;
mod drain;
pub mod envelope;
mod in_process;
mod intake;
pub mod lambda;
mod lanes;
mod lease;
pub mod lines;
mod object;
mod order;
mod park;
mod permit;
mod pulse;
mod queue;
mod retry;
mod settle;
#[cfg(test)]
mod watched;

pub use dead_letters::{DeadLetters, PoisonEvent};
pub use drain::{Drained, Shutdown, StopReason};
pub use in_process::{Counts, InProcessOptions, InProcessQueue, Redrive};
pub use intake::{BRAKE_MAX, Brake, Delivery, Source, SourceOptions};
pub use lines::{Line, Lines, LinesError, Place};
pub use object::{NoObjects, ObjectAt, ObjectError, Objects};
pub use park::{Parked, Part, UnwrapError};
pub use permit::{Permit, Permits};
pub use pulse::Pulse;
pub use queue::{
    BATCH_MAX, BoxError, MESSAGE_BYTES_MAX, Message, Outcome, Outgoing, Queue, QueueError, Receipt, VISIBILITY_MAX,
    VisibilityChange, WAIT_MAX, check_batch, with_causes,
};
pub use retry::{Backoff, RETRY_MAX, retry_delay};
pub use settle::{Disposition, SettleOptions, Settlement};
