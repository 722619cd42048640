//! The SDK clients and how they are configured.

pub mod dynamo;
