//! Tempo's and Jaeger's types and Prometheus' client read what `infertrace up` answers to the requests of Grafana's data sources.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use infertrace_tests::{
    golang, http,
    infertrace::{STOP_TIMEOUT, Setup, count_simulated},
    process::{crate_dir, wait_until},
};
use serde_json::Value;

fn spans(otlp: &Value) -> usize {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let scopes = list(otlp, "resourceSpans").into_iter().flat_map(|resource| list(&resource, "scopeSpans"));
    scopes.map(|scope| list(&scope, "spans").len()).sum()
}

/// Scenario: a trace sent by OpenTelemetry's SDK for Go, and requests of a simulated engine; then each request that
/// Grafana's Tempo, Jaeger and Prometheus data sources send: traces by id in both versions as protobuf and JSON, searches by
/// TraceQL, by tags and by Jaeger's form, names and values for completion, metrics, PromQL. Guarantee: Tempo's and Jaeger's
/// own types read every answer without an unknown field, and tell the trace as it was sent; Prometheus' own client reads
/// numbers, histograms and errors, and they count the requests that were sent.
#[test]
fn types_of_tempo_jaeger_and_prometheus_read_the_answers() -> anyhow::Result<()> {
    if !golang::is_installed() {
        return Ok(());
    }
    let emit = golang::build(&crate_dir().join("otel/go"), "otel-go/emit")?;
    let ask = golang::build(&crate_dir().join("grafana"), "grafana-go/ask")?;
    let dir = tempfile::tempdir()?;
    let setup = Setup::new(dir.path())?;
    let mut up = setup.up()?;
    let (api, endpoint) = (setup.addresses.api_url(), format!("127.0.0.1:{}", setup.addresses.grpc));
    let sent = Command::new(&emit).args(["grpc", &endpoint]).output()?;
    ensure!(sent.status.success(), "emit failed: {}", String::from_utf8_lossy(&sent.stderr));
    let trace: Value = serde_json::from_slice(&sent.stdout).context("what emit printed")?;
    let url =
        format!("{api}/api/v1/traces/{}?format=otlp", trace["trace_id"].as_str().context("a trace id")?);
    wait_until("both spans", Duration::from_secs(20), || {
        Ok(http::status(&url) == Some(200) && spans(&http::get_json(&url)?) == 2)
    })?;
    let input = dir.path().join("sent.json");
    std::fs::write(&input, &sent.stdout)?;
    let asked = |command: &mut Command| -> anyhow::Result<()> {
        let asked = command.output()?;
        ensure!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
        Ok(())
    };
    // The trace alone first: among others it would not be on the first page.
    let mut traces = Command::new(&ask);
    traces.args([&api, "traces"]).stdin(Stdio::from(std::fs::File::open(&input)?));
    asked(&mut traces).with_context(|| up.tail())?;
    let requests = count_simulated(&setup, 1)?.to_string();
    asked(Command::new(&ask).args([&api, "requests", &requests])).with_context(|| up.tail())?;
    ensure!(up.terminate(STOP_TIMEOUT)?.success(), "infertrace up did not end well\n{}", up.tail());
    Ok(())
}
