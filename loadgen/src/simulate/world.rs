//! The simulated world: events in order of time, from arrival to finished trace.
//!
//! Discrete events over [`Engine`]s. Invariant: everything follows from (source, seed, start, faults); the wall
//! clock is not known here.

use std::{cmp::Reverse, collections::BinaryHeap};

use hashbrown::HashMap;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    arrivals::{Arrival, Source, exponential, lognormal},
    device::Device,
    engine::{Conditions, Engine, Sequence},
    faults::{Fault, Kind},
    fleet::{Deployment, FLEET},
};

const MS: f64 = 1e6;
const SECOND: i64 = 1_000_000_000;
/// Waiting requests of one engine beyond which new ones are refused.
const MAX_WAITING: usize = 400;

/// How the simulation is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) replicas: Option<usize>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) sample_every_s: u64,
    pub(crate) tenants: usize,
}

/// A request on its way, with all that its spans will say.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) number: u64,
    pub(crate) arrival: Arrival,
    pub(crate) deployment: usize,
    pub(crate) tenant: usize,
    pub(crate) streaming: bool,
    pub(crate) arrived_ns: i64,
    pub(crate) gateway_ns: i64,
    pub(crate) authorize_ns: i64,
    pub(crate) template_ns: i64,
    pub(crate) detokenize_ns: i64,
    pub(crate) safety_ns: i64,
    pub(crate) rank_ns: i64,
    pub(crate) dispatched_ns: i64,
    pub(crate) replica: usize,
    pub(crate) version: &'static str,
    /// The engine fails it after its (shortened) tokens.
    pub(crate) fails: bool,
    pub(crate) refused: bool,
    pub(crate) done: Option<Sequence>,
    pub(crate) ended_ns: i64,
    pub(crate) device: Device,
}

/// One engine and its GPU.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) deployment: usize,
    pub(crate) index: usize,
    pub(crate) engine: Engine,
    pub(crate) device: Device,
}

/// What the world hands out.
#[derive(Debug)]
pub(crate) enum Output {
    /// A request has ended.
    Ended(Box<Request>),
    /// It is time to read the engines and devices.
    Sample { at_ns: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Dispatch(u64),
    Step(usize),
    End(u64),
    Sample,
}

/// The world; see the module's words.
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) block_tokens: u32,
    pub(crate) arrived: u64,
    by_deployment: Vec<Vec<usize>>,
    arrivals: Box<dyn Iterator<Item = Arrival> + Send>,
    next_arrival: Option<Arrival>,
    requests: HashMap<u64, Request>,
    events: BinaryHeap<Reverse<(i64, u64, Event)>>,
    event_count: u64,
    random: SmallRng,
    device_window_from_ns: i64,
}

