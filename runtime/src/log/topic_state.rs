//! Topics as they are, beside topics as they should be: what `infertrace topics` compares.
//!
//! Invariant: an existing topic is never changed from here; a difference is named, the operator decides.

use std::{fmt, time::Duration};

use super::TopicSpec;

/// A topic as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    /// Partitions.
    pub partitions: u32,
    /// Fewest copies of any partition; `None` where the log keeps one copy by design.
    pub replication: Option<u16>,
    /// Copies that must have a record before it is acknowledged; `None` where it has no meaning.
    pub min_in_sync: Option<u16>,
    /// Age at which records may be removed; `None` keeps them.
    pub retention: Option<Duration>,
    /// Whether only the latest record a key is kept.
    pub compacted: bool,
    /// Bytes a partition keeps at most; `None` for no bound.
    pub retention_bytes: Option<u64>,
}

/// One thing in which a topic is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Topic.
    pub topic: String,
    /// What it is about.
    pub aspect: &'static str,
    /// As it should be.
    pub wanted: String,
    /// As it is.
    pub found: String,
    /// What it leads to.
    pub consequence: &'static str,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, aspect, wanted, found, consequence } = self;
        write!(f, "{topic}: {aspect} is {found}, should be {wanted}: {consequence}")
    }
}

/// Names every difference between `spec` and the topic that is there, if one is.
#[must_use]
pub fn differences(spec: &TopicSpec, found: Option<&TopicState>) -> Vec<Difference> {
    let mut list = Vec::new();
    let mut differ = |aspect, wanted: String, found: String, consequence| {
        list.push(Difference { topic: spec.name.to_string(), aspect, wanted, found, consequence });
    };
    let Some(found) = found else {
        differ("topic", "there".into(), "missing".into(), "create it with `infertrace topics create`");
        return list;
    };
    if found.partitions != spec.partitions {
        let consequence = if found.partitions < spec.partitions {
            "fewer members of a group share the work"
        } else {
            "more than configured; set `partitions` to it"
        };
        differ("partitions", spec.partitions.to_string(), found.partitions.to_string(), consequence);
    }
    if let Some(replication) = found.replication {
        if replication < spec.replication {
            let consequence = "the loss of a broker may lose acknowledged records";
            differ("replication", spec.replication.to_string(), replication.to_string(), consequence);
        }
        if replication > 1 && found.min_in_sync == Some(1) {
            let consequence = "an acknowledged record may be on one broker only";
            differ("min.insync.replicas", "2".into(), "1".into(), consequence);
        }
    }
    if found.compacted != spec.compacted {
        let policy = |compacted: bool| if compacted { "compact" } else { "delete" }.to_owned();
        let consequence = if spec.compacted {
            "state would be removed by age and a restart would begin anew"
        } else {
            "records that share a key would replace one another"
        };
        differ("cleanup.policy", policy(spec.compacted), policy(found.compacted), consequence);
    } else if !spec.compacted && is_shorter(found.retention, spec.retention) {
        let consequence = "records go before what reads them late: replay, audit, a sink that was down";
        differ("retention", age(spec.retention), age(found.retention), consequence);
    }
    if let Some(bytes) = found.retention_bytes.filter(|_| !spec.compacted) {
        let consequence = "records may go before their age";
        differ("retention.bytes", "unbounded".into(), bytes.to_string(), consequence);
    }
    list
}

fn is_shorter(found: Option<Duration>, wanted: Option<Duration>) -> bool {
    match (found, wanted) {
        (Some(found), Some(wanted)) => found < wanted,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// A retention as people write it.
#[must_use]
pub fn age(retention: Option<Duration>) -> String {
    const DAY: u64 = 86_400;
    let Some(retention) = retention else { return "for ever".to_owned() };
    match retention.as_secs() {
        0 => format!("{} ms", retention.as_millis()),
        seconds if seconds % DAY == 0 => format!("{} d", seconds / DAY),
        seconds if seconds % 3_600 == 0 => format!("{} h", seconds / 3_600),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> TopicSpec {
        TopicSpec {
            name: "t".into(),
            partitions: 8,
            retention: Some(Duration::from_secs(7 * 86_400)),
            compacted: false,
            replication: 3,
        }
    }

    fn state() -> TopicState {
        TopicState {
            partitions: 8,
            replication: Some(3),
            min_in_sync: Some(2),
            retention: Some(Duration::from_secs(7 * 86_400)),
            compacted: false,
            retention_bytes: None,
        }
    }

    fn aspects(found: &TopicState) -> Vec<&'static str> {
        differences(&spec(), Some(found)).iter().map(|difference| difference.aspect).collect()
    }

    /// Scenario: a missing topic, one that is right, one that keeps longer, and one for each thing that can be wrong.
    /// Guarantee: exactly that thing is named; more copies and longer retention than asked for are no difference.
    #[test]
    fn each_difference_is_named_once() {
        assert_eq!(differences(&spec(), None)[0].aspect, "topic");
        assert!(aspects(&state()).is_empty());
        assert!(aspects(&TopicState { retention: None, replication: Some(5), ..state() }).is_empty());
        let embedded = TopicState { replication: None, min_in_sync: None, ..state() };
        assert!(aspects(&embedded).is_empty());
        assert_eq!(aspects(&TopicState { partitions: 4, ..state() }), ["partitions"]);
        assert_eq!(aspects(&TopicState { replication: Some(1), ..state() }), ["replication"]);
        assert_eq!(aspects(&TopicState { min_in_sync: Some(1), ..state() }), ["min.insync.replicas"]);
        assert_eq!(aspects(&TopicState { compacted: true, ..state() }), ["cleanup.policy"]);
        assert_eq!(
            aspects(&TopicState { retention: Some(Duration::from_secs(60)), ..state() }),
            ["retention"]
        );
        assert_eq!(aspects(&TopicState { retention_bytes: Some(1), ..state() }), ["retention.bytes"]);
        let text =
            differences(&spec(), Some(&TopicState { retention: Some(Duration::from_secs(60)), ..state() }));
        assert!(text[0].to_string().starts_with("t: retention is 60 s, should be 7 d: "), "{}", text[0]);
    }
}
