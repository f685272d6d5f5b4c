//! The insights, by id and in order of when they opened.

use std::{collections::BTreeSet, sync::Arc};

use hashbrown::HashMap;
use infertrace_schemas::{
    avro::{Insight, InsightState, Severity, Standing, Triage},
    triage::TriageBoard,
};

pub use super::positions::{Place, Positions};

/// Revisions whose times are kept; past it the second oldest goes, so that the first and the latest stay.
const MOST_REVISIONS: usize = 64;
/// What an insight takes besides its text, about: indexes, strings' headers.
const OVERHEAD: usize = 768;

/// One step in an insight's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Its number.
    pub revision: i32,
    /// State it brought.
    pub state: InsightState,
    /// Severity it brought.
    pub severity: Severity,
    /// Window that it is about.
    pub window_start_ns: i64,
    /// End of it.
    pub window_end_ns: i64,
    /// Time of its record, milliseconds since 1970: the end of its window in event time.
    pub recorded_ms: i64,
}

/// An insight as of its latest revision, and how it came there.
#[derive(Clone, Debug)]
pub struct Held {
    /// Latest revision.
    pub insight: Insight,
    /// Earliest first.
    pub revisions: Vec<Revision>,
    /// Start of the first window that showed it.
    pub first_window_ns: i64,
    /// Where the latest revision stands in the log.
    pub place: Place,
    /// Time of its record, milliseconds since 1970: the end of its window in event time.
    pub recorded_ms: i64,
    /// What people decided about it.
    pub triage: Option<Arc<Triage>>,
    /// Where the latest decision stands, one that took the decision back included.
    pub(super) decision_offset: Option<u64>,
    bytes: usize,
}

impl Held {
    /// Whether it goes on.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.insight.state != InsightState::Resolved
    }

    /// From the first window to the end: where an open one ends is not known yet.
    #[must_use]
    pub fn life(&self) -> (i64, i64) {
        let insight = &self.insight;
        let end = if self.is_open() {
            i64::MAX
        } else {
            insight.resolved_unix_nanos.unwrap_or(insight.window_end_unix_nanos)
        };
        (self.first_window_ns.min(insight.opened_unix_nanos), end)
    }

    /// Where it stands with people at `now_ms`, milliseconds since 1970.
    #[must_use]
    pub fn standing(&self, now_ms: i64) -> Standing {
        self.triage.as_ref().map_or(Standing::Open, |triage| {
            let is_end = |one: &Revision| {
                one.state == InsightState::Resolved && one.recorded_ms >= triage.decided_ms()
            };
            triage.standing(self.insight.severity, self.revisions.iter().any(is_end), now_ms)
        })
    }

    /// Whether it is over: by what its detector finds, or by what people say.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        // Only a mute depends on the time.
        !self.is_open() || self.standing(0) == Standing::Resolved
    }

    /// The same with another decision about it.
    #[must_use]
    pub fn decided(&self, offset: u64, triage: Option<Arc<Triage>>) -> Self {
        Self { triage, decision_offset: Some(offset), ..self.clone() }
    }

    fn overlaps(&self, start_ns: i64, end_ns: i64) -> bool {
        let (from, until) = self.life();
        from < end_ns && until >= start_ns
    }
}

/// Which insights are meant; absent filters match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InsightFilter {
    /// Model, exact.
    pub model: Option<String>,
    /// Tenant, exact.
    pub tenant: Option<String>,
    /// Kind, exact.
    pub kind: Option<String>,
    /// Severity, exact.
    pub severity: Option<Severity>,
    /// Only those that go on, or only those that are resolved, by their detector or by people.
    pub open: Option<bool>,
    /// Alive at or after it.
    pub start_ns: Option<i64>,
    /// Alive before it.
    pub end_ns: Option<i64>,
}

impl InsightFilter {
    /// Whether `held` is meant.
    #[must_use]
    pub fn matches(&self, held: &Held) -> bool {
        let insight = &held.insight;
        let is = |wanted: &Option<String>, text: &str| wanted.as_deref().is_none_or(|wanted| wanted == text);
        is(&self.model, &insight.model)
            && is(&self.tenant, &insight.tenant)
            && is(&self.kind, &insight.kind)
            && self.severity.is_none_or(|severity| severity == insight.severity)
            && self.open.is_none_or(|open| open != held.is_settled())
            && held.overlaps(self.start_ns.unwrap_or(i64::MIN), self.end_ns.unwrap_or(i64::MAX))
    }
}

