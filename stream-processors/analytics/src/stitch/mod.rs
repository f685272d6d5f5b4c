//! Brings together what client, proxy and engine say of one request when they say it in separate traces.
//!
//! Whoever sees a request makes a [`Sighting`] of its span; [`Stitcher`] groups sightings by request id, within a
//! window of event time, and tells a [`Link`] where several traces show one request, where an engine reports
//! several sequences of one prompt, and where a caller saw a request that no engine ever reported. `id` holds the
//! rule by which ids of the three are compared.
//!
//! Invariants: nothing is merged, links only point; what is told is a function of the sightings' order and of event
//! time alone; a request counts as unreported only where this caller's requests are otherwise reported; state is
//! bounded, and what a bound cuts off is never told as missing.

mod group;
mod id;
mod stitcher;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use id::{normalized, response_id_of};
pub use stitcher::{StitchConfig, StitchStats, Stitcher};

/// Who saw a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The program that asked.
    Client,
    /// Something between, which asks on another's behalf.
    Proxy,
    /// What ran the model.
    Engine,
}

impl Role {
    /// The name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Proxy => "proxy",
            Self::Engine => "engine",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Client, Self::Proxy, Self::Engine].into_iter().find(|role| role.name() == name)
    }
}

/// One span in which somebody saw a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sighting {
    /// Start, nanoseconds since the epoch, by the clock of who saw it.
    pub start_ns: i64,
    /// Trace.
    pub trace_id: [u8; 16],
    /// Span.
    pub span_id: [u8; 8],
    /// Who saw it.
    pub role: Role,
    /// End.
    pub end_ns: i64,
    /// Whether it failed.
    pub is_error: bool,
    /// Whether the span has a parent, so that others may stand in its trace.
    pub has_parent: bool,
    /// Tenant.
    pub tenant: Arc<str>,
    /// Request id as [`normalized`]; empty where the span has none.
    pub request: Arc<str>,
    /// Service.
    pub service: Arc<str>,
    /// Model; empty where the span does not say.
    pub model: Arc<str>,
    /// Prompt tokens.
    pub prompt_tokens: Option<u64>,
}

/// What sightings are brought together by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StitchKey {
    /// A request id.
    Request(Arc<str>),
    /// A trace, for callers whose span has no request id because the call failed before there was one.
    Trace([u8; 16]),
}

impl Sighting {
    /// Where the sighting has to be known: under its request id, and under its trace if it has no id, or if another
    /// span of the trace may be a caller without an id.
    pub fn keys(&self) -> impl Iterator<Item = StitchKey> + '_ {
        let request = (!self.request.is_empty()).then(|| StitchKey::Request(Arc::clone(&self.request)));
        let is_lone_caller = self.request.is_empty() && self.role != Role::Engine;
        let trace = (is_lone_caller || self.has_parent).then_some(StitchKey::Trace(self.trace_id));
        request.into_iter().chain(trace)
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.request.len() + self.service.len() + self.model.len() + self.tenant.len()
    }
}

/// What a link says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkKind {
    /// Several spans show it.
    Linked,
    /// A caller saw it, no engine reported it: refused, aborted, never arrived, or not sampled.
    Unreported,
}

impl LinkKind {
    /// The name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linked => "linked",
            Self::Unreported => "unreported",
        }
    }
}

/// One version of what is known of one request. A later version of one identity replaces the earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Tenant.
    pub tenant: Arc<str>,
    /// Request id; empty where nobody knew one. Then the one caller's span identifies the request.
    pub request: Arc<str>,
    /// 1, then one more for each correction by late sightings.
    pub version: u32,
    /// What it says.
    pub kind: LinkKind,
    /// Whether the engine was found by trace and time, not by the request id.
    pub is_by_trace: bool,
    /// The callers' model; where they do not say, the engine's.
    pub model: Arc<str>,
    /// Prompt tokens, the prompt counted once however many sequences were generated from it.
    pub prompt_tokens: Option<u64>,
    /// Prompt tokens that engine spans report beyond that, because each sequence reports the whole prompt.
    pub repeated_prompt_tokens: u64,
    /// Spans, by start, trace and span.
    pub members: Vec<Sighting>,
    /// Spans left out because there were more than the bound.
    pub omitted_members: u32,
}

impl Link {
    /// Spans of a role.
    pub fn members_of(&self, role: Role) -> impl Iterator<Item = &Sighting> {
        self.members.iter().filter(move |member| member.role == role)
    }

    /// The key of its record: the request id, or trace and span of the only caller where that knew no id.
    #[must_use]
    pub fn identity(&self) -> String {
        if !self.request.is_empty() && !self.is_by_trace {
            return format!("{}/{}", self.tenant, self.request);
        }
        let caller = self.members.iter().find(|member| member.role != Role::Engine);
        let (trace, span) = caller.map_or(([0; 16], [0; 8]), |caller| (caller.trace_id, caller.span_id));
        format!("{}/{:032x}-{:016x}", self.tenant, u128::from_be_bytes(trace), u64::from_be_bytes(span))
    }
}
