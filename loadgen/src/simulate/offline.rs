//! The simulation without a clock and without a network: what the topics would hold, second by second.
//!
//! For evaluations and tests that run much faster than real time. The records are those that the gateway writes of the
//! same spans and readings. Invariant: a function of the setup.

use std::path::PathBuf;

use infertrace_sdk::SpanBatchBuilder;

use super::{
    arrivals,
    faults::{Fault, Kind},
    samples,
    story::{self, Telling},
    world::{Output, Setup, World},
};

const SECOND: i64 = 1_000_000_000;
const SAMPLE_EVERY_S: u64 = 5;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct OfflineSetup {
    /// Seed of everything.
    pub seed: u64,
    /// Requests a second; a recording's own if not given.
    pub rps: Option<f64>,
    /// A recording of arrivals in Azure's form; synthetic ones if not given.
    pub azure: Option<PathBuf>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Start of the simulated time.
    pub start_unix_ns: i64,
}

/// What one second wrote.
#[derive(Clone, Debug, Default)]
pub struct Second {
    /// A record of the spans topic: an encoded `SpanBatch`.
    pub spans: Option<Vec<u8>>,
    /// Spans in it.
    pub span_count: usize,
    /// A record of the samples topic: an encoded `GpuSampleBatch`.
    pub samples: Option<Vec<u8>>,
    /// End of the second, Unix time.
    pub at_unix_ns: i64,
}

/// The running simulation.
pub struct Offline {
    world: World,
    telling: Telling,
    batch: SpanBatchBuilder,
    outputs: Vec<Output>,
    second: i64,
}

impl Offline {
    /// Sets it up.
    ///
    /// # Errors
    /// For a recording that cannot be read, and a rate that is not above 0.
    pub fn new(setup: OfflineSetup) -> anyhow::Result<Self> {
        let OfflineSetup { seed, rps, azure, faults, start_unix_ns } = setup;
        let source = match azure {
            Some(path) => arrivals::azure(&path, rps, 1.0, seed)?,
            None => arrivals::synthetic(rps, seed)?,
        };
        let setup = Setup { seed, replicas: None, faults, sample_every_s: SAMPLE_EVERY_S, tenants: 1 };
        let telling = Telling { seed, start_unix_ns, timelines: 0.0, silent: false };
        let world = World::new(setup, source);
        Ok(Self { world, telling, batch: SpanBatchBuilder::new(), outputs: Vec::new(), second: 0 })
    }

    /// Simulates one more second.
    pub fn second(&mut self) -> Second {
        self.second += 1;
        let mut told =
            Second { at_unix_ns: self.telling.start_unix_ns + self.second * SECOND, ..Second::default() };
        self.world.advance(self.second * SECOND, &mut self.outputs);
        for output in std::mem::take(&mut self.outputs) {
            match output {
                Output::Ended(request) => {
                    let silent = self.world.is_on(Kind::Silence, request.deployment, request.ended_ns);
                    let trace = story::tell(*request, Telling { silent, ..self.telling });
                    told.span_count += trace.spans.len();
                    trace.write_native(&mut self.batch);
                }
                Output::Sample { at_ns } => {
                    let silent = |deployment| self.world.is_on(Kind::Silence, deployment, at_ns);
                    let replicas = self.world.replicas.iter();
                    let reporting: Vec<_> = replicas.filter(|replica| !silent(replica.deployment)).collect();
                    let zero = self.telling.start_unix_ns;
                    let tokens = self.world.block_tokens;
                    told.samples = Some(samples::record(&reporting, tokens, zero, zero + at_ns));
                }
            }
        }
        if told.span_count > 0 {
            told.spans = Some(self.batch.build().encode());
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    /// Scenario: ten simulated seconds, twice. Guarantee: the same bytes; records that their messages read, with every
    /// span and a reading of each kind for each GPU.
    #[test]
    fn seconds_are_records() {
        let run = || {
            let setup = OfflineSetup {
                seed: 3,
                rps: Some(10.0),
                azure: None,
                faults: Vec::new(),
                start_unix_ns: 7 * SECOND,
            };
            let mut offline = Offline::new(setup).unwrap();
            (0..10).map(|_| offline.second()).collect::<Vec<_>>()
        };
        let (first, again) = (run(), run());
        assert!(first.iter().zip(&again).all(|(a, b)| a.spans == b.spans && a.samples == b.samples));
        let spans: usize = first.iter().map(|second| second.span_count).sum();
        let read = |second: &Second| {
            let batch =
                second.spans.as_deref().map(|bytes| infertrace_proto::v1::SpanBatch::decode(bytes).unwrap());
            batch.map_or(0, |batch| batch.spans.len())
        };
        assert!(spans > 50);
        assert_eq!(first.iter().map(read).sum::<usize>(), spans);
        let samples = first.iter().filter_map(|second| second.samples.as_deref()).next().unwrap();
        let batch = infertrace_proto::v1::GpuSampleBatch::decode(samples).unwrap();
        assert_eq!(batch.samples.len() % 14, 0);
        assert_eq!(batch.origins.len() * 14, batch.samples.len());
        assert!(batch.samples.iter().any(|sample| !sample.device_id.is_empty()));
    }
}
