//! Groups sightings in event time and tells links, in bounded state.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::HashMap;

use super::{Link, LinkKind, Role, Sighting, StitchKey, group::Group};
use crate::rollup::Millis;

/// How requests are stitched. Times are event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StitchConfig {
    /// How long a caller's sighting waits for the engine's, counted from the first sighting of the request.
    pub window_ms: Millis,
    /// What is joined is told so long after its last sighting.
    pub idle_ms: Millis,
    /// What was told is remembered so long for late sightings, which make another version.
    pub late_ms: Millis,
    /// How long it is expected that an engine reports a caller's requests, after it did for one.
    pub expect_ms: Millis,
    /// Groups held at most.
    pub max_groups: usize,
    /// Bytes held at most.
    pub max_bytes: usize,
    /// Spans of one request at most.
    pub max_members: usize,
    /// Callers (service and model) of which it is remembered that an engine reports them.
    pub max_callers: usize,
}

impl StitchConfig {
    /// How far before a time sightings have to be read again to have the state of that time: what is held then, what
    /// was joined while that still counts, and, twice, the life of a group, so that a group whose beginning is missed is
    /// forgotten in time.
    #[must_use]
    pub const fn memory_ms(&self) -> Millis {
        let life_ms = self.window_ms.saturating_add(self.idle_ms).saturating_add(self.late_ms);
        self.expect_ms.saturating_add(life_ms.saturating_mul(2))
    }
}

impl Default for StitchConfig {
    fn default() -> Self {
        Self {
            window_ms: 30_000,
            idle_ms: 5_000,
            late_ms: 30_000,
            expect_ms: 300_000,
            max_groups: 500_000,
            max_bytes: 128 << 20,
            max_members: 64,
            max_callers: 10_000,
        }
    }
}

/// What has been done, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StitchStats {
    /// Sightings taken.
    pub sightings: u64,
    /// Links told, later versions included.
    pub linked: u64,
    /// Unreported requests told.
    pub unreported: u64,
    /// Callers without an id that succeeded, so that no engine's span can be told to be theirs.
    pub unidentified: u64,
    /// Open groups that a bound closed early; they are told as far as they go, never as unreported.
    pub evicted: u64,
    /// Sightings left out of a group that is full.
    pub omitted: u64,
}

type GroupKey = (Arc<str>, StitchKey);
/// Tenant, service and model of a caller; of a failed call the model does not count.
type Caller = (Arc<str>, Arc<str>, Arc<str>);

/// Groups sightings by key and tells links.
#[derive(Debug)]
pub struct Stitcher {
    config: StitchConfig,
    watermark_ms: Millis,
    groups: HashMap<GroupKey, Group>,
    /// Every group by the time at which something happens to it, and its number.
    due: BTreeMap<(Millis, u64), GroupKey>,
    /// Of the next group.
    next_number: u64,
    bytes: usize,
    /// When an engine's span was last joined to a caller's.
    reported: BTreeMap<Caller, Millis>,
    stats: StitchStats,
}

impl Stitcher {
    /// Without any sighting.
    #[must_use]
    pub fn new(config: StitchConfig) -> Self {
        Self {
            config,
            watermark_ms: Millis::MIN,
            groups: HashMap::new(),
            due: BTreeMap::new(),
            next_number: 0,
            bytes: 0,
            reported: BTreeMap::new(),
            stats: StitchStats::default(),
        }
    }

    /// The highest time seen.
    #[must_use]
    pub const fn watermark_ms(&self) -> Millis {
        self.watermark_ms
    }

    /// Counts so far.
    #[must_use]
    pub const fn stats(&self) -> StitchStats {
        self.stats
    }

