//! What earlier runs have reported of the records that are read again after a restart.
//!
//! A restart reads from the first record of the oldest trace that could still change. Among the records after it are
//! spans of traces that were reported already, some of which began before that position. The summaries in the
//! output topic carry their source ranges, so they say which spans and versions those are; nothing else needs storing.

use hashbrown::HashMap;

/// A summary found in the output topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Trace id.
    pub trace_id: [u8; 16],
    /// Tenant.
    pub tenant: Box<str>,
    /// First record it covers, which with the trace id identifies the assembly.
    pub first_offset: u64,
    /// Last record it covers.
    pub last_offset: u64,
    /// Version.
    pub version: i32,
}

/// Where to go on, and what is reported already.
#[derive(Clone, Debug, Default)]
pub struct Resume {
    /// First record to read.
    pub from: u64,
    reported: HashMap<[u8; 16], Vec<Reported>, ahash::RandomState>,
    last_offset: u64,
}

impl Resume {
    /// Goes on at `from`, knowing what earlier runs reported.
    #[must_use]
    pub fn new(from: u64, found: impl IntoIterator<Item = Reported>) -> Self {
        let mut resume = Self { from, ..Self::default() };
        for found in found {
            if found.last_offset < from {
                continue;
            }
            resume.last_offset = resume.last_offset.max(found.last_offset);
            let known = resume.reported.entry(found.trace_id).or_default();
            let same = known
                .iter_mut()
                .find(|known| known.first_offset == found.first_offset && known.tenant == found.tenant);
            match same {
                Some(same) if same.version < found.version => *same = found,
                Some(_) => {}
                None => known.push(found),
            }
        }
        resume
    }

    /// Whether everything reported is behind.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.reported.is_empty()
    }

    /// Forgets everything once records up to `offset` are not needed any more.
    pub fn forget_before(&mut self, offset: u64) {
        if !self.is_done() && offset > self.last_offset {
            self.reported = HashMap::default();
        }
    }

    fn of<'a>(&'a self, trace_id: &[u8; 16], tenant: &'a str) -> impl Iterator<Item = &'a Reported> {
        self.reported.get(trace_id).into_iter().flatten().filter(move |found| *found.tenant == *tenant)
    }

    /// Whether a span in record `offset` belongs to an assembly that began before [`Resume::from`]: it is
    /// reported, and the assembly cannot be rebuilt.
    #[must_use]
    pub fn was_reported(&self, trace_id: &[u8; 16], tenant: &str, offset: u64) -> bool {
        self.of(trace_id, tenant).any(|found| found.first_offset < self.from && offset <= found.last_offset)
    }

    /// Whether an assembly of this trace began with record `offset`.
    #[must_use]
    pub fn starts_at(&self, trace_id: &[u8; 16], tenant: &str, offset: u64) -> bool {
        self.of(trace_id, tenant).any(|found| found.first_offset == offset)
    }

    /// Whether an assembly of these records is reported already; its version is then the reported one at most.
    /// Otherwise the version is set past the reported one.
    pub fn take_version(
        &self,
        trace_id: &[u8; 16],
        tenant: &str,
        (first_offset, last_offset): (u64, u64),
        version: &mut i32,
    ) -> bool {
        let Some(found) = self.of(trace_id, tenant).find(|found| found.first_offset == first_offset) else {
            return false;
        };
        if last_offset > found.last_offset {
            *version = (*version).max(found.version + 1);
            return false;
        }
        if last_offset == found.last_offset {
            *version = found.version;
        }
        true
    }
}
