//! From an HTTP request to a checked value, within the request's own deadline.

use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, header};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Milliseconds that the client gives the whole request, from when its headers were read.
pub const DEADLINE_HEADER: &str = "request-timeout-ms";
pub const DEADLINE_MAX_MS: u64 = 60_000;
/// Largest body after unpacking. 256 queries of 512 characters fit many times, and so do
/// 256 pairs of ordinary products.
pub const BODY_BYTES_MAX: usize = 2 << 20;

/// When the answer is due: what the client's header says, else after `default`.
pub fn deadline(headers: &HeaderMap, started: Instant, default: Duration) -> Result<Instant, Problem> {
    let Some(given) = headers.get(DEADLINE_HEADER) else { return Ok(started + default) };
    let ms = given.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    match ms.filter(|ms| (1..=DEADLINE_MAX_MS).contains(ms)) {
        Some(ms) => Ok(started + Duration::from_millis(ms)),
        None => Err(Problem::bad_header(DEADLINE_HEADER, &format!("send milliseconds, 1 to {DEADLINE_MAX_MS}"))),
    }
}

/// Reads the whole body as JSON. Bodies that are late, too large, or not what `T` is are
/// refused, the latter with the field's path.
pub async fn json<T: DeserializeOwned>(request: Request<Body>, deadline: Instant) -> Result<T, Problem> {
    let media_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.unwrap_or_default();
    if !media_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return Err(Problem::media_type(media_type));
    }
    let body = tokio::time::timeout_at(deadline.into(), to_bytes(request.into_body(), BODY_BYTES_MAX)).await;
    let body = body.map_err(|_elapsed| Problem::slow_body())?.map_err(|error| body_problem(&error))?;
    parse(&body)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        match cause.classify() {
            serde_json::error::Category::Data if path == "." => Problem::field("the body", &cause.to_string()),
            serde_json::error::Category::Data => Problem::field(&path, &cause.to_string()),
            _ => Problem::not_json(&cause.to_string()),
        }
    })?;
    json.end().map_err(|error| Problem::not_json(&error.to_string()))?;
    Ok(value)
}

fn body_problem(error: &axum::Error) -> Problem {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return Problem::too_large(BODY_BYTES_MAX);
        }
        cause = error.source();
    }
    Problem::unreadable_body("it ended early, or is not packed as its content-encoding says")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::app::serve::api::IntentRequest;

    #[test]
    fn the_client_sets_its_deadline_within_limits() {
        let (now, default) = (Instant::now(), Duration::from_secs(1));
        let of = |value: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(DEADLINE_HEADER, HeaderValue::from_static(value));
            }
            deadline(&headers, now, default).map(|deadline| deadline - now)
        };
        assert_eq!(of(None), Ok(default));
        assert_eq!(of(Some("25")), Ok(Duration::from_millis(25)));
        for bad in ["0", "60001", "1.5", "-3", "soon", ""] {
            let problem = of(Some(bad)).expect_err("out of range");
            assert!(problem.status == 400 && problem.detail.contains(DEADLINE_HEADER), "{bad}: {problem:?}");
        }
    }

    #[test]
    fn bodies_are_refused_by_name() {
        let refused = |body: &str| parse::<IntentRequest>(body.as_bytes()).expect_err("a bad body");
        for body in ["", "{", "{\"query\": \"a\"} {}", "query=a", "\u{0}"] {
            assert_eq!(refused(body).status, 400, "{body:?}");
        }
        for (body, field) in [
            ("{\"queries\": [\"a\", 3]}", "queries[1]"),
            ("{\"query\": [1]}", "query"),
            ("7", "the body"),
            ("{\"q\": 1}", "q"),
        ] {
            let problem = refused(body);
            assert_eq!(problem.status, 422, "{body}: {problem:?}");
            assert_eq!(problem.errors[0].field, field, "{problem:?}");
        }
    }
}
