//! Pure decisions: what a change affects, and what the tables must say then.

pub mod blocking;
pub mod merge;
pub mod plan;
pub mod rollout;
pub mod state;
