//! What people decided about an insight, and what follows from it.
//!
//! An insight is a function of the log and says what was measured; this says what people make of it, in a topic of its
//! own, so that a replay repeats the one and leaves the other alone.

use serde::{Deserialize, Serialize};

use super::Severity;

/// What people say of an insight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TriageStatus {
    /// Nothing yet.
    #[default]
    Open,
    /// Somebody is on it.
    Acknowledged,
    /// It is over as far as people are concerned.
    Resolved,
}

/// The decision about one insight (`triage.v1.avsc`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Triage {
    pub insight_id: String,
    pub status: TriageStatus,
    pub muted_until_unix_nanos: Option<i64>,
    pub severity: Severity,
    pub decided_unix_nanos: i64,
    pub author: String,
    pub note: String,
}

/// Where an insight stands with people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It waits for somebody.
    #[default]
    Open,
    /// Somebody is on it.
    Acknowledged,
    /// Nobody is told of it for a while.
    Muted,
    /// It is over as far as people are concerned; nobody is told of it.
    Resolved,
}

impl Standing {
    /// Whether targets are told nothing of the insight.
    #[must_use]
    pub const fn is_silent(self) -> bool {
        matches!(self, Self::Muted | Self::Resolved)
    }
}

impl Triage {
    /// Where an insight of `severity` stands at `now_ms`, milliseconds since 1970.
    ///
    /// What was decided holds up to the severity it was decided at: what gets worse is told again. `has_ended` says that the
    /// detector found the insight over since then: if it is back after that, what people said of it before is void but for
    /// a mute, which has an end of its own.
    #[must_use]
    pub fn standing(&self, severity: Severity, has_ended: bool, now_ms: i64) -> Standing {
        let holds = severity <= self.severity;
        let muted_until_ms = self.muted_until_unix_nanos.map(|until| until.div_euclid(1_000_000));
        match self.status {
            TriageStatus::Resolved if holds && !has_ended => Standing::Resolved,
            _ if holds && muted_until_ms.is_some_and(|until| now_ms < until) => Standing::Muted,
            TriageStatus::Acknowledged if !has_ended => Standing::Acknowledged,
            _ => Standing::Open,
        }
    }

    /// When it was decided, milliseconds since 1970.
    #[must_use]
    pub const fn decided_ms(&self) -> i64 {
        self.decided_unix_nanos.div_euclid(1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn triage(status: TriageStatus, muted_until_ms: Option<i64>) -> Triage {
        Triage {
            status,
            muted_until_unix_nanos: muted_until_ms.map(|ms| ms * 1_000_000),
            severity: Severity::Warning,
            ..Triage::default()
        }
    }

    /// Scenario: each decision about a warning, looked at before and after a mute ends, at a higher severity, and after the
    /// insight was over once. Guarantee: a mute ends by itself; neither it nor a resolution covers what got worse; what is
    /// back after it was over is open again.
    #[test]
    fn a_decision_holds_as_far_as_it_was_meant() {
        use Severity::{Info, Page, Warning};
        use Standing::{Acknowledged, Muted, Open, Resolved};
        let muted = triage(TriageStatus::Open, Some(100));
        let acknowledged = triage(TriageStatus::Acknowledged, None);
        let both = triage(TriageStatus::Acknowledged, Some(100));
        let resolved = triage(TriageStatus::Resolved, None);
        for (decision, severity, has_ended, now_ms, standing) in [
            (&muted, Warning, false, 99, Muted),
            (&muted, Info, false, 99, Muted),
            (&muted, Warning, true, 99, Muted),
            (&muted, Warning, false, 100, Open),
            (&muted, Page, false, 99, Open),
            (&acknowledged, Page, false, 0, Acknowledged),
            (&acknowledged, Warning, true, 0, Open),
            (&both, Warning, false, 99, Muted),
            (&both, Page, false, 99, Acknowledged),
            (&both, Warning, false, 100, Acknowledged),
            (&resolved, Warning, false, i64::MAX, Resolved),
            (&resolved, Page, false, 0, Open),
            (&resolved, Warning, true, 0, Open),
        ] {
            assert_eq!(decision.standing(severity, has_ended, now_ms), standing, "{decision:?} {severity:?}");
        }
        assert!(Muted.is_silent() && Resolved.is_silent() && !Acknowledged.is_silent());
    }
}
