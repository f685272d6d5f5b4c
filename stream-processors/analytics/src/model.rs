//! Everything that is remembered of one model of one tenant, and what a window does to it.
//!
//! Order of a window: remember it, ask the detectors, follow their findings, tell incidents, count objectives, learn
//! what is normal. Invariant: a window in which anything is found is learnt clipped (see [`crate::baseline`]).

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::{
    baseline::{Baselines, Metric, Slope, VersionBaselines},
    cause::{self, Parts, contributions},
    config::AnalystConfig,
    detect::{
        self, DevicePast, Drifts, Finding, Kind, Look, Past, Services, Subject, VersionPast, evidence,
        slowness, step_towards,
    },
    facts::ModelWindow,
    lifecycle::{Group, Incident, Tracks},
    output::{Baseline, Insight, Output, Severity, State},
    recommend::{self, About},
    rollup::{Counter, Exemplar, Millis, WINDOW_MS},
    slo::{Budget, Burn},
};

/// Versions of one model that are remembered.
const MOST_VERSIONS: usize = 16;
/// Devices of one model that are remembered.
const MOST_DEVICES: usize = 512;
/// An open incident is told again after so long even if nothing changed.
const TELL_AGAIN_MS: Millis = 300_000;
/// An incident that comes back so soon is the same one.
const REOPEN_MS: Millis = 180_000;
/// Symptoms of more traffic than usual (but no surge), of nothing that is known, or of the slowest requests alone, pass
/// mostly: they have to last.
const PASSING_MS: Millis = 300_000;
/// Excess latency, of normal, from which on an incident is a warning.
const WARNING_EXCESS: f64 = 0.3;
/// Words are those of windows at least so bad, of the worst.
const AS_BAD: f64 = 0.7;
/// How far one window moves a device's usual slowness (a logarithm).
const SLOWNESS_STEP: f64 = 0.005;
/// How far one window moves a device's usual clock.
const CLOCK_STEP_MHZ: f64 = 5.0;
/// Traces of normal windows that are kept.
const NORMAL_TRACES: usize = 3;

/// See the module's words.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Model {
    tenant: String,
    model: String,
    baselines: Baselines,
    version_baselines: VersionBaselines,
    past: VecDeque<Past>,
    drifts: Drifts,
    tracks: Tracks,
    services: Services,
    versions: BTreeMap<String, VersionPast>,
    devices: BTreeMap<String, DevicePast>,
    incidents: Vec<Incident>,
    budgets: BTreeMap<String, Budget>,
    /// Windows in a row without a burn, by objective with an open incident.
    calm: BTreeMap<String, u32>,
    normal_traces: Vec<Exemplar>,
    slope: Slope,
    /// Whether an engine has ever reported; if none has, callers' reports are taken for requests.
    has_engine: bool,
    /// Start of the last window with requests.
    last_ms: Millis,
}

impl Model {
    pub(crate) fn new(tenant: &str, model: &str) -> Self {
        Self { tenant: tenant.to_owned(), model: model.to_owned(), ..Self::default() }
    }

    /// Start of the last window with requests.
    pub(crate) const fn last_ms(&self) -> Millis {
        self.last_ms
    }

