//! Which failures pass by themselves, and how long to wait.
//!
//! Three kinds: an answer (the object exists, does not exist), a passing fault (repeat with jittered
//! back-off) and a refusal (repeat slowly, raise the alarm until it ends). Invariant: only answers are
//! returned; a caller that is dropped stops waiting.

use std::{future::Future, time::Duration};

use infertrace_runtime::log::LogError;

use crate::{config::Flow, metrics::Metrics};

/// A failure that is waited out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Passes by itself.
    Passing,
    /// An operator must act.
    Refused,
}

/// What the store meant; `None` is an answer to be handled by the caller.
pub(crate) fn fault_of_store(error: &object_store::Error) -> Option<Fault> {
    use object_store::Error as E;
    match error {
        E::AlreadyExists { .. } | E::Precondition { .. } | E::NotFound { .. } | E::NotModified { .. } => None,
        E::PermissionDenied { .. }
        | E::Unauthenticated { .. }
        | E::NotSupported { .. }
        | E::NotImplemented { .. }
        | E::InvalidPath { .. }
        | E::UnknownConfigurationKey { .. } => Some(Fault::Refused),
        _ => Some(Fault::Passing),
    }
}

/// What the log meant; `None` is for the caller.
pub(crate) fn fault_of_log(error: &LogError) -> Option<Fault> {
    match error {
        LogError::TooLarge { .. } | LogError::DataLoss { .. } | LogError::Fenced(_) => None,
        error if error.is_retriable() => Some(Fault::Passing),
        // An append whose outcome is unknown is repeated: the dead-letter record carries its origin.
        LogError::Ambiguous(_) => Some(Fault::Passing),
        _ => Some(Fault::Refused),
    }
}

/// Delays between repeats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    base: Duration,
    max: Duration,
    refused: Duration,
}

impl Retry {
    pub(crate) fn new(flow: &Flow) -> Self {
        Self {
            base: Duration::from_millis(flow.retry_base_ms),
            max: Duration::from_millis(flow.retry_max_ms),
            refused: Duration::from_millis(flow.refused_retry_ms),
        }
    }

    /// The delay before repeat number `attempt` (from 0): half fixed, half random.
    pub(crate) fn delay(&self, fault: Fault, attempt: u32) -> Duration {
        let ceiling = match fault {
            Fault::Refused => self.refused,
            Fault::Passing => self.base.saturating_mul(1 << attempt.min(16)).min(self.max),
        };
        ceiling.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Repeats `operation` until it succeeds or answers.
    pub(crate) async fn run<T, E, F>(
        &self,
        metrics: &Metrics,
        what: &'static str,
        object: &str,
        fault_of: fn(&E) -> Option<Fault>,
        mut operation: impl FnMut() -> F,
    ) -> Result<T, E>
    where
        E: std::error::Error,
        F: Future<Output = Result<T, E>>,
    {
        let mut refused = RefusedGuard { metrics, raised: false };
        for attempt in 0u32.. {
            let error = match operation().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some(fault) = fault_of(&error) else { return Err(error) };
            metrics.retries(what).inc();
            let delay = self.delay(fault, attempt);
            let delay_ms = delay.as_millis() as u64;
            match fault {
                Fault::Refused => {
                    refused.raise();
                    tracing::error!(%error, what, object, delay_ms, "refused, the sink pauses until this is fixed");
                }
                Fault::Passing => {
                    tracing::warn!(%error, what, object, delay_ms, attempt, "failed, trying again")
                }
            }
            tokio::time::sleep(delay).await;
        }
        unreachable!("the loop ends by an answer")
    }
}

/// Keeps the gauge of refused operations right, also when the operation is dropped.
struct RefusedGuard<'a> {
    metrics: &'a Metrics,
    raised: bool,
}

impl RefusedGuard<'_> {
    fn raise(&mut self) {
        if !std::mem::replace(&mut self.raised, true) {
            self.metrics.refused.inc();
        }
    }
}

impl Drop for RefusedGuard<'_> {
    fn drop(&mut self) {
        if self.raised {
            self.metrics.refused.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: repeats of a passing and of a refused call. Guarantee: delays grow, are jittered and bounded.
    #[test]
    fn delays_are_bounded() {
        let retry = Retry::new(&Flow::from(&crate::Config::default()));
        for attempt in 0..100 {
            let delay = retry.delay(Fault::Passing, attempt);
            assert!(delay >= Duration::from_millis(50) && delay <= Duration::from_secs(10), "{delay:?}");
            assert!(retry.delay(Fault::Refused, attempt) >= Duration::from_secs(15));
        }
        assert!(retry.delay(Fault::Passing, 0) <= Duration::from_millis(100));
    }
}
