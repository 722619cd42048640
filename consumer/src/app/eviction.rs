//! The machine's end, foretold: a worker on EC2 asks instance metadata every few seconds,
//! and stops in order before a spot interruption or a scale-in takes the machine away.

use std::time::Duration;

use aws_config::SdkConfig;

use crate::aws::{Instance, InstanceError, Notice, complete_termination};
use crate::source::{BoxError, Shutdown, StopReason, with_causes};

/// AWS's advice for spot notices, which come two minutes ahead.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The machine to ask, with `url` in place of the usual address of its metadata; none
/// where nobody answers there, as off EC2.
///
/// # Errors
/// When a given `url` is none, or does not answer.
pub async fn find(url: Option<&str>) -> Result<Option<Instance>, InstanceError> {
    let instance = Instance::new(url)?;
    match instance.id().await {
        Ok(_id) => Ok(Some(instance)),
        Err(error) if url.is_some() => Err(error),
        Err(error) => {
            tracing::info!(error = with_causes(&error), "no instance metadata, so no drain notices: not on EC2?");
            Ok(None)
        }
    }
}

/// Begins the shutdown when a notice comes. Ends with the shutdown, whoever began it.
pub fn watch(instance: Instance, shutdown: Shutdown) {
    tokio::spawn(async move {
        while !shutdown.has_begun() {
            match instance.notice().await {
                Ok(Some(notice)) => shutdown.begin(StopReason::Evicted(to_reason(&notice))),
                Ok(None) => {}
                // A notice missed now is there at the next look.
                Err(error) => tracing::warn!(error = with_causes(&error), "no look for drain notices"),
            }
            tokio::select! {
                () = shutdown.begun() => {}
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    });
}

fn to_reason(notice: &Notice) -> String {
    match notice {
        Notice::Spot { action, time } => format!("spot interruption: {action} at {time}"),
        Notice::ScaleIn { state } => format!("Auto Scaling wants the instance {state}"),
    }
}

/// Lets a scaled-in machine go, once everything is settled. Nothing is lost where that
/// fails: Auto Scaling goes on by itself after the hook's time-out.
pub async fn let_go(instance: &Instance, sdk: &SdkConfig, hook: &str) {
    match complete_if_scaled_in(instance, sdk, hook).await {
        Ok(Some(group)) => tracing::info!(group, hook, "lifecycle action completed"),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(hook, error = with_causes(error.as_ref()), "the lifecycle action is not completed");
        }
    }
}

/// The name of the group that waited for this machine.
async fn complete_if_scaled_in(instance: &Instance, sdk: &SdkConfig, hook: &str) -> Result<Option<String>, BoxError> {
    if !instance.is_scaled_in().await? {
        return Ok(None);
    }
    let Some(id) = instance.id().await? else { return Ok(None) };
    Ok(Some(complete_termination(sdk, &id, hook).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_says_who_takes_the_machine() {
        let spot = Notice::Spot { action: "terminate".to_owned(), time: "2026-11-24T12:00:00Z".to_owned() };
        assert_eq!(to_reason(&spot), "spot interruption: terminate at 2026-11-24T12:00:00Z");
        let scale_in = Notice::ScaleIn { state: "Terminated".to_owned() };
        assert_eq!(to_reason(&scale_in), "Auto Scaling wants the instance Terminated");
    }
}
