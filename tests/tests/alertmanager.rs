//! Delivery of insights to a real Alertmanager, over its API v2.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use infertrace_processors::delivery::{Config, Deps, Kind, TargetConfig, build};
use infertrace_runtime::{
    clock::SystemClock,
    log::{
        Log, Millis, NewRecord, TopicPartition, TopicSpec,
        embedded::{self, EmbeddedLog, Fsync},
    },
    telemetry::{MetricsRegistry, exposition},
};
use infertrace_schemas::{
    avro::{Evidence, Insight, InsightState, Recommendation, SchemaIds, Severity},
    topics,
};
use infertrace_tests::{alertmanager::Alertmanager, process::wait_until};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

/// Delivery of one log's insights to one Alertmanager.
struct Delivery {
    log: Arc<EmbeddedLog>,
    runtime: tokio::runtime::Runtime,
    metrics: MetricsRegistry,
    _dir: tempfile::TempDir,
}

impl Delivery {
    fn start(url: String) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Runtime::new()?;
        let _entered = runtime.enter();
        let dir = tempfile::tempdir()?;
        let log = EmbeddedLog::open(embedded::Config {
            dir: dir.path().to_owned(),
            preallocate: false,
            fsync: Fsync::Never,
            ..embedded::Config::default()
        })?;
        let spec = |topic: topics::Topic| TopicSpec {
            name: topic.name.into(),
            partitions: 1,
            retention: topic.retention,
            compacted: topic.compacted,
            replication: 1,
        };
        let specs: Vec<_> = topics::all(1).into_iter().map(spec).collect();
        let mut metrics = MetricsRegistry::default();
        let target = TargetConfig {
            name: "oncall".into(),
            kind: Kind::Alertmanager,
            url,
            retry_base_ms: 20,
            retry_max_ms: 200,
            resend_ms: 500,
            ..TargetConfig::default()
        };
        let config = Config { targets: vec![target], ..Config::default() };
        let service = runtime.block_on(async {
            log.create_topics(&specs).await?;
            let (log, clock): (Arc<dyn Log>, _) = (log.clone(), Arc::new(SystemClock));
            anyhow::Ok(build(config, Deps { log, clock, seed: 7, metrics: &mut metrics }).await?)
        })?;
        // Ends with the runtime.
        runtime.spawn(service.run(CancellationToken::new()));
        Ok(Self { log, runtime, metrics, _dir: dir })
    }

    fn put(&self, insight: &Insight) -> anyhow::Result<()> {
        let payload = SchemaIds::embedded::<Insight>().encode(insight)?;
        let record = NewRecord {
            to: TopicPartition::new(topics::INSIGHTS, 0),
            key: Some("llama".into()),
            payload: Some(payload.into()),
            headers: Vec::new(),
            timestamp: Millis(now_ms()),
        };
        self.runtime.block_on(async { self.log.append(record)?.await })?;
        Ok(())
    }

    /// How many of its series are at least one and hold all of `parts`.
    fn has(&self, parts: &[&str]) -> bool {
        let text = exposition(&self.metrics);
        let counts = |line: &&str| parts.iter().all(|part| line.contains(part)) && !line.ends_with(" 0");
        text.lines().any(|line| counts(&line))
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn insight(id: &str, revision: i32, state: InsightState, opened_ms: i64) -> Insight {
    Insight {
        id: id.to_owned(),
        revision,
        state,
        kind: "gpu_idle".to_owned(),
        severity: Severity::Warning,
        model: "llama".to_owned(),
        tenant: "acme".to_owned(),
        opened_unix_nanos: opened_ms * 1_000_000,
        window_end_unix_nanos: now_ms() * 1_000_000,
        resolved_unix_nanos: (state == InsightState::Resolved).then(|| now_ms() * 1_000_000),
        title: "llama: GPUs 25 % busy with 12 requests in flight each".to_owned(),
        evidence: vec![Evidence {
            metric: "gpu_busy".to_owned(),
            unit: "1".to_owned(),
            observed: 0.25,
            baseline: Some(0.9),
            samples: 36,
        }],
        recommendation: Some(Recommendation {
            text: "Check the engine process's CPU.".to_owned(),
            expected_gain: "about 80 ms less a request".to_owned(),
            confidence: 0.8,
        }),
        example_traces: vec!["5b8efff798038103d269b633813fc60c".to_owned()],
        ..Insight::default()
    }
}

/// Waits until exactly the alerts of these insights are active; returns them in that order.
fn until_active(alertmanager: &Alertmanager, ids: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut alerts = Vec::new();
    let id = |alert: &Value| alert["labels"]["insight_id"].as_str().unwrap_or_default().to_owned();
    wait_until(&format!("the alerts {ids:?}"), PATIENCE, || {
        alerts = alertmanager.active()?;
        alerts.sort_by_key(id);
        Ok(alerts.iter().map(id).eq(ids.iter().map(|id| (*id).to_owned())))
    })
    .with_context(|| format!("{alerts:#?}"))?;
    Ok(alerts)
}

/// A time of an alert, milliseconds since 1970.
fn time_of(alert: &Value, name: &str) -> anyhow::Result<i64> {
    let text = alert[name].as_str().with_context(|| format!("no {name}: {alert:#}"))?;
    infertrace_schemas::time::parse(text, now_ms()).map_err(anyhow::Error::msg)
}

/// Scenario: an insight opens, stays open for longer than Alertmanager holds an alert that it does not hear of, and is
/// resolved.
/// Guarantee: the alert is active all that time, with labels that identify the insight, annotations that say what to do, and
/// the start of the insight; when the insight is resolved no alert of it is left.
#[test]
fn an_insight_is_an_alert_as_long_as_it_is_open() -> anyhow::Result<()> {
    let mut alertmanager = Alertmanager::stopped()?;
    alertmanager.start()?;
    let delivery = Delivery::start(alertmanager.url())?;
    let opened_ms = now_ms() - 90_000;
    delivery.put(&insight("i1", 1, InsightState::Open, opened_ms))?;
    let alert = until_active(&alertmanager, &["i1"])?.remove(0);
    let labels = [
        ("alertname", "InferTraceGpuIdle"),
        ("severity", "warning"),
        ("kind", "gpu_idle"),
        ("insight_id", "i1"),
        ("model", "llama"),
        ("tenant", "acme"),
    ];
    for (name, value) in labels {
        ensure!(alert["labels"][name] == value, "label {name}: {alert:#}");
    }
    let annotations = [
        ("summary", "llama: GPUs 25 % busy"),
        ("description", "gpu_busy"),
        (
            "recommendation",
            "Check the engine process's CPU. Expected: about 80 ms less a request. Confidence: 80 %.",
        ),
        ("example_traces", "5b8efff798038103d269b633813fc60c"),
    ];
    for (name, part) in annotations {
        let text = alert["annotations"][name].as_str().unwrap_or_default();
        ensure!(text.contains(part), "annotation {name}: {alert:#}");
    }
    let starts_ms = time_of(&alert, "startsAt")?;
    ensure!(starts_ms == opened_ms, "starts at {starts_ms} ms, the insight opened at {opened_ms} ms");
    ensure!(alert["status"]["state"] == "active", "{alert:#}");

    let expires_ms = time_of(&alert, "endsAt")?;
    wait_until("the alert to be older than it lasts by itself", PATIENCE, || {
        let active = alertmanager.active()?;
        ensure!(active.len() == 1, "it did not stay active: {active:#?}");
        Ok(now_ms() > expires_ms + 1_000)
    })?;

    delivery.put(&insight("i1", 2, InsightState::Resolved, opened_ms))?;
    until_active(&alertmanager, &[])?;
    ensure!(!delivery.has(&["outcome=\"refused\""]), "{}", exposition(&delivery.metrics));
    Ok(())
}

/// Scenario: Alertmanager is killed while an alert is open, an insight opens while it is away, and it comes back having
/// forgotten everything.
/// Guarantee: the new insight is retried until it is taken, and the open one is told again.
#[test]
fn an_alertmanager_that_was_away_gets_everything() -> anyhow::Result<()> {
    let mut alertmanager = Alertmanager::stopped()?;
    alertmanager.start()?;
    let delivery = Delivery::start(alertmanager.url())?;
    delivery.put(&insight("i1", 1, InsightState::Open, now_ms()))?;
    until_active(&alertmanager, &["i1"])?;
    alertmanager.kill()?;
    delivery.put(&insight("i2", 1, InsightState::Open, now_ms()))?;
    wait_until("a request to fail", PATIENCE, || {
        Ok(delivery.has(&["infertrace_delivery_requests_total", "outcome=\"failed\""]))
    })?;
    alertmanager.start()?;
    until_active(&alertmanager, &["i1", "i2"])?;
    Ok(())
}
