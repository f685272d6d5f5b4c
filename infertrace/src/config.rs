//! The one configuration of every role, and its layers.

use std::path::PathBuf;

use infertrace_runtime::{
    clickhouse::{Access, Client},
    config::{self, ConfigError},
    log::{embedded, kafka},
    telemetry::LogFormat,
};
use serde::{Deserialize, Serialize};

/// Every key, with its default and what it means: what `infertrace config print --defaults` shows.
pub(crate) const DEFAULTS: &str = include_str!("default.toml");

/// What stands for a secret where the configuration is shown, as Prometheus has it.
const HIDDEN: &str = "<secret>";
/// How librdkafka's properties end that hold a password, a client's secret, or a private key.
const SECRET_PROPERTIES: [&str; 4] = ["password", "client.secret", "ssl.key.pem", "sasl.oauthbearer.config"];

/// What every role reads; `default.toml` documents each key.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Folder of the embedded log and, unless `object_store` says otherwise, of the lake.
    pub(crate) data_dir: PathBuf,
    /// Where the lake lies; empty for `lake` in `data_dir`.
    pub(crate) object_store: String,
    /// Partitions of the spans topic when it is created.
    pub(crate) partitions: u32,
    /// Copies of each topic when it is created on Kafka.
    pub(crate) replication: u16,
    /// Address of `/healthz`, `/readyz` and `/metrics` for roles without the API; empty for none.
    pub(crate) ops_addr: String,
    /// How log lines look.
    pub(crate) log_format: LogFormat,
    /// Which log lines are written, as in `RUST_LOG`.
    pub(crate) log_filter: String,
    /// Kafka; used when `kafka.brokers` is set.
    pub(crate) kafka: kafka::Config,
    /// The embedded log; used otherwise.
    pub(crate) embedded_log: embedded::Config,
    /// Schema registry for the topics that others subscribe to.
    pub(crate) schema_registry: infertrace_processors::schema_registry::Config,
    /// Ingest gateway.
    pub(crate) gateway: infertrace_gateway::Config,
    /// Trace assembly.
    pub(crate) processor: infertrace_processors::Config,
    /// Baselines, detectors, insights; part of the processor.
    pub(crate) insights: infertrace_processors::insights::Config,
    /// Links between the traces of one request; part of the processor.
    pub(crate) stitching: infertrace_processors::stitching::Config,
    /// Delivery of insights; part of the processor where there are targets.
    pub(crate) delivery: infertrace_processors::delivery::Config,
    /// Parquet sink.
    pub(crate) sink: infertrace_sinks::Config,
    /// Query API and UI.
    pub(crate) query: infertrace_query::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "infertrace-data".into(),
            object_store: String::new(),
            partitions: infertrace_schemas::topics::DEFAULT_PARTITIONS,
            replication: 1,
            ops_addr: String::new(),
            log_format: LogFormat::Text,
            log_filter: "info".into(),
            kafka: kafka::Config::default(),
            embedded_log: embedded::Config::default(),
            schema_registry: infertrace_processors::schema_registry::Config::default(),
            gateway: infertrace_gateway::Config::default(),
            processor: infertrace_processors::Config::default(),
            insights: infertrace_processors::insights::Config::default(),
            stitching: infertrace_processors::stitching::Config::default(),
            delivery: infertrace_processors::delivery::Config::default(),
            sink: infertrace_sinks::Config::default(),
            query: infertrace_query::Config::default(),
        }
    }
}

impl Config {
    /// Loads the layers: defaults, `file`, the process environment, `flags`.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file, key or variable.
    pub(crate) fn load(
        file: Option<&std::path::Path>,
        flags: Vec<(&'static str, toml::Value)>,
    ) -> Result<Self, ConfigError> {
        let config: Self = config::load(file, std::env::vars(), flags)?;
        if config.partitions == 0 || config.replication == 0 {
            return Err(ConfigError::Invalid("partitions and replication must be at least 1".into()));
        }
        config.gateway.check().map_err(|error| ConfigError::Invalid(format!("gateway: {error}")))?;
        config.processor.check().map_err(|error| ConfigError::Invalid(format!("processor: {error}")))?;
        config.insights.check().map_err(|error| ConfigError::Invalid(format!("insights: {error}")))?;
        config.stitching.check().map_err(|error| ConfigError::Invalid(format!("stitching: {error}")))?;
        config.delivery.check().map_err(|error| ConfigError::Invalid(format!("delivery: {error}")))?;
        config.sink.validate().map_err(|error| ConfigError::Invalid(format!("sink: {error}")))?;
        config.query.warm.validate().map_err(|error| ConfigError::Invalid(format!("query.warm: {error}")))?;
        Ok(config)
    }

    /// The ClickHouse that the API reads: the sink's, with what `query.warm` says otherwise.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub(crate) fn warm(&self) -> Result<Option<infertrace_query::warm::WarmSource>, String> {
        let (sink, reader) = (&self.sink.clickhouse, &self.query.warm);
        if !(sink.is_used() && reader.enabled) {
            return Ok(None);
        }
        let mut settings = sink.clone();
        if !reader.url.is_empty() {
            settings.url.clone_from(&reader.url);
        }
        if !reader.user.is_empty() {
            settings.user.clone_from(&reader.user);
            settings.password = reader.password.clone();
            settings.password_file.clone_from(&reader.password_file);
        }
        let access = Access {
            connect_timeout_ms: reader.connect_timeout_ms,
            request_timeout_ms: reader.scan_timeout_ms,
            max_answer_bytes: reader.max_answer_bytes,
            ..settings.access()?
        };
        Ok(Some(infertrace_query::warm::WarmSource {
            client: Client::new(&access)?,
            database: sink.database.clone(),
            group: sink.group.clone(),
            ttl_days: sink.ttl_days,
        }))
    }

