//! What to do about each cause.

use crate::{
    baseline::Metric,
    cause::Parts,
    detect::{DetectorParams, Kind, Look, Subject, slowness, version_contrast},
    output::{Cause, Recommendation},
    words::{percent, seconds},
};

/// What the sentence is about.
pub(crate) struct About<'a> {
    pub(crate) model: &'a str,
    pub(crate) kind: Kind,
    pub(crate) subject: &'a Subject,
    pub(crate) causes: &'a [Cause],
    pub(crate) is_young: bool,
}

/// Confidence that the catalogue itself gives, before the share of the cause and the history.
const SURE: f64 = 0.95;
/// Where only the effect is known.
const UNEXPLAINED: f64 = 0.2;

/// The sentence for the first cause.
pub(crate) fn recommendation(
    about: &About<'_>,
    look: &Look<'_>,
    params: &DetectorParams,
) -> Option<Recommendation> {
    let cause = about.causes.first()?;
    let text = match cause.cause.as_str() {
        "batch" => batch(about, look),
        "cache" => cache(about, look),
        "gpu" if is_throttled(look) => throttled(about, look),
        "gpu" => starved(about, look),
        "version" => version(about, look, params),
        "host" => host(about, cause, look, params),
        "traffic" => traffic(about, look),
        "memory" => memory(about, look),
        "errors" => errors(about, look),
        "silence" => silence(about, cause),
        "upstream" => format!(
            "{}: the engine is not the place to look; open an example trace and follow its critical path: {}",
            about.model, cause.explanation
        ),
        _ => format!("{}: {}", about.model, cause.explanation),
    };
    let history = if about.is_young { 0.5 } else { 1.0 };
    let confidence = (SURE * cause.share.clamp(0.0, 1.0) * history * 100.0).round() / 100.0;
    Some(Recommendation { text, expected_gain: gain(about, cause, look, params), confidence })
}

/// The sentence for an objective whose budget burns while nothing else is found.
pub(crate) fn unexplained_burn(model: &str, objective: &str, minutes: &str) -> Recommendation {
    let text = format!(
        "No detector sees a cause at {model}: search its failed and its slowest traces of the last {minutes} and compare them with one from before; if they are as they always were, the goal of objective {objective} does not fit the traffic"
    );
    Recommendation { text, expected_gain: String::new(), confidence: UNEXPLAINED }
}

/// What removing the first cause should bring back.
fn gain(about: &About<'_>, cause: &Cause, look: &Look<'_>, params: &DetectorParams) -> String {
    match about.kind {
        Kind::Silence => return "the model can be watched again".to_owned(),
        Kind::Errors => {
            let now = look.recent.error_rate().unwrap_or(0.0);
            let usual = look.baselines.mean(Metric::ErrorRate).unwrap_or(0.0);
            return format!("failures back from {} to {}", percent(now), percent(usual));
        }
        _ => {}
    }
    let parts = Parts::of(look);
    let saved = parts.excess() * cause.share;
    if saved < 0.05 * parts.normal || parts.normal <= 0.0 {
        return gain_of_cause(cause, look, params).unwrap_or_default();
    }
    let now = parts.normal + parts.excess();
    format!(
        "about {} less a request: mean latency from {} to {} (normally {})",
        seconds(saved),
        seconds(now),
        seconds(now - saved),
        seconds(parts.normal)
    )
}

/// What it should bring where the mean latency of all requests hardly shows it.
fn gain_of_cause(cause: &Cause, look: &Look<'_>, params: &DetectorParams) -> Option<String> {
    match cause.cause.as_str() {
        "version" => {
            let contrast = version_contrast(look, &params.version)?;
            let (own, other) =
                contrast.own_pace.zip(contrast.other_pace).filter(|(own, other)| own > other)?;
            let share = percent(contrast.share);
            Some(format!("{share} of the requests back from {} to {} a token", seconds(own), seconds(other)))
        }
        "host" => {
            let (_, own, peers) = slowest(look, params)?;
            Some(format!("its requests back from {} to {} a token", seconds(own), seconds(peers)))
        }
        "cache" => {
            let more = look.recent.uncached_each()? - look.normal(Metric::Uncached)?;
            (more >= 1.0).then(|| format!("about {more:.0} prompt tokens fewer to compute a request"))
        }
        _ => None,
    }
}

fn is_throttled(look: &Look<'_>) -> bool {
    let slow = look
        .recent
        .clock
        .get()
        .zip(look.normal(Metric::Clock))
        .is_some_and(|(now, usual)| now < 0.95 * usual);
    slow || look.recent.throttled.get().is_some_and(|share| share >= 0.15)
}

