//! The SDK clients and how they are configured.

mod autoscaling;
mod client;
pub mod dynamo;
mod instance;
mod s3;
mod sqs;
mod throttle;

pub use autoscaling::{LifecycleError, complete_termination};
pub use client::{AwsOptions, ErrorClass, classify, sdk_config, sqs_client};
pub use instance::{Instance, InstanceError, Notice};
pub use s3::{BucketError, Buckets};
pub use sqs::{CreatedQueue, QueueSettings, Redrive, SqsQueue, create_queue_with_dead_letter};
