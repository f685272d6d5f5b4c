//! One target: what it wants, what waits for it, and the task that sends.
//!
//! What is muted is held back, the latest revision of each insight, and told when the mute ends and the insight goes on.
//!
//! Invariant: nothing a target does or fails to do is waited for by the reader or by another target. They share only
//! the tickets, which note when every target is done with a record.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use infertrace_runtime::{
    clock::Clock,
    log::{
        Log, LogError, Millis, Offset, Record, TopicPartition,
        tracker::{Generation, Tracker},
    },
};
use infertrace_schemas::avro::{Insight, InsightState};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    backoff::Backoff,
    config::{Kind, TargetConfig},
    filter::Filter,
    following::{Following, Telling},
    http::{Outcome, Poster},
    letters,
    metrics::{Metrics, TargetLabels},
    open::OpenSet,
    outbox::{Limits, Number, Outbox, Step},
    payload::{self, alertmanager, slack, webhook},
    triage::Decisions,
};

/// Alerts in one request when open ones are repeated.
const ALERTS_A_REQUEST: usize = 64;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("infertrace/", env!("CARGO_PKG_VERSION")));

/// One record of the insights topic, until every target is done with it.
#[derive(Debug)]
pub(super) struct Ticket {
    tracker: Arc<Mutex<Tracker>>,
    at: TopicPartition,
    generation: Generation,
    offset: Offset,
    left: AtomicUsize,
}

impl Ticket {
    /// A ticket that `parts` have to be done with.
    pub(super) fn new(
        tracker: Arc<Mutex<Tracker>>,
        at: TopicPartition,
        generation: Generation,
        offset: Offset,
        parts: usize,
    ) -> Arc<Self> {
        Arc::new(Self { tracker, at, generation, offset, left: AtomicUsize::new(parts) })
    }

    /// One part is done.
    pub(super) fn done(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Refused when the partition has moved away: then its new owner delivers again.
            let _ = self.tracker.lock().ack(&self.at, self.generation, self.offset);
        }
    }
}

/// One insight on its way to one target.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) insight: Arc<Insight>,
    pub(super) record: Arc<Record>,
    /// None of what was held back: its position was committed then, and a restart finds it by looking back.
    pub(super) ticket: Option<Arc<Ticket>>,
    /// Sent back from the dead-letter topic for this target.
    pub(super) redriven: bool,
}

impl Job {
    /// The target is done with it.
    fn done(&self) {
        if let Some(ticket) = &self.ticket {
            ticket.done();
        }
    }
}

/// What targets have in common.
pub(super) struct Shared {
    pub(super) open_ms: i64,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    pub(super) decisions: Arc<Decisions>,
}

/// What became of an offer.
#[derive(Debug)]
pub(super) enum Offer {
    /// It waits for its turn.
    Queued,
    /// The target does not want it, or not now.
    Filtered,
    /// The queue is full.
    Full,
}

/// One target.
pub(super) struct Target {
    pub(super) name: Arc<str>,
    config: TargetConfig,
    filter: Filter,
    poster: Poster,
    signer: Option<webhook::Signer>,
    bearer: Option<HeaderValue>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    started: Instant,
    open_ms: i64,
    outbox: Mutex<Outbox<Job>>,
    /// What is not over: its end is told too, whatever the filter says by then.
    following: Mutex<Following>,
    /// What people decided.
    decisions: Arc<Decisions>,
    /// What Alertmanager holds for open.
    alerts: Mutex<OpenSet<Arc<Insight>>>,
    wake: Notify,
}

/// What the worker keeps between requests.
struct Worker {
    resend_at: Duration,
    last_error: String,
}