    /// Takes a closed window.
    pub(crate) fn window(
        &mut self,
        config: &AnalystConfig,
        window_ms: Millis,
        window: ModelWindow,
        out: &mut Vec<Output>,
    ) {
        let mut window = window;
        self.has_engine |= window.all.requests > 0;
        if !self.has_engine {
            window.take_calls_for_requests();
        }
        let window = &window;
        if window.all.requests > 0 {
            self.last_ms = window_ms;
        }
        self.remember(window_ms, window);
        let seen = Seen {
            past: &self.past,
            baselines: &self.baselines,
            versions: &self.versions,
            devices: &self.devices,
            services: &self.services,
            slope: self.slope.get(),
        };
        let look = seen.look(window_ms, window);
        let found = detect::findings(&look, &config.detectors, &mut self.drifts);
        self.tracks.step(window_ms, &found);
        let mut telling = Telling {
            config,
            tenant: &self.tenant,
            model: &self.model,
            tracks: &self.tracks,
            incidents: &mut self.incidents,
            normal_traces: &self.normal_traces,
            now_ms: window_ms + WINDOW_MS,
            look: &look,
            window,
            found: &found,
            out,
        };
        for group in Group::ALL {
            telling.group(group);
        }
        telling.objectives(&mut self.budgets, &mut self.calm, window_ms);
        let is_flagged =
            self.tracks.is_any() || self.incidents.iter().any(|one| one.state != State::Resolved);
        if !is_flagged {
            let learnt = learn_devices(&look, config);
            self.devices.extend(learnt);
            if let (Some(batch), Some(pace)) = (window.all.batch.get(), detect::pace(&window.all)) {
                self.slope.learn(batch, pace);
            }
            self.normal_traces = normal_traces(window, &self.normal_traces);
        }
        let oldest = window_ms - REOPEN_MS;
        self.incidents.retain(|one| one.resolved_ms.is_none_or(|resolved| resolved > oldest));
        self.baselines.learn(window_ms, window, is_flagged, |_| true);
        if self.versions.len() > 1 {
            self.version_baselines.learn(window_ms, window, is_flagged);
        }
    }

    fn remember(&mut self, window_ms: Millis, window: &ModelWindow) {
        self.services.learn(window_ms, &window.services);
        let only = self.only_version().map(str::to_owned);
        for version in window.versions.keys() {
            let first = VersionPast { first_ms: window_ms, last_ms: window_ms };
            self.versions.entry(version.clone()).or_insert(first).last_ms = window_ms;
        }
        if let (Some(only), true) = (only, self.versions.len() > 1) {
            self.version_baselines.part(&only, &self.baselines);
        }
        while self.versions.len() > MOST_VERSIONS {
            let oldest =
                self.versions.iter().min_by_key(|(_, past)| past.last_ms).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.versions.remove(&name));
        }
        for (device, _) in window.devices.keys() {
            self.devices.entry(device.clone()).or_default().last_ms = window_ms;
        }
        while self.devices.len() > MOST_DEVICES {
            let oldest =
                self.devices.iter().min_by_key(|(_, past)| past.last_ms).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.devices.remove(&name));
        }
        if self.past.len() == detect::REMEMBERED {
            self.past.pop_front();
        }
        self.past.push_back(Past::of(window));
    }

    /// The version, if all requests that told theirs were of one.
    fn only_version(&self) -> Option<&str> {
        let mut versions = self.versions.keys();
        versions.next().filter(|version| !version.is_empty() && versions.next().is_none()).map(String::as_str)
    }

    /// At the end of an hour: tells the baselines, of all versions together and of each, and forgets services that are gone.
    pub(crate) fn turn_hour(&mut self, hour_ms: Millis, config: &AnalystConfig, out: &mut Vec<Output>) {
        let of = Baseline { tenant: self.tenant.clone(), model: self.model.clone(), ..Baseline::default() };
        let mut told = Vec::new();
        self.baselines.turn_hour(hour_ms, &of, &mut told);
        if let Some(version) = self.only_version() {
            let is_of_requests = |one: &&Baseline| {
                Metric::ALL.iter().any(|metric| metric.is_of_requests() && metric.name() == one.metric)
            };
            let own = told.iter().filter(is_of_requests);
            let own: Vec<Baseline> =
                own.map(|one| Baseline { version: version.to_owned(), ..one.clone() }).collect();
            told.extend(own);
        } else {
            self.version_baselines.turn_hour(hour_ms, &of, &mut told);
        }
        out.extend(told.into_iter().map(Output::Baseline));
        self.services.forget(hour_ms - 2 * config.detectors.silence.gone_ms);
    }
}

