//! Faults: what goes wrong, when, where. They change causes in the engine; spans show the symptoms.

use anyhow::{Context, bail, ensure};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};

use super::fleet::FLEET;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A noisy neighbour: every step of the model's engines takes three times as long.
    LatencySpike,
    /// The host feeds the GPU too slowly: gaps between steps.
    GpuUnderuse,
    /// The scheduler admits four sequences.
    SmallBatches,
    /// The prefix cache stops matching.
    CacheRegression,
    /// The GPU is too hot: clocks and power fall.
    Throttling,
    /// One engine of the model is slow.
    Straggler,
    /// Half of the engines get a version with slower decoding and errors.
    BadVersion,
    /// Four times the model's traffic.
    QueueFlood,
    /// One request in five fails.
    ErrorBurst,
    /// The model's server stops reporting spans.
    Silence,
}

const ALL: [(Kind, &str, &str); 10] = [
    (Kind::LatencySpike, "latency-spike", "host"),
    (Kind::GpuUnderuse, "gpu-underuse", "gpu"),
    (Kind::SmallBatches, "small-batches", "batch"),
    (Kind::CacheRegression, "cache-regression", "cache"),
    (Kind::Throttling, "throttling", "gpu"),
    (Kind::Straggler, "straggler", "host"),
    (Kind::BadVersion, "bad-version", "version"),
    (Kind::QueueFlood, "queue-flood", "traffic"),
    (Kind::ErrorBurst, "error-burst", "errors"),
    (Kind::Silence, "silence", "silence"),
];

impl Kind {
    /// The name on the command line and in labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        ALL.iter().find(|(kind, ..)| *kind == self).map_or("", |(_, name, _)| name)
    }

    /// What an analysis should name as the cause.
    #[must_use]
    pub fn cause(self) -> &'static str {
        ALL.iter().find(|(kind, ..)| *kind == self).map_or("", |(.., cause)| cause)
    }
}

/// A fault with its time and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Kind.
    pub kind: Kind,
    /// Start, after the simulation's start.
    pub from_ns: i64,
    /// End.
    pub to_ns: i64,
    /// Index of the model in the fleet.
    pub(crate) deployment: usize,
}

impl Fault {
    /// Whether it is on.
    #[must_use]
    pub(crate) fn is_on(&self, kind: Kind, deployment: usize, at_ns: i64) -> bool {
        self.kind == kind && self.deployment == deployment && (self.from_ns..self.to_ns).contains(&at_ns)
    }

    /// The ground truth, one line of JSON.
    #[must_use]
    pub fn label(&self, start_unix_ns: i64) -> serde_json::Value {
        serde_json::json!({
            "fault": self.kind.name(),
            "cause": self.kind.cause(),
            "model": FLEET[self.deployment].model,
            "start_unix_nano": (start_unix_ns + self.from_ns).to_string(),
            "end_unix_nano": (start_unix_ns + self.to_ns).to_string(),
        })
    }
}

const SECOND: i64 = 1_000_000_000;

/// Reads `--faults`.
///
/// # Errors
/// For unknown names, models and malformed times.
pub fn parse(text: &str, every_s: u64, seed: u64) -> anyhow::Result<Vec<Fault>> {
    match text {
        "none" | "" => return Ok(Vec::new()),
        "demo" => return Ok(demo(every_s.max(10) as i64, seed)),
        _ => {}
    }
    text.split(',').map(|one| parse_one(one).with_context(|| format!("--faults {one:?}"))).collect()
}

fn parse_one(text: &str) -> anyhow::Result<Fault> {
    let (name, rest) = text.split_once('@').context("expected NAME@START+SECONDS[:MODEL]")?;
    let (times, model) = rest.split_once(':').map_or((rest, None), |(times, model)| (times, Some(model)));
    let (start, length) = times.split_once('+').context("expected START+SECONDS")?;
    let Some((kind, ..)) = ALL.iter().find(|(_, known, _)| *known == name) else {
        let names: Vec<_> = ALL.iter().map(|(_, name, _)| *name).collect();
        bail!("no such fault; there are {}", names.join(" "));
    };
    let deployment = match model {
        None => 0,
        Some(model) => FLEET.iter().position(|deployment| deployment.model == model).with_context(|| {
            let models: Vec<_> = FLEET.iter().map(|deployment| deployment.model).collect();
            format!("no such model; there are {}", models.join(" "))
        })?,
    };
    let seconds = |text: &str| -> anyhow::Result<i64> { Ok((text.trim().parse::<f64>()? * 1e9) as i64) };
    let (from_ns, length) = (seconds(start)?, seconds(length)?);
    ensure!(from_ns >= 0 && length > 0, "times are positive");
    Ok(Fault { kind: *kind, from_ns, to_ns: from_ns + length, deployment })
}

