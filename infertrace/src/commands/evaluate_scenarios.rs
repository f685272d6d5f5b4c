//! `infertrace evaluate scenarios`: the live code over simulated traffic whose faults are known.
//!
//! Simulator → records of the topics → both stages, in one process and in simulated time. What is counted how is
//! written in [`infertrace_analytics::score::scenarios`].

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Args;
use infertrace_analytics::{
    config::AnalystConfig,
    output::{Insight, Output},
    score::scenarios::{Score, Truth, score},
    slo::{Goal, Objective},
};
use infertrace_loadgen::simulate::{
    faults::{self, Fault},
    offline::{Offline, OfflineSetup, Second},
};
use infertrace_processors::{
    Config,
    partials::SAMPLE_SOURCES,
    replay::{
        Filter,
        stages::{Counted, Outcome, Resumed, Stage1, Stage2},
    },
    samples::SampleRoller,
};
use infertrace_runtime::{
    log::{Millis, Offset, Record, TopicPartition},
    progress::Bar,
};
use infertrace_schemas::topics;
use serde_json::json;

use super::insights_text;

/// Start of every simulation: a Thursday, 09:00 UTC.
const START_UNIX_NS: i64 = 1_760_000_400_000_000_000;
const HOUR_S: i64 = 3_600;
const DAY_HOURS: f64 = 24.0;

/// Flags of `evaluate scenarios`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Scenarios {
    /// Seeds, both ends included: each is a scenario with every kind of fault once
    #[arg(long, default_value = "1..5", value_name = "A..B")]
    seeds: String,
    /// Only these kinds of fault
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    faults: Vec<String>,
    /// Requests a second; with --arrivals the recording's own if not given
    #[arg(long)]
    rps: Option<f64>,
    /// Arrivals from Azure's traces: CSV with TIMESTAMP,ContextTokens,GeneratedTokens
    #[arg(long, value_name = "FILE")]
    arrivals: Option<PathBuf>,
    /// Besides, so many hours without any fault: what is told then is wrong
    #[arg(long, default_value_t = 0, value_name = "HOURS")]
    clean_hours: i64,
    /// Scenarios at a time
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// What became of each fault, and every wrong insight
    #[arg(long)]
    verbose: bool,
    /// The insights themselves, as an on-call engineer reads them
    #[arg(long)]
    insights: bool,
    /// End stdout with the figures as one line of JSON
    #[arg(long)]
    json: bool,
}

/// Requests a second of synthetic traffic: two to three engines a model, at about two thirds of their capacity.
const SYNTHETIC_RPS: f64 = 24.0;

impl Scenarios {
    fn seeds(&self) -> anyhow::Result<std::ops::RangeInclusive<u64>> {
        let wrong = || format!("--seeds {}: expected A..B, as in 1..50", self.seeds);
        let (from, to) = self.seeds.split_once("..").with_context(wrong)?;
        let (from, to) = (from.trim().parse().with_context(wrong)?, to.trim().parse().with_context(wrong)?);
        ensure!(from <= to, "--seeds {}: the first is greater than the last", self.seeds);
        Ok(from..=to)
    }
}

/// What is to be simulated.
struct Task {
    seed: u64,
    faults: Vec<Fault>,
    seconds: i64,
    is_clean: bool,
}

/// Simulates, analyses and scores.
pub(crate) fn run(args: &Scenarios) -> anyhow::Result<ExitCode> {
    let mut tasks: Vec<Task> = args
        .seeds()?
        .map(|seed| {
            let (faults, seconds) = faults::scenario(seed, &args.faults);
            Task { seed, faults, seconds, is_clean: false }
        })
        .collect();
    ensure!(
        tasks.iter().all(|task| !task.faults.is_empty()),
        "--faults names no kind of fault that there is"
    );
    if args.clean_hours > 0 {
        tasks.push(Task { seed: 0, faults: Vec::new(), seconds: args.clean_hours * HOUR_S, is_clean: true });
    }
    let run = Run::new(args, tasks);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads.max(1)).map(|_| scope.spawn(|| run.work_off())).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| anyhow::anyhow!("a scenario panicked; its message is above"))?
        })
    })?;
    run.bar.clear();
    let (faulty, clean) = run.scores.into_inner().context("a scenario panicked")?;
    report(args, &faulty, &clean);
    Ok(ExitCode::SUCCESS)
}

