//! Configuration of the query API. Units are in the names; unknown keys are rejected.

use std::net::{Ipv4Addr, SocketAddr};

use infertrace_runtime::clickhouse::Password;
use serde::{Deserialize, Serialize};

/// Configuration of the query API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the API and the UI; loopback unless told otherwise.
    pub listen: SocketAddr,
    /// The last minutes, in memory.
    pub hot: HotConfig,
    /// ClickHouse, where the sink fills one.
    pub warm: WarmConfig,
    /// The Parquet lake.
    pub lake: LakeConfig,
    /// Insights, baselines and rollups, in memory.
    pub insights: InsightsConfig,
    /// The server of the Model Context Protocol.
    pub mcp: McpConfig,
    /// What one client may ask for.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            hot: HotConfig::default(),
            warm: WarmConfig::default(),
            lake: LakeConfig::default(),
            insights: InsightsConfig::default(),
            mcp: McpConfig::default(),
            limits: Limits::default(),
        }
    }
}

/// The hot tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HotConfig {
    /// Age at which spans leave, by the time of their record.
    pub window_ms: u64,
    /// Memory for columns and index. Past it, spans of traces without an error leave first, the oldest
    /// of them first.
    pub max_bytes: usize,
    /// Share of `max_bytes` that older traces with errors may keep when others must leave, 0 to 1.
    pub important_share: f64,
    /// Longest wait before spans that were read become visible.
    pub publish_interval_ms: u64,
    /// Spans a segment, at most about.
    pub segment_spans: usize,
    /// Bytes of records taken from the log at once.
    pub poll_max_bytes: usize,
    /// Batch ids remembered a partition, to drop batches that a client sent again.
    pub dedup_batches: usize,
}

impl Default for HotConfig {
    fn default() -> Self {
        Self {
            window_ms: 15 * 60 * 1000,
            max_bytes: 768 << 20,
            important_share: 0.25,
            publish_interval_ms: 100,
            segment_spans: 65_536,
            poll_max_bytes: 1 << 20,
            dedup_batches: infertrace_schemas::dedup::DEFAULT_BATCHES,
        }
    }
}

/// The ClickHouse that the sink fills, as the API reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WarmConfig {
    /// Whether it is read at all.
    pub enabled: bool,
    /// HTTP interface; empty takes the sink's.
    pub url: String,
    /// User, who needs SELECT only; empty takes the sink's with its password.
    pub user: String,
    /// Password of `user`; better in a file.
    pub password: Password,
    /// File with the password; read at the start.
    pub password_file: String,
    /// How long a connection may take to open.
    pub connect_timeout_ms: u64,
    /// How long a look-up of traces may take; past it the other tiers answer.
    pub lookup_timeout_ms: u64,
    /// How long one step of a search may take; past it the other tiers are searched.
    pub scan_timeout_ms: u64,
    /// How often it is looked what the sink inserted and which days there are.
    pub refresh_interval_ms: u64,
    /// Bytes of one answer that are read; a larger one counts as a failure.
    pub max_answer_bytes: usize,
}

impl Default for WarmConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            url: String::new(),
            user: String::new(),
            password: Password::default(),
            password_file: String::new(),
            connect_timeout_ms: 500,
            lookup_timeout_ms: 2_000,
            scan_timeout_ms: 4_000,
            refresh_interval_ms: 5_000,
            max_answer_bytes: 256 << 20,
        }
    }
}

impl WarmConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        let times = [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("lookup_timeout_ms", self.lookup_timeout_ms),
            ("scan_timeout_ms", self.scan_timeout_ms),
            ("refresh_interval_ms", self.refresh_interval_ms),
        ];
        if let Some((name, value)) = times.iter().find(|(_, value)| !(1..=3_600_000).contains(value)) {
            return Err(format!("{name} is {value}, it must be 1 to 3600000"));
        }
        if !self.password.0.is_empty() && !self.password_file.is_empty() {
            return Err("set password or password_file, not both".to_owned());
        }
        if self.user.is_empty() && !(self.password.0.is_empty() && self.password_file.is_empty()) {
            return Err("a password needs a user beside it; without one the sink's user is taken".to_owned());
        }
        Ok(())
    }
}

