//! The SDK clients and how they are configured.

mod client;
mod sqs;

pub use client::{AwsOptions, ErrorClass, classify, dynamodb_client, sdk_config, sqs_client};
pub use sqs::{CreatedQueue, SqsQueue, create_queue_with_dead_letter};