/// What detectors look at, apart from what they change.
struct Seen<'a> {
    past: &'a VecDeque<Past>,
    baselines: &'a Baselines,
    versions: &'a BTreeMap<String, VersionPast>,
    devices: &'a BTreeMap<String, DevicePast>,
    services: &'a Services,
    slope: f64,
}

impl<'a> Seen<'a> {
    fn look(&self, window_ms: Millis, window: &'a ModelWindow) -> Look<'a> {
        Look::new(detect::Memory {
            window_ms,
            past: self.past,
            baselines: self.baselines,
            versions_past: self.versions,
            devices_past: self.devices,
            services: self.services,
            stages: &window.stages,
            calls: window.calls.get(Counter::Requests),
            slope: self.slope,
        })
    }
}

/// Learns how fast devices usually are beside their peers, and their usual clocks.
fn learn_devices(look: &Look<'_>, config: &AnalystConfig) -> BTreeMap<String, DevicePast> {
    let mut devices: BTreeMap<String, DevicePast> = BTreeMap::new();
    let known = |device: &str| look.devices_past.get(device).copied().unwrap_or_default();
    for (device, _, own, peers) in slowness(look, config.detectors.straggler.least_requests) {
        let past = devices.entry(device.to_owned()).or_insert_with(|| known(device));
        past.usual_slowness = step_towards(past.usual_slowness, (own / peers).ln(), SLOWNESS_STEP);
    }
    for ((device, _), facts) in &look.devices {
        let Some(clock) = facts.clock.get() else { continue };
        let past = devices.entry((*device).to_owned()).or_insert_with(|| known(device));
        past.usual_clock = if past.usual_clock > 0.0 {
            step_towards(past.usual_clock, clock, CLOCK_STEP_MHZ)
        } else {
            clock
        };
    }
    devices
}

/// The traces that stand for normal: a sample of the latest quiet window that has any.
fn normal_traces(window: &ModelWindow, before: &[Exemplar]) -> Vec<Exemplar> {
    let good = window.exemplars.sample.iter().filter(|one| !one.is_error);
    let traces: Vec<Exemplar> = good.take(NORMAL_TRACES).copied().collect();
    if traces.is_empty() { before.to_vec() } else { traces }
}

/// Tells what changed in one window.
struct Telling<'a> {
    config: &'a AnalystConfig,
    tenant: &'a str,
    model: &'a str,
    tracks: &'a Tracks,
    incidents: &'a mut Vec<Incident>,
    normal_traces: &'a [Exemplar],
    now_ms: Millis,
    look: &'a Look<'a>,
    window: &'a ModelWindow,
    found: &'a [Finding],
    out: &'a mut Vec<Output>,
}

