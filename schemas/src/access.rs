//! What each role may do on a shared Kafka, as one table: the least that it needs.
//!
//! `infertrace topics plan` prints it for Kafka's `kafka-acls.sh`. Invariant: every topic has a role that writes it,
//! and no role may write a topic that it does not produce to.

use crate::topics;

/// What is done with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Reads records and asks where partitions begin and end.
    Read,
    /// Appends records.
    Write,
}

/// The rights of one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Role, as in `infertrace gateway`.
    pub role: &'static str,
    /// Topics; each comes with the right to describe it.
    pub topics: Vec<(Operation, &'static str)>,
    /// Consumer groups that it joins, by prefix.
    pub groups: Vec<String>,
    /// Prefixes of its transactional ids.
    pub transactional_ids: Vec<String>,
    /// Prefix of topics that it creates and writes, if any.
    pub creates: Option<&'static str>,
}

/// Consumer groups as configured.
#[derive(Clone, Copy, Debug)]
pub struct Groups<'a> {
    /// Of trace assembly and rollups.
    pub processor: &'a str,
    /// Of the processor's GPU and engine samples.
    pub samples: &'a str,
    /// Of the second stage of the analytics.
    pub insights: &'a str,
    /// Of the stitching of requests.
    pub stitching: &'a str,
    /// Of the delivery of insights.
    pub delivery: &'a str,
    /// Of the Parquet sink.
    pub sink: &'a str,
    /// Of the ClickHouse sink.
    pub clickhouse: &'a str,
}

/// Transactional id of `infertrace dlq redrive`.
pub const REDRIVE_ID: &str = "infertrace-dlq-redrive";
/// What topics of replays begin with.
pub const REPLAY_PREFIX: &str = "infertrace.replay.";

