//! What the tests of both sinks share: dates, spans, a sink at work.

use std::time::Duration;

use infertrace_proto::v1::Span;
use infertrace_runtime::telemetry::MetricsRegistry;
use infertrace_sinks::Error;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const DAY_NS: i64 = 86_400_000_000_000;
/// Noon of a day in 2025.
pub(crate) const NOON_NS: i64 = 20_000 * DAY_NS + DAY_NS / 2;

/// The id of span number `number`.
pub(crate) fn span_id(number: u64) -> [u8; 8] {
    (number + 1).to_be_bytes()
}

/// A span; four of them share a trace.
pub(crate) fn span(number: u64, start_ns: i64) -> Span {
    let mut trace_id = [0x5a; 16];
    trace_id[..8].copy_from_slice(&(number / 4 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Span {
        trace_id: trace_id.to_vec(),
        span_id: span_id(number).to_vec(),
        service_name: format!("service-{}", number % 3),
        operation_name: "generate".into(),
        start_time_unix_nano: start_ns,
        duration_nanos: 1_000 + number as i64,
        tags: [("request.id".to_owned(), format!("req-{number}"))].into(),
        ..Span::default()
    }
}

/// When span `number` starts: two in four are from the day before.
pub(crate) fn start_over_two_days(number: u64) -> i64 {
    NOON_NS - if number % 4 < 2 { DAY_NS } else { 0 } - number as i64
}

/// A sink at work.
pub(crate) struct Running {
    pub(crate) task: JoinHandle<Result<(), Error>>,
    shutdown: CancellationToken,
    metrics: MetricsRegistry,
    patience: Duration,
}

impl Running {
    /// Runs what `run` makes of the token that ends it; it is to end within `patience`.
    pub(crate) fn spawn<F>(
        metrics: MetricsRegistry,
        patience: Duration,
        run: impl FnOnce(CancellationToken) -> F,
    ) -> Self
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let shutdown = CancellationToken::new();
        Self { task: tokio::spawn(run(shutdown.clone())), shutdown, metrics, patience }
    }

    /// Drains and ends it.
    pub(crate) async fn finish(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(self.patience, self.task).await.expect("ends in time");
        ended.expect("no panic").expect("no error");
    }

    /// Kills it where it stands.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).expect("text");
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.rsplit(' ').next().expect("value").parse().expect("number")
    }

    /// Waits until a metric has a value.
    pub(crate) async fn until_metric(&self, name: &str, value: f64) {
        let waiting = async {
            while self.metric(name) != value {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(self.patience, waiting)
            .await
            .unwrap_or_else(|_| panic!("{name} is {}", self.metric(name)));
    }
}