    /// Groups and bytes held.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        (self.groups.len(), self.bytes)
    }

    /// Moves event time on and tells what is due; to be called before the sightings of a record of that time. Of a great
    /// many that are due at once, as after a silence, the rest is told at the next calls.
    pub fn advance(&mut self, to_ms: Millis, out: &mut Vec<Link>) {
        self.watermark_ms = self.watermark_ms.max(to_ms);
        let enough = out.len() + TOLD_AT_ONCE;
        while out.len() < enough
            && self.due.first_key_value().is_some_and(|((due_ms, _), _)| *due_ms <= self.watermark_ms)
        {
            let Some((_, key)) = self.due.pop_first() else { break };
            let Some(group) = self.groups.get(&key) else { continue };
            if group.is_told {
                self.forget(&key);
            } else {
                self.tell(&key, out);
            }
        }
    }

    /// Takes a sighting under one of its [`Sighting::keys`], at the time of the last [`Self::advance`].
    pub fn sighting(&mut self, key: StitchKey, sighting: Sighting, out: &mut Vec<Link>) {
        self.stats.sightings += 1;
        let key: GroupKey = (Arc::clone(&sighting.tenant), key);
        let now_ms = self.watermark_ms;
        let group = self.groups.entry(key.clone()).or_insert_with(|| {
            self.bytes += group_overhead(&key);
            self.next_number += 1;
            Group::new(self.next_number, now_ms)
        });
        let (before, omitted) = (group.bytes(), group.omitted);
        let is_new_group = group.members.is_empty();
        if is_new_group {
            self.bytes += before;
        }
        let is_changed = group.add(sighting, self.config.max_members);
        self.bytes = (self.bytes + group.bytes()).saturating_sub(before);
        self.stats.omitted += u64::from(group.omitted - omitted);
        if is_changed {
            group.is_told = false;
            let joined = group.is_joined();
            let window_ends_ms = group.opened_ms.saturating_add(self.config.window_ms).max(now_ms);
            let idle_ms = now_ms.saturating_add(self.config.idle_ms);
            // A caller without an id may have its engine's span beside it and still be another's.
            let waits = !joined || matches!(key.1, StitchKey::Trace(_));
            let due_ms = if waits { window_ends_ms.max(idle_ms) } else { idle_ms };
            if is_new_group || due_ms != group.due_ms {
                let known = (!is_new_group).then(|| self.due.remove(&(group.due_ms, group.number))).flatten();
                group.due_ms = due_ms;
                self.due.insert((due_ms, group.number), known.unwrap_or_else(|| key.clone()));
            }
            if joined && matches!(key.1, StitchKey::Request(_)) {
                self.expect(&key);
            }
        }
        self.keep_bounds(out);
    }

    /// Tells everything held, as if time went on without end.
    pub fn finish(&mut self, out: &mut Vec<Link>) {
        while !self.due.is_empty() {
            self.advance(Millis::MAX, out);
        }
    }

    /// Remembers that engines report what the callers of this group ask.
    fn expect(&mut self, key: &GroupKey) {
        let Some(group) = self.groups.get(key) else { return };
        for caller in group.members.iter().filter(|one| one.role != Role::Engine) {
            for model in [&caller.model, &Arc::from("")] {
                let caller = (Arc::clone(&caller.tenant), Arc::clone(&caller.service), Arc::clone(model));
                self.reported.insert(caller, self.watermark_ms);
            }
        }
        if self.reported.len() > self.config.max_callers {
            let horizon_ms = self.watermark_ms.saturating_sub(self.config.expect_ms);
            self.reported.retain(|_, at_ms| *at_ms >= horizon_ms);
            while self.reported.len() > self.config.max_callers {
                let oldest = self.reported.iter().min_by_key(|(caller, at_ms)| (**at_ms, *caller));
                let Some((oldest, _)) = oldest.map(|(caller, at_ms)| (caller.clone(), *at_ms)) else { break };
                self.reported.remove(&oldest);
            }
        }
    }

    fn tell(&mut self, key: &GroupKey, out: &mut Vec<Link>) {
        let horizon_ms = self.watermark_ms.saturating_sub(self.config.expect_ms);
        let reported = &self.reported;
        let is_expected = |caller: &Sighting| {
            let model = if caller.is_error { Arc::from("") } else { Arc::clone(&caller.model) };
            let caller = (Arc::clone(&caller.tenant), Arc::clone(&caller.service), model);
            // Without a horizon that is reached, as at the end of all time, every join counts.
            reported
                .get(&caller)
                .is_some_and(|at_ms| *at_ms >= horizon_ms || self.watermark_ms == Millis::MAX)
        };
        let Some(group) = self.groups.get_mut(key) else { return };
        let (links, unidentified) = group.links(&key.1, is_expected);
        if !links.is_empty() {
            group.versions += 1;
        }
        group.is_told = true;
        group.due_ms = group.due_ms.saturating_add(self.config.late_ms);
        self.due.insert((group.due_ms, group.number), key.clone());
        self.stats.unidentified += unidentified;
        self.count(&links);
        out.extend(links);
    }

    fn count(&mut self, links: &[Link]) {
        let unreported = links.iter().filter(|link| link.kind == LinkKind::Unreported).count() as u64;
        self.stats.unreported += unreported;
        self.stats.linked += links.len() as u64 - unreported;
    }

    fn forget(&mut self, key: &GroupKey) {
        if let Some(group) = self.groups.remove(key) {
            self.due.remove(&(group.due_ms, group.number));
            self.bytes = self.bytes.saturating_sub(group.bytes() + group_overhead(key));
        }
    }

    /// Past a bound, what was told is forgotten first, soonest due first; then what is open is told early, soonest due
    /// first, but never as unreported: its engine's span may still come.
    fn keep_bounds(&mut self, out: &mut Vec<Link>) {
        while self.groups.len() > self.config.max_groups || self.bytes > self.config.max_bytes {
            let is_told = |key: &GroupKey| self.groups.get(key).is_some_and(|group| group.is_told);
            // Told groups are due `late_ms` after they were told, so the soonest are near the front.
            let told = self.due.values().take(EVICTION_LOOK).find(|key| is_told(key));
            let Some(key) = told.or_else(|| self.due.values().next()).cloned() else { return };
            if let Some(group) = self.groups.get(&key).filter(|group| !group.is_told) {
                self.stats.evicted += 1;
                let (links, _) = group.links(&key.1, |_| false);
                self.count(&links);
                out.extend(links);
            }
            self.forget(&key);
        }
    }
}

/// Links told by one [`Stitcher::advance`] before it stops: they go out in one transaction, of about a kilobyte each.
const TOLD_AT_ONCE: usize = 4_096;

/// Groups looked at for one that was told already, before an open one is evicted.
const EVICTION_LOOK: usize = 64;

/// What a group takes besides its members: twice its key, and the nodes of map and set.
fn group_overhead((tenant, key): &GroupKey) -> usize {
    let key = match key {
        StitchKey::Request(request) => request.len(),
        StitchKey::Trace(_) => 0,
    };
    tenant.len() + key + 2 * size_of::<GroupKey>() + 48
}