/// Scenarios that threads work off, and what came of them.
struct Run<'a> {
    args: &'a Scenarios,
    /// The next one last.
    tasks: Mutex<Vec<Task>>,
    /// With faults, and without.
    scores: Mutex<(Score, Score)>,
    bar: Bar,
    scenarios: usize,
    scenarios_done: AtomicUsize,
    /// Simulated, in all.
    seconds: u64,
    seconds_done: AtomicU64,
}

impl<'a> Run<'a> {
    fn new(args: &'a Scenarios, mut tasks: Vec<Task>) -> Self {
        let seconds = tasks.iter().map(|task| task.seconds.unsigned_abs()).sum();
        tasks.reverse();
        Self {
            args,
            scenarios: tasks.len(),
            tasks: Mutex::new(tasks),
            scores: Mutex::default(),
            bar: Bar::default(),
            scenarios_done: AtomicUsize::new(0),
            seconds,
            seconds_done: AtomicU64::new(0),
        }
    }

    fn work_off(&self) -> anyhow::Result<()> {
        loop {
            let Some(task) = self.tasks.lock().ok().and_then(|mut tasks| tasks.pop()) else { return Ok(()) };
            let insights = simulate(self.args, &task, || self.second_done())?;
            let truths: Vec<Truth> = task.faults.iter().map(truth).collect();
            let scored = score(&truths, &insights);
            self.scenarios_done.fetch_add(1, Ordering::Relaxed);
            if self.args.insights || self.args.verbose {
                self.bar.clear();
            }
            if self.args.insights {
                insights_text::tell(task.seed, &insights);
            }
            if self.args.verbose {
                tell(&task, &scored);
            }
            let Ok(mut scores) = self.scores.lock() else { return Ok(()) };
            if task.is_clean { scores.1.add(scored) } else { scores.0.add(scored) }
        }
    }

    fn second_done(&self) {
        let done = self.seconds_done.fetch_add(1, Ordering::Relaxed) + 1;
        self.bar.show(done, self.seconds, |_| {
            format!("{} of {} scenarios", self.scenarios_done.load(Ordering::Relaxed), self.scenarios)
        });
    }
}

fn report(args: &Scenarios, faulty: &Score, clean: &Score) {
    let figures = faulty.figures();
    let per_day =
        |count: f64| if args.clean_hours > 0 { count * DAY_HOURS / args.clean_hours as f64 } else { 0.0 };
    let pages =
        if args.clean_hours > 0 { per_day(clean.false_pages as f64) } else { faulty.false_pages as f64 };
    println!(
        "{} faults: precision {:.3}, recall {:.3}, F1 {:.3}; found after {:.0} s; right cause first {:.3} ({:.3} at once)",
        faulty.outcomes.len(),
        figures.precision,
        figures.recall,
        figures.f1,
        figures.time_to_detect_s,
        figures.cause_first,
        figures.cause_first_at_once
    );
    if args.clean_hours > 0 {
        println!(
            "{} clean hours: {} insights, {} pages",
            args.clean_hours,
            clean.wrong.len(),
            clean.false_pages
        );
    }
    if args.json {
        let line = json!({
            "precision": figures.precision,
            "recall": figures.recall,
            "f1": figures.f1,
            "cause_first": figures.cause_first,
            "cause_first_at_once": figures.cause_first_at_once,
            "time_to_detect_s": figures.time_to_detect_s,
            "false_pages_24h": pages,
            "clean_insights_24h": per_day(clean.wrong.len() as f64),
            "clean_hours": args.clean_hours,
            "faults": faulty.outcomes.len(),
        });
        println!("{line}");
    }
}

fn tell(task: &Task, scored: &Score) {
    for one in &scored.outcomes {
        let after = one.detected_after_s.map_or("missed".to_owned(), |seconds| format!("{seconds:.0} s"));
        println!(
            "seed {} {} on {}: {after}, as {}; cause {} ({} at once), should be {}",
            task.seed, one.fault, one.model, one.kind, one.named, one.named_at_once, one.cause
        );
    }
    scored.wrong.iter().for_each(|wrong| println!("seed {} wrong: {wrong}", task.seed));
}