impl Target {
    /// Reads URL and secret and makes the client.
    ///
    /// # Errors
    /// A sentence that names no secret.
    pub(super) fn new(config: TargetConfig, seed: u64, shared: Shared) -> Result<Self, String> {
        let Shared { open_ms, clock, metrics, decisions } = shared;
        let path = if config.kind == Kind::Alertmanager { "/api/v2/alerts" } else { "" };
        let poster = Poster::new(&config.load_url()?, path, config.timeout())?;
        let (mut signer, mut bearer) = (None, None);
        match (config.load_secret()?, config.kind) {
            (Some(secret), Kind::Webhook) => {
                signer =
                    Some(webhook::Signer::new(secret.expose()).map_err(|error| format!("secret: {error}"))?);
            }
            (Some(secret), Kind::Alertmanager | Kind::Slack) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", secret.expose()))
                    .map_err(|_| "secret: it holds characters that a header cannot have".to_owned())?;
                value.set_sensitive(true);
                bearer = Some(value);
            }
            (None, _) => {}
        }
        let limits = Limits {
            entries: config.queue,
            budget: Duration::from_millis(config.retry_budget_ms),
            circuit_failures: config.circuit_failures,
        };
        let base = Duration::from_millis(config.retry_base_ms);
        let backoff = Backoff::new(base, Duration::from_millis(config.retry_max_ms), seed);
        Ok(Self {
            name: config.name.as_str().into(),
            filter: config.filter(),
            poster,
            signer,
            bearer,
            clock,
            metrics,
            started: Instant::now(),
            open_ms,
            outbox: Mutex::new(Outbox::new(limits, backoff)),
            following: Mutex::default(),
            decisions,
            alerts: Mutex::default(),
            wake: Notify::new(),
            config,
        })
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes an insight in, if the target wants it and has room. Never waits.
    pub(super) fn offer(&self, job: Job) -> Offer {
        let insight = &job.insight;
        if !job.redriven {
            let is_silent = self.is_silent(insight);
            let refused = match self.follow(insight, &job.record, is_silent) {
                Telling::Unwanted => Some("filtered"),
                Telling::Withheld => Some("muted"),
                Telling::Due { is_first } => {
                    (!is_first && !self.filter.tells(insight.state)).then_some("filtered")
                }
            };
            if let Some(outcome) = refused {
                self.metrics.insight(&self.name, outcome);
                self.wake.notify_one();
                return Offer::Filtered;
            }
        }
        let (partition, id) = (job.record.from.partition, insight.id.as_str().into());
        let offered = self.outbox.lock().offer(self.elapsed(), partition, id, job);
        self.gauge();
        self.wake.notify_one();
        if offered.is_ok() { Offer::Queued } else { Offer::Full }
    }

    fn is_silent(&self, insight: &Insight) -> bool {
        self.decisions.standing(insight, self.clock.now_unix_millis()).is_silent()
    }

    fn follow(&self, insight: &Arc<Insight>, record: &Arc<Record>, is_silent: bool) -> Telling {
        self.following.lock().take(insight, record, is_silent, || self.filter.follows(insight))
    }

    /// Notes an insight of which an earlier run told, or held it back.
    pub(super) fn recall(&self, insight: &Arc<Insight>, record: &Arc<Record>) {
        let is_silent = self.decisions.was_silent(insight, record.timestamp.0);
        if matches!(self.follow(insight, record, is_silent), Telling::Due { .. }) {
            self.note_alert(insight, record);
        }
        self.wake.notify_one();
    }

    /// Something may be due: a decision came.
    pub(super) fn look_again(&self) {
        self.wake.notify_one();
    }

    /// Queues what was held back and is not silent any more; says when more will be.
    fn release(&self) -> Option<Duration> {
        let now_ms = self.clock.now_unix_millis();
        let mut next: Option<i64> = None;
        let is_silent = |insight: &Insight| {
            let is_silent = self.decisions.standing(insight, now_ms).is_silent();
            let until_ms = self.decisions.muted_until_ms(&insight.id).filter(|until_ms| *until_ms > now_ms);
            if is_silent {
                next = next.into_iter().chain(until_ms).min();
            }
            is_silent
        };
        // Where the queue is full it stays held back until there is room.
        let queue = |partition, (insight, record): (Arc<Insight>, Arc<Record>)| {
            let id = insight.id.as_str().into();
            let job = Job { insight, record, ticket: None, redriven: false };
            self.outbox.lock().offer(self.elapsed(), partition, id, job).is_ok()
        };
        self.following.lock().release(is_silent, |state| self.filter.tells(state), queue);
        let wait_ms = u64::try_from(next? - now_ms).unwrap_or_default();
        Some(self.elapsed() + Duration::from_millis(wait_ms))
    }

    /// Takes an insight out of the queue that was muted since it came in; `false` when it is to be sent.
    fn withhold(&self, number: Number, job: &Job) -> bool {
        let insight = &job.insight;
        if job.redriven || insight.state == InsightState::Resolved || !self.is_silent(insight) {
            return false;
        }
        self.outbox.lock().remove(number);
        self.following.lock().put_back(insight, &job.record);
        self.metrics.insight(&self.name, "muted");
        job.done();
        true
    }

    /// Forgets a partition that another member has now.
    pub(super) fn purge(&self, partition: u32) {
        self.outbox.lock().purge(partition);
        self.following.lock().purge(partition);
        self.alerts.lock().purge(partition);
        self.gauge();
    }

