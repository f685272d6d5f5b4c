//! The byte budget: how much the gateway may hold for requests that are not durable yet.
//!
//! A request reserves its bytes before they are read and keeps them until the log has its records. Nothing
//! waits for the budget except streams, which stop reading; a unary request past it is refused at once, so
//! an overloaded gateway spends its time on the requests it took.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

/// Bytes that may be in flight.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
    released: Notify,
}

/// The budget has no room; try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverBudget;

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit as u64, used: AtomicU64::new(0), released: Notify::new() })
    }

    /// Bytes in flight.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether so little is left that new requests are likely to be refused.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.used() >= self.limit - self.limit / 20
    }

    /// A permit for `bytes`.
    pub(crate) fn acquire(self: &Arc<Self>, bytes: usize) -> Result<Permit, OverBudget> {
        let mut permit = Permit { budget: Arc::clone(self), bytes: 0 };
        permit.grow(bytes)?;
        Ok(permit)
    }

    /// A permit for `bytes`, as soon as there is room. The caller bounds the wait.
    pub(crate) async fn acquire_later(self: &Arc<Self>, bytes: usize) -> Permit {
        loop {
            let released = self.released.notified();
            if let Ok(permit) = self.acquire(bytes) {
                return permit;
            }
            released.await;
        }
    }

    fn reserve(&self, bytes: u64) -> Result<(), OverBudget> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|total| *total <= self.limit)
            })
            .map(|_| ())
            .map_err(|_| OverBudget)
    }

    fn release(&self, bytes: u64) {
        // A permit that got nothing must not wake the waiters: one of them may have just dropped it.
        if bytes == 0 {
            return;
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.released.notify_waiters();
    }
}

/// Bytes held; they return to the budget when it is dropped.
pub(crate) struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Permit {
    /// Holds `bytes` more.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), OverBudget> {
        self.budget.reserve(bytes as u64)?;
        self.bytes += bytes as u64;
        Ok(())
    }

    /// Holds `bytes` in all from now on, more or less than before.
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<(), OverBudget> {
        let bytes = bytes as u64;
        if bytes > self.bytes {
            self.budget.reserve(bytes - self.bytes)?;
        } else {
            self.budget.release(self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: permits grow, shrink and drop. Guarantee: the sum never passes the limit and all bytes return.
    #[test]
    fn the_sum_stays_within_the_limit() {
        let budget = Budget::new(100);
        let mut first = budget.acquire(60).expect("room");
        assert_eq!(budget.acquire(41).err(), Some(OverBudget));
        assert_eq!(first.grow(41), Err(OverBudget));
        first.resize(10).expect("smaller");
        let second = budget.acquire(90).expect("room again");
        assert!(budget.is_exhausted());
        drop((first, second));
        assert_eq!(budget.used(), 0);
    }

    /// Scenario: a stream waits for room. Guarantee: it goes on when a permit returns.
    #[tokio::test]
    async fn a_waiter_is_woken() {
        let budget = Budget::new(10);
        let first = budget.acquire(10).expect("room");
        let mut waiting = std::pin::pin!(budget.acquire_later(5));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        drop(first);
        waiting.await;
    }
}
