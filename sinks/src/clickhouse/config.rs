//! Settings of the ClickHouse sink, with their defaults and bounds.

use std::collections::BTreeMap;

use infertrace_runtime::clickhouse::{Access, Password};
use serde::{Deserialize, Serialize};

use super::migrations::Layout;
use crate::config::{Flow, within};

/// Consumer group of the ClickHouse sink; topics other than spans have `-traces`, … behind it.
pub const GROUP: &str = "infertrace-sink-clickhouse";
/// Bytes of an answer that are read: what the sink asks is answered in few rows.
const ANSWER_BYTES: usize = 16 << 20;
/// What the sink decides itself.
const OWN_SETTINGS: &[&str] = &[
    "query",
    "database",
    "user",
    "password",
    "insert_deduplicate",
    "insert_deduplication_token",
    "async_insert",
    "wait_for_async_insert",
    "async_insert_deduplicate",
    "min_insert_block_size_rows",
    "min_insert_block_size_bytes",
    "distributed_foreground_insert",
];

/// What kind of server it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One server.
    #[default]
    Single,
    /// A cluster with Keeper, named by `cluster`.
    Cluster,
    /// ClickHouse Cloud.
    Cloud,
}

/// How inserts are packed on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all: cheapest where the network is not the bound.
    None,
    /// LZ4 frames.
    #[default]
    Lz4,
    /// Zstandard, level 1.
    Zstd,
}

/// Settings of the ClickHouse sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// HTTP interface, as in `http://localhost:8123`; empty for no ClickHouse.
    pub url: String,
    /// Database; created where missing.
    pub database: String,
    /// User.
    pub user: String,
    /// Password; better in a file.
    pub password: Password,
    /// File with the password; read at the start.
    pub password_file: String,
    /// `single`, `cluster` or `cloud`.
    pub kind: Kind,
    /// Name of the cluster in `ON CLUSTER`, with kind `cluster`.
    pub cluster: String,
    /// Whether a start applies migrations; else `infertrace clickhouse migrate` does.
    pub auto_migrate: bool,
    /// Days after which spans, timelines, traces and samples are removed; 0 keeps them.
    pub ttl_days: u32,
    /// Days after which rollups and insights are removed; 0 keeps them.
    pub rollup_ttl_days: u32,
    /// Consumer group; names the sink's state too, so another group fills another database from the start.
    pub group: String,
    /// Name of this instance, unique among the instances of the group. Empty takes the host's name.
    pub instance_id: String,
    /// An insert is made when it holds so many rows.
    pub batch_rows: u64,
    /// An insert is made when its records, unpacked, reach so many bytes.
    pub batch_bytes: u64,
    /// An insert is made, whatever its size, when its oldest record has waited so long.
    pub batch_age_ms: u64,
    /// Bytes of records held at most, a topic; past it reading pauses.
    pub memory_budget_bytes: usize,
    /// Bytes taken from the log in one poll.
    pub max_poll_bytes: usize,
    /// Inserts under way at most, a topic; each needs about three times its unpacked size.
    pub concurrent_inserts: usize,
    /// How inserts are packed: `none`, `lz4` or `zstd`.
    pub compression: Compression,
    /// Whether the server may collect inserts (`async_insert`); the sink waits for them either way.
    pub async_insert: bool,
    /// Further settings of each insert, by name.
    pub settings: BTreeMap<String, String>,
    /// Batch ids remembered a partition to recognise retries.
    pub dedup_batches: u64,
    /// How long a connection may take to open.
    pub connect_timeout_ms: u64,
    /// How long an insert or a statement may take.
    pub request_timeout_ms: u64,
    /// First delay before a failed call is repeated; it doubles up to `retry_max_ms`.
    pub retry_base_ms: u64,
    /// Longest such delay.
    pub retry_max_ms: u64,
    /// Delay before trying again where an operator must act: access refused, another schema.
    pub refused_retry_ms: u64,
    /// How long a shutdown waits for what was read to be inserted.
    pub drain_timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: String::new(),
            database: "infertrace".to_owned(),
            user: "default".to_owned(),
            password: Password::default(),
            password_file: String::new(),
            kind: Kind::Single,
            cluster: String::new(),
            auto_migrate: true,
            ttl_days: 30,
            rollup_ttl_days: 400,
            group: GROUP.to_owned(),
            instance_id: String::new(),
            batch_rows: 250_000,
            batch_bytes: 192 << 20,
            batch_age_ms: 2_000,
            memory_budget_bytes: 256 << 20,
            max_poll_bytes: 8 << 20,
            concurrent_inserts: 1,
            compression: Compression::Lz4,
            async_insert: false,
            settings: BTreeMap::new(),
            dedup_batches: infertrace_schemas::dedup::DEFAULT_BATCHES as u64,
            connect_timeout_ms: 5_000,
            request_timeout_ms: 120_000,
            retry_base_ms: 100,
            retry_max_ms: 10_000,
            refused_retry_ms: 30_000,
            drain_timeout_ms: 20_000,
        }
    }
}

