//! When to try again: jittered exponential back-off, inside a byte budget and a deadline.

use std::time::Duration;

use prost::Message;
use rand::Rng;

/// Limits of retrying. The waits grow from `initial_backoff` to `max_backoff`, each drawn between half and all
/// of its bound; a server's `RetryInfo` is a lower bound for its wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// First wait.
    pub initial_backoff: Duration,
    /// Longest wait, unless the server asks for a longer one.
    pub max_backoff: Duration,
    /// From the first attempt to giving up; zero means one attempt.
    pub deadline: Duration,
    /// Bytes of all batches together that may wait to be retried; a batch beyond it fails at once.
    pub max_bytes: usize,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            initial_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(5),
            deadline: Duration::from_secs(60),
            max_bytes: 64 << 20,
        }
    }
}

impl RetryBudget {
    /// Never retry.
    #[must_use]
    pub fn none() -> Self {
        Self { deadline: Duration::ZERO, ..Self::default() }
    }

    /// The wait before attempt `attempt + 1` (attempts count from 1).
    #[must_use]
    pub fn wait(&self, attempt: u32, asked_for: Option<Duration>, random: &mut impl Rng) -> Duration {
        let doublings = attempt.saturating_sub(1).min(20);
        let bound = self.initial_backoff.saturating_mul(1 << doublings).min(self.max_backoff);
        let jittered = bound.mul_f64(random.random_range(0.5..=1.0));
        match asked_for {
            // Clients that were turned away together must not come back together.
            Some(asked_for) => asked_for + jittered / 2,
            None => jittered,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<ProtoDuration>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ProtoDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// The delay in a `grpc-status-details-bin` value (an encoded `google.rpc.Status`), if it has one.
pub(crate) fn retry_delay_of(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let info = status.details.iter().find(|any| any.type_url.ends_with("google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay.unwrap_or_default();
    let seconds = u64::try_from(delay.seconds).ok()?;
    Some(Duration::new(seconds, u32::try_from(delay.nanos).ok()?.min(999_999_999)))
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    /// Scenario: ten failures in a row. Guarantee: waits grow to the bound, never beyond, never below half of it.
    #[test]
    fn waits_grow_with_jitter_to_the_bound() {
        let budget = RetryBudget::default();
        let mut random = SmallRng::seed_from_u64(1);
        for attempt in 1..=10 {
            let bound = (budget.initial_backoff * 2u32.pow(attempt - 1)).min(budget.max_backoff);
            let wait = budget.wait(attempt, None, &mut random);
            assert!(wait <= bound && wait >= bound / 2, "attempt {attempt}: {wait:?}");
        }
    }

    /// Scenario: the server asks for 2 s. Guarantee: never earlier.
    #[test]
    fn the_servers_delay_is_a_lower_bound() {
        let mut random = SmallRng::seed_from_u64(2);
        let wait = RetryBudget::default().wait(1, Some(Duration::from_secs(2)), &mut random);
        assert!(wait >= Duration::from_secs(2));
    }

    /// Scenario: status details with a RetryInfo of 1.5 s, and garbage. Guarantee: the delay is found; garbage is none.
    #[test]
    fn retry_info_is_found_in_status_details() {
        let info = RetryInfo { retry_delay: Some(ProtoDuration { seconds: 1, nanos: 500_000_000 }) };
        let any =
            Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: info.encode_to_vec() };
        let status = RpcStatus { details: vec![any] };
        assert_eq!(retry_delay_of(&status.encode_to_vec()), Some(Duration::from_millis(1_500)));
        assert_eq!(retry_delay_of(b"\xff\xff"), None);
    }
}