    /// The configuration as TOML, for people: what is a password or a key stands as [`HIDDEN`].
    ///
    /// # Errors
    /// When a value has no form in TOML.
    pub(crate) fn shown(&self) -> Result<String, toml::ser::Error> {
        let mut shown = self.clone();
        hide(&mut shown.sink.clickhouse.password.0);
        hide(&mut shown.query.warm.password.0);
        for (key, value) in &mut shown.kafka.properties {
            if SECRET_PROPERTIES.iter().any(|end| key.ends_with(end)) {
                hide(value);
            }
        }
        toml::to_string(&shown)
    }

    /// The lake's URL or folder.
    #[must_use]
    pub(crate) fn lake(&self) -> String {
        if self.object_store.is_empty() {
            self.data_dir.join("lake").display().to_string()
        } else {
            self.object_store.clone()
        }
    }

    /// Whether the log is a team's Kafka.
    #[must_use]
    pub(crate) fn uses_kafka(&self) -> bool {
        !self.kafka.brokers.is_empty()
    }
}

fn hide(secret: &mut String) {
    if !secret.is_empty() {
        HIDDEN.clone_into(secret);
    }
}

#[cfg(test)]
mod tests {
    use infertrace_runtime::clickhouse::Password;

    use super::*;

    /// Scenario: a ClickHouse of the sink alone, with a reader of its own, switched off, and none. Guarantee: the API reads the
    /// sink's database, as whoever it is told to be, and nothing where there is nothing to read.
    #[test]
    fn the_api_reads_what_the_sink_fills() {
        let mut config = Config::default();
        assert!(config.warm().expect("no mistake").is_none());
        config.sink.clickhouse.url = "http://ch:8123".into();
        config.sink.clickhouse.database = "spans".into();
        let source = config.warm().expect("good").expect("one");
        assert_eq!((source.client.server(), source.database.as_str()), ("ch:8123", "spans"));
        config.query.warm.url = "http://replica:8123".into();
        config.query.warm.user = "reader".into();
        config.query.warm.password_file = "/nowhere/secret".into();
        assert!(config.warm().expect_err("no file").contains("/nowhere/secret"));
        config.query.warm.password_file.clear();
        assert_eq!(config.warm().expect("good").expect("one").client.server(), "replica:8123");
        config.query.warm.enabled = false;
        assert!(config.warm().expect("no mistake").is_none());
    }

    /// Scenario: passwords of ClickHouse and of Kafka. Guarantee: the shown configuration has none of them, and says where one
    /// is; the rest stands as it is.
    #[test]
    fn no_secret_is_shown() {
        let mut config = Config::default();
        config.sink.clickhouse.password = Password("s3cret".into());
        config.query.warm.password = Password("s3cret".into());
        for key in ["sasl.password", "ssl.key.password", "sasl.oauthbearer.client.secret", "sasl.username"] {
            let value = if key.ends_with("username") { "team" } else { "s3cret" };
            config.kafka.properties.insert(key.into(), value.into());
        }
        let shown = config.shown().expect("TOML");
        assert!(!shown.contains("s3cret"));
        assert_eq!(shown.matches(HIDDEN).count(), 5);
        assert!(shown.contains(r#""sasl.username" = "team""#), "{shown}");
        let none = Config::default().shown().expect("TOML");
        assert_eq!(none, toml::to_string(&Config::default()).expect("TOML"));
    }

    /// Scenario: the documented defaults. Guarantee: they name every key that exists, no other, with the value it has.
    #[test]
    fn documented_defaults_are_the_defaults() {
        let documented: toml::Table = DEFAULTS.parse().expect("default.toml parses");
        let actual = toml::Table::try_from(Config::default()).expect("serialises");
        assert_eq!(documented, actual);
    }
}