fn batch(about: &About<'_>, look: &Look<'_>) -> String {
    let recent = &look.recent;
    let batch = recent.batch.get().unwrap_or(0.0);
    let most = recent.fill.get().filter(|fill| *fill > 0.0).map_or(0.0, |fill| batch / fill);
    let kv = recent.kv.get().map_or(String::new(), |kv| {
        format!("; the KV cache is only {:.0} % full, so there is room", kv * 100.0)
    });
    format!(
        "{} averages batch {batch:.0} of {most:.0} while {:.0} requests wait for each engine, {} on average: raise the limit on running sequences (vLLM max_num_seqs, SGLang max_running_requests) or the batch timeout (Triton max_queue_delay_microseconds), and look for a configuration change at the time it began{kv}",
        about.model,
        recent.backlog(),
        seconds(recent.queue.get().unwrap_or(0.0)),
    )
}

fn cache(about: &About<'_>, look: &Look<'_>) -> String {
    let recent = &look.recent;
    let usual = look.normal(Metric::HitRatio).unwrap_or(0.0);
    let preempted = recent.preemptions_a_minute();
    let kv = recent.kv.get().unwrap_or(0.0);
    let pressure = if preempted >= 1.0 {
        format!(
            " Memory pressure speaks for eviction: {preempted:.0} preemptions a minute, KV cache {:.0} % full.",
            kv * 100.0
        )
    } else if kv > 0.0 {
        format!(" It is no memory pressure (KV cache {:.0} % full, no preemptions).", kv * 100.0)
    } else {
        String::new()
    };
    format!(
        "{}'s prefix-cache hit rate fell from {:.0} % to {:.0} %, so {:.0} instead of {:.0} prompt tokens are computed a request: check that prefix caching is still on, that the beginning of the prompt template did not change (a time stamp or an id in front defeats it), and that the router keeps sessions on one engine.{pressure}",
        about.model,
        usual * 100.0,
        recent.hit_ratio().unwrap_or(0.0) * 100.0,
        recent.uncached_each().unwrap_or(0.0),
        look.normal(Metric::Uncached).unwrap_or(0.0),
    )
}

fn throttled(about: &About<'_>, look: &Look<'_>) -> String {
    let recent = &look.recent;
    let hot: Vec<&str> = look
        .devices
        .iter()
        .filter(|(_, facts)| facts.throttled.get().is_some_and(|share| share >= 0.15))
        .map(|((device, _), _)| *device)
        .collect();
    let celsius = recent.celsius.get().map_or(String::new(), |celsius| format!(" at {celsius:.0} °C"));
    format!(
        "{} of {} GPUs of {} run at {:.0} MHz instead of {:.0} MHz{celsius}: move traffic off {}, then check cooling and the power limit (nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER)",
        hot.len(),
        look.devices.len(),
        about.model,
        recent.clock.get().unwrap_or(0.0),
        look.normal(Metric::Clock).unwrap_or(0.0),
        if hot.len() == look.devices.len() { "these hosts".to_owned() } else { hot.join(", ") },
    )
}

fn starved(about: &About<'_>, look: &Look<'_>) -> String {
    let recent = &look.recent;
    let running = recent.running.get().or(recent.batch.get()).unwrap_or(0.0);
    let wait =
        recent.queue.get().map_or(String::new(), |queue| format!(" and {} queue wait", seconds(queue)));
    format!(
        "GPUs of {} are {:.0} % busy (normally {:.0} %) with {running:.0} requests in flight each{wait}: they wait for the host between steps. Check the engine process's CPU (throttled cgroup, busy neighbours, tokenising or sampling on the hot path), then turn on asynchronous scheduling and CUDA graphs (vLLM: no --enforce-eager); a batch timeout that is too aggressive shows the same way",
        about.model,
        recent.busy.get().unwrap_or(0.0) * 100.0,
        look.normal(Metric::Busy).unwrap_or(0.0) * 100.0,
    )
}

fn version(about: &About<'_>, look: &Look<'_>, params: &DetectorParams) -> String {
    let Some(contrast) = version_contrast(look, &params.version) else {
        return format!("{}: roll version {} back", about.model, about.subject.version);
    };
    let pace = contrast.own_pace.zip(contrast.other_pace).filter(|(own, other)| own > other);
    let pace = pace.map(|(own, other)| format!("{} a token against {}", seconds(own), seconds(other)));
    let failing = contrast.own.error_rate().filter(|rate| *rate > 2.0 * contrast.other_errors.max(0.005));
    let failing = failing
        .map(|rate| format!("{} failed requests against {}", percent(rate), percent(contrast.other_errors)));
    let worse: Vec<String> = [pace, failing].into_iter().flatten().collect();
    format!(
        "Roll {} back from {} to {}: {}, for {} of the requests",
        about.model,
        contrast.newer,
        contrast.other,
        worse.join(" and "),
        percent(contrast.share)
    )
}