/// A trace, as far as insights may be about it.
#[derive(Clone, Debug, Default)]
pub struct TraceFacts<'a> {
    /// Hexadecimal.
    pub trace_id: String,
    /// Models that took part.
    pub models: Vec<&'a str>,
    /// Services that took part.
    pub services: Vec<&'a str>,
    /// Start, nanoseconds since 1970.
    pub start_ns: i64,
    /// End.
    pub end_ns: i64,
}

impl TraceFacts<'_> {
    /// Whether the trace is named as an example.
    #[must_use]
    pub fn is_example_of(&self, insight: &Insight) -> bool {
        insight.example_traces.contains(&self.trace_id)
    }

    fn may_show(&self, held: &Held) -> bool {
        let insight = &held.insight;
        if self.is_example_of(insight) {
            return true;
        }
        // An insight about neither, such as one about a device, matches by its examples alone.
        let is_about = !insight.model.is_empty() || !insight.service.is_empty();
        let names = |known: &[&str], name: &str| name.is_empty() || known.contains(&name);
        is_about
            && names(&self.models, &insight.model)
            && names(&self.services, &insight.service)
            && !insight.normal_traces.contains(&self.trace_id)
            && held.overlaps(self.start_ns, self.end_ns.saturating_add(1))
    }
}

/// A place in the list, newest first: (opened, id).
pub type ListPlace = (i64, Arc<str>);

/// Open insights by severity, but for those that people resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenCounts {
    /// Severity PAGE.
    pub page: usize,
    /// Severity WARNING.
    pub warning: usize,
    /// Severity INFO.
    pub info: usize,
    /// Muted ones, which are in none of the others.
    pub muted: usize,
}

/// The insights.
#[derive(Default)]
pub struct Store {
    by_id: HashMap<Arc<str>, Arc<Held>>,
    /// In the order of the list, reversed.
    by_opened: BTreeSet<ListPlace>,
    /// Open ones by the time of their last record.
    open_by_age: BTreeSet<(i64, Arc<str>)>,
    /// Resolved ones by the time of their last record.
    resolved_by_age: BTreeSet<(i64, Arc<str>)>,
    board: TriageBoard,
    positions: Positions,
    bytes: usize,
    evicted: u64,
}

impl Store {
    /// Takes a revision in; `None` when a revision as high is there.
    pub fn apply(
        &mut self,
        insight: Insight,
        place: Place,
        recorded_ms: i64,
        encoded_bytes: usize,
    ) -> Option<Arc<Held>> {
        let id: Arc<str> = insight.id.as_str().into();
        let known = self.by_id.get(&id);
        if known.is_some_and(|known| known.insight.revision >= insight.revision) {
            return None;
        }
        let mut revisions = known.map(|known| known.revisions.clone()).unwrap_or_default();
        if revisions.len() >= MOST_REVISIONS {
            revisions.remove(1);
        }
        revisions.push(Revision {
            revision: insight.revision,
            state: insight.state,
            severity: insight.severity,
            window_start_ns: insight.window_start_unix_nanos,
            window_end_ns: insight.window_end_unix_nanos,
            recorded_ms,
        });
        let first_window_ns = known.map_or(insight.window_start_unix_nanos, |known| {
            known.first_window_ns.min(insight.window_start_unix_nanos)
        });
        let bytes = 2 * encoded_bytes + revisions.len() * size_of::<Revision>() + OVERHEAD;
        self.remove(&id);
        let opened = insight.opened_unix_nanos;
        let triage = self.board.get(&id).cloned();
        let decision_offset = self.board.offset(&id);
        let held = Arc::new(Held {
            insight,
            revisions,
            first_window_ns,
            place,
            recorded_ms,
            triage,
            decision_offset,
            bytes,
        });
        self.by_opened.insert((opened, Arc::clone(&id)));
        self.ages(held.is_open()).insert((recorded_ms, Arc::clone(&id)));
        self.bytes += bytes;
        self.by_id.insert(id, Arc::clone(&held));
        Some(held)
    }

