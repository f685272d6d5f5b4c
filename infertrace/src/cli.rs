//! The command line: roles, their flags, and what each flag sets.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use infertrace_runtime::telemetry::LogFormat;
use toml::Value;

use crate::commands::{
    audit::Audit, clickhouse::ClickHouse, detect::Detect, dlq::Dlq, evaluate_nab::Nab,
    evaluate_scenarios::Scenarios, lake::Lake, replay::Replay, topics::Topics,
};

/// Why inference got slow or dear, and what to change.
#[derive(Debug, Parser)]
#[command(name = "infertrace", version = version(), propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The package's version and, where the build knew it, the commit.
fn version() -> &'static str {
    match option_env!("INFERTRACE_COMMIT") {
        Some(commit) => Box::leak(format!("{} ({commit})", env!("CARGO_PKG_VERSION")).into_boxed_str()),
        None => env!("CARGO_PKG_VERSION"),
    }
}

/// Roles and tools.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Everything in one process; with no --kafka on a durable log of its own
    Up {
        /// Flags of every role.
        #[command(flatten)]
        flags: Flags,
        /// Without simulated inference traffic (with --kafka there is none either)
        #[arg(long)]
        no_demo: bool,
    },
    /// Takes spans over gRPC and HTTP into Kafka
    Gateway(Flags),
    /// Assembles traces
    Processor(Flags),
    /// Writes the lake, and ClickHouse where one is given
    Sink(Flags),
    /// Answers queries and serves the UI
    Api(Flags),
    /// Shows, creates and checks the topics
    #[command(subcommand)]
    Topics(Topics),
    /// Shows records that no role could read, and sends them back
    #[command(subcommand)]
    Dlq(Dlq),
    /// Makes and changes ClickHouse's tables
    #[command(name = "clickhouse", subcommand)]
    ClickHouse(ClickHouse),
    /// Compares the log with the lake, span by span; exit code 1 when they differ
    Audit(Audit),
    /// Merges the lake's files, and has it forget tenants and traces
    #[command(subcommand)]
    Lake(Lake),
    /// Scores each row of a series for anomalies
    Detect(Detect),
    /// Scores detectors against labelled data
    #[command(subcommand)]
    Evaluate(Evaluate),
    /// Analyses a past range again, beside what was said live
    Replay(Replay),
    /// Shows or checks the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Labelled data to score detectors against.
#[derive(Debug, Subcommand)]
pub(crate) enum Evaluate {
    /// Series with labelled windows, by the rules of the Numenta Anomaly Benchmark
    Nab(Nab),
    /// Simulated traffic with faults whose truth is known, through both stages in simulated time
    Scenarios(Scenarios),
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Prints the configuration that the flags, variables and file given would make, without passwords
    Print {
        /// Flags of every role.
        #[command(flatten)]
        flags: Flags,
        /// The defaults instead, each key with its meaning
        #[arg(long)]
        defaults: bool,
    },
    /// Says whether the configuration is good; exit code 2 when it is not
    Check(Flags),
}

/// Flags that every role takes. Each sets a key of the configuration file and has a variable.
#[derive(Debug, Default, Args)]
pub(crate) struct Flags {
    /// Configuration file (TOML)
    #[arg(long, env = "INFERTRACE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of the embedded log and the local lake [data_dir]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Kafka to use instead of the embedded log [kafka.brokers]
    #[arg(long, value_name = "HOST:PORT,…")]
    kafka: Option<String>,
    /// Lake: a folder, s3://bucket/prefix, gs://…, az://… [object_store]
    #[arg(long, value_name = "URL")]
    object_store: Option<String>,
    /// ClickHouse's HTTP interface, as in http://localhost:8123 [sink.clickhouse.url]
    #[arg(long, value_name = "URL")]
    clickhouse: Option<String>,
    /// Address for gRPC: native protocol and OTLP [gateway.grpc_addr]
    #[arg(long, value_name = "ADDR")]
    grpc: Option<String>,
    /// Address for OTLP over HTTP [gateway.http_addr]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Address of the API and the UI [query.listen]
    #[arg(long, value_name = "ADDR")]
    api: Option<String>,
    /// Address of /healthz, /readyz and /metrics for roles without the API [ops_addr]
    #[arg(long, value_name = "ADDR")]
    ops: Option<String>,
    /// Partitions of the spans topic when it is created [partitions]
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// text or json [log_format]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

impl Flags {
    /// The keys that were set.
    #[must_use]
    pub(crate) fn keys(&self) -> Vec<(&'static str, Value)> {
        let path = |path: &PathBuf| Value::String(path.display().to_string());
        let texts = [
            ("kafka.brokers", &self.kafka),
            ("object_store", &self.object_store),
            ("sink.clickhouse.url", &self.clickhouse),
            ("gateway.grpc_addr", &self.grpc),
            ("gateway.http_addr", &self.http),
            ("query.listen", &self.api),
            ("ops_addr", &self.ops),
        ];
        let mut keys: Vec<_> =
            texts.into_iter().filter_map(|(key, value)| Some((key, Value::String(value.clone()?)))).collect();
        keys.extend(self.data_dir.as_ref().map(|dir| ("data_dir", path(dir))));
        keys.extend(self.partitions.map(|count| ("partitions", Value::Integer(i64::from(count)))));
        keys.extend(self.log_format.map(|format| ("log_format", Value::String(format.to_string()))));
        keys
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::Config;

    /// Scenario: the command's definition. Guarantee: clap finds no contradiction in it.
    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Scenario: every flag set at once. Guarantee: each lands in the key its help names.
    #[test]
    fn every_flag_has_a_key() {
        let line = "infertrace up --no-demo --data-dir d --kafka k:1 --object-store s3://b/p --grpc 127.0.0.1:1 \
                    --http 127.0.0.1:2 --api 127.0.0.1:3 --ops 127.0.0.1:4 --partitions 5 --log-format json";
        let Command::Up { flags, no_demo } = Cli::parse_from(line.split_whitespace()).command else {
            panic!("up was asked for");
        };
        assert!(no_demo);
        let config = Config::load(None, flags.keys()).expect("good flags");
        assert_eq!(config.data_dir, PathBuf::from("d"));
        assert_eq!(config.kafka.brokers, "k:1");
        assert_eq!(config.lake(), "s3://b/p");
        assert_eq!(config.gateway.grpc_addr.port(), 1);
        assert_eq!(config.gateway.http_addr.port(), 2);
        assert_eq!(config.query.listen.port(), 3);
        assert_eq!(config.ops_addr, "127.0.0.1:4");
        assert_eq!(config.partitions, 5);
        assert_eq!(config.log_format, LogFormat::Json);
    }
}
