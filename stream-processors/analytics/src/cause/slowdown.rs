//! Why a unit of work takes longer: clocks, idle gaps, a version, a device, more work in the same step, or the host.
//!
//! The factor to explain is E = ln(time per token ÷ normal), of prefill time per computed token where nothing is
//! generated. Clock: ln(normal clock ÷ clock). Gaps: ln(normal busy share ÷ busy share) while sequences are in flight.
//! Version and device: ln(mean of all ÷ mean of the others) in the same windows. Interference: a step that also
//! computes prompts takes longer, and so does one with more sequences, by a slope learnt from quiet windows. What is left
//! of E beyond its usual ups and downs, though GPUs are busy at full clocks, is charged to the host: something that this
//! data does not name slows every step.

use super::Driver;
use crate::{
    baseline::Metric,
    detect::{DetectorParams, Look, slowness, version_contrast},
};

/// How much of a factor of computed prompt tokens shows in the time per token.
const PROMPT_ELASTICITY: f64 = 0.6;
/// A rest below this is the usual up and down.
const LEAST_REST: f64 = 0.12;
/// Standard deviations of its own ups and downs that a rest may have without a cause.
const USUAL_DEVIATIONS: f64 = 1.5;

fn excess(look: &Look<'_>) -> Option<f64> {
    let recent = &look.recent;
    let ratio = match recent.tpot.get() {
        Some(tpot) => tpot / look.normal(Metric::TpotMean)?,
        None => {
            let work = recent
                .uncached_each()
                .zip(look.normal(Metric::Uncached))
                .map_or(1.0, |(now, usual)| now / usual.max(1.0));
            recent.prefill.get().or(recent.duration.get())?
                / look.normal(Metric::PrefillMean).or(look.normal(Metric::LatencyMean))?
                / work.max(1.0)
        }
    };
    (ratio > 1.0).then(|| ratio.ln())
}

pub(super) fn drivers(look: &Look<'_>, params: &DetectorParams) -> Vec<Driver> {
    let Some(excess) = excess(look) else { return Vec::new() };
    let mut explained = Explained { rest: excess, drivers: Vec::new() };
    let measured = [clock(look).map(|found| ("gpu", found)), gaps(look).map(|found| ("gpu", found))];
    let contrasts = [
        version(look, params).map(|found| ("version", found)),
        device(look, params).map(|found| ("host", found)),
    ];
    for (cause, (ln, words)) in measured.into_iter().chain(contrasts).flatten() {
        explained.take(cause, ln, words);
    }
    for (cause, ln, words) in interference(look) {
        explained.take(cause, ln, words);
    }
    // What is slow keeps more sequences in flight (Little's law), and those slow it further: no cause of its own.
    explained.rest -= look.slope * batch_growth(look).ln();
    let rest = explained.rest;
    let usual = USUAL_DEVIATIONS * look.baselines.spread(Metric::TpotMean);
    let least = if explained.drivers.is_empty() { 0.0 } else { 0.35 * excess };
    if rest >= (LEAST_REST + usual).max(least) {
        let busy = look
            .recent
            .busy
            .get()
            .map_or(String::new(), |busy| format!(" while GPUs are {:.0} % busy", busy * 100.0));
        let words = format!(
            "every step takes {:.1} × its normal time on all devices alike{busy} at their usual clocks, so something outside of the engine slows its hosts",
            rest.exp()
        );
        explained.take("host", rest, words);
    }
    explained.drivers
}

/// What is explained so far, and what is left.
struct Explained {
    rest: f64,
    drivers: Vec<Driver>,
}

impl Explained {
    fn take(&mut self, cause: &'static str, ln: f64, explanation: String) {
        let ln = ln.min(self.rest);
        if ln > 0.0 {
            self.rest -= ln;
            self.drivers.push(Driver { cause, ln, explanation });
        }
    }
}

