//! The tables, as versioned SQL files, and how they come into a database.
//!
//! One text serves every kind of server: `{on_cluster}`, `{engine:…}`, `{local:…}` and `{dedup_window}` stand for what
//! differs, and a line `-- distributed: TABLE by KEY` makes the Distributed table of a cluster. Invariants: a migration that
//! a release has shipped never changes; each statement is idempotent, so a migration that broke off, or that two
//! instances apply at once, is simply applied again; a version is noted after its last statement.

use std::collections::BTreeMap;

use infertrace_runtime::clickhouse::Client;

use super::error::Error;

/// Inserts whose tokens a table remembers.
pub const DEDUP_WINDOW: u32 = 10_000;

/// One version of the schema.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// From 1, without a gap.
    pub version: u32,
    /// What it brings.
    pub name: &'static str,
    /// Its template.
    sql: &'static str,
}

macro_rules! migrations {
    ($($version:literal $name:literal),+ $(,)?) => {
        /// Every migration, ascending.
        pub const MIGRATIONS: &[Migration] = &[$(Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../migrations/clickhouse/", $name, ".sql")),
        }),+];
    };
}

migrations! {
    1 "0001_spans",
    2 "0002_traces",
    3 "0003_rollups_insights",
    4 "0004_samples",
}

/// Tables with the column that their age is told by, and whether they hold aggregates.
const AGED: &[(&str, &str, bool)] = &[
    ("spans", "start_time", false),
    ("tokens", "start_time", false),
    ("trace_times", "minute", false),
    ("traces", "start_time", false),
    ("samples", "time", false),
    ("rollups", "window_start", true),
    ("insights", "opened", true),
];

/// How tables are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One server: MergeTree.
    Single,
    /// `ON CLUSTER` of this name: Replicated tables named `…_local` with Distributed ones over them.
    Cluster(String),
    /// ClickHouse Cloud: MergeTree, which is shared there.
    Cloud,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Migrations that were applied, by name.
    pub applied: Vec<String>,
    /// Tables whose TTL was changed.
    pub retained: Vec<String>,
    /// The version of the schema now.
    pub version: u32,
}

/// What to make.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Database.
    pub database: String,
    /// How tables are made.
    pub layout: Layout,
    /// Days that spans, timelines, traces and samples stay; 0 for ever.
    pub ttl_days: u32,
    /// Days that rollups and insights stay; 0 for ever.
    pub rollup_ttl_days: u32,
}

impl Migration {
    /// Its statements.
    #[must_use]
    pub fn statements(&self, plan: &Plan) -> Vec<String> {
        let mut statements = Vec::new();
        let mut text = String::new();
        for line in self.sql.lines() {
            if let Some(table) = line.strip_prefix("-- distributed: ") {
                statements.extend(plan.distributed(table));
            } else if !line.trim_start().starts_with("--") {
                text.push_str(line);
                text.push('\n');
                if line.ends_with(';') {
                    statements.push(plan.fill(text.trim().trim_end_matches(';')));
                    text.clear();
                }
            }
        }
        statements
    }

    fn checksum(&self) -> String {
        format!(
            "{:08x}",
            self.sql
                .bytes()
                .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
        )
    }
}

impl Plan {
    fn on_cluster(&self) -> String {
        match &self.layout {
            Layout::Cluster(name) => format!(" ON CLUSTER `{name}`"),
            _ => String::new(),
        }
    }

    fn local(&self, table: &str) -> String {
        if matches!(self.layout, Layout::Cluster(_)) { format!("{table}_local") } else { table.to_owned() }
    }

    fn fill(&self, template: &str) -> String {
        let (window, prefix) = match self.layout {
            Layout::Single => (format!("non_replicated_deduplication_window = {DEDUP_WINDOW}"), ""),
            Layout::Cluster(_) => (replicated_window(), "Replicated"),
            Layout::Cloud => (replicated_window(), ""),
        };
        let text = template
            .replace("{database}", &format!("`{}`", self.database))
            .replace("{on_cluster}", &self.on_cluster())
            .replace("{dedup_window}", &window);
        let text = replace_marks(&text, "{local:", |table| self.local(table));
        replace_marks(&text, "{engine:", |engine| format!("{prefix}{engine}"))
    }