impl Config {
    /// Whether there is a ClickHouse.
    #[must_use]
    pub fn is_used(&self) -> bool {
        !self.url.is_empty()
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// A sentence that names the field and its bounds.
    pub fn validate(&self) -> Result<(), String> {
        within("batch_rows", self.batch_rows, 1, 10_000_000)?;
        // Arrow's 32-bit offsets reach 2 GiB a column, and rendered text may triple.
        within("batch_bytes", self.batch_bytes, 1, 512 << 20)?;
        within("batch_age_ms", self.batch_age_ms, 1, 24 * 3_600_000)?;
        within("memory_budget_bytes", self.memory_budget_bytes as u64, 64 << 10, 1 << 40)?;
        within("max_poll_bytes", self.max_poll_bytes as u64, 1 << 10, 1 << 30)?;
        within("concurrent_inserts", self.concurrent_inserts as u64, 1, 64)?;
        within("dedup_batches", self.dedup_batches, 1, 16 << 20)?;
        within("connect_timeout_ms", self.connect_timeout_ms, 1, 600_000)?;
        within("request_timeout_ms", self.request_timeout_ms, 1, 3_600_000)?;
        within("retry_base_ms", self.retry_base_ms, 1, 60_000)?;
        within("retry_max_ms", self.retry_max_ms, self.retry_base_ms, 3_600_000)?;
        within("refused_retry_ms", self.refused_retry_ms, 1, 3_600_000)?;
        within("drain_timeout_ms", self.drain_timeout_ms, 0, 3_600_000)?;
        within("ttl_days", self.ttl_days.into(), 0, 36_500)?;
        within("rollup_ttl_days", self.rollup_ttl_days.into(), 0, 36_500)?;
        if self.group.is_empty() {
            return Err("group is empty".to_owned());
        }
        if !is_identifier(&self.database) {
            return Err(format!("database is {:?}, it must be letters, digits and _", self.database));
        }
        if (self.kind == Kind::Cluster) == self.cluster.is_empty() {
            return Err("kind = \"cluster\" and a name in cluster go together".to_owned());
        }
        if !self.cluster.is_empty()
            && !self.cluster.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        {
            return Err(format!("cluster is {:?}, it must be letters, digits, _, - and .", self.cluster));
        }
        if let Some(name) = self.settings.keys().find(|name| OWN_SETTINGS.contains(&name.as_str())) {
            return Err(format!("settings.{name} is the sink's own"));
        }
        if !self.password.0.is_empty() && !self.password_file.is_empty() {
            return Err("set password or password_file, not both".to_owned());
        }
        Ok(())
    }

    /// How tables are made.
    #[must_use]
    pub fn layout(&self) -> Layout {
        match self.kind {
            Kind::Single => Layout::Single,
            Kind::Cluster => Layout::Cluster(self.cluster.clone()),
            Kind::Cloud => Layout::Cloud,
        }
    }

    /// Where the server is and who asks.
    ///
    /// # Errors
    /// A sentence: a file that cannot be read.
    pub fn access(&self) -> Result<Access, String> {
        let mut password = self.password.0.clone();
        if !self.password_file.is_empty() {
            let text = std::fs::read_to_string(&self.password_file)
                .map_err(|error| format!("password_file {}: {error}", self.password_file))?;
            text.trim_end_matches(['\r', '\n']).clone_into(&mut password);
        }
        Ok(Access {
            url: self.url.clone(),
            user: self.user.clone(),
            password: Password(password),
            connect_timeout_ms: self.connect_timeout_ms,
            request_timeout_ms: self.request_timeout_ms,
            max_answer_bytes: ANSWER_BYTES,
        })
    }

    pub(super) fn flow(&self) -> Flow {
        Flow {
            group: self.group.clone(),
            target_rows: self.batch_rows,
            target_bytes: self.batch_bytes,
            flush_interval_ms: self.batch_age_ms,
            memory_budget_bytes: self.memory_budget_bytes,
            max_poll_bytes: self.max_poll_bytes,
            concurrent_flushes: self.concurrent_inserts,
            retry_base_ms: self.retry_base_ms,
            retry_max_ms: self.retry_max_ms,
            refused_retry_ms: self.refused_retry_ms,
            drain_timeout_ms: self.drain_timeout_ms,
        }
    }
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: settings that contradict one another or would reach into SQL or the sink's own.
    /// Guarantee: each is refused by name; no debug output shows a password.
    #[test]
    fn bad_settings_are_named() {
        let refused = |change: fn(&mut Config), word: &str| {
            let mut config = Config::default();
            change(&mut config);
            let error = config.validate().expect_err(word);
            assert!(error.contains(word), "{error}");
        };
        assert_eq!(Config::default().validate(), Ok(()));
        refused(|c| c.database = "a`; DROP".into(), "database");
        refused(|c| c.cluster = "main".into(), "cluster");
        refused(|c| c.kind = Kind::Cluster, "cluster");
        refused(|c| c.batch_rows = 0, "batch_rows");
        refused(|c| drop(c.settings.insert("async_insert".into(), "1".into())), "async_insert");
        let config = Config { password: Password("s3cret".into()), ..Config::default() };
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}