fn clock(look: &Look<'_>) -> Option<(f64, String)> {
    let (now, usual) = (look.recent.clock.get()?, look.normal(Metric::Clock)?);
    if now >= 0.95 * usual || now <= 0.0 {
        return None;
    }
    let throttled = look.recent.throttled.get().unwrap_or(0.0);
    let words = format!(
        "SM clock {now:.0} MHz instead of {usual:.0} MHz, throttled in {:.0} % of readings{}",
        throttled * 100.0,
        look.recent.celsius.get().map_or(String::new(), |celsius| format!(", {celsius:.0} °C")),
    );
    Some(((usual / now).ln(), words))
}

fn gaps(look: &Look<'_>) -> Option<(f64, String)> {
    let recent = &look.recent;
    let (busy, usual) = (recent.busy.get()?, look.normal(Metric::Busy)?);
    let in_flight = recent.running.get().or(recent.batch.get())?;
    if busy >= 0.8 * usual || busy <= 0.0 || in_flight < 1.5 {
        return None;
    }
    let words = format!(
        "GPUs {:.0} % busy instead of {:.0} % with {in_flight:.0} requests in flight: they wait for the host between steps",
        busy * 100.0,
        usual * 100.0
    );
    Some(((usual / busy).ln(), words))
}

fn version(look: &Look<'_>, params: &DetectorParams) -> Option<(f64, String)> {
    let contrast = version_contrast(look, &params.version)?;
    let (own, other) = (contrast.own_pace?, contrast.other_pace?);
    if own < 1.1 * other {
        return None;
    }
    let words = format!(
        "version {} needs {:.1} ms a token where {} needs {:.1} ms, and serves {:.0} % of the requests",
        contrast.newer,
        own * 1e3,
        contrast.other,
        other * 1e3,
        contrast.share * 100.0
    );
    // Slow requests end later, so early on their number says less than the devices they run on.
    let on_newer = look.devices.keys().filter(|(_, version)| *version == contrast.newer).count();
    let share = contrast.share.max(on_newer as f64 / look.devices.len().max(1) as f64);
    Some(((share * own / other + 1.0 - share).ln(), words))
}

fn device(look: &Look<'_>, params: &DetectorParams) -> Option<(f64, String)> {
    let usual = |device: &str| look.devices_past.get(device).map_or(0.0, |past| past.usual_slowness);
    let (device, version, own, peers) = slowness(look, params.straggler.least_requests)
        .into_iter()
        .max_by(|a, b| ((a.2 / a.3).ln() - usual(a.0)).total_cmp(&((b.2 / b.3).ln() - usual(b.0))))?;
    let factor = own / peers * (-usual(device)).exp();
    if factor < params.straggler.holds {
        return None;
    }
    let requests = look.devices.get(&(device, version)).map_or(0, |facts| facts.requests);
    let share = requests as f64 / look.recent.requests.max(1) as f64;
    let words = format!(
        "device {device} needs {:.1} ms a token where its peers need {:.1} ms, and serves {:.0} % of the requests",
        own * 1e3,
        peers * 1e3,
        share * 100.0
    );
    // Slow requests of one device last longer, so they weigh more than their number says.
    Some((((share * factor + 1.0 - share).ln()).max(0.5 * factor.ln()), words))
}

/// Sequences in a batch, times normal; at least 1.
fn batch_growth(look: &Look<'_>) -> f64 {
    look.recent
        .batch
        .get()
        .zip(look.normal(Metric::Batch))
        .map_or(1.0, |(now, usual)| (now / usual.max(1.0)).max(1.0))
}

fn interference(look: &Look<'_>) -> Vec<(&'static str, f64, String)> {
    let mut all = Vec::new();
    for (cause, ln, words) in super::load::prompt_work(look) {
        all.push((cause, ln * PROMPT_ELASTICITY, words));
    }
    if let Some((ln, words)) = super::load::arrivals(look) {
        all.push(("traffic", (look.slope * batch_growth(look).ln()).min(ln), words));
    }
    all
}
