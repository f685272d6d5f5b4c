//! Interned strings of spans: one table for services, operations, stages and models.
//!
//! Ids are dense and stay valid for the table's life. A long-lived owner bounds the table by building a new one
//! from the names that are still in use ([`Names::bytes`] says when).

use hashbrown::HashTable;

/// A string in a [`Names`] table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId(pub u32);

impl NameId {
    /// The empty string.
    pub const EMPTY: Self = Self(0);
    /// The stage `queue`.
    pub const QUEUE: Self = Self(1);
    /// The stage `prefill`.
    pub const PREFILL: Self = Self(2);
    /// The stage `decode`.
    pub const DECODE: Self = Self(3);

    /// Whether it is the empty string.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Strings with dense ids; the stages this module reasons about have fixed ones.
#[derive(Debug, Clone)]
pub struct Names {
    strings: Vec<Box<str>>,
    index: HashTable<u32>,
    hasher: ahash::RandomState,
    bytes: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self::new()
    }
}

impl Names {
    /// A table with the fixed names only.
    #[must_use]
    pub fn new() -> Self {
        let mut names = Self {
            strings: Vec::new(),
            index: HashTable::new(),
            hasher: ahash::RandomState::new(),
            bytes: 0,
        };
        for (name, id) in [
            ("", NameId::EMPTY),
            ("queue", NameId::QUEUE),
            ("prefill", NameId::PREFILL),
            ("decode", NameId::DECODE),
        ] {
            let interned = names.intern(name);
            debug_assert_eq!(interned, id);
        }
        names
    }

    /// The id of `name`, added if it is new.
    pub fn intern(&mut self, name: &str) -> NameId {
        let hash = self.hasher.hash_one(name);
        let strings = &self.strings;
        if let Some(&id) = self.index.find(hash, |&id| &*strings[id as usize] == name) {
            return NameId(id);
        }
        let id = u32::try_from(self.strings.len()).expect("fewer than 2^32 names are alive");
        self.strings.push(name.into());
        self.bytes += name.len() + 40;
        let (strings, hasher) = (&self.strings, &self.hasher);
        self.index.insert_unique(hash, id, |&id| hasher.hash_one(&*strings[id as usize]));
        NameId(id)
    }

    /// The string of `id`; empty for an id of another table.
    #[must_use]
    pub fn get(&self, id: NameId) -> &str {
        self.strings.get(id.0 as usize).map_or("", |name| name)
    }

    /// Number of names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.strings.len()
    }

    /// Whether only the fixed names are there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.strings.len() == 4
    }

    /// About the memory it holds.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}
