//! Buffers that are used again.
//!
//! Record and body buffers are hundreds of kilobytes: allocating them anew costs page faults. A buffer goes
//! back when its last owner drops it, which for a record is when the log is done with it.
//! Invariant: the pool keeps at most `max_idle_bytes`, and no single buffer above `max_buffer_bytes`.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use parking_lot::Mutex;

/// Hands out byte buffers and takes them back.
#[derive(Clone, Debug)]
pub(crate) struct BufferPool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    idle: Mutex<Idle>,
    max_idle_bytes: usize,
    max_buffer_bytes: usize,
}

#[derive(Debug, Default)]
struct Idle {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl BufferPool {
    pub(crate) fn new(max_idle_bytes: usize, max_buffer_bytes: usize) -> Self {
        Self(Arc::new(Inner { idle: Mutex::new(Idle::default()), max_idle_bytes, max_buffer_bytes }))
    }

    /// An empty buffer.
    pub(crate) fn take(&self) -> PooledBuffer {
        let mut idle = self.0.idle.lock();
        let bytes = idle.buffers.pop().unwrap_or_default();
        idle.bytes -= bytes.capacity();
        drop(idle);
        PooledBuffer { bytes, pool: Arc::clone(&self.0) }
    }

    #[cfg(test)]
    fn idle_bytes(&self) -> usize {
        self.0.idle.lock().bytes
    }
}

/// A buffer that returns to its pool when dropped.
#[derive(Debug)]
pub(crate) struct PooledBuffer {
    bytes: Vec<u8>,
    pool: Arc<Inner>,
}

impl Deref for PooledBuffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let capacity = bytes.capacity();
        if capacity == 0 || capacity > self.pool.max_buffer_bytes {
            return;
        }
        bytes.clear();
        let mut idle = self.pool.idle.lock();
        if idle.bytes + capacity <= self.pool.max_idle_bytes {
            idle.bytes += capacity;
            idle.buffers.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: buffers come back, small and large. Guarantee: they are used again, empty, within the bound.
    #[test]
    fn buffers_are_reused_within_the_bound() {
        let pool = BufferPool::new(4000, 1000);
        let mut buffer = pool.take();
        buffer.extend_from_slice(&[1; 900]);
        let capacity = buffer.capacity();
        drop(buffer);
        assert_eq!(pool.idle_bytes(), capacity);
        let again = pool.take();
        assert!(again.is_empty() && again.capacity() == capacity);
        assert_eq!(pool.idle_bytes(), 0);
        let mut large = pool.take();
        large.reserve(2000);
        drop(large);
        assert_eq!(pool.idle_bytes(), 0);
        let many: Vec<_> = (0..10)
            .map(|_| {
                let mut buffer = pool.take();
                buffer.reserve(1000);
                buffer
            })
            .collect();
        drop(many);
        assert!(pool.idle_bytes() <= 4000);
    }
}
