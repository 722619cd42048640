//! The SDK clients and how they are configured.

mod client;
pub mod dynamo;
mod s3;
mod sqs;

pub use client::{AwsOptions, ErrorClass, classify, sdk_config, sqs_client};
pub use s3::{BucketError, Buckets};
pub use sqs::{CreatedQueue, QueueSettings, Redrive, SqsQueue, create_queue_with_dead_letter};
