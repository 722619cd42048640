//! The answer to Auto Scaling's lifecycle hook: the instance may go.

use aws_config::SdkConfig;
use aws_sdk_autoscaling::Client;

use crate::source::BoxError;

#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    #[error("instance {instance} is in no Auto Scaling group")]
    NoGroup { instance: String },
    #[error("Auto Scaling did not answer to {operation} for instance {instance}; does the role allow it?")]
    Refused { operation: &'static str, instance: String, source: BoxError },
}

/// Tells Auto Scaling that `hook` need not hold `instance` any longer; gives the name of
/// the group. Without it a terminating instance waits for the hook's time-out.
pub async fn complete_termination(sdk: &SdkConfig, instance: &str, hook: &str) -> Result<String, LifecycleError> {
    let client = Client::new(sdk);
    let refused = |operation| {
        move |source: BoxError| LifecycleError::Refused { operation, instance: instance.to_owned(), source }
    };
    let described = client.describe_auto_scaling_instances().instance_ids(instance).send().await;
    let described = described.map_err(|error| refused("describe_auto_scaling_instances")(error.into()))?;
    let group = described.auto_scaling_instances().iter().find_map(|known| known.auto_scaling_group_name());
    let Some(group) = group else { return Err(LifecycleError::NoGroup { instance: instance.to_owned() }) };
    client
        .complete_lifecycle_action()
        .auto_scaling_group_name(group)
        .lifecycle_hook_name(hook)
        .instance_id(instance)
        .lifecycle_action_result("CONTINUE")
        .send()
        .await
        .map_err(|error| refused("complete_lifecycle_action")(error.into()))?;
    Ok(group.to_owned())
}