/// The device that is slower than its peers by most, seconds a token of both.
fn slowest<'l>(look: &'l Look<'_>, params: &DetectorParams) -> Option<(&'l str, f64, f64)> {
    let (device, _, own, peers) = slowness(look, params.straggler.least_requests)
        .into_iter()
        .filter(|(_, _, own, peers)| own / peers >= params.straggler.holds)
        .max_by(|a, b| (a.2 / a.3).total_cmp(&(b.2 / b.3)))?;
    Some((device, own, peers))
}

fn host(about: &About<'_>, cause: &Cause, look: &Look<'_>, params: &DetectorParams) -> String {
    if about.kind == Kind::Errors {
        return format!(
            "Take the failing device of {} out of service: {}. Then read the engine's log and the kernel's (dmesg, Xid errors) on its host before it gets traffic again",
            about.model, cause.explanation
        );
    }
    if let Some((device, own, peers)) = slowest(look, params) {
        return format!(
            "Drain device {device} of {}: it needs {} a token where its peers need {}. Look on its host for other processes, PCIe or NVLink errors (nvidia-smi nvlink -e, dmesg) and clocks; its peers have taken over part of its traffic already",
            about.model,
            seconds(own),
            seconds(peers)
        );
    }
    format!(
        "Another workload seems to share the hosts or GPUs of all {} engines of {}: {}. List processes on the GPUs (nvidia-smi pmon) and CPU pressure of the hosts (/proc/pressure/cpu), and move one of the two",
        look.devices.len().max(1),
        about.model,
        cause.explanation
    )
}

fn traffic(about: &About<'_>, look: &Look<'_>) -> String {
    let rate = look.arrival_rate();
    let usual = look.normal(Metric::RequestRate).unwrap_or(0.0);
    if rate < 0.5 * usual {
        return format!(
            "{} gets {rate:.1} requests a second instead of {usual:.1}: check routing and callers; engines can be scaled down if it is meant",
            about.model
        );
    }
    let served = look.recent.rate();
    let engines = f64::from(look.recent.devices.max(1));
    let refused = if look.recent.refused > 0 {
        format!(", {} refused in 30 s", look.recent.refused)
    } else {
        String::new()
    };
    let wait = seconds(look.recent.queue.get().unwrap_or(0.0));
    if rate > 1.15 * served {
        let more = (engines * rate / served.max(0.1) - engines).ceil().max(1.0);
        return format!(
            "{} gets {rate:.1} requests a second instead of {usual:.1} and serves {served:.1} with {engines:.0} engines (waiting {wait}{refused}): add about {more:.0} engines, or limit the callers that grew until they are there",
            about.model
        );
    }
    format!(
        "{} gets {rate:.1} requests a second instead of {usual:.1} (waiting {wait}{refused}): {engines:.0} engines keep up now; find the caller that grew, and add engines if it stays",
        about.model
    )
}

fn memory(about: &About<'_>, look: &Look<'_>) -> String {
    let recent = &look.recent;
    format!(
        "{}'s KV cache is {:.0} % full with {:.0} preemptions a minute and {:.0} requests waiting an engine: lower the number of running sequences or the longest prompt, give the cache more memory (vLLM gpu_memory_utilization), quantise it, or add an engine",
        about.model,
        recent.kv.get().unwrap_or(0.0) * 100.0,
        recent.preemptions_a_minute(),
        recent.backlog()
    )
}

fn errors(about: &About<'_>, look: &Look<'_>) -> String {
    let recent = &look.recent;
    let spread = if look.devices.len() > 1 {
        format!(", on all {} devices alike, so no single engine stands out", look.devices.len())
    } else {
        String::new()
    };
    format!(
        "{} of {} requests of {} failed in the last 30 s{spread}: start with the status message of an example trace, then look at what all its engines share (a limit upstream, model files, driver, what was rolled out at that time)",
        recent.errors, recent.requests, about.model
    )
}

fn silence(about: &About<'_>, cause: &Cause) -> String {
    format!(
        "{}: {}. Check that the process runs and that its exporter reaches the gateway (its logs name the endpoint); this is not known to be an outage of the model",
        about.model, cause.explanation
    )
}
