use models::ScoreError;
use shared::ProductId;
use shared::event::EventError;

use crate::fault::{Fault, Faulty};
use crate::store::StoreError;

/// Why an event could not be labelled.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    #[error(transparent)]
    Event(#[from] EventError),
    #[error("the tables did not answer")]
    Store(#[from] StoreError),
    #[error("the model did not answer")]
    Score(#[from] ScoreError),
    #[error("other workers kept changing {id} or its look-alikes")]
    Contended { id: ProductId },
    #[error("pairs: no product {id} is known; send its upsert first")]
    UnknownProduct { id: ProductId, receive_count: u32 },
}

/// Deliveries of a `score_pairs` event that wait for an upsert that is still under way.
const UNKNOWN_PRODUCT_RECEIVES_MAX: u32 = 3;

impl FlowError {
    /// Where in the pipeline it happened, for parked messages.
    pub fn stage(&self) -> &'static str {
        match self {
            Self::Event(_) => "parse",
            Self::Store(_) | Self::Contended { .. } => "store",
            Self::Score(_) => "score",
            Self::UnknownProduct { .. } => "plan",
        }
    }
}

impl Faulty for FlowError {
    fn fault(&self) -> Fault {
        match self {
            Self::Event(error) => Fault::Poison { reason: error.to_string() },
            Self::Store(error) => error.fault(),
            Self::Score(error) if error.is_fatal() => Fault::Fatal { reason: error.to_string() },
            Self::Score(ScoreError::NonFinite { .. }) => Fault::Poison { reason: self.to_string() },
            Self::Score(_) | Self::Contended { .. } => Fault::Retry { after: None },
            Self::UnknownProduct { receive_count, .. } if *receive_count < UNKNOWN_PRODUCT_RECEIVES_MAX => {
                Fault::Retry { after: None }
            }
            Self::UnknownProduct { .. } => Fault::Poison { reason: self.to_string() },
        }
    }
}