    fn distributed(&self, rule: &str) -> Option<String> {
        let Layout::Cluster(cluster) = &self.layout else { return None };
        let (table, key) = rule.split_once(" by ")?;
        let database = &self.database;
        Some(format!(
            "CREATE TABLE IF NOT EXISTS `{database}`.{table} ON CLUSTER `{cluster}` AS `{database}`.{table}_local\n\
             ENGINE = Distributed(`{cluster}`, `{database}`, {table}_local, {key})"
        ))
    }

    fn ledger(&self) -> [String; 2] {
        let engine = match self.layout {
            // One copy for all shards, so that it does not matter which server is asked.
            Layout::Cluster(_) => format!(
                "ReplicatedReplacingMergeTree('/clickhouse/tables/{}/schema_migrations', '{{shard}}-{{replica}}', applied_at)",
                self.database
            ),
            _ => "ReplacingMergeTree(applied_at)".to_owned(),
        };
        let (database, on_cluster) = (&self.database, self.on_cluster());
        [
            format!("CREATE DATABASE IF NOT EXISTS `{database}`{on_cluster}"),
            format!(
                "CREATE TABLE IF NOT EXISTS `{database}`.schema_migrations{on_cluster}\n\
                 (\n    version UInt32,\n    name String,\n    checksum String,\n    applied_by String,\n    \
                 applied_at DateTime64(3, 'UTC') DEFAULT now64(3)\n)\nENGINE = {engine}\nORDER BY version"
            ),
        ]
    }

    /// Every statement of a new database, as `infertrace clickhouse migrate --print` shows them.
    #[must_use]
    pub fn script(&self) -> Vec<String> {
        let statements = MIGRATIONS.iter().flat_map(|migration| migration.statements(self));
        let ttl = AGED.iter().filter(|aged| self.days_of(aged) > 0).map(|aged| self.set_ttl(aged));
        self.ledger().into_iter().chain(statements).chain(ttl).collect()
    }

    fn days_of(&self, (_, _, is_aggregate): &(&str, &str, bool)) -> u32 {
        if *is_aggregate { self.rollup_ttl_days } else { self.ttl_days }
    }

    fn set_ttl(&self, aged: &(&str, &str, bool)) -> String {
        let (table, column, _) = aged;
        let (database, local, on_cluster) = (&self.database, self.local(table), self.on_cluster());
        match self.days_of(aged) {
            0 => format!("ALTER TABLE `{database}`.{local}{on_cluster} REMOVE TTL"),
            days => format!(
                "ALTER TABLE `{database}`.{local}{on_cluster} MODIFY TTL {} SETTINGS materialize_ttl_after_modify = 0",
                ttl(column, days)
            ),
        }
    }

    /// Brings the database to version `up_to` (the latest with `None`), and its TTLs to what is configured.
    ///
    /// # Errors
    /// [`Error::Schema`] when a noted migration is not as this release has it; else what ClickHouse said.
    pub async fn apply(&self, client: &Client, up_to: Option<u32>) -> Result<Report, Error> {
        for statement in self.ledger() {
            client.statement(&statement).await?;
        }
        let noted = self.noted(client).await?;
        let mut report = Report { version: noted.keys().copied().max().unwrap_or(0), ..Report::default() };
        let latest = MIGRATIONS.last().map_or(0, |migration| migration.version);
        if report.version > latest {
            tracing::warn!(
                found = report.version,
                known = latest,
                "the schema is of a later release; columns are named, so inserts go on"
            );
        }
        for migration in MIGRATIONS.iter().filter(|one| one.version <= up_to.unwrap_or(u32::MAX)) {
            match noted.get(&migration.version) {
                Some(checksum) if *checksum == migration.checksum() => continue,
                Some(_) => {
                    return Err(Error::Schema {
                        database: self.database.clone(),
                        detail: format!(
                            "migration {} was applied with another text; use a release that has it, or another database",
                            migration.name
                        ),
                    });
                }
                None => {}
            }
            for statement in migration.statements(self) {
                client.statement(&statement).await?;
            }
            self.note(client, migration).await?;
            tracing::info!(migration = migration.name, database = self.database, "migration applied");
            report.applied.push(migration.name.to_owned());
            report.version = report.version.max(migration.version);
        }
        report.retained = self.retain(client).await?;
        Ok(report)
    }

    /// Looks that the database is at this release's version.
    ///
    /// # Errors
    /// [`Error::Schema`] when it is older; else what ClickHouse said.
    pub async fn check(&self, client: &Client) -> Result<(), Error> {
        let noted = self.noted(client).await?;
        let missing = MIGRATIONS.iter().find(|migration| !noted.contains_key(&migration.version));
        missing.map_or(Ok(()), |migration| {
            Err(Error::Schema {
                database: self.database.clone(),
                detail: format!(
                    "migration {} is missing: run `infertrace clickhouse migrate`",
                    migration.name
                ),
            })
        })
    }

