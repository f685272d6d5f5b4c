//! The sightings of one key, and what they say together.

use std::{collections::BTreeMap, sync::Arc};

use super::{Link, LinkKind, Role, Sighting, StitchKey};
use crate::rollup::Millis;

/// An engine's clock may differ from its caller's by so much.
const CLOCK_SLACK_NS: i64 = 1_000_000_000;

/// One key's sightings, open or remembered.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// In the order in which groups were opened.
    pub(super) number: u64,
    pub(super) opened_ms: Millis,
    /// When it is told, or, once told, forgotten.
    pub(super) due_ms: Millis,
    pub(super) is_told: bool,
    pub(super) versions: u32,
    pub(super) omitted: u32,
    /// By start, trace and span, each span once.
    pub(super) members: Vec<Sighting>,
}

impl Group {
    pub(super) const fn new(number: u64, at_ms: Millis) -> Self {
        Self {
            number,
            opened_ms: at_ms,
            due_ms: at_ms,
            is_told: false,
            versions: 0,
            omitted: 0,
            members: Vec::new(),
        }
    }

    /// Adds a sighting; `false` if it is known, or if there is no room.
    pub(super) fn add(&mut self, sighting: Sighting, max_members: usize) -> bool {
        let same = |one: &Sighting| one.span_id == sighting.span_id && one.trace_id == sighting.trace_id;
        if let Some(known) = self.members.iter().position(same) {
            // Of two that differ the greater one stays, whichever came first.
            if self.members[known] >= sighting {
                return false;
            }
            self.members.remove(known);
        } else if self.members.len() >= max_members.max(1) {
            self.omitted = self.omitted.saturating_add(1);
            return false;
        }
        if self.members.capacity() == 0 {
            // Most requests are seen once, and all are remembered for a while.
            self.members.reserve_exact(1);
        }
        let at = self.members.partition_point(|one| *one < sighting);
        self.members.insert(at, sighting);
        true
    }

    pub(super) fn has(&self, wanted: impl Fn(Role) -> bool) -> bool {
        self.members.iter().any(|member| wanted(member.role))
    }

    /// Whether caller and engine are both there, so that nobody has to be waited for.
    pub(super) fn is_joined(&self) -> bool {
        self.has(|role| role == Role::Engine) && self.has(|role| role != Role::Engine)
    }

    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.members.iter().map(Sighting::bytes).sum::<usize>()
    }

    /// What the group says. `is_expected` answers whether a caller's requests are otherwise reported by an engine.
    pub(super) fn links(
        &self,
        key: &StitchKey,
        is_expected: impl Fn(&Sighting) -> bool,
    ) -> (Vec<Link>, Unidentified) {
        match key {
            StitchKey::Request(request) => (self.of_request(request, is_expected).into_iter().collect(), 0),
            StitchKey::Trace(_) => self.of_trace(is_expected),
        }
    }

    fn of_request(&self, request: &Arc<str>, is_expected: impl Fn(&Sighting) -> bool) -> Option<Link> {
        let first = self.members.first()?;
        let engines = self.members.iter().filter(|member| member.role == Role::Engine).count();
        let is_apart = self.members.iter().any(|member| member.trace_id != first.trace_id);
        let kind = if engines == 0 && self.omitted == 0 && self.members.iter().any(is_expected) {
            LinkKind::Unreported
        } else if is_apart || engines > 1 || self.versions > 0 {
            LinkKind::Linked
        } else {
            return None;
        };
        Some(self.link(Arc::clone(request), kind, false, self.members.clone()))
    }

    /// Callers without a request id, and the engine spans of their trace that belong to nobody else.
    fn of_trace(&self, is_expected: impl Fn(&Sighting) -> bool) -> (Vec<Link>, Unidentified) {
        let is_claimed = |request: &str| {
            let claims = |one: &Sighting| one.role != Role::Engine && &*one.request == request;
            !request.is_empty() && self.members.iter().any(claims)
        };
        // Sequences of one request go together; an engine span without an id stands for itself.
        let mut free: BTreeMap<(i64, Arc<str>, [u8; 8]), Vec<Sighting>> = BTreeMap::new();
        let mut starts: BTreeMap<Arc<str>, (i64, [u8; 8])> = BTreeMap::new();
        for engine in self.members.iter().filter(|one| one.role == Role::Engine && !is_claimed(&one.request))
        {
            let own = (engine.start_ns, engine.span_id);
            let (start, span) = if engine.request.is_empty() {
                own
            } else {
                *starts.entry(Arc::clone(&engine.request)).or_insert(own)
            };
            free.entry((start, Arc::clone(&engine.request), span)).or_default().push(engine.clone());
        }
        let (mut links, mut unidentified) = (Vec::new(), 0);
        for caller in self.members.iter().filter(|one| one.role != Role::Engine && one.request.is_empty()) {
            let began_within = |start: i64| {
                start >= caller.start_ns.saturating_sub(CLOCK_SLACK_NS)
                    && start <= caller.end_ns.saturating_add(CLOCK_SLACK_NS)
            };
            let found = free.keys().find(|(start, _, _)| began_within(*start)).cloned();
            let mut members = vec![caller.clone()];
            if let Some(found) = found {
                members.extend(free.remove(&found).unwrap_or_default());
                members.sort();
                links.push(self.link(found.1, LinkKind::Linked, true, members));
            } else if caller.is_error && self.omitted == 0 && is_expected(caller) {
                links.push(self.link("".into(), LinkKind::Unreported, false, members));
            } else if !caller.is_error {
                unidentified += 1;
            }
        }
        (links, unidentified)
    }

    fn link(&self, request: Arc<str>, kind: LinkKind, is_by_trace: bool, members: Vec<Sighting>) -> Link {
        let said = |wanted: fn(Role) -> bool| {
            members.iter().filter(move |one| wanted(one.role) && !one.model.is_empty())
        };
        let model = said(|role| role == Role::Client)
            .chain(said(|role| role == Role::Proxy))
            .chain(said(|role| role == Role::Engine))
            .next();
        let engine_prompts =
            || members.iter().filter(|one| one.role == Role::Engine).filter_map(|one| one.prompt_tokens);
        let prompt_tokens =
            engine_prompts().max().or_else(|| members.iter().filter_map(|one| one.prompt_tokens).max());
        let all: u64 = engine_prompts().fold(0, u64::saturating_add);
        Link {
            tenant: members.first().map_or_else(|| "".into(), |one| Arc::clone(&one.tenant)),
            request,
            version: self.versions + 1,
            kind,
            is_by_trace,
            model: model.map_or_else(|| "".into(), |one| Arc::clone(&one.model)),
            prompt_tokens,
            repeated_prompt_tokens: all.saturating_sub(engine_prompts().max().unwrap_or(0)),
            members,
            omitted_members: self.omitted,
        }
    }
}

/// Callers without an id that succeeded: an engine may well have reported them, under an id that they do not tell.
pub(super) type Unidentified = u64;
