//! What the machine that the worker runs on is told of its own end: spot interruption
//! notices and Auto Scaling lifecycle states, from instance metadata (version 2, with a
//! session token).

use std::time::Duration;

use aws_config::imds::client::Client;
use aws_config::imds::client::error::ImdsError;
use aws_config::provider_config::ProviderConfig;
use serde::Deserialize;

use super::client::http_client;

/// Metadata answers within milliseconds; off EC2 nobody answers at all.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
const READ_TIME_MAX: Duration = Duration::from_secs(2);
const ATTEMPTS_MAX: u32 = 2;

const INSTANCE_ID: &str = "/latest/meta-data/instance-id";
/// `{"action": "terminate", "time": "..."}` from two minutes before a spot interruption,
/// and nothing before.
const SPOT_ACTION: &str = "/latest/meta-data/spot/instance-action";
/// Where Auto Scaling wants the instance, such as `InService` or `Terminated`.
const LIFECYCLE_STATE: &str = "/latest/meta-data/autoscaling/target-lifecycle-state";

#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    #[error("--instance-metadata-url: {url:?} is no URL")]
    Url { url: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("instance metadata did not answer to {path}")]
    Metadata { path: &'static str, source: Box<ImdsError> },
}

/// Why a machine is about to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// EC2 takes the spot instance back; `action` is terminate, stop or hibernate.
    Spot { action: String, time: String },
    /// Auto Scaling wants the instance in this state.
    ScaleIn { state: String },
}

/// The metadata of this machine.
#[derive(Clone, Debug)]
pub struct Instance {
    metadata: Client,
}

impl Instance {
    /// Of the usual address, or of another one.
    pub fn new(url: Option<&str>) -> Result<Self, InstanceError> {
        let mut builder = Client::builder();
        if let Some(url) = url {
            builder = builder.endpoint(url).map_err(|source| InstanceError::Url { url: url.to_owned(), source })?;
        }
        let metadata = builder
            .configure(&ProviderConfig::empty().with_http_client(http_client()))
            .connect_timeout(CONNECT_TIME_MAX)
            .read_timeout(READ_TIME_MAX)
            .max_attempts(ATTEMPTS_MAX)
            .build();
        Ok(Self { metadata })
    }

    /// The instance's id; none where the metadata knows none.
    pub async fn id(&self) -> Result<Option<String>, InstanceError> {
        self.get(INSTANCE_ID).await
    }

    /// The newest notice of the machine's end; none while it may stay.
    pub async fn notice(&self) -> Result<Option<Notice>, InstanceError> {
        #[derive(Deserialize)]
        struct SpotAction {
            action: String,
            time: String,
        }
        if let Some(answer) = self.get(SPOT_ACTION).await? {
            // Whatever it says, it is there only when the instance is about to go.
            let unknown = |_error| SpotAction { action: answer.clone(), time: String::new() };
            let SpotAction { action, time } = serde_json::from_str(&answer).unwrap_or_else(unknown);
            return Ok(Some(Notice::Spot { action, time }));
        }
        let state = self.get(LIFECYCLE_STATE).await?;
        Ok(state.filter(|state| is_end(state)).map(|state| Notice::ScaleIn { state }))
    }

    /// True when Auto Scaling waits for this instance's end.
    pub async fn is_scaled_in(&self) -> Result<bool, InstanceError> {
        Ok(self.get(LIFECYCLE_STATE).await?.is_some_and(|state| is_end(&state)))
    }

    async fn get(&self, path: &'static str) -> Result<Option<String>, InstanceError> {
        match self.metadata.get(path).await {
            Ok(answer) => Ok(Some(answer.as_ref().trim().to_owned())),
            Err(ImdsError::ErrorResponse(answer)) if answer.response().status().as_u16() == 404 => Ok(None),
            Err(error) => Err(InstanceError::Metadata { path, source: Box::new(error) }),
        }
    }
}

/// `Terminated`, and of a warm pool `Warmed:Terminated`, `Warmed:Stopped` and
/// `Warmed:Hibernated`. In `Standby` and `Detached` the machine stays.
fn is_end(state: &str) -> bool {
    ["Terminated", "Stopped", "Hibernated"].iter().any(|end| state.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_states_in_which_the_machine_goes_are_an_end() {
        for state in ["Terminated", "Warmed:Terminated", "Warmed:Stopped", "Warmed:Hibernated"] {
            assert!(is_end(state), "{state}");
        }
        for state in ["InService", "Standby", "Detached", "Warmed:Running", ""] {
            assert!(!is_end(state), "{state}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_refused_by_the_flag() {
        let error = Instance::new(Some("no url")).expect_err("it has a space");
        assert!(error.to_string().contains("--instance-metadata-url"), "{error}");
    }
}