    fn note_alert(&self, insight: &Arc<Insight>, record: &Record) {
        if self.config.kind != Kind::Alertmanager {
            return;
        }
        let mut alerts = self.alerts.lock();
        if insight.state == InsightState::Resolved {
            alerts.remove(&insight.id);
        } else {
            let id = insight.id.as_str().into();
            alerts.insert(id, record.from.partition, record.timestamp.0, Arc::clone(insight));
        }
    }

    fn gauge(&self) {
        let labels = TargetLabels { target: Arc::clone(&self.name) };
        let (queued, open) = {
            let outbox = self.outbox.lock();
            (outbox.len(), outbox.is_open())
        };
        self.metrics.queued.get_or_create(&labels).set(queued as i64);
        self.metrics.circuit_open.get_or_create(&labels).set(i64::from(open));
        if self.config.kind == Kind::Alertmanager {
            self.metrics.open_alerts.get_or_create(&labels).set(self.alerts.lock().len() as i64);
        }
    }

    /// Sends until `stop`; then what can go at once still goes.
    ///
    /// # Errors
    /// When the log refuses dead letters for good.
    pub(super) async fn run(
        self: Arc<Self>,
        log: Arc<dyn Log>,
        stop: CancellationToken,
    ) -> Result<(), LogError> {
        let mut worker = Worker { resend_at: Duration::ZERO, last_error: String::new() };
        loop {
            if !stop.is_cancelled() {
                self.resend(&mut worker).await;
            }
            let release = self.release();
            let step = self.outbox.lock().step(self.elapsed());
            self.gauge();
            match step {
                Step::Send(number, job) => {
                    if self.withhold(number, &job) {
                        continue;
                    }
                    if let Some(error) = self.deliver(&mut worker, number, &job).await
                        && !self.bury(&log, &job, &error, &stop).await?
                    {
                        return Ok(());
                    }
                }
                Step::Expired(job) => {
                    let budget = self.config.retry_budget_ms;
                    let error = format!("not delivered within {budget} ms; last: {}", worker.last_error);
                    if !self.bury(&log, &job, &error, &stop).await? {
                        return Ok(());
                    }
                }
                Step::Wait(until) => {
                    if stop.is_cancelled() {
                        return Ok(());
                    }
                    let resend = self.resends().then_some(worker.resend_at);
                    let until = until.into_iter().chain(resend).chain(release).min();
                    let pause = until
                        .map_or(Duration::from_secs(3_600), |until| until.saturating_sub(self.elapsed()));
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep(pause) => {}
                        () = stop.cancelled() => {}
                    }
                }
            }
        }
    }

    /// One request. Some error when the insight has to go to the dead-letter topic.
    async fn deliver(&self, worker: &mut Worker, number: Number, job: &Job) -> Option<String> {
        let outcome = match self.request(&job.insight) {
            Ok((headers, body)) => self.post(&headers, body).await,
            Err(error) => Outcome::Refused(error),
        };
        let now = self.elapsed();
        match outcome {
            Outcome::Taken => {
                self.answered(worker);
                if self.outbox.lock().settled(now, number).is_some() {
                    if !job.redriven {
                        self.note_alert(&job.insight, &job.record);
                    }
                    self.metrics.insight(&self.name, "delivered");
                    job.done();
                }
                None
            }
            Outcome::Refused(error) => {
                self.answered(worker);
                self.outbox.lock().settled(now, number).map(|_| error)
            }
            Outcome::Failed(error, after) => {
                self.outbox.lock().failed(now, number, after);
                self.note_failure(worker, error);
                None
            }
        }
    }

    fn note_failure(&self, worker: &mut Worker, error: String) {
        if worker.last_error != error {
            tracing::warn!(target_name = %self.name, error, "a target does not take insights; trying again");
        }
        worker.last_error = error;
    }

    /// Tells of the recovery, and lets open alerts be repeated at once.
    fn answered(&self, worker: &mut Worker) {
        if !worker.last_error.is_empty() {
            tracing::info!(target_name = %self.name, "the target answers again");
            worker.last_error.clear();
            worker.resend_at = self.elapsed();
        }
    }

    /// Moves an insight to the dead-letter topic; `false` when the process stops before the log took it.
    async fn bury(
        &self,
        log: &Arc<dyn Log>,
        job: &Job,
        error: &str,
        stop: &CancellationToken,
    ) -> Result<bool, LogError> {
        let insight = &job.insight;
        tracing::error!(
            target_name = %self.name, insight = insight.id, revision = insight.revision, error,
            "an insight was not delivered and goes to the dead-letter topic"
        );
        let now = Millis(self.clock.now_unix_millis());
        let letter = letters::letter(&job.record, Some((&self.name, insight)), error, now);
        let written = letters::put(log, vec![letter], stop).await?;
        if written {
            self.metrics.insight(&self.name, "dead_letter");
            job.done();
        }
        Ok(written)
    }

    async fn post(&self, headers: &[(HeaderName, HeaderValue)], body: Bytes) -> Outcome {
        let begin = Instant::now();
        let outcome = self.poster.post(headers, body, self.config.timeout()).await;
        self.metrics.seconds.observe(begin.elapsed().as_secs_f64());
        let label = match outcome {
            Outcome::Taken => "taken",
            Outcome::Refused(_) => "refused",
            Outcome::Failed(..) => "failed",
        };
        self.metrics.request(&self.name, label);
        outcome
    }

    /// Headers and body for one insight.
    fn request(&self, insight: &Insight) -> Result<(Vec<(HeaderName, HeaderValue)>, Bytes), String> {
        let text = |error: serde_json::Error| format!("the insight cannot be written as JSON: {error}");
        let value = |text: &str| {
            HeaderValue::from_str(text).map_err(|error| format!("the insight's id fits no header: {error}"))
        };
        let key = payload::idempotency_key(insight);
        let mut headers = self.headers();
        headers.push((HeaderName::from_static("idempotency-key"), value(&key)?));
        let body = match self.config.kind {
            Kind::Webhook => {
                let body = webhook::body(insight).map_err(text)?;
                let seconds = self.clock.now_unix_millis().div_euclid(1_000);
                headers.push((HeaderName::from_static("webhook-id"), value(&key)?));
                headers.push((HeaderName::from_static("webhook-timestamp"), seconds.into()));
                if let Some(signer) = &self.signer {
                    let signature = signer.sign(&key, seconds, &body);
                    headers.push((HeaderName::from_static("webhook-signature"), value(&signature)?));
                }
                body
            }
            Kind::Slack => serde_json::to_vec(&slack::message(insight)).map_err(text)?,
            Kind::Alertmanager => {
                let now = self.clock.now_unix_nanos();
                let alert = alertmanager::alert(insight, now);
                let alerts = self.alerts.lock();
                // With other labels it is another alert: the one that Alertmanager has is over.
                let replaced = alerts.get(&insight.id).map(|told| alertmanager::ended(told, now));
                let replaced = replaced.filter(|told| told.labels != alert.labels);
                let all: Vec<_> = replaced.into_iter().chain([alert]).collect();
                alertmanager::body(&all).map_err(text)?
            }
        };
        Ok((headers, body.into()))
    }

    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = vec![(header::CONTENT_TYPE, JSON), (header::USER_AGENT, AGENT)];
        headers.extend(self.bearer.clone().map(|bearer| (header::AUTHORIZATION, bearer)));
        headers
    }

    /// Whether there is anything to repeat.
    fn resends(&self) -> bool {
        self.alerts.lock().len() > 0
    }

    /// Repeats what is open, when it is time to.
    async fn resend(&self, worker: &mut Worker) {
        let is_held_back = {
            let outbox = self.outbox.lock();
            // While insights wait for a target that is down, they are the ones that try it.
            outbox.is_open() && outbox.len() > 0
        };
        if !self.resends() || self.elapsed() < worker.resend_at || is_held_back {
            if is_held_back {
                worker.resend_at = worker.resend_at.max(self.elapsed() + self.config.resend() / 4);
            }
            return;
        }
        let now = self.clock.now_unix_nanos();
        let alerts: Vec<_> = {
            let mut alerts = self.alerts.lock();
            alerts.expire((now / 1_000_000).saturating_sub(self.open_ms));
            // What is silent is not repeated: Alertmanager ends it after its `resolve_timeout`, and has it again afterwards.
            let told = alerts.values().filter(|insight| !self.is_silent(insight));
            told.map(|insight| alertmanager::alert(insight, now)).collect()
        };
        worker.resend_at = self.elapsed() + self.config.resend();
        for alerts in alerts.chunks(ALERTS_A_REQUEST) {
            let outcome = match alertmanager::body(alerts) {
                Ok(body) => self.post(&self.headers(), body.into()).await,
                Err(error) => Outcome::Refused(error.to_string()),
            };
            match outcome {
                Outcome::Taken => {
                    self.outbox.lock().answered(self.elapsed());
                    let at = worker.resend_at;
                    self.answered(worker);
                    worker.resend_at = at;
                }
                Outcome::Refused(error) => {
                    tracing::error!(target_name = %self.name, error, "open alerts are refused");
                }
                Outcome::Failed(error, after) => {
                    self.outbox.lock().unanswered(self.elapsed(), after.unwrap_or_default());
                    self.note_failure(worker, error);
                    worker.resend_at = self.elapsed() + self.config.resend() / 4;
                    return;
                }
            }
        }
    }
}
