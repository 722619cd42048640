//! When something last showed that it lives.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

/// Remembers the time of its last beat; cloning gives another handle on the same one.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    last: Arc<Mutex<Option<Instant>>>,
}

impl Pulse {
    pub fn beat(&self) {
        *self.last.lock().expect("no code panics while it holds the lock") = Some(Instant::now());
    }

    /// Time since the last beat; none before the first.
    pub fn age(&self) -> Option<Duration> {
        let last = *self.last.lock().expect("no code panics while it holds the lock");
        last.map(|last| last.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn age_counts_from_the_last_beat() {
        let pulse = Pulse::default();
        assert_eq!(pulse.age(), None);
        pulse.clone().beat();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(pulse.age(), Some(Duration::from_secs(3)));
    }
}