    /// Takes in the decision at `offset` about insight `id`, or that it was taken back; the insight, if it is held.
    pub fn decide(&mut self, id: &str, offset: u64, triage: Option<Triage>) -> Option<Arc<Held>> {
        self.positions.pass_decision(offset);
        if !self.board.take(id, offset, triage) {
            return None;
        }
        let held = self.by_id.get_mut(id)?;
        *held = Arc::new(held.decided(offset, self.board.get(id).cloned()));
        Some(Arc::clone(held))
    }

    fn ages(&mut self, open: bool) -> &mut BTreeSet<(i64, Arc<str>)> {
        if open { &mut self.open_by_age } else { &mut self.resolved_by_age }
    }

    fn remove(&mut self, id: &str) {
        let Some((id, held)) = self.by_id.remove_entry(id) else { return };
        self.bytes -= held.bytes;
        self.by_opened.remove(&(held.insight.opened_unix_nanos, Arc::clone(&id)));
        self.ages(held.is_open()).remove(&(held.recorded_ms, id));
    }

    /// Everything up to `place` is part of the state.
    pub fn moved_to(&mut self, place: Place) {
        self.positions.pass(place);
    }

    /// The state's name.
    #[must_use]
    pub const fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Insights whose latest revision or decision is not part of the state `since`, in the order they were written.
    #[must_use]
    pub fn changed_since(&self, since: &Positions) -> Vec<Arc<Held>> {
        let mut changed: Vec<_> = self.by_id.values().filter(|held| !since.includes(held)).cloned().collect();
        changed.sort_by_key(|held| (held.recorded_ms, held.place.partition, held.place.offset));
        changed
    }

    /// Lets go of insights whose last record is older.
    pub fn forget_before(&mut self, oldest_ms: i64) {
        for open in [true, false] {
            while let Some((recorded_ms, id)) = self.ages(open).first().cloned()
                && recorded_ms < oldest_ms
            {
                self.remove(&id);
            }
        }
    }

    /// Lets go of insights until they take `max_bytes` at most.
    pub fn shrink_to(&mut self, max_bytes: usize) {
        while self.bytes > max_bytes {
            let oldest = self.resolved_by_age.first().or_else(|| self.open_by_age.first()).cloned();
            let Some((_, id)) = oldest else { return };
            self.remove(&id);
            self.evicted += 1;
        }
    }

    /// One insight.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Held>> {
        self.by_id.get(id).cloned()
    }

    /// At most `limit` insights after `after`, the latest opened first; and whether there are more.
    #[must_use]
    pub fn list(
        &self,
        filter: &InsightFilter,
        after: Option<&ListPlace>,
        limit: usize,
    ) -> (Vec<Arc<Held>>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let range = (Unbounded, after.map_or(Unbounded, Excluded));
        let mut matching = self
            .by_opened
            .range::<ListPlace, _>(range)
            .rev()
            .filter_map(|(_, id)| self.by_id.get(id))
            .filter(|held| filter.matches(held));
        let page: Vec<_> = matching.by_ref().take(limit).cloned().collect();
        (page, matching.next().is_some())
    }

    /// Insights that may be about a trace: those that name it first, then by severity, the latest opened first.
    #[must_use]
    pub fn about(&self, trace: &TraceFacts<'_>, most: usize) -> Vec<Arc<Held>> {
        let mut found: Vec<_> = self.by_id.values().filter(|held| trace.may_show(held)).cloned().collect();
        found.sort_by_cached_key(|held| {
            let insight = &held.insight;
            std::cmp::Reverse((
                trace.is_example_of(insight),
                insight.severity,
                insight.opened_unix_nanos,
                insight.id.clone(),
            ))
        });
        found.truncate(most);
        found
    }

    /// Open insights by severity at `now_ms`, milliseconds since 1970.
    #[must_use]
    pub fn open_counts(&self, now_ms: i64) -> OpenCounts {
        let mut counts = OpenCounts::default();
        for held in self.open_by_age.iter().filter_map(|(_, id)| self.by_id.get(id)) {
            match (held.standing(now_ms), held.insight.severity) {
                (Standing::Resolved, _) => {}
                (Standing::Muted, _) => counts.muted += 1,
                (_, Severity::Page) => counts.page += 1,
                (_, Severity::Warning) => counts.warning += 1,
                (_, Severity::Info) => counts.info += 1,
            }
        }
        counts
    }

    /// Insights held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Of them open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open_by_age.len()
    }

    /// Memory, about.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many left for lack of memory.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests;