/// The rights of every role.
#[must_use]
pub fn all(groups: Groups<'_>) -> Vec<Access> {
    use Operation::{Read, Write};
    let role = |role, topics: &[(Operation, &'static str)], groups: &[&str], ids: &[&str]| Access {
        role,
        topics: topics.to_vec(),
        groups: groups.iter().map(|&group| group.to_owned()).collect(),
        transactional_ids: ids.iter().map(|&id| id.to_owned()).collect(),
        creates: None,
    };
    // Each topic is read by a group of its own.
    let of_clickhouse = ["", "-traces", "-rollups", "-insights", "-samples"]
        .map(|suffix| format!("{}{suffix}", groups.clickhouse));
    let of_sink: Vec<&str> =
        std::iter::once(groups.sink).chain(of_clickhouse.iter().map(String::as_str)).collect();
    vec![
        role("gateway", &[(Write, topics::SPANS), (Write, topics::GPU)], &[], &[]),
        role(
            "processor",
            &[
                (Read, topics::SPANS),
                (Read, topics::GPU),
                (Write, topics::TRACES),
                // Its own earlier outputs tell a restart what was told already.
                (Read, topics::TRACES),
                (Write, topics::PARTIALS),
                (Read, topics::PARTIALS),
                (Write, topics::REQUESTS),
                (Read, topics::REQUESTS),
                (Write, topics::LINKS),
                (Write, topics::ROLLUP_STATE),
                (Read, topics::ROLLUP_STATE),
                (Write, topics::INSIGHT_STATE),
                (Read, topics::INSIGHT_STATE),
                (Write, topics::ROLLUPS),
                (Write, topics::BASELINES),
                (Read, topics::BASELINES),
                (Write, topics::INSIGHTS),
                (Read, topics::INSIGHTS),
                (Read, topics::TRIAGE),
                (Write, topics::DLQ),
                (Read, topics::DLQ),
            ],
            &[groups.processor, groups.samples, groups.insights, groups.stitching, groups.delivery],
            &[groups.processor, groups.samples, groups.insights, groups.stitching],
        ),
        role(
            "sink",
            &[
                (Read, topics::SPANS),
                // The rest is for ClickHouse.
                (Read, topics::GPU),
                (Read, topics::TRACES),
                (Read, topics::ROLLUPS),
                (Read, topics::INSIGHTS),
                (Read, topics::SINK_STATE),
                (Write, topics::SINK_STATE),
                (Write, topics::DLQ),
            ],
            &of_sink,
            &[groups.clickhouse],
        ),
        role(
            "api",
            &[
                (Read, topics::SPANS),
                (Read, topics::ROLLUPS),
                (Read, topics::BASELINES),
                (Read, topics::INSIGHTS),
                (Read, topics::TRIAGE),
                (Write, topics::TRIAGE),
            ],
            &[],
            &[],
        ),
        role(
            "dlq",
            &[
                (Read, topics::DLQ),
                (Write, topics::DLQ),
                (Write, topics::SPANS),
                (Write, topics::GPU),
                (Write, topics::PARTIALS),
                (Write, topics::REQUESTS),
                (Write, topics::INSIGHTS),
            ],
            &[],
            &[REDRIVE_ID],
        ),
        role("audit", &[(Read, topics::SPANS)], &[], &[]),
        Access {
            creates: Some(REPLAY_PREFIX),
            ..role(
                "replay",
                &[
                    (Read, topics::SPANS),
                    (Read, topics::GPU),
                    (Read, topics::INSIGHTS),
                    (Read, topics::TRACES),
                ],
                &[],
                &[],
            )
        },
    ]
}

impl Access {
    /// The role's rights as arguments of `kafka-acls.sh --bootstrap-server … --command-config …`, a line each.
    #[must_use]
    pub fn lines(&self, principal: &str) -> Vec<String> {
        let add = format!("--add --allow-principal '{principal}'");
        let mut topics = self.topics.clone();
        topics.sort_by_key(|(operation, name)| (*name, *operation));
        let mut lines = Vec::new();
        for of_one in topics.chunk_by(|a, b| a.1 == b.1) {
            let operations: Vec<&str> = of_one
                .iter()
                .map(|(operation, _)| match operation {
                    Operation::Read => "--operation Read",
                    Operation::Write => "--operation Write",
                })
                .collect();
            let name = of_one[0].1;
            lines.push(format!("{add} {} --operation Describe --topic {name}", operations.join(" ")));
        }
        if let Some(prefix) = self.creates {
            lines.push(format!(
                "{add} --operation Create --operation Write --operation Read --operation Describe \
                 --topic {prefix} --resource-pattern-type prefixed"
            ));
        }
        for group in &self.groups {
            lines.push(format!("{add} --operation Read --operation Describe --group {group}"));
        }
        for id in &self.transactional_ids {
            lines.push(format!(
                "{add} --operation Write --operation Describe --transactional-id {id} --resource-pattern-type prefixed"
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<Access> {
        all(Groups {
            processor: "p",
            samples: "sa",
            insights: "i",
            stitching: "st",
            delivery: "d",
            sink: "s",
            clickhouse: "c",
        })
    }

    /// Scenario: the table beside the topics. Guarantee: each topic has a writer and each state topic a reader;
    /// readers of insights write nothing; nobody writes spans but the gateway and the dead letters' way back.
    #[test]
    fn every_topic_has_a_writer_and_no_more_than_it_needs() {
        let may = |operation, topic: &str| -> Vec<&'static str> {
            let has = |access: &Access| access.topics.iter().any(|right| *right == (operation, topic));
            table().iter().filter(|access| has(access)).map(|access| access.role).collect()
        };
        for topic in topics::all(1) {
            assert!(!may(Operation::Write, topic.name).is_empty(), "nobody writes {}", topic.name);
            if topic.name.contains(".state.") {
                assert_eq!(may(Operation::Write, topic.name), may(Operation::Read, topic.name));
            }
        }
        assert_eq!(may(Operation::Write, topics::SPANS), ["gateway", "dlq"]);
        let known: Vec<_> = topics::all(1).iter().map(|topic| topic.name).collect();
        for access in table() {
            assert!(access.topics.iter().all(|(_, topic)| known.contains(topic)), "{}", access.role);
        }
    }

    /// Scenario: two roles printed. Guarantee: one line a topic with its operations together, groups, and prefixes
    /// for transactional ids and for topics that are created.
    #[test]
    fn rights_print_as_kafkas_tool_takes_them() {
        let lines = |role| {
            let table = table();
            let access = table.iter().find(|access| access.role == role).expect("known");
            access.lines(&format!("User:infertrace-{role}"))
        };
        let gateway = |rest| {
            format!(
                "--add --allow-principal 'User:infertrace-gateway' --operation Write --operation Describe --topic {rest}"
            )
        };
        assert_eq!(lines("gateway"), [gateway(topics::GPU), gateway(topics::SPANS)]);
        let sink = lines("sink");
        assert!(
            sink.iter().any(|line| line.ends_with("--operation Read --operation Describe --group s")),
            "{sink:?}"
        );
        assert!(sink.iter().any(|line| {
            line.ends_with("--operation Read --operation Write --operation Describe --topic infertrace.state.clickhouse.v1")
        }));
        let processor = lines("processor").join("\n");
        assert!(processor.contains(
            "--operation Read --operation Write --operation Describe --topic infertrace.traces.v1"
        ));
        assert!(processor.contains("--transactional-id p --resource-pattern-type prefixed"));
        assert!(
            lines("replay")
                .join("\n")
                .contains("--topic infertrace.replay. --resource-pattern-type prefixed")
        );
    }
}
