//! One configuration for all SDK clients, and one reading of their errors.

use std::time::Duration;

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

/// Long enough for a full batch over a slow link; a hung connection costs no more.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(10);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
const ATTEMPTS_MAX: u32 = 3;
/// Region of a local engine when none is configured; it only has to be one.
const LOCAL_REGION: &str = "us-east-1";

/// What of the configuration the SDK needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsOptions {
    /// None takes it from the environment, the profile or the instance.
    pub region: Option<String>,
    /// Another endpoint than AWS's. One of plain `http` is taken for a local engine,
    /// which gets made-up credentials where the environment has none.
    pub endpoint_url: Option<String>,
}

impl AwsOptions {
    /// True for a local engine.
    pub fn is_local(&self) -> bool {
        self.endpoint_url.as_deref().is_some_and(|url| url.starts_with("http://"))
    }
}

/// The configuration that every client is built from. Every attempt has a time limit:
/// without one a hung connection holds its caller for ever.
pub async fn sdk_config(options: &AwsOptions) -> SdkConfig {
    let timeouts =
        TimeoutConfig::builder().connect_timeout(CONNECT_TIME_MAX).operation_attempt_timeout(ATTEMPT_TIME_MAX).build();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
        .region(region(options));
    if let Some(url) = &options.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    if options.is_local() && !credentials_are_configured(|name| std::env::var_os(name).is_some()) {
        loader = loader.credentials_provider(Credentials::from_keys("local", "local", None));
    }
    loader.load().await
}

/// The one HTTP client of all: rustls with ring.
pub(super) fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

/// A client for SQS.
pub fn sqs_client(config: &SdkConfig) -> aws_sdk_sqs::Client {
    aws_sdk_sqs::Client::new(config)
}

/// The instance's own region is not asked for next to a local engine: off AWS the
/// question takes seconds to fail.
fn region(options: &AwsOptions) -> RegionProviderChain {
    let explicit = RegionProviderChain::first_try(options.region.clone().map(Region::new));
    if options.is_local() {
        explicit
            .or_else(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::new())
            .or_else(Region::from_static(LOCAL_REGION))
    } else {
        explicit.or_default_provider()
    }
}

/// True when the environment names credentials in any of the SDK's ways. An instance's
/// role is not asked for: see [`region`].
fn credentials_are_configured(is_set: impl Fn(&str) -> bool) -> bool {
    [
        "AWS_ACCESS_KEY_ID",
        "AWS_PROFILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ]
    .into_iter()
    .any(is_set)
}

/// What an SDK error means, whatever the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Ask again, slower.
    Throttled,
    /// The service failed, or could not be reached; ask again.
    Unavailable,
    /// No answer in time; the request may have been carried out.
    TimedOut,
    /// This identity may not do that.
    AccessDenied,
    /// The queue or table is not there.
    NotFound,
    /// The request itself is wrong.
    Refused,
}

/// The one reading of SDK errors.
pub fn classify<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> ErrorClass {
    match error {
        SdkError::TimeoutError(_) => ErrorClass::TimedOut,
        SdkError::DispatchFailure(failure) if failure.is_timeout() => ErrorClass::TimedOut,
        // Credentials that cannot be had right now come as dispatch failures as well.
        SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => ErrorClass::Unavailable,
        SdkError::ServiceError(service) => {
            classify_answer(service.err().meta().code().unwrap_or_default(), service.raw().status().as_u16())
        }
        _ => ErrorClass::Refused,
    }
}

/// `code` is the service's name of the error, `status` the HTTP status.
fn classify_answer(code: &str, status: u16) -> ErrorClass {
    // Query-compatible services prefix some codes ("AWS.SimpleQueueService.").
    match code.rsplit('.').next().unwrap_or(code) {
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "RequestLimitExceeded"
        | "ProvisionedThroughputExceededException"
        | "TooManyRequestsException"
        | "BandwidthLimitExceeded"
        | "SlowDown"
        | "KmsThrottled"
        // 120,000 messages in flight: intake must wait for settlements.
        | "OverLimit" => ErrorClass::Throttled,
        "AccessDenied"
        | "AccessDeniedException"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "MissingAuthenticationToken"
        | "IncompleteSignature"
        | "OptInRequired"
        | "KmsAccessDenied"
        | "KmsDisabled"
        | "KmsInvalidKeyUsage"
        | "KmsInvalidState"
        | "KmsNotFound"
        | "KmsOptInRequired" => ErrorClass::AccessDenied,
        "QueueDoesNotExist" | "NonExistentQueue" | "ResourceNotFoundException" => ErrorClass::NotFound,
        // Credentials are being renewed, or a clock is being set: both pass.
        "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "RequestTimeTooSkewed"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "ServiceUnavailable"
        | "QueueDeletedRecently" => ErrorClass::Unavailable,
        _ if status == 429 => ErrorClass::Throttled,
        _ if status >= 500 => ErrorClass::Unavailable,
        _ if status == 401 || status == 403 => ErrorClass::AccessDenied,
        _ => ErrorClass::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_classed_by_code_before_status() {
        for (code, status, class) in [
            ("ThrottlingException", 400, ErrorClass::Throttled),
            ("AWS.SimpleQueueService.RequestThrottled", 403, ErrorClass::Throttled),
            ("OverLimit", 403, ErrorClass::Throttled),
            ("AWS.SimpleQueueService.NonExistentQueue", 400, ErrorClass::NotFound),
            ("AccessDeniedException", 400, ErrorClass::AccessDenied),
            ("ExpiredTokenException", 403, ErrorClass::Unavailable),
            ("", 503, ErrorClass::Unavailable),
            ("", 429, ErrorClass::Throttled),
            ("SomethingNew", 403, ErrorClass::AccessDenied),
            ("InvalidParameterValue", 400, ErrorClass::Refused),
        ] {
            assert_eq!(classify_answer(code, status), class, "{code} {status}");
        }
    }

    #[test]
    fn only_plain_http_endpoints_are_local() {
        let at = |url: &str| AwsOptions { endpoint_url: Some(url.to_owned()), region: None }.is_local();
        assert!(at("http://127.0.0.1:4566"));
        // An endpoint of a VPC: the instance's role must be used there.
        assert!(!at("https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com"));
        assert!(!AwsOptions::default().is_local());
    }

    #[test]
    fn any_configured_credentials_keep_the_made_up_ones_away() {
        assert!(!credentials_are_configured(|_| false));
        assert!(credentials_are_configured(|name| name == "AWS_PROFILE"));
        assert!(credentials_are_configured(|name| name == "AWS_ACCESS_KEY_ID"));
    }
}
