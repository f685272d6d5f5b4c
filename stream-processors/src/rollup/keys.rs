//! Which keys are counted apart, and which are folded together because there are too many.
//!
//! The distinct keys of about one window are remembered, over all sources. Past a bound, of a tenant or of all, a new key
//! is counted under model [`OVERFLOW`] of its tenant and shape. Which keys those are depends on which came first, so
//! a restart may fold others; nothing is lost either way, and the cells say how much was folded.

use hashbrown::{HashMap, HashSet};
use infertrace_analytics::rollup::{OVERFLOW, stage};
use infertrace_schemas::trace::{NameId, Names};

/// A key, its texts interned: tenant, model, version, service, stage, device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct KeyIds {
    pub(crate) tenant: NameId,
    pub(crate) model: NameId,
    pub(crate) version: NameId,
    pub(crate) service: NameId,
    pub(crate) stage: NameId,
    pub(crate) device: NameId,
}

/// How many keys are counted apart within a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLimits {
    /// Over all tenants.
    pub max_keys: usize,
    /// Of one tenant.
    pub max_keys_per_tenant: usize,
}

/// Texts that the rollup itself writes, interned.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Own {
    pub(crate) overflow: NameId,
    pub(crate) call: NameId,
    pub(crate) engine: NameId,
    pub(crate) none: NameId,
    pub(crate) trace: NameId,
    pub(crate) unknown_service: NameId,
}

impl Own {
    pub(crate) fn new(names: &mut Names) -> Self {
        Self {
            overflow: names.intern(OVERFLOW),
            call: names.intern(stage::CALL),
            engine: names.intern(stage::ENGINE),
            none: names.intern(stage::NONE),
            trace: names.intern(stage::TRACE),
            unknown_service: names.intern("unknown_service"),
        }
    }

    /// The stage of a span or of a trace's part, kept apart from the words that are no stages.
    pub(crate) fn stage(&self, stage: NameId) -> NameId {
        let is_taken = stage == self.call || stage == self.engine || stage == self.trace;
        if stage.is_empty() || is_taken { self.none } else { stage }
    }
}

#[derive(Debug)]
pub(crate) struct Keys {
    limits: KeyLimits,
    known: HashSet<KeyIds, ahash::RandomState>,
    by_tenant: HashMap<NameId, usize, ahash::RandomState>,
}

impl Keys {
    pub(crate) fn new(limits: KeyLimits) -> Self {
        Self { limits, known: HashSet::default(), by_tenant: HashMap::default() }
    }

    /// Another window began.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
        self.by_tenant.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether `key` is counted under its own name.
    pub(crate) fn admit(&mut self, key: KeyIds) -> bool {
        if self.known.contains(&key) {
            return true;
        }
        let of_tenant = self.by_tenant.entry(key.tenant).or_default();
        if self.known.len() >= self.limits.max_keys || *of_tenant >= self.limits.max_keys_per_tenant {
            return false;
        }
        *of_tenant += 1;
        self.known.insert(key);
        true
    }
}

/// The key under which those of its tenant and shape are counted that are not admitted.
pub(crate) fn folded(key: KeyIds, own: &Own) -> KeyIds {
    let some = |name: NameId| if name.is_empty() { name } else { own.overflow };
    let is_marker = [own.call, own.engine, own.trace].contains(&key.stage) || key.stage.is_empty();
    KeyIds {
        tenant: key.tenant,
        model: own.overflow,
        version: NameId::EMPTY,
        service: some(key.service),
        stage: if is_marker { key.stage } else { own.none },
        device: some(key.device),
    }
}
