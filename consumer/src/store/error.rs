//! What can go wrong between the worker and the tables, and what it means for a message.

use std::error::Error;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

use crate::fault::{Fault, Faulty};

type Source = Box<dyn Error + Send + Sync>;

/// One call of the DynamoDB API, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub operation: &'static str,
    /// With its prefix.
    pub table: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on table {}", self.operation, self.table)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{call}: no answer in time, or overloaded")]
    Unavailable { call: Call, source: Source },
    #[error("{call}: {left} of {asked} keys still unprocessed after {rounds} rounds without progress")]
    Unprocessed { call: Call, left: usize, asked: usize, rounds: u32 },
    #[error("{call}: no such table; create the tables, or check table prefix, region and endpoint")]
    NoTable { call: Call, source: Source },
    #[error("{call}: access denied; check the credentials and the role's policy")]
    AccessDenied { call: Call, source: Source },
    #[error("{call}: the request was refused as invalid")]
    Refused { call: Call, source: Source },
    #[error("{call}: {field} {reason}")]
    Invalid { call: Call, field: &'static str, reason: String },
    #[error("{call}: the answer contradicts the request: {reason}")]
    Contradiction { call: Call, reason: &'static str },
    #[error("{call}: item {key} is over DynamoDB's 400 KB")]
    TooLarge { call: Call, key: String, source: Source },
    #[error("{call}: this build cannot read the item; was it written by a newer one?")]
    Decode { call: Call, source: serde_dynamo::Error },
    #[error("{call}: the item cannot be encoded")]
    Encode { call: Call, source: serde_dynamo::Error },
}

impl StoreError {
    /// `key` names the item for a message about its size.
    pub(super) fn of<E>(call: Call, key: impl fmt::Display, error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        match Class::of(&error) {
            Class::Unavailable => Self::Unavailable { call, source: error.into() },
            Class::NoTable => Self::NoTable { call, source: error.into() },
            Class::AccessDenied => Self::AccessDenied { call, source: error.into() },
            Class::TooLarge => Self::TooLarge { call, key: key.to_string(), source: error.into() },
            Class::Refused => Self::Refused { call, source: error.into() },
        }
    }
}

impl Faulty for StoreError {
    fn fault(&self) -> Fault {
        match self {
            Self::Unavailable { .. } | Self::Unprocessed { .. } => Fault::Retry { after: None },
            Self::TooLarge { .. } | Self::Encode { .. } => Fault::Poison { reason: self.to_string() },
            // An item of a newer build fails for every message that meets it, so the
            // worker stops rather than parks them all.
            Self::NoTable { .. }
            | Self::AccessDenied { .. }
            | Self::Refused { .. }
            | Self::Invalid { .. }
            | Self::Contradiction { .. }
            | Self::Decode { .. } => Fault::Fatal { reason: self.to_string() },
        }
    }
}

enum Class {
    Unavailable,
    NoTable,
    AccessDenied,
    Refused,
    TooLarge,
}

impl Class {
    fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match error {
            SdkError::ServiceError(answer) => {
                let code = answer.err().code().unwrap_or_default();
                let message = answer.err().message().unwrap_or_default();
                Self::of_code(code, message, answer.raw().status().as_u16())
            }
            SdkError::ConstructionFailure(_) => Self::Refused,
            _ if lacks_credentials(error) => Self::AccessDenied,
            _ => Self::Unavailable,
        }
    }

    /// Codes as listed under "Error handling with DynamoDB" in the developer guide.
    fn of_code(code: &str, message: &str, http_status: u16) -> Self {
        match code {
            "ResourceNotFoundException" => Self::NoTable,
            "AccessDeniedException"
            | "UnrecognizedClientException"
            | "IncompleteSignatureException"
            | "InvalidSignatureException"
            | "MissingAuthenticationTokenException"
            | "MissingAuthenticationToken"
            | "ExpiredTokenException" => Self::AccessDenied,
            "ValidationException" if is_about_size(message) => Self::TooLarge,
            "ProvisionedThroughputExceededException"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "LimitExceededException"
            | "InternalServerError"
            | "ServiceUnavailable"
            | "TransactionConflictException"
            | "TransactionInProgressException"
            | "ReplicatedWriteConflictException" => Self::Unavailable,
            _ if http_status >= 500 || http_status == 429 => Self::Unavailable,
            _ => Self::Refused,
        }
    }
}

/// DynamoDB has no code of its own for an item over 400 KB.
pub(super) fn is_about_size(message: &str) -> bool {
    message.contains("Item size") && message.contains("exceeded the maximum allowed size")
}

fn lacks_credentials(error: &(dyn Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.filter_map(|cause| cause.downcast_ref::<CredentialsError>()).any(|cause| {
        matches!(cause, CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: &str, message: &str, http_status: u16) -> &'static str {
        match Class::of_code(code, message, http_status) {
            Class::Unavailable => "retry",
            Class::TooLarge => "poison",
            Class::NoTable | Class::AccessDenied | Class::Refused => "fatal",
        }
    }

    #[test]
    fn codes_have_the_fault_of_the_house() {
        assert_eq!(fault("ThrottlingException", "", 400), "retry");
        assert_eq!(fault("ProvisionedThroughputExceededException", "", 400), "retry");
        assert_eq!(fault("InternalServerError", "", 500), "retry");
        assert_eq!(fault("", "", 503), "retry");
        assert_eq!(fault("SomethingNew", "", 400), "fatal");
        assert_eq!(fault("AccessDeniedException", "", 400), "fatal");
        assert_eq!(fault("ResourceNotFoundException", "", 400), "fatal");
        assert_eq!(fault("ValidationException", "Invalid UpdateExpression", 400), "fatal");
        assert_eq!(fault("ValidationException", "Item size has exceeded the maximum allowed size", 400), "poison");
        let on_update = "Item size to update has exceeded the maximum allowed size";
        assert_eq!(fault("ValidationException", on_update, 400), "poison");
    }
}
