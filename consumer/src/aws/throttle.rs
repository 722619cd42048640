//! Hears of every attempt that DynamoDB throttled, the ones that the SDK's own retries
//! make good included: by the time that a whole call fails, intake is minutes ahead.

use std::fmt;

use aws_sdk_dynamodb::operation::batch_get_item::BatchGetItemOutput;
use aws_sdk_dynamodb::operation::batch_write_item::BatchWriteItemOutput;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{FinalizerInterceptorContextRef, Output};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

use crate::metric;

/// Codes as listed under "Error handling with DynamoDB" in the developer guide.
const THROTTLES: [&str; 3] = ["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"];

/// Calls `then` after each throttled attempt, and after each batch of which a part was
/// left unprocessed, which is how batches are throttled.
pub(super) struct OnThrottle<F> {
    pub(super) then: F,
}

impl<F> fmt::Debug for OnThrottle<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnThrottle")
    }
}

impl<F: Fn() + Send + Sync> Intercept for OnThrottle<F> {
    fn name(&self) -> &'static str {
        "on throttle"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let left_undone = matches!(context.output_or_error(), Some(Ok(output)) if has_unprocessed(output));
        if left_undone || context.response().is_some_and(is_throttle) {
            metric::TABLE_THROTTLES.counter(&[]).increment(1);
            (self.then)();
        }
        Ok(())
    }
}

fn has_unprocessed(output: &Output) -> bool {
    let keys = output.downcast_ref::<BatchGetItemOutput>().and_then(|output| output.unprocessed_keys());
    let items = output.downcast_ref::<BatchWriteItemOutput>().and_then(|output| output.unprocessed_items());
    keys.is_some_and(|keys| !keys.is_empty()) || items.is_some_and(|items| !items.is_empty())
}

fn is_throttle(response: &HttpResponse) -> bool {
    #[derive(serde::Deserialize)]
    struct Refusal<'a> {
        #[serde(rename = "__type", borrow)]
        kind: std::borrow::Cow<'a, str>,
    }
    let status = response.status();
    let refusal = || serde_json::from_slice::<Refusal<'_>>(response.body().bytes()?).ok();
    let named = || refusal().is_some_and(|refusal| THROTTLES.iter().any(|code| refusal.kind.ends_with(code)));
    status.as_u16() == 429 || (status.is_client_error() && named())
}
