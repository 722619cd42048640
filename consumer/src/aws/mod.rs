//! The SDK clients and how they are configured.

pub mod client;
pub mod dynamo;
pub mod sqs;
