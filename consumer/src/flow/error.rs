use models::ScoreError;
use shared::ProductId;
use shared::event::EventError;

use crate::fault::{Fault, Faulty};
use crate::source::envelope::EnvelopeError;
use crate::source::lines::LINE_BYTES_MAX;
use crate::source::{LinesError, ObjectAt, ObjectError, QueueError, with_causes};
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
    #[error("the pair of {id} and {other} cannot be scored: {reason}; the product's other pairs are labelled")]
    Unscorable { id: ProductId, other: ProductId, reason: String },
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error(transparent)]
    Lines(#[from] LinesError),
    #[error("the line has more than {LINE_BYTES_MAX} bytes; no event is that long")]
    LongLine,
    #[error("another worker reads {at} too")]
    ObjectContended { at: ObjectAt },
    #[error("an event could not be parked")]
    Park(#[source] QueueError),
    #[error("other workers kept changing {id} or its look-alikes")]
    Contended { id: ProductId },
    #[error("the key epochs have not been readable for a minute")]
    EpochsUnknown,
    #[error("pairs: no product {id} is known; send its upsert first")]
    UnknownProduct { id: ProductId, receive_count: u32 },
}

/// Deliveries of a `score_pairs` event that wait for an upsert that is still under way.
const UNKNOWN_PRODUCT_RECEIVES_MAX: u32 = 3;

impl From<ObjectError> for FlowError {
    fn from(error: ObjectError) -> Self {
        Self::Lines(error.into())
    }
}

impl FlowError {
    pub(super) fn unscorable(id: &ProductId, other: &ProductId, reason: &str) -> Self {
        Self::Unscorable { id: id.clone(), other: other.clone(), reason: reason.to_owned() }
    }

    /// Where in the pipeline it happened, for parked messages.
    pub fn stage(&self) -> &'static str {
        match self {
            Self::Event(_) | Self::Envelope(EnvelopeError::NotJson { .. }) | Self::LongLine => "parse",
            Self::Envelope(_) => "envelope",
            Self::Lines(_) | Self::ObjectContended { .. } => "object",
            Self::Park(_) => "park",
            Self::Store(_) | Self::Contended { .. } => "store",
            Self::Score(_) | Self::Unscorable { .. } => "score",
            Self::EpochsUnknown | Self::UnknownProduct { .. } => "plan",
        }
    }
}

impl Faulty for FlowError {
    fn fault(&self) -> Fault {
        match self {
            Self::Event(error) => Fault::Poison { reason: error.to_string() },
            Self::Store(error) => error.fault(),
            Self::Score(error) if error.is_fatal() => Fault::Fatal { reason: error.to_string() },
            // A call of one row; with more, the guilty ones are singled out.
            Self::Score(ScoreError::NonFinite { .. } | ScoreError::Encode(_)) => {
                Fault::Poison { reason: with_causes(self) }
            }
            Self::Unscorable { .. } | Self::LongLine => Fault::Poison { reason: self.to_string() },
            Self::Envelope(error) => error.fault(),
            Self::Lines(error) => error.fault(),
            // Its message stays, and a queue that refuses one event takes others.
            Self::Park(error) => match error.fault() {
                Fault::Poison { .. } => Fault::Retry { after: None },
                fault => fault,
            },
            Self::Score(_) | Self::Contended { .. } | Self::ObjectContended { .. } | Self::EpochsUnknown => {
                Fault::Retry { after: None }
            }
            Self::UnknownProduct { receive_count, .. } if *receive_count < UNKNOWN_PRODUCT_RECEIVES_MAX => {
                Fault::Retry { after: None }
            }
            Self::UnknownProduct { .. } => Fault::Poison { reason: self.to_string() },
        }
    }
}
