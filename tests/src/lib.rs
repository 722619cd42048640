//! What the tests share: real engines, the real worker, events.

pub mod events;
pub mod ministack;
pub mod stage;
pub mod worker;
