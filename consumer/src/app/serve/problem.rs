//! Errors as `application/problem+json` (RFC 9457).

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use models::ScoreError;
use schemars::JsonSchema;
use serde::Serialize;

/// What every error answers. `type` names the kind of problem and is stable.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: &'static str,
    /// The HTTP status, once more.
    pub status: u16,
    /// What was wrong with this request, and what to do.
    pub detail: String,
    /// The fields that were refused, such as `queries[3]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FieldError {
    pub field: String,
    pub reason: String,
}

impl Problem {
    fn new(status: StatusCode, kind: &str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:catalog-labels:problem:{kind}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
        }
    }

    pub fn bad_header(name: &str, reason: &str) -> Self {
        let detail = format!("header {name}: {reason}");
        Self::new(StatusCode::BAD_REQUEST, "bad-header", "A header is not what it should be", detail)
    }

    pub fn not_json(reason: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "not-json", "The body is not JSON", reason)
    }

    pub fn unreadable_body(reason: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unreadable-body", "The body could not be read", reason)
    }

    pub fn media_type(given: &str) -> Self {
        let detail = format!("content-type is {given:?}; send application/json");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", "The body is not declared as JSON", detail)
    }

    pub fn field(field: &str, reason: &str) -> Self {
        let problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid-field",
            "A field is not what it should be",
            format!("{field}: {reason}"),
        );
        Self { errors: vec![FieldError { field: field.to_owned(), reason: reason.to_owned() }], ..problem }
    }

    pub fn too_large(bytes_max: usize) -> Self {
        let detail = format!("the body has more than {bytes_max} bytes, unpacked; send fewer rows in each request");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large", detail)
    }

    pub fn slow_body() -> Self {
        let detail = "the body was not complete by the deadline";
        Self::new(StatusCode::REQUEST_TIMEOUT, "slow-body", "The body came too slowly", detail)
    }

    pub fn overloaded(retry_after: Duration) -> Self {
        let detail = "what waits already cannot be answered by the deadline; this request was not begun";
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", "Too many requests", detail);
        Self { retry_after: Some(retry_after), ..problem }
    }

    pub fn not_ready(because: &[String]) -> Self {
        let detail = format!("not ready: {}", because.join("; "));
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", "The service is not ready", detail);
        Self { retry_after: Some(Duration::from_secs(1)), ..problem }
    }

    /// Statuses that the router and its layers answer by themselves.
    pub fn of_status(status: StatusCode) -> Self {
        let (kind, title) = match status {
            StatusCode::NOT_FOUND => ("no-such-path", "There is nothing at this path"),
            StatusCode::METHOD_NOT_ALLOWED => ("method", "This path has another method"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ("content-encoding", "The body is packed in an unknown way"),
            _ => ("refused", "The request was refused"),
        };
        Self::new(status, kind, title, "see /openapi.json for the paths, methods and encodings that are served")
    }

    /// `rows` is the name of the request's list, whose entries the error speaks of.
    pub fn of_score(error: &ScoreError, rows_field: &str) -> Self {
        match error {
            ScoreError::Overloaded { retry_after } => Self::overloaded(*retry_after),
            ScoreError::Late => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "deadline",
                "The deadline passed",
                "the model did not answer by the deadline; give it more time, or send fewer rows",
            ),
            ScoreError::NonFinite { rows } => {
                let title = "The model has no finite score";
                let detail = "the model's output for the named rows is not a number; the others can be sent again";
                let of = |row: &usize| FieldError {
                    field: format!("{rows_field}[{row}]"),
                    reason: "its score is not finite".to_owned(),
                };
                let problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "not-finite", title, detail);
                Self { errors: rows.iter().map(of).collect(), ..problem }
            }
            ScoreError::Encode(error) => {
                let title = "A text could not be tokenised";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "tokenizer", title, error.to_string())
            }
            ScoreError::Device { .. } | ScoreError::Stopped => Self::not_ready(&["the device failed".to_owned()]),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = retry_after {
            // Whole seconds are all that the header can say; 0 would mean at once.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil().max(1.0) as u64));
        }
        response
    }
}
