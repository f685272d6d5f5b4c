//! `infertrace up` with nothing else installed: durable across clean and hard ends.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use infertrace_tests::{
    http,
    infertrace::{STOP_TIMEOUT, Setup, loadgen, program, try_loadgen},
    process::{Process, wait_until},
};
use serde_json::{Value, json};

fn verified(against: &str, ledger: &str, place: &[&str]) -> anyhow::Result<Value> {
    let mut args = vec!["verify", "--json", "--ledger", ledger, "--against", against];
    args.extend(place);
    let (clean, verdict) = try_loadgen(&args, &[])?;
    ensure!(clean, "verify against {against}: {verdict:#}");
    Ok(verdict)
}

/// Scenario: one OTLP/JSON request by hand, as the README shows it; then the same search in the API.
/// Guarantee: the trace is visible within seconds with its fields, and every documented route answers.
#[test]
fn a_first_span_is_seen() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let setup = Setup::new(dir.path())?;
    let mut up = setup.up()?;
    let api = setup.addresses.api_url();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let body = json!({"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "chat"}}]},
        "scopeSpans": [{"spans": [{
            "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "llm_request", "kind": 2,
            "startTimeUnixNano": now.to_string(), "endTimeUnixNano": (now + 120_000_000).to_string(),
            "attributes": [
                {"key": "gen_ai.request.model", "value": {"stringValue": "tiny"}},
                {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "42"}}
            ],
            "unknownField": {"is": "ignored"}
        }]}]
    }]});
    let url = format!("{}/v1/traces", setup.addresses.http_url());
    let (status, answer) = http::post(&url, "application/json", body.to_string().as_bytes())?;
    ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&answer));

    let trace = format!("{api}/api/v1/traces/5b8efff798038103d269b633813fc60c");
    wait_until(&trace, Duration::from_secs(10), || Ok(http::status(&trace) == Some(200)))?;
    let trace = http::get_json(&trace)?;
    let span = &trace["spans"][0];
    assert_eq!(span["service"], "chat");
    assert_eq!(span["operation"], "llm_request");
    assert_eq!(span["kind"], "SERVER");
    assert_eq!(span["duration_nano"], "120000000");
    assert_eq!(span["attributes"]["gen_ai.usage.input_tokens"], "42");
    assert_eq!(span["inference"]["model_name"], "tiny");
    assert_eq!(trace["critical_path"], json!(["eee19b7ec3c1b174"]));
    assert_eq!(trace["tiers"], json!(["hot"]));

    let found = http::get_json(&format!(
        "{api}/api/v1/traces?service=chat&model=tiny&min_duration_ms=100&attr=gen_ai.usage.input_tokens%3D42"
    ))?;
    assert_eq!(found["traces"][0]["trace_id"], "5b8efff798038103d269b633813fc60c");
    let missing = http::get_json(&format!("{api}/api/v1/traces?service=chat&min_duration_ms=200"))?;
    assert_eq!(missing["traces"], json!([]));
    for path in
        ["/api/v1/services", "/api/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json", "/"]
    {
        assert_eq!(http::get(&format!("{api}{path}"))?.0, 200, "{path}");
    }
    let (_, metrics) = http::get(&format!("{api}/metrics"))?;
    assert!(metrics.contains("infertrace_gateway_spans_accepted_total{"), "{metrics}");
    ensure!(up.terminate(STOP_TIMEOUT)?.success(), "not a clean end\n{}", up.tail());
    Ok(())
}