impl Telling<'_> {
    /// Opens, updates or resolves the incident of a group.
    fn group(&mut self, group: Group) {
        let active: Vec<(Kind, Subject, Millis)> = self
            .tracks
            .active(group)
            .map(|((kind, subject), track)| (*kind, subject.clone(), track.first_ms))
            .collect();
        let open = self
            .incidents
            .iter()
            .position(|one| one.group == group && one.kind != Kind::Slo && one.state != State::Resolved);
        if active.is_empty() {
            if let Some(open) = open {
                self.resolve(open);
            }
            return;
        }
        let findings: Vec<&Finding> = self
            .found
            .iter()
            .filter(|one| {
                active.iter().any(|(kind, subject, _)| *kind == one.kind && *subject == one.subject)
            })
            .collect();
        if findings.is_empty() {
            return;
        }
        let contributed = contributions(self.look, &self.config.detectors, &findings);
        let at = match open.or_else(|| self.joined(group, &contributed)) {
            Some(at) => at,
            None => match self.opened(&active, &contributed) {
                Some(at) => at,
                None => return,
            },
        };
        let excess = Parts::of(self.look).excess();
        let incident = &mut self.incidents[at];
        // A queue that shrinks is the rest of what was explained when it grew, and so is what is half as bad.
        let is_rest = self.look.is_draining()
            || excess < 0.5 * incident.worst
            || incident.ledger.is_backlog(&contributed);
        let counts = incident.ledger.is_empty() || group != Group::Performance || !is_rest;
        let shows_cause = counts && incident.ledger.add(&contributed);
        let members = incident.members.len();
        let is_as_bad = excess >= AS_BAD * incident.worst || incident.group != Group::Performance;
        incident.worst = incident.worst.max(excess);
        // Numbers of a cause are those of windows that show it, numbers of an effect those of windows in which it is as bad
        // as ever: a queue is longest when what filled it is gone.
        let is_telling = |kind: Kind| if kind.own_cause().is_some() { shows_cause } else { is_as_bad };
        for finding in findings
            .iter()
            .filter(|one| is_telling(one.kind) || !incident.members.contains(&one.kind))
            .copied()
            .collect::<Vec<_>>()
        {
            incident.take_evidence(finding);
        }
        if is_as_bad {
            let longest = self.window.exemplars.longest.iter().chain(&self.window.exemplars.sample);
            incident.take_examples(
                longest.filter(|one| incident_wants(group, one)).copied().collect::<Vec<_>>().iter(),
            );
        }
        self.phrase(at, is_as_bad, shows_cause);
        let incident = &self.incidents[at];
        let is_news = incident.revision == 0
            || incident.members.len() > members
            || incident.top_cause() != incident.told_cause
            || self.now_ms - incident.told_ms >= TELL_AGAIN_MS;
        if is_news {
            self.tell(at);
        }
    }

    /// An open incident of another group that has the same cause.
    fn joined(&self, group: Group, contributed: &[crate::cause::Contribution]) -> Option<usize> {
        let heaviest = cause::heaviest(contributed)?;
        if group == Group::Silence || heaviest == "silence" {
            return None;
        }
        self.incidents.iter().position(|one| {
            one.group != group
                && one.kind != Kind::Slo
                && one.state != State::Resolved
                && one.top_cause() == heaviest
        })
    }

    /// A new incident, or one that was over only just now; none while it is muted or still unclear.
    fn opened(
        &mut self,
        active: &[(Kind, Subject, Millis)],
        contributed: &[crate::cause::Contribution],
    ) -> Option<usize> {
        let (kind, subject, _) = active.first()?;
        let first_ms = active.iter().map(|(.., first_ms)| *first_ms).min()?;
        let heaviest = cause::heaviest(contributed);
        let is_symptom = matches!(kind, Kind::Latency | Kind::Ttft | Kind::Tpot | Kind::Queue);
        let seen_ms = self.now_ms - WINDOW_MS - first_ms;
        let is_tail_only = active.iter().all(|(kind, ..)| *kind == Kind::Latency)
            && Parts::of(self.look).excess() < WARNING_EXCESS * Parts::of(self.look).normal;
        let passes = is_tail_only || heaviest.is_none_or(|cause| cause == "traffic");
        if is_symptom && passes && seen_ms < PASSING_MS {
            return None;
        }
        if self.config.is_muted(self.tenant, self.model, kind.name(), self.now_ms) {
            return None;
        }
        let group = Group::of(*kind);
        let again = self.incidents.iter().position(|one| {
            one.group == group
                && one.kind != Kind::Slo
                && one.state == State::Resolved
                && heaviest.is_none_or(|cause| one.top_cause() == cause)
        });
        if let Some(again) = again {
            let incident = &mut self.incidents[again];
            incident.state = State::Updated;
            incident.resolved_ms = None;
            // Its cause and words stay; that it is back is told at once.
            incident.told_ms = self.now_ms - TELL_AGAIN_MS;
            return Some(again);
        }
        self.incidents.push(Incident::new(
            self.tenant,
            self.model,
            *kind,
            subject.clone(),
            first_ms,
            self.now_ms,
        ));
        Some(self.incidents.len() - 1)
    }

    /// Severity, title and recommendation from the numbers of now: the title where the window is as bad as any, what to do
    /// where it shows the first cause as well as any, since later ones show the cause gone and its backlog.
    fn phrase(&mut self, at: usize, is_as_bad: bool, shows_cause: bool) {
        let incident = &mut self.incidents[at];
        let causes = incident.ledger.ranked();
        let is_young = self.look.baselines.is_young();
        let normal = Parts::of(self.look).normal;
        let is_bad =
            incident.group != Group::Performance || incident.worst >= WARNING_EXCESS * normal.max(1e-3);
        let severity = if is_bad && !is_young { Severity::Warning } else { Severity::Info };
        incident.severity = incident.severity.max(severity);
        let changed = causes.first().is_some_and(|cause| cause.cause != incident.told_cause);
        if shows_cause || changed || incident.recommendation.is_none() {
            let about = About {
                model: self.model,
                kind: incident.kind,
                subject: &incident.subject,
                causes: &causes,
                is_young,
            };
            incident.recommendation = recommend::recommendation(&about, self.look, &self.config.detectors);
        }
        if !(is_as_bad || changed) {
            return;
        }
        // The name is that of what opened it, the words those of what explains it.
        let top = causes.first().map(|cause| cause.cause.as_str());
        let telling = incident
            .members
            .iter()
            .copied()
            .find(|kind| kind.own_cause().is_some() && kind.own_cause() == top);
        let telling = telling.unwrap_or(incident.kind);
        incident.title = recommend::title(
            self.model,
            telling,
            &incident.subject,
            &incident.evidence,
            &causes,
            incident.first_ms,
        );
    }

    fn resolve(&mut self, at: usize) {
        let incident = &mut self.incidents[at];
        incident.state = State::Resolved;
        incident.resolved_ms = Some(self.now_ms);
        self.tell(at);
    }

    fn tell(&mut self, at: usize) {
        let is_young = self.look.baselines.is_young();
        let incident = &mut self.incidents[at];
        incident.revision += 1;
        if incident.revision > 1 && incident.state == State::Open {
            incident.state = State::Updated;
        }
        incident.told_ms = self.now_ms;
        incident.told_cause = incident.top_cause();
        let causes = incident.ledger.ranked();
        let hex = |traces: &[Exemplar]| traces.iter().map(|one| hex_of(&one.trace_id)).collect();
        let is_slo = incident.kind == Kind::Slo;
        let detector = if is_slo {
            format!("slo_burn/{}", incident.subject.service)
        } else {
            incident.kind.name().to_owned()
        };
        let title = match incident.state {
            State::Resolved => {
                format!("{} (over since {} UTC)", incident.title, recommend::clock_time(self.now_ms))
            }
            _ if is_young && !is_slo => format!("{} (little history yet)", incident.title),
            _ => incident.title.clone(),
        };
        let service = match (is_slo, incident.subject.service.is_empty()) {
            (true, _) | (false, true) => self.look.service(),
            (false, false) => incident.subject.service.clone(),
        };
        self.out.push(Output::Insight(Box::new(Insight {
            id: incident.id.clone(),
            revision: incident.revision,
            state: incident.state,
            kind: incident.kind.name().to_owned(),
            severity: incident.severity,
            tenant: self.tenant.to_owned(),
            model: self.model.to_owned(),
            version: incident.subject.version.clone(),
            service,
            stage: String::new(),
            device: incident.subject.device.clone(),
            window_start_ms: incident.first_ms,
            window_end_ms: self.now_ms,
            opened_ms: incident.opened_ms,
            resolved_ms: incident.resolved_ms,
            title,
            detector,
            detector_version: detect::VERSION.to_owned(),
            evidence: incident.evidence.clone(),
            causes,
            recommendation: incident.recommendation.clone(),
            example_traces: hex(&incident.examples),
            normal_traces: hex(self.normal_traces),
        })));
    }

    /// Counts objectives, and pages where their budget burns.
    fn objectives(
        &mut self,
        budgets: &mut BTreeMap<String, Budget>,
        calm: &mut BTreeMap<String, u32>,
        window_ms: Millis,
    ) {
        let config = self.config;
        for objective in config.objectives.iter().filter(|objective| objective.is_of(self.tenant, self.model))
        {
            let budget = budgets.entry(objective.name.clone()).or_default();
            budget.add(window_ms, Some(&self.window.cell), objective);
            let burning = budget.burning(objective.target);
            let open = self.incidents.iter().position(|one| {
                one.kind == Kind::Slo && one.subject.service == objective.name && one.state != State::Resolved
            });
            match (burning, open) {
                (Some(burn), open) => {
                    calm.insert(objective.name.clone(), 0);
                    self.burns(open, &objective.name, objective.target, burn);
                }
                (None, Some(open)) => {
                    let windows = calm.entry(objective.name.clone()).or_default();
                    *windows += 1;
                    if *windows >= Kind::Slo.resolves_after() {
                        calm.remove(&objective.name);
                        self.resolve(open);
                    }
                }
                (None, None) => {}
            }
        }
    }

    fn burns(&mut self, open: Option<usize>, name: &str, target: f64, burn: Burn) {
        if open.is_none() && self.config.is_muted(self.tenant, self.model, Kind::Slo.name(), self.now_ms) {
            return;
        }
        let window_ms = self.now_ms - WINDOW_MS;
        let at = open.unwrap_or_else(|| {
            let subject = Subject { service: name.to_owned(), ..Subject::default() };
            self.incidents.push(Incident::new(
                self.tenant,
                self.model,
                Kind::Slo,
                subject,
                window_ms,
                self.now_ms,
            ));
            self.incidents.len() - 1
        });
        let reason =
            self.incidents.iter().find(|one| one.kind != Kind::Slo && one.state != State::Resolved).cloned();
        let hours = |minutes: usize| {
            if minutes >= 60 { format!("{} h", minutes / 60) } else { format!("{minutes} min") }
        };
        let incident = &mut self.incidents[at];
        let is_news = incident.revision == 0
            || burn.severity > incident.severity
            || self.now_ms - incident.told_ms >= TELL_AGAIN_MS;
        incident.severity = incident.severity.max(burn.severity);
        incident.evidence = vec![
            evidence(&format!("burn_rate_{}m", burn.long_minutes), "×", burn.long, Some(1.0), burn.total),
            evidence(&format!("burn_rate_{}m", burn.short_minutes), "×", burn.short, Some(1.0), burn.total),
            evidence(
                "bad_requests",
                "requests",
                burn.bad as f64,
                Some((1.0 - target) * burn.total as f64),
                burn.total,
            ),
        ];
        incident.title = format!(
            "{}: {name} burns its error budget {:.0} × too fast over {} and {:.0} × over {}: {} of {} requests were bad, {:.1} % may be",
            self.model,
            burn.long,
            hours(burn.long_minutes),
            burn.short,
            hours(burn.short_minutes),
            burn.bad,
            burn.total,
            (1.0 - target) * 100.0
        );
        if let Some(reason) = reason {
            incident.ledger = reason.ledger;
            incident.recommendation = reason.recommendation;
            incident.examples = reason.examples;
        } else if incident.recommendation.is_none() {
            incident.recommendation =
                Some(recommend::unexplained_burn(self.model, name, &hours(burn.short_minutes)));
        }
        if is_news {
            self.tell(at);
        }
    }
}

/// Whether a trace shows an incident of that group.
fn incident_wants(group: Group, exemplar: &Exemplar) -> bool {
    group != Group::Errors || exemplar.is_error
}

fn hex_of(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
