//! The DynamoDB client: time limits, retries, and which endpoint.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_sdk_dynamodb::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::{Client, config};
use aws_smithy_runtime_api::client::interceptors::context::{Error, InterceptorContext};

use super::throttle::OnThrottle;

/// How long one call may take, and how often it is tried.
#[derive(Clone, Debug)]
pub struct Limits {
    /// To open a connection.
    pub connect: Duration,
    /// For one attempt, from the request to the end of the response.
    pub attempt: Duration,
    /// For all attempts of one call, back-off included. Stays below the shortest lease
    /// of a message.
    pub operation: Duration,
    /// Attempts of one call, the first included; 1 or more. The SDK's standard mode backs
    /// off between them, with jitter.
    pub attempts: u32,
    /// Bound of the first back-off, doubled with each attempt up to `back_off_max`. The
    /// SDK's own second is long for a table that answers in milliseconds.
    pub back_off_first: Duration,
    pub back_off_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            attempt: Duration::from_secs(5),
            operation: Duration::from_secs(20),
            attempts: 8,
            back_off_first: Duration::from_millis(50),
            back_off_max: Duration::from_secs(5),
        }
    }
}

/// A client for the account, region and endpoint that `sdk` names.
pub fn client(sdk: &SdkConfig, limits: &Limits) -> Client {
    Client::from_conf(with_limits(config::Builder::from(sdk), limits))
}

/// As [`client`]; `on_throttle` is called after each attempt that was throttled.
pub fn watched_client(sdk: &SdkConfig, limits: &Limits, on_throttle: impl Fn() + Send + Sync + 'static) -> Client {
    let builder = config::Builder::from(sdk).interceptor(OnThrottle { then: on_throttle });
    Client::from_conf(with_limits(builder, limits))
}

/// A client for an engine on this machine that accepts any credentials; it looks for
/// none, and opens no TLS.
pub fn local_client(endpoint_url: &str, limits: &Limits) -> Client {
    let builder = config::Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "local"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(endpoint_url);
    Client::from_conf(with_limits(builder, limits))
}

fn with_limits(builder: config::Builder, limits: &Limits) -> config::Config {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(limits.connect)
        .operation_attempt_timeout(limits.attempt)
        .operation_timeout(limits.operation)
        .build();
    let retries = RetryConfig::standard()
        .with_max_attempts(limits.attempts.max(1))
        .with_initial_backoff(limits.back_off_first)
        .with_max_backoff(limits.back_off_max);
    builder.timeout_config(timeouts).retry_config(retries).retry_classifier(RetryTransactionConflict).build()
}

/// A single-item write that meets an item inside somebody's transaction is refused with
/// `TransactionConflictException`, which passes in milliseconds; the SDK leaves it to the
/// caller. (A transaction's own conflict is `TransactionCanceledException` and is not
/// retried here, since its reads have to be made again.)
#[derive(Debug)]
struct RetryTransactionConflict;

impl ClassifyRetry for RetryTransactionConflict {
    fn classify_retry(&self, ctx: &InterceptorContext) -> RetryAction {
        let error = ctx.output_or_error().and_then(|result| result.err()).and_then(|error| error.as_operation_error());
        match error.and_then(single_write_code) {
            Some("TransactionConflictException") => RetryAction::transient_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "retry transaction conflict"
    }
}

fn single_write_code(error: &Error) -> Option<&str> {
    let update = error.downcast_ref::<UpdateItemError>().and_then(ProvideErrorMetadata::code);
    let put = error.downcast_ref::<PutItemError>().and_then(ProvideErrorMetadata::code);
    let delete = error.downcast_ref::<DeleteItemError>().and_then(ProvideErrorMetadata::code);
    update.or(put).or(delete)
}
