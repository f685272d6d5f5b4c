//! The KV cache of one engine: blocks shared by prefix, evicted when least recently used.
//!
//! Invariants: held + cached ≤ capacity; a block in use is never evicted.

use std::collections::BTreeMap;

use hashbrown::HashMap;

#[derive(Clone, Copy, Debug)]
struct Block {
    users: u32,
    last_used: u64,
}

/// Counts blocks, not bytes. Private blocks (of generated tokens) have no id.
#[derive(Debug)]
pub(crate) struct KvCache {
    capacity: u64,
    blocks: HashMap<u64, Block, ahash::RandomState>,
    idle: BTreeMap<u64, u64>,
    private: u64,
    clock: u64,
    pub(crate) queried_blocks: u64,
    pub(crate) hit_blocks: u64,
    pub(crate) evicted_blocks: u64,
}

impl KvCache {
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            capacity: capacity.max(8),
            blocks: HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4)),
            idle: BTreeMap::new(),
            private: 0,
            clock: 0,
            queried_blocks: 0,
            hit_blocks: 0,
            evicted_blocks: 0,
        }
    }

    /// Share of the blocks in use by running requests.
    pub(crate) fn usage(&self) -> f64 {
        let idle = self.idle.len() as u64;
        (self.blocks.len() as u64 - idle + self.private) as f64 / self.capacity as f64
    }

    /// How many of `prompt`'s first blocks are there.
    pub(crate) fn matching(&self, prompt: &[u64]) -> usize {
        prompt.iter().take_while(|id| self.blocks.contains_key(*id)).count()
    }

    /// Takes all blocks of `prompt` for a request; `false`, and nothing taken, when they do not fit.
    pub(crate) fn take(&mut self, prompt: &[u64]) -> bool {
        let mut missing = 0;
        let mut idle_wanted = 0;
        for id in prompt {
            match self.blocks.get(id) {
                None => missing += 1,
                Some(block) if block.users == 0 => idle_wanted += 1,
                Some(_) => {}
            }
        }
        let free = self.capacity - self.blocks.len() as u64 - self.private;
        if missing > free + self.idle.len() as u64 - idle_wanted {
            return false;
        }
        // First keep what is there, then make room for what is not.
        for id in prompt {
            if let Some(block) = self.blocks.get_mut(id) {
                if block.users == 0 {
                    self.idle.remove(&block.last_used);
                }
                block.users += 1;
            }
        }
        for id in prompt {
            if !self.blocks.contains_key(id) {
                self.make_room();
                self.blocks.insert(*id, Block { users: 1, last_used: 0 });
            }
        }
        true
    }

    /// Gives a request's prompt blocks back; they stay cached until their room is needed.
    pub(crate) fn release(&mut self, prompt: &[u64]) {
        for id in prompt {
            self.clock += 1;
            if let Some(block) = self.blocks.get_mut(id).filter(|block| block.users > 0) {
                block.users -= 1;
                if block.users == 0 {
                    block.last_used = self.clock;
                    self.idle.insert(self.clock, *id);
                }
            }
        }
    }

    /// One more block for generated tokens; `false` when there is no room.
    pub(crate) fn grow(&mut self) -> bool {
        if !self.make_room() {
            return false;
        }
        self.private += 1;
        true
    }

    /// Gives blocks of generated tokens back.
    pub(crate) fn shrink(&mut self, blocks: u64) {
        self.private -= blocks.min(self.private);
    }

    fn make_room(&mut self) -> bool {
        if self.blocks.len() as u64 + self.private < self.capacity {
            return true;
        }
        let Some((_, id)) = self.idle.pop_first() else { return false };
        self.blocks.remove(&id);
        self.evicted_blocks += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: two requests with a shared prefix in a small cache, then a third that needs the room. Guarantee:
    /// the prefix hits, blocks in use survive, the least recently used go first.
    #[test]
    fn prefixes_hit_and_old_blocks_go() {
        let mut cache = KvCache::new(8);
        assert!(cache.take(&[1, 2, 3]));
        cache.release(&[1, 2, 3]);
        assert_eq!(cache.matching(&[1, 2, 9]), 2);
        assert!(cache.take(&[1, 2, 9]));
        assert!(cache.take(&[20, 21, 22, 23, 24]));
        assert_eq!((cache.evicted_blocks, cache.matching(&[1, 2, 3])), (1, 2));
        assert!(!cache.take(&[30]), "all eight blocks are in use");
        assert!(!cache.grow());
        cache.release(&[1, 2, 9]);
        assert!(cache.grow());
        assert!((cache.usage() - 6.0 / 8.0).abs() < 1e-9);
    }
}
