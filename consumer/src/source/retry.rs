//! How long to wait before trying again: exponential, bounded, with full jitter, so that
//! what failed together does not return together.

use std::time::Duration;

/// Ceiling of the first retry of a message.
const RETRY_BASE: Duration = Duration::from_secs(2);
/// Longest delay of a message.
pub const RETRY_MAX: Duration = Duration::from_secs(15 * 60);

/// Pause between two tries of a settlement's request.
pub(super) const REQUEST_BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(2) };

/// A back-off of a request: the ceiling doubles with each attempt.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

impl Backoff {
    /// Uniform between zero and `base * 2^(attempt - 1)`, at most `max`; `attempt`
    /// counts from 1.
    pub fn delay(&self, attempt: u32, rng: &mut fastrand::Rng) -> Duration {
        self.ceiling(attempt).mul_f64(rng.f64())
    }

    fn ceiling(&self, attempt: u32) -> Duration {
        // 2^31 times any base is beyond any maximum in use, and cannot overflow a u32.
        let doublings = attempt.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.max)
    }
}

/// How long a message stays invisible after its `receive_count`-th failure: uniform
/// between 0 and 2 s doubled with each receive, at most 15 min.
pub fn retry_delay(receive_count: u32, rng: &mut fastrand::Rng) -> Duration {
    Backoff { base: RETRY_BASE, max: RETRY_MAX }.delay(receive_count, rng)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest_and_mean(receive_count: u32) -> (f64, f64) {
        let mut rng = fastrand::Rng::with_seed(7);
        let delays: Vec<f64> = (0..2_000).map(|_| retry_delay(receive_count, &mut rng).as_secs_f64()).collect();
        (delays.iter().copied().fold(0.0, f64::max), delays.iter().sum::<f64>() / delays.len() as f64)
    }

    #[test]
    fn the_ceiling_doubles_with_each_receive_up_to_a_quarter_of_an_hour() {
        for (receive_count, ceiling) in
            [(0, 2.0), (1, 2.0), (2, 4.0), (3, 8.0), (9, 512.0), (10, 900.0), (u32::MAX, 900.0)]
        {
            let (longest, mean) = longest_and_mean(receive_count);
            assert!(longest <= ceiling, "{receive_count}: {longest}");
            // Full jitter: all of the range is used, evenly.
            assert!(longest > 0.99 * ceiling, "{receive_count}: {longest}");
            assert!((0.47..0.53).contains(&(mean / ceiling)), "{receive_count}: {mean}");
        }
    }
}