/// Objectives of the evaluation, for pages.
fn objectives() -> Vec<Objective> {
    let objective = |name: &str, goal, target| Objective {
        name: name.to_owned(),
        tenant: None,
        model: None,
        goal,
        target,
    };
    vec![objective("success", Goal::Success, 0.99), objective("first token", Goal::TtftMs(4_000), 0.95)]
}

/// What is told of a scenario; `tick` is called after each simulated second.
fn simulate(args: &Scenarios, task: &Task, tick: impl Fn()) -> anyhow::Result<Vec<Insight>> {
    let rps = if args.arrivals.is_some() { args.rps } else { Some(args.rps.unwrap_or(SYNTHETIC_RPS)) };
    let mut offline = Offline::new(OfflineSetup {
        seed: task.seed,
        rps,
        azure: args.arrivals.clone(),
        faults: task.faults.clone(),
        start_unix_ns: START_UNIX_NS,
    })?;
    let mut stages = Stages::new()?;
    for _ in 0..task.seconds {
        stages.take(offline.second())?;
        tick();
    }
    Ok(stages.insights)
}

fn truth(fault: &Fault) -> Truth {
    let at_ms = |ns: i64| (START_UNIX_NS + ns) / 1_000_000;
    Truth {
        model: fault.model().to_owned(),
        fault: fault.kind.name().to_owned(),
        cause: fault.kind.cause().to_owned(),
        start_ms: at_ms(fault.from_ns),
        end_ms: at_ms(fault.to_ns),
    }
}

/// Both stages over one partition of each topic.
struct Stages {
    first: Stage1,
    samples: SampleRoller,
    second: Stage2,
    spans_offset: i64,
    samples_offset: u64,
    counted: Vec<Counted>,
    outcomes: Vec<Outcome>,
    insights: Vec<Insight>,
}

/// Cumulative series of samples that are followed.
const SERIES: usize = 10_000;

impl Stages {
    fn new() -> anyhow::Result<Self> {
        let config = Config::default();
        let pricer = config.pricer().map_err(anyhow::Error::msg)?;
        let mut first = Stage1::new(&config, pricer.clone());
        first.assign(0, 0, Resumed::default());
        let mut samples = SampleRoller::priced(config.rollup_limits(), SERIES, pricer);
        samples.assign(SAMPLE_SOURCES, 0, None, []);
        let analyst = AnalystConfig { objectives: objectives(), ..AnalystConfig::default() };
        Ok(Self {
            first,
            samples,
            second: Stage2::new(&analyst, 1, &[0], Filter::default()),
            spans_offset: 0,
            samples_offset: 0,
            counted: Vec::new(),
            outcomes: Vec::new(),
            insights: Vec::new(),
        })
    }

    fn take(&mut self, second: Second) -> anyhow::Result<()> {
        let at_ms = second.at_unix_ns / 1_000_000;
        if let Some(samples) = second.samples {
            self.samples
                .record(SAMPLE_SOURCES, self.samples_offset, at_ms, &samples)
                .context("a simulated sample")?;
            self.samples_offset += 1;
            let mut partials = Vec::new();
            self.samples.flush(SAMPLE_SOURCES, &mut partials);
            self.counted.push(Counted { source: SAMPLE_SOURCES, partials, watermark_ms: None });
        }
        if let Some(spans) = second.spans {
            let record = Record {
                from: TopicPartition::new(topics::SPANS, 0),
                offset: Offset(self.spans_offset.try_into()?),
                timestamp: Millis(at_ms),
                key: None,
                payload: Some(Bytes::from(spans)),
                headers: Vec::new(),
            };
            self.spans_offset += 1;
            self.first.records(&[record], &mut self.counted).context("simulated spans")?;
        }
        for counted in self.counted.drain(..) {
            self.second.take(counted, &mut self.outcomes);
        }
        self.insights.extend(self.outcomes.drain(..).filter_map(|(_, output)| match output {
            Output::Insight(insight) => Some(*insight),
            _ => None,
        }));
        Ok(())
    }
}
