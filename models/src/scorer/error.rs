//! Why there is no scorer, and why a call has no scores.

use std::time::Duration;

use crate::encode::EncodeError;
use crate::engine::{EngineError, Numeric};
use crate::golden::GoldenError;
use crate::lane::RunError;
use crate::manifest::Refused;
use crate::neuron::OpLibraryError;
use crate::replica::StartError;
use crate::tokenise::TokeniseError;

/// Why there is no scorer. Each of these needs a person.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the artifact's tokenizer is of no use")]
    Tokenizer(#[from] EncodeError),
    #[error("the tokenizer does not reproduce the golden token ids")]
    Golden(#[from] GoldenError),
    #[error("manifest.json: golden_tolerance.int8 is not stated, so int8 is off for this artifact; use --numeric auto")]
    NoInt8,
    #[error("the modules are compiled for {compiled}, so --numeric {asked} cannot be had; use --numeric auto")]
    Compiled { compiled: Numeric, asked: Numeric },
    #[error(transparent)]
    OpLibrary(#[from] OpLibraryError),
    #[error(
        "{replicas} replicas on {visible} visible NeuronCores: each core takes one; set --replicas (for serve together \
         with --online-replicas) or NEURON_RT_VISIBLE_CORES so that they are as many"
    )]
    Cores { replicas: usize, visible: usize },
    #[error("the module cannot be loaded")]
    Engine(#[from] EngineError),
    #[error("there is no thread to tokenise on")]
    Thread(#[source] std::io::Error),
    #[error("a replica did not start")]
    Replica(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<StartError> for LoadError {
    fn from(error: StartError) -> Self {
        Self::Replica(Box::new(error))
    }
}

/// Why a call has no scores.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// These rows of the call have logits that are not finite; without them the others
    /// can be scored.
    #[error("the scores of rows {rows:?} are not finite")]
    NonFinite { rows: Vec<usize> },
    #[error("the device failed: {reason}")]
    Device { reason: String },
    #[error("the tokenizer failed")]
    Encode(#[from] EncodeError),
    /// More waits than can be scored by the call's deadline; nothing of the call was.
    #[error("too much waits already; try again in {retry_after:?}")]
    Overloaded { retry_after: Duration },
    #[error("the call's deadline has passed")]
    Late,
    #[error("the scorer has stopped")]
    Stopped,
}

impl ScoreError {
    /// True when the next call would fail as well, whatever its rows.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Device { .. } | Self::Stopped => true,
            Self::NonFinite { .. } | Self::Encode(_) | Self::Overloaded { .. } | Self::Late => false,
        }
    }

    /// The error of a call that was made with `rows` of another one alone.
    pub(super) fn renumbered(self, rows: &[usize]) -> Self {
        match self {
            Self::NonFinite { rows: named } => Self::NonFinite { rows: named.iter().map(|&row| rows[row]).collect() },
            other => other,
        }
    }
}

impl From<RunError> for ScoreError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Stopped => Self::Stopped,
            RunError::Overloaded { retry_after } => Self::Overloaded { retry_after },
            RunError::Lost | RunError::Hung { .. } | RunError::Engine(_) => Self::Device { reason: error.to_string() },
        }
    }
}

impl From<TokeniseError> for ScoreError {
    fn from(error: TokeniseError) -> Self {
        match error {
            TokeniseError::Full => Self::Overloaded { retry_after: Duration::ZERO },
            TokeniseError::Stopped => Self::Stopped,
        }
    }
}
