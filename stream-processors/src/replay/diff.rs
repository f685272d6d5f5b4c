//! What a replay says beside what was said live: insights by id, each in its last state.

use std::collections::BTreeMap;

use infertrace_schemas::avro::Insight;
use serde::Serialize;

/// Insights listed one by one at most.
const MAX_LISTED: usize = 200;

/// The last state of each insight of some time.
#[derive(Clone, Debug, Default)]
pub struct Told(BTreeMap<String, Insight>);

impl Told {
    /// Takes one state; a higher revision replaces a lower one.
    pub fn add(&mut self, insight: Insight) {
        match self.0.get(&insight.id) {
            Some(known) if known.revision > insight.revision => {}
            _ => {
                self.0.insert(insight.id.clone(), insight);
            }
        }
    }

    /// Insights.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An insight in a few words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Id.
    pub id: String,
    /// Kind.
    pub kind: String,
    /// Model.
    pub model: String,
    /// Start of its window, milliseconds.
    pub window_start_ms: i64,
    /// What it says.
    pub title: String,
    /// Fields that differ, where both have it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differs_in: Vec<&'static str>,
}

/// The comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Insights that are the same in both.
    pub same: u64,
    /// Insights that only the replay has.
    pub only_replay: u64,
    /// Insights that only the live topic has.
    pub only_live: u64,
    /// Insights that both have and that differ.
    pub different: u64,
    /// The first of those that only the replay has.
    pub listed_only_replay: Vec<Named>,
    /// The first of those that only the live topic has.
    pub listed_only_live: Vec<Named>,
    /// The first of those that differ.
    pub listed_different: Vec<Named>,
}

impl Diff {
    /// Compares.
    #[must_use]
    pub fn of(replay: &Told, live: &Told) -> Self {
        let mut diff = Self::default();
        for (id, insight) in &replay.0 {
            match live.0.get(id) {
                None => {
                    diff.only_replay += 1;
                    list(&mut diff.listed_only_replay, insight, Vec::new());
                }
                Some(other) => {
                    let fields = differing(insight, other);
                    if fields.is_empty() {
                        diff.same += 1;
                    } else {
                        diff.different += 1;
                        list(&mut diff.listed_different, insight, fields);
                    }
                }
            }
        }
        for (_, insight) in live.0.iter().filter(|(id, _)| !replay.0.contains_key(*id)) {
            diff.only_live += 1;
            list(&mut diff.listed_only_live, insight, Vec::new());
        }
        diff
    }
}

fn list(listed: &mut Vec<Named>, insight: &Insight, differs_in: Vec<&'static str>) {
    if listed.len() < MAX_LISTED {
        listed.push(Named {
            id: insight.id.clone(),
            kind: insight.kind.clone(),
            model: insight.model.clone(),
            window_start_ms: insight.window_start_unix_nanos / 1_000_000,
            title: insight.title.clone(),
            differs_in,
        });
    }
}

fn differing(a: &Insight, b: &Insight) -> Vec<&'static str> {
    let fields = [
        ("revision", a.revision == b.revision),
        ("state", a.state == b.state),
        ("severity", a.severity == b.severity),
        ("window", a.window_end_unix_nanos == b.window_end_unix_nanos),
        ("title", a.title == b.title),
        ("detector_version", a.detector_version == b.detector_version),
        ("evidence", a.evidence == b.evidence),
        ("causes", a.causes == b.causes),
        ("recommendation", a.recommendation == b.recommendation),
    ];
    let mut differs: Vec<_> = fields.iter().filter(|(_, same)| !same).map(|(name, _)| *name).collect();
    if differs.is_empty() && a != b {
        differs.push("other");
    }
    differs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: insights in one only, in both alike, in both with another cause, and two revisions of one.
    /// Guarantee: each is counted once, by its last revision, and what differs is named.
    #[test]
    fn each_insight_is_counted_once() {
        let insight = |id: &str, revision, title: &str| Insight {
            id: id.into(),
            revision,
            title: title.into(),
            ..Insight::default()
        };
        let told = |list: Vec<Insight>| {
            let mut told = Told::default();
            list.into_iter().for_each(|insight| told.add(insight));
            told
        };
        let replay = told(vec![
            insight("a", 2, "x"),
            insight("a", 1, "old"),
            insight("b", 1, "y"),
            insight("c", 1, "z"),
        ]);
        let live = told(vec![insight("a", 2, "x"), insight("b", 3, "w"), insight("d", 1, "v")]);
        let diff = Diff::of(&replay, &live);
        assert_eq!((diff.same, diff.different, diff.only_replay, diff.only_live), (1, 1, 1, 1));
        assert_eq!(diff.listed_different[0].differs_in, ["revision", "title"]);
        assert_eq!(diff.listed_only_live[0].id, "d");
    }
}