/// A day of faults, one at a time: the kinds in turn, each on a model that can show it.
fn demo(every_s: i64, seed: u64) -> Vec<Fault> {
    let mut random = SmallRng::seed_from_u64(seed ^ 0xfa17);
    let offset = random.random_range(0..ALL.len());
    (0..86_400 / every_s)
        .map(|index| {
            let (kind, ..) = ALL[(offset + index as usize) % ALL.len()];
            let from_ns = (index + 1) * every_s * SECOND - random.random_range(0..every_s * SECOND / 4);
            let deployment = random.random_range(0..3);
            Fault { kind, from_ns, to_ns: from_ns + every_s * SECOND / 2, deployment }
        })
        .collect()
}

/// Seconds of health before the first fault of a scenario, so that baselines are known.
const WARM_UP_S: i64 = 1_200;

/// Every kind of fault once, in an order, on models and for times that the seed decides, with time to recover after
/// each; `only` keeps some kinds (by name). Returns the faults and the seconds that the scenario lasts.
#[must_use]
pub fn scenario(seed: u64, only: &[String]) -> (Vec<Fault>, i64) {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x5ce_a210);
    let mut kinds: Vec<Kind> = ALL.iter().map(|(kind, ..)| *kind).collect();
    kinds.shuffle(&mut random);
    kinds.retain(|kind| only.is_empty() || only.iter().any(|name| name == kind.name()));
    let mut at_s = WARM_UP_S + random.random_range(0..120);
    let mut faults = Vec::new();
    for kind in kinds {
        let length_s = random.random_range(120..=240);
        let deployment = random.random_range(0..3);
        faults.push(Fault { kind, from_ns: at_s * SECOND, to_ns: (at_s + length_s) * SECOND, deployment });
        at_s += length_s + random.random_range(360..540);
    }
    (faults, at_s)
}

impl Fault {
    /// The model it is done to.
    #[must_use]
    pub fn model(&self) -> &'static str {
        FLEET[self.deployment].model
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: scenarios of two seeds, and of some kinds only. Guarantee: each kind once, one after the other with time
    /// between, after the warm-up; another seed is another scenario.
    #[test]
    fn a_scenario_has_every_kind_once() {
        let (faults, seconds) = scenario(1, &[]);
        assert_eq!(faults.len(), ALL.len());
        assert!(ALL.iter().all(|(kind, ..)| faults.iter().filter(|fault| fault.kind == *kind).count() == 1));
        assert!(faults[0].from_ns >= WARM_UP_S * SECOND && faults[9].to_ns < seconds * SECOND);
        assert!(faults.windows(2).all(|pair| pair[0].to_ns + 300 * SECOND < pair[1].from_ns));
        assert_ne!(faults, scenario(2, &[]).0);
        assert_eq!(scenario(1, &["silence".to_owned()]).0.len(), 1);
    }

    /// Scenario: a list, the demo, and mistakes. Guarantee: times and models as written; faults of the demo do not
    /// overlap; mistakes are named.
    #[test]
    fn faults_are_read() {
        let list = parse("throttling@60+120:qwen2.5-14b-instruct,silence@0.5+1", 180, 1).unwrap();
        assert_eq!(
            list[0],
            Fault { kind: Kind::Throttling, from_ns: 60 * SECOND, to_ns: 180 * SECOND, deployment: 1 }
        );
        assert_eq!(list[1].from_ns, SECOND / 2);
        let demo = parse("demo", 120, 5).unwrap();
        assert_eq!(demo, parse("demo", 120, 5).unwrap());
        assert!(demo.windows(2).all(|pair| pair[0].to_ns <= pair[1].from_ns));
        for wrong in ["fire@1+1", "silence", "silence@1", "silence@1+1:gpt", "silence@-1+3"] {
            assert!(parse(wrong, 1, 1).is_err(), "{wrong}");
        }
    }
}
