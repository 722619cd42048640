//! Text in, scores out: `tokenise -> lane (batch) -> replica -> engine`, behind [`Scorer`].
//!
//! An artifact (see [`manifest`]) is believed only after its hashes, its text version and
//! its golden outputs were checked, on every replica.

pub mod batch;
pub mod cascade;
pub mod early_exit;
pub mod encode;
mod engine;
pub mod explain;
pub mod features;
pub mod golden;
pub mod grid;
mod kernel;
mod kind;
mod lane;
mod malloc;
pub mod manifest;
pub mod mark;
#[cfg(target_arch = "x86_64")]
mod native;
pub mod neuron;
mod priority;
pub mod query_cascade;
mod replica;
pub mod scorer;
pub mod shape;
mod tokenise;
mod word_pieces;

pub use engine::Numeric;
pub use explain::{Explanation, explain};
pub use kernel::Kernel;
pub use manifest::{Artifact, Manifest};
pub use mark::MARKS;
pub use scorer::{IntentScore, Lanes, LoadError, PairScore, ScoreError, Scorer, ScorerOptions, TextPair};