/// Scenario: spans blasted into `up`; SIGTERM; a second start; SIGKILL in the middle of a second blast; a third start.
/// Guarantee: every acknowledged span of both runs is in the log, and once in the lake and in the API's answers.
#[test]
fn acknowledged_spans_survive_clean_and_hard_ends() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut setup = Setup::new(dir.path())?;
    setup.variables.push(("INFERTRACE_SINK_FLUSH_INTERVAL_MS".into(), "1000".into()));
    let grpc = setup.addresses.grpc_url();
    let data = dir.path().join("data").display().to_string();
    let first = dir.path().join("first.ledger").display().to_string();
    let second = dir.path().join("second.ledger").display().to_string();

    let mut up = setup.up()?;
    let result = loadgen(&["blast", "--json", "--endpoint", &grpc, "--count", "100000", "--ledger", &first])?;
    assert_eq!(result["acked_spans"], 100_000, "{result:#}");
    wait_until("the sink to have read all", Duration::from_secs(60), || {
        up.check_alive()?;
        let url = setup.addresses.api_url();
        let written = sum(&url, "infertrace_gateway_log_records_total")?;
        Ok(sum(&url, "infertrace_parquet_sink_read_records_total")? >= written)
    })?;
    ensure!(up.terminate(STOP_TIMEOUT)?.success(), "not a clean end\n{}", up.tail());
    // A clean end flushes: the lake has everything that was read before the next start.
    verified("log", &first, &["--data-dir", &data])?;
    verified("parquet", &first, &["--data-dir", &data])?;

    let mut up = setup.up()?;
    let mut command = Command::new(program("infertrace-loadgen")?);
    command
        .args(["blast", "--json", "--endpoint", &grpc, "--count", "200000", "--rate", "40000", "--retry"])
        .args(["--protocol", "frames", "--compression", "zstd", "--ledger", &second]);
    let mut blast = Process::start("blast", command, &dir.path().join("blast.log"))?;
    // The kill falls into the middle: some of the second run's spans are acknowledged, most are not yet sent.
    wait_until("the second run's first spans", Duration::from_secs(30), || {
        blast.check_alive()?;
        Ok(sum(&setup.addresses.api_url(), "infertrace_gateway_spans_accepted_total")? >= 60_000)
    })?;
    up.kill()?;
    let mut up = setup.up().context("the start after SIGKILL")?;
    wait_until("the blast to end", Duration::from_secs(120), || Ok(blast.check_alive().is_err()))?;
    ensure!(blast.terminate(Duration::from_secs(1)).is_ok_and(|status| status.success()), "{}", blast.tail());

    for ledger in [&first, &second] {
        let verdict = verified("api", ledger, &["--api", &setup.addresses.api_url()])?;
        assert_eq!(verdict["found"], verdict["acked"], "{verdict:#}");
    }
    ensure!(up.terminate(STOP_TIMEOUT)?.success(), "not a clean end\n{}", up.tail());
    for ledger in [&first, &second] {
        verified("log", ledger, &["--data-dir", &data])?;
        verified("parquet", ledger, &["--data-dir", &data])?;
    }
    Ok(())
}

/// A counter of the running process, summed over its labels.
fn sum(api: &str, counter: &str) -> anyhow::Result<u64> {
    let (_, metrics) = http::get(&format!("{api}/metrics"))?;
    let lines = metrics.lines().filter(|line| line.starts_with(counter));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

/// Scenario: two processes on one data folder; a role without Kafka; a port that is taken; a misspelt key.
/// Guarantee: each ends at once with an error that says what to do, and the first process is unharmed.
#[test]
fn mistakes_are_explained() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let setup = Setup::new(dir.path())?;
    let mut up = setup.up()?;
    let other = Setup { addresses: infertrace_tests::infertrace::Addresses::pick()?, ..setup.clone() };
    let elsewhere = dir.path().join("elsewhere").display().to_string();
    let cases = [
        (other.start("up", &["--no-demo"])?, "another"),
        (other.start("gateway", &[])?, "--kafka"),
        (setup.start("up", &["--no-demo", "--data-dir", &elsewhere])?, "twice|listen|in use"),
        (
            Setup { variables: vec![("INFERTRACE_PARTITONS".into(), "3".into())], ..other }
                .start("up", &[])?,
            "INFERTRACE_PARTITIONS",
        ),
    ];
    for (mut process, needle) in cases {
        wait_until("the error", Duration::from_secs(30), || Ok(process.check_alive().is_err()))?;
        let tail = process.tail();
        ensure!(needle.split('|').any(|word| tail.contains(word)), "{tail}\ndoes not say {needle}");
    }
    up.check_alive()?;
    Ok(())
}