/// The lake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LakeConfig {
    /// How often new manifests are looked for. Each look is one listing a partition.
    pub refresh_interval_ms: u64,
    /// Memory for Parquet footers with their page indexes.
    pub footer_cache_bytes: usize,
    /// Memory for bloom filters of trace ids.
    pub bloom_cache_bytes: usize,
    /// Files opened at a time by one request.
    pub concurrent_files: usize,
    /// Threads that scan for searches; 0 takes one a core.
    pub scan_threads: usize,
    /// Rows a search scans before it looks whether its page is full; each further step takes twice as many.
    pub search_step_rows: u64,
}

impl Default for LakeConfig {
    fn default() -> Self {
        Self {
            refresh_interval_ms: 1_000,
            footer_cache_bytes: 128 << 20,
            bloom_cache_bytes: 64 << 20,
            concurrent_files: 8,
            scan_threads: 0,
            search_step_rows: 200_000,
        }
    }
}

/// Insights, baselines and rollups, read back from their topics at every start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InsightsConfig {
    /// Age at which insights leave, by the time of their last record.
    pub window_ms: u64,
    /// Memory for insights. Past it, those resolved the longest leave first, then the oldest open ones.
    pub max_bytes: usize,
    /// Age at which rollups leave, by the end of their window.
    pub rollup_window_ms: u64,
    /// Memory for rollups. Past it, the finest windows leave first, the oldest of them first.
    pub rollup_max_bytes: usize,
    /// Memory for baselines. Past it, those computed the longest ago leave first.
    pub baseline_max_bytes: usize,
    /// Bytes of records taken from the log at once.
    pub poll_max_bytes: usize,
    /// Whether people may acknowledge, mute and resolve insights over the API. It does not know who asks: switch this off
    /// where others than the operators reach it.
    pub triage: bool,
}

impl Default for InsightsConfig {
    fn default() -> Self {
        Self {
            window_ms: 7 * 24 * 60 * 60 * 1000,
            max_bytes: 64 << 20,
            rollup_window_ms: 6 * 60 * 60 * 1000,
            rollup_max_bytes: 64 << 20,
            baseline_max_bytes: 32 << 20,
            poll_max_bytes: 1 << 20,
            triage: true,
        }
    }
}

/// The server of the Model Context Protocol at `/mcp`: tools that read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct McpConfig {
    /// Whether it is there.
    pub enabled: bool,
    /// Origins of pages that may ask, such as `https://console.example.com`, beside pages of this machine. Programs that
    /// are no browser name none, and may.
    pub allowed_origins: Vec<String>,
}

impl Default for McpConfig {
    fn default() -> Self {
        Self { enabled: true, allowed_origins: Vec::new() }
    }
}

/// What one client may ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest a request may take; then 504.
    pub request_timeout_ms: u64,
    /// Longest a search scans before it answers with what it has and a cursor.
    pub search_budget_ms: u64,
    /// Open connections; more wait to be accepted.
    pub max_connections: usize,
    /// Requests under way; more get 503 with `Retry-After`.
    pub max_concurrent_requests: usize,
    /// Searches under way; more wait within their time-out.
    pub max_concurrent_searches: usize,
    /// Live streams under way; more get 503.
    pub max_streams: usize,
    /// Traces a page of a search, insights or baselines a page; a larger `limit` is lowered to it and the answer says so.
    pub max_traces_per_page: usize,
    /// Spans of one trace that are answered; the rest is cut and the answer says so.
    pub max_spans_per_trace: usize,
    /// Bytes of one answer, before compression; a larger one is refused with 413.
    pub max_response_bytes: usize,
    /// Longest a client may take to send a request's head.
    pub header_timeout_ms: u64,
    /// Longest that open requests are waited for at shutdown.
    pub drain_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_timeout_ms: 30_000,
            search_budget_ms: 10_000,
            max_connections: 1_024,
            max_concurrent_requests: 128,
            max_concurrent_searches: 4,
            max_streams: 64,
            max_traces_per_page: 500,
            max_spans_per_trace: 100_000,
            max_response_bytes: 256 << 20,
            header_timeout_ms: 10_000,
            drain_timeout_ms: 5_000,
        }
    }
}