    /// Versions that were applied, with their checksums.
    async fn noted(&self, client: &Client) -> Result<BTreeMap<u32, String>, Error> {
        let sql = format!(
            "SELECT version, checksum FROM `{}`.schema_migrations FINAL ORDER BY version FORMAT TabSeparated",
            self.database
        );
        let answer = client.statement(&sql).await?;
        let noted = answer.lines().map(|line| {
            let (version, checksum) = line.split_once('\t')?;
            Some((version.parse().ok()?, checksum.to_owned()))
        });
        noted.collect::<Option<_>>().ok_or_else(|| Error::Schema {
            database: self.database.clone(),
            detail: format!("schema_migrations answered {answer:?}; it is not this program's table"),
        })
    }

    async fn note(&self, client: &Client, migration: &Migration) -> Result<(), Error> {
        let sql = format!(
            "INSERT INTO `{}`.schema_migrations (version, name, checksum, applied_by) VALUES ({}, '{}', '{}', 'infertrace {}')",
            self.database,
            migration.version,
            migration.name,
            migration.checksum(),
            env!("CARGO_PKG_VERSION")
        );
        client.statement(&sql).await?;
        Ok(())
    }

    /// Changes the TTLs that are not as configured.
    async fn retain(&self, client: &Client) -> Result<Vec<String>, Error> {
        let sql = format!(
            "SELECT name, engine_full FROM system.tables WHERE database = '{}' FORMAT TabSeparated",
            self.database
        );
        let answer = client.statement(&sql).await?;
        let tables: BTreeMap<&str, &str> = answer.lines().filter_map(|line| line.split_once('\t')).collect();
        let mut changed = Vec::new();
        for aged in AGED {
            let (table, days) = (self.local(aged.0), self.days_of(aged));
            let Some(engine) = tables.get(table.as_str()) else { continue };
            let is_so = match days {
                0 => !engine.contains(" TTL "),
                days => engine.contains(&format!("toIntervalDay({days})")),
            };
            if !is_so {
                client.statement(&self.set_ttl(aged)).await?;
                changed.push(table);
            }
        }
        Ok(changed)
    }
}

fn replicated_window() -> String {
    format!(
        "replicated_deduplication_window = {DEDUP_WINDOW}, replicated_deduplication_window_seconds = 604800"
    )
}

fn ttl(column: &str, days: u32) -> String {
    format!("toDate({column}, 'UTC') + toIntervalDay({days})")
}

fn replace_marks(text: &str, open: &str, mut with: impl FnMut(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, tail)) = rest.split_once(open) {
        let (mark, after) = tail.split_once('}').unwrap_or((tail, ""));
        out.push_str(before);
        out.push_str(&with(mark));
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(layout: Layout) -> Plan {
        Plan { database: "it".into(), layout, ttl_days: 30, rollup_ttl_days: 0 }
    }

    /// Scenario: every kind of server. Guarantee: versions ascend without a gap; no mark is left; each table is made
    /// once, with its Distributed one on a cluster only.
    #[test]
    fn every_layout_is_filled_in() {
        let versions: Vec<u32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(versions, (1..=MIGRATIONS.len() as u32).collect::<Vec<_>>());
        for layout in [Layout::Single, Layout::Cluster("main".into()), Layout::Cloud] {
            let is_cluster = matches!(layout, Layout::Cluster(_));
            let script = plan(layout).script().join(";\n");
            let marks = ["{database", "{on_cluster", "{engine", "{local", "{dedup"];
            assert!(marks.iter().all(|mark| !script.contains(mark)), "{script}");
            assert_eq!(script.contains("ReplicatedMergeTree"), is_cluster);
            assert_eq!(
                script.matches("ENGINE = Distributed(").count(),
                if is_cluster { AGED.len() } else { 0 }
            );
            for (table, ..) in AGED {
                let made = format!(
                    "CREATE TABLE IF NOT EXISTS `it`.{table}{}",
                    if is_cluster { "_local ON" } else { "\n" }
                );
                assert_eq!(script.matches(&made).count(), 1, "{made}");
            }
            assert_eq!(script.matches("MODIFY TTL").count(), 5);
        }
    }
}
