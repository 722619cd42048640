//! What messages point to: objects in a bucket, read in pieces.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::fault::{Fault, Faulty};

use super::queue::{BoxError, with_causes};

/// One object, as a message names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectAt {
    pub bucket: String,
    pub key: String,
    /// The content that is meant; another one is refused. None takes what is there.
    pub etag: Option<String>,
    pub version: Option<String>,
}

impl fmt::Display for ObjectAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

/// Somewhere that objects can be read from.
#[async_trait]
pub trait Objects: fmt::Debug + Send + Sync + 'static {
    /// The object's bytes from `from_byte` on, in pieces as they come.
    async fn read(
        &self,
        at: &ObjectAt,
        from_byte: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, ObjectError>>, ObjectError>;
}

/// Why an object could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error(
        "bucket: {bucket:?} is none that this worker reads; name it with --object-bucket, or correct what points there"
    )]
    OtherBucket { bucket: String },
    #[error("key: there is no object {at} any more; send its events again")]
    Missing { at: ObjectAt },
    #[error(
        "eTag: {at} was written again since this message was sent, so the content it speaks of is gone; \
         give each object a key of its own, or turn versioning on"
    )]
    Replaced { at: ObjectAt },
    #[error("storageClass: {at} is archived and cannot be read; restore it, then send the message again")]
    Archived { at: ObjectAt },
    #[error("{at}: access denied; grant s3:GetObject to this worker's role, and its key's use if it is encrypted")]
    AccessDenied { at: ObjectAt, source: BoxError },
    #[error("{at}: no answer, or it broke off")]
    Unavailable { at: ObjectAt, source: BoxError },
}

impl Faulty for ObjectError {
    fn fault(&self) -> Fault {
        match self {
            Self::OtherBucket { .. } | Self::Missing { .. } | Self::Replaced { .. } | Self::Archived { .. } => {
                Fault::Poison { reason: with_causes(self) }
            }
            // A policy may deny one object alone, so a message must not be able to stop the
            // worker by naming it; that the buckets can be read at all is checked at start.
            Self::AccessDenied { .. } | Self::Unavailable { .. } => Fault::Retry { after: None },
        }
    }
}

/// For those who were given no bucket to read.
#[derive(Clone, Copy, Debug)]
pub struct NoObjects;

#[async_trait]
impl Objects for NoObjects {
    async fn read(
        &self,
        at: &ObjectAt,
        _from_byte: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, ObjectError>>, ObjectError> {
        Err(ObjectError::OtherBucket { bucket: at.bucket.clone() })
    }
}
