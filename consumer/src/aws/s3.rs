//! [`Objects`] in S3.

use std::collections::BTreeSet;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::ResponseChecksumValidation;
use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::client::{ErrorClass, classify};
use crate::source::{BoxError, ObjectAt, ObjectError, Objects};

/// The buckets that this worker was told to read. A message that names another one is
/// refused: who may send messages may not thereby choose what the worker's role reads.
#[derive(Clone, Debug)]
pub struct Buckets {
    client: Client,
    names: BTreeSet<String>,
}

/// Why the buckets are of no use.
#[derive(Debug, thiserror::Error)]
#[error("--object-bucket: {bucket} cannot be read; does it exist, and is s3:ListBucket granted on it?")]
pub struct BucketError {
    bucket: String,
    source: BoxError,
}

impl Buckets {
    /// Checks that each bucket is there and may be listed: without that right a missing
    /// object looks like a denied one.
    pub async fn open(sdk: &SdkConfig, names: impl IntoIterator<Item = String>) -> Result<Self, BucketError> {
        let config = aws_sdk_s3::config::Builder::from(sdk)
            // A local engine has no names under its own for buckets.
            .force_path_style(sdk.endpoint_url().is_some())
            // Ranges have no checksum; TLS and the ETag guard the rest.
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        let (client, names) = (Client::from_conf(config), names.into_iter().collect::<BTreeSet<String>>());
        for bucket in &names {
            let found = client.head_bucket().bucket(bucket).send().await;
            found.map_err(|error| BucketError { bucket: bucket.clone(), source: error.into() })?;
        }
        Ok(Self { client, names })
    }
}

#[async_trait]
impl Objects for Buckets {
    async fn read(
        &self,
        at: &ObjectAt,
        from_byte: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, ObjectError>>, ObjectError> {
        if !self.names.contains(&at.bucket) {
            return Err(ObjectError::OtherBucket { bucket: at.bucket.clone() });
        }
        let request = self
            .client
            .get_object()
            .bucket(&at.bucket)
            .key(&at.key)
            .set_version_id(at.version.clone())
            .set_if_match(at.etag.clone())
            .set_range((from_byte > 0).then(|| format!("bytes={from_byte}-")));
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if is_at_end(&error) => return Ok(stream::empty().boxed()),
            Err(error) => return Err(object_error(at, error)),
        };
        let at = at.clone();
        let pieces =
            stream::unfold(answer.body, |mut body| async move { body.next().await.map(|piece| (piece, body)) });
        Ok(pieces.map_err(move |error| ObjectError::Unavailable { at: at.clone(), source: error.into() }).boxed())
    }
}

/// Whoever stopped just before the end asks for a range that is empty.
fn is_at_end(error: &SdkError<GetObjectError, HttpResponse>) -> bool {
    error.code() == Some("InvalidRange")
}

fn object_error(at: &ObjectAt, error: SdkError<GetObjectError, HttpResponse>) -> ObjectError {
    let at = at.clone();
    match (error.code(), classify(&error)) {
        (Some("NoSuchKey" | "NoSuchVersion"), _) => ObjectError::Missing { at },
        (Some("PreconditionFailed"), _) => ObjectError::Replaced { at },
        (Some("InvalidObjectState"), _) => ObjectError::Archived { at },
        (_, ErrorClass::AccessDenied) => ObjectError::AccessDenied { at, source: error.into() },
        (_, _) => ObjectError::Unavailable { at, source: error.into() },
    }
}