impl World {
    pub(crate) fn new(setup: Setup, source: Source) -> Self {
        let mut replicas = Vec::new();
        let mut by_deployment = Vec::new();
        for (deployment, spec) in FLEET.iter().enumerate() {
            let sized = spec.replicas_for(source.rps * spec.share, source.mean_input, source.mean_output);
            let count = setup.replicas.unwrap_or(sized).max(1);
            let mut own = Vec::with_capacity(count);
            for index in 0..count {
                own.push(replicas.len());
                replicas.push(Replica {
                    deployment,
                    index,
                    engine: Engine::new(spec, source.block_tokens),
                    device: Device::new(spec, deployment, index),
                });
            }
            by_deployment.push(own);
        }
        let random = SmallRng::seed_from_u64(setup.seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let mut world = Self {
            setup,
            replicas,
            block_tokens: source.block_tokens,
            arrived: 0,
            by_deployment,
            arrivals: source.arrivals,
            next_arrival: None,
            requests: HashMap::new(),
            events: BinaryHeap::new(),
            event_count: 0,
            random,
            device_window_from_ns: 0,
        };
        world.schedule_arrival();
        world.schedule(SECOND, Event::Sample);
        world
    }

    fn schedule(&mut self, at_ns: i64, event: Event) {
        self.event_count += 1;
        self.events.push(Reverse((at_ns, self.event_count, event)));
    }

    fn schedule_arrival(&mut self) {
        self.next_arrival = self.arrivals.next();
        if let Some(arrival) = &self.next_arrival {
            let at_ns = arrival.at_ns;
            self.schedule(at_ns, Event::Arrival);
        }
    }

    /// When the next thing happens, after the simulation's start.
    pub(crate) fn next_event_ns(&self) -> Option<i64> {
        self.events.peek().map(|Reverse((at_ns, ..))| *at_ns)
    }

    /// Requests under way.
    pub(crate) fn under_way(&self) -> usize {
        self.requests.len()
    }

    /// No more arrivals; what is under way goes on.
    pub(crate) fn close(&mut self) {
        self.next_arrival = None;
        self.arrivals = Box::new(std::iter::empty());
    }

    /// Handles everything up to `until_ns`.
    pub(crate) fn advance(&mut self, until_ns: i64, outputs: &mut Vec<Output>) {
        while self.next_event_ns().is_some_and(|at_ns| at_ns <= until_ns) {
            let Some(Reverse((at_ns, _, event))) = self.events.pop() else { return };
            match event {
                Event::Arrival => self.arrive(at_ns),
                Event::Dispatch(number) => self.dispatch(number, at_ns),
                Event::Step(replica) => self.step(replica, at_ns),
                Event::End(number) => {
                    if let Some(request) = self.requests.remove(&number) {
                        outputs.push(Output::Ended(Box::new(request)));
                    }
                }
                Event::Sample => self.sample(at_ns, outputs),
            }
        }
    }

    pub(crate) fn is_on(&self, kind: Kind, deployment: usize, at_ns: i64) -> bool {
        self.setup.faults.iter().any(|fault| fault.is_on(kind, deployment, at_ns))
    }

    fn arrive(&mut self, at_ns: i64) {
        let Some(arrival) = self.next_arrival.take() else { return };
        self.schedule_arrival();
        let mut pick = self.random.random::<f64>();
        let deployment = FLEET
            .iter()
            .position(|spec| {
                pick -= spec.share;
                pick < 0.0
            })
            .unwrap_or(0);
        if self.is_on(Kind::QueueFlood, deployment, at_ns) {
            for _ in 0..3 {
                let later = at_ns + (exponential(&mut self.random) * 50.0 * MS) as i64;
                let blocks = arrival.blocks.iter().map(|block| block ^ later as u64).collect();
                self.begin(Arrival { blocks, ..arrival.clone() }, deployment, later);
            }
        }
        self.begin(arrival, deployment, at_ns);
    }

    fn begin(&mut self, arrival: Arrival, deployment: usize, arrived_ns: i64) {
        self.arrived += 1;
        let random = &mut self.random;
        let mut about = |median_ms: f64| (lognormal(random, median_ms, 0.35) * MS) as i64;
        let per_token = f64::from(arrival.input_tokens) * 0.002;
        let (gateway_ns, authorize_ns, template_ns) = (about(0.9), about(0.7), about(0.5));
        let tokenize_ns = about(0.3 + per_token);
        let detokenize_ns = about(0.2 + f64::from(arrival.output_tokens) * 0.004);
        let (safety_ns, rank_ns) = (about(3.0), about(1.5));
        let request = Request {
            number: self.arrived,
            tenant: (arrival.session % self.setup.tenants.max(1) as u64) as usize,
            streaming: FLEET[deployment].generates && random.random_bool(0.8),
            arrival,
            deployment,
            arrived_ns,
            gateway_ns,
            authorize_ns,
            template_ns,
            detokenize_ns,
            safety_ns,
            rank_ns,
            dispatched_ns: arrived_ns + gateway_ns + authorize_ns + template_ns + tokenize_ns,
            replica: 0,
            version: FLEET[deployment].version,
            fails: false,
            refused: false,
            done: None,
            ended_ns: 0,
            device: Device::default(),
        };
        self.schedule(request.dispatched_ns, Event::Dispatch(request.number));
        self.requests.insert(request.number, request);
    }

    fn dispatch(&mut self, number: u64, at_ns: i64) {
        let Some(mut request) = self.requests.remove(&number) else { return };
        let deployment = request.deployment;
        let replicas = &self.replicas;
        let Some(replica) =
            self.by_deployment[deployment].iter().copied().min_by_key(|r| replicas[*r].engine.load())
        else {
            return;
        };
        request.replica = replica;
        let on_next = self.runs_next_version(replica, at_ns);
        if on_next {
            request.version = FLEET[deployment].next_version;
        }
        let mut failing = 0.002;
        if on_next {
            failing = 0.05;
        }
        if self.is_on(Kind::ErrorBurst, deployment, at_ns) {
            failing = 0.2;
        }
        request.fails = self.random.random_bool(failing);
        if self.replicas[replica].engine.waiting.len() >= MAX_WAITING {
            request.refused = true;
            request.ended_ns = at_ns + request.gateway_ns / 2;
            self.schedule(request.ended_ns, Event::End(number));
            self.requests.insert(number, request);
            return;
        }
        let mut target = request.arrival.output_tokens;
        if request.fails {
            target = 1 + (f64::from(target) * 0.3) as u32;
        }
        let arrival = &request.arrival;
        let sequence = Sequence::new(number, arrival.blocks.clone(), arrival.input_tokens.max(2), target);
        let engine = &mut self.replicas[replica].engine;
        engine.enqueue(sequence, at_ns);
        let idle = !engine.stepping;
        self.requests.insert(number, request);
        if idle {
            self.start_step(replica, at_ns);
        }
    }

    /// During `bad-version`, every second engine of the model (the last one at least) runs the next version.
    fn runs_next_version(&self, replica: usize, at_ns: i64) -> bool {
        let Replica { deployment, index, .. } = self.replicas[replica];
        let count = self.by_deployment[deployment].len();
        self.is_on(Kind::BadVersion, deployment, at_ns) && (index % 2 == 1 || count == 1)
    }

    fn conditions(&self, replica: usize, at_ns: i64) -> Conditions {
        let Replica { deployment, index, .. } = self.replicas[replica];
        let on = |kind| self.is_on(kind, deployment, at_ns);
        let spec: &Deployment = &FLEET[deployment];
        let mut slowdown = 1.0;
        if on(Kind::LatencySpike) {
            slowdown *= 3.0;
        }
        if on(Kind::Straggler) && index == 0 {
            slowdown *= 2.4;
        }
        if self.runs_next_version(replica, at_ns) {
            slowdown *= 1.6;
        }
        let throttled = on(Kind::Throttling);
        let clock_ratio = if throttled { 0.55 } else { 1.0 };
        Conditions {
            slowdown: slowdown / clock_ratio,
            gap_ns: if on(Kind::GpuUnderuse) { 70_000_000 } else { 300_000 },
            max_seqs: if on(Kind::SmallBatches) { 4 } else { spec.max_num_seqs },
            cache_works: !on(Kind::CacheRegression),
            clock_ratio,
        }
    }

    fn start_step(&mut self, replica: usize, at_ns: i64) {
        let conditions = self.conditions(replica, at_ns);
        let own = &mut self.replicas[replica];
        if let Some(end) = own.engine.start_step(&FLEET[own.deployment], at_ns, conditions) {
            self.schedule(end, Event::Step(replica));
        }
    }

    fn step(&mut self, replica: usize, at_ns: i64) {
        let own = &mut self.replicas[replica];
        let done = own.engine.finish_step(&FLEET[own.deployment], at_ns);
        let device = own.device.clone();
        for sequence in done {
            let Some(mut request) = self.requests.remove(&sequence.request) else { continue };
            let number = request.number;
            let after = if request.fails { 0 } else { request.post_ns() };
            request.ended_ns = at_ns + after + request.gateway_ns / 3;
            request.device = device.clone();
            request.done = Some(sequence);
            self.schedule(request.ended_ns, Event::End(number));
            self.requests.insert(number, request);
        }
        self.start_step(replica, at_ns);
    }

    fn sample(&mut self, at_ns: i64, outputs: &mut Vec<Output>) {
        let window_ns = at_ns - self.device_window_from_ns;
        self.device_window_from_ns = at_ns;
        for replica in 0..self.replicas.len() {
            let conditions = self.conditions(replica, at_ns);
            let own = &mut self.replicas[replica];
            own.device.read(&FLEET[own.deployment], &mut own.engine, conditions.clock_ratio, window_ns);
        }
        let second = at_ns / SECOND;
        if second % self.setup.sample_every_s.max(1) as i64 == 0 {
            outputs.push(Output::Sample { at_ns });
        }
        self.schedule(at_ns + SECOND, Event::Sample);
    }
}

impl Request {
    /// Post-processing: detokenize, safety, and ranking for some.
    pub(crate) fn post_ns(&self) -> i64 {
        self.detokenize_ns + self.safety_ns + if self.ranks() { self.rank_ns } else { 0 }
    }

    pub(crate) fn ranks(&self) -> bool {
        self.number.is_multiple_of(3)
    }
}
