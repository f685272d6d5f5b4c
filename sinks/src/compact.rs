//! The lake's life cycle: small files are merged, deleted and expired spans are taken out, files nobody reads are removed.
//!
//! [`state`] is what the lake holds, [`choose`] which files are due, [`make`] carries a plan out: [`merge`] makes one file
//! of them (with [`classes`], where retention goes by importance). [`deletion`] records what is to be forgotten. A compaction is plan, data file, record,
//! each created once by conditional put, and numbered over the whole lake: two compactors cannot both win, and who finds
//! a plan without a record repeats it. Invariants: every state of the store is a whole lake to who reads manifests and
//! compactions; a file is removed only a grace period after the record that took it out; what cannot be read is left
//! alone and named. The clock decides only how long to wait.

mod choose;
mod classes;
mod config;
pub mod deletion;
mod make;
mod merge;
mod metrics;
mod state;

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use infertrace_runtime::{clock::Clock, telemetry::MetricsRegistry};
use infertrace_schemas::lake::{
    DataFile, EventDate, FORMAT_VERSION, LakeError, LakeRoot,
    compaction::{CompactionPlan, Kept, PlannedRetention},
    live::LiveFile,
};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use choose::Reason;
pub use config::{Config, OfTenant, Retention};

use crate::encode::EncodeError;
use choose::{Group, groups};
use make::step_of;
use metrics::Metrics;
use state::{State, create_or_read};

const CREATED_BY: &str = concat!("infertrace ", env!("CARGO_PKG_VERSION"));

/// Why the lake could not be tended; nothing was done by halves.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The store.
    #[error("the lake's store: {0}")]
    Store(#[from] object_store::Error),
    /// A manifest, plan, compaction or deletion.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// A compaction is not there though a later one is.
    #[error("compaction {number} of the lake is missing and later ones are there; restore it")]
    Missing {
        /// Its number.
        number: u64,
    },
    /// The result could not be written, or something else lies in its place.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A merge panicked.
    #[error("merging into {path}: {detail}")]
    Panicked {
        /// The new file.
        path: String,
        /// What the panic said.
        detail: String,
    },
}

/// What the bytes of merged files depend on, and the policies.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When and what to merge.
    pub compaction: Config,
    /// How long traces stay.
    pub retention: Retention,
    /// Rows of a row group.
    pub row_group_rows: u32,
    /// Level of zstd.
    pub zstd_level: i32,
}

impl From<&crate::Config> for Settings {
    fn from(config: &crate::Config) -> Self {
        Self {
            compaction: config.compaction.clone(),
            retention: config.retention.clone(),
            row_group_rows: config.row_group_rows,
            zstd_level: config.zstd_level,
        }
    }
}

/// A merge that is due or was made.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Event date.
    pub date: EventDate,
    /// Partition.
    pub partition: u32,
    /// Why.
    pub reason: Reason,
    /// Files merged.
    pub files: usize,
    /// Their rows.
    pub rows: u64,
    /// Their size.
    pub bytes: u64,
    /// Size of the new file; `None` before it is made, and where nothing was left.
    pub new_bytes: Option<u64>,
    /// Spans left out; 0 before it is made.
    pub dropped: u64,
    /// What is kept by retention, as `tenant: importance, …`; empty where that is everything.
    pub kept: Vec<String>,
}

/// What a look at the lake brought.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pass {
    /// Merges made, or due in a dry run.
    pub steps: Vec<Step>,
    /// Files removed whose grace was over, or due to be.
    pub removed: usize,
    /// Another instance is at work; what was due after it waits.
    pub busy: bool,
}

/// See the module.
pub struct Compactor {
    store: Arc<dyn ObjectStore>,
    root: LakeRoot,
    topic: String,
    settings: Settings,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    state: State,
    /// Plans made here, so that they are not waited for.
    own: Option<u64>,
}

impl Compactor {
    /// A compactor of the lake at `root` in `store`, whose spans are of `topic`.
    #[must_use]
    pub fn new(
        store: Arc<dyn ObjectStore>,
        root: LakeRoot,
        topic: &str,
        settings: Settings,
        clock: Arc<dyn Clock>,
        registry: &mut MetricsRegistry,
    ) -> Self {
        let metrics = Metrics::register(registry);
        Self {
            store,
            root,
            topic: topic.to_owned(),
            settings,
            clock,
            metrics,
            state: State::default(),
            own: None,
        }
    }

    /// Looks every `interval_ms` until `shutdown`; failures are told and tried again at the next look.
    pub async fn run(mut self, shutdown: CancellationToken) {
        if self.settings.compaction.interval_ms == 0 {
            return;
        }
        let interval = Duration::from_millis(self.settings.compaction.interval_ms);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
            // Dropped half way, it is a crash; its plan is repeated.
            let passed = tokio::select! {
                () = shutdown.cancelled() => return,
                passed = self.pass() => passed,
            };
            if let Err(error) = passed {
                self.metrics.failures.inc();
                tracing::error!(%error, "the lake cannot be compacted, trying again at the next look");
            }
        }
    }

    /// Makes the merges that are due, one after the other, and removes what nobody reads any more.
    ///
    /// # Errors
    /// [`CompactError`]; what was done before it stays done.
    pub async fn pass(&mut self) -> Result<Pass, CompactError> {
        self.state.refresh(&self.store, &self.root).await?;
        let mut pass = Pass { removed: self.sweep().await?, ..Pass::default() };
        if let Some(plan) = self.open_plan().await? {
            if self.is_anothers(&plan) {
                pass.busy = true;
                return Ok(pass);
            }
            // It may be younger than what was read.
            self.state.refresh(&self.store, &self.root).await?;
            if plan.number == self.state.live.next_compaction() {
                pass.steps.extend(self.carry_out(&plan, Reason::Small).await?);
            }
        }
        for (files, reason) in self.due() {
            let proposed = self.plan(&files);
            let path = self.root.compaction_plan(proposed.number);
            if let Some(stored) = create_or_read(&self.store, &path, proposed.to_json().into()).await? {
                // Another instance was first; what is due is looked for anew when it is done.
                if stored != proposed.to_json() {
                    pass.busy = true;
                    return Ok(pass);
                }
            }
            self.own = Some(proposed.number);
            pass.steps.extend(self.carry_out(&proposed, reason).await?);
        }
        Ok(pass)
    }

    /// What [`Self::pass`] would do.
    ///
    /// # Errors
    /// [`CompactError`] when the lake cannot be read.
    pub async fn dry_run(&mut self) -> Result<Pass, CompactError> {
        self.state.refresh(&self.store, &self.root).await?;
        let due = self.due();
        let steps = due.iter().map(|(files, reason)| step_of(&self.plan(files), files, *reason));
        let steps = steps.collect();
        Ok(Pass { steps, removed: self.over().map(|one| one.paths.len()).sum(), busy: false })
    }

    /// Paths of the files that count, below the lake's root.
    ///
    /// # Errors
    /// [`CompactError`] when the lake cannot be read.
    pub async fn files(&mut self) -> Result<Vec<DataFile>, CompactError> {
        self.state.refresh(&self.store, &self.root).await?;
        Ok(self.state.live.iter().map(|file| file.data.clone()).collect())
    }

    fn due(&self) -> Vec<(Vec<LiveFile>, Reason)> {
        let now_ns = self.clock.now_unix_nanos();
        let must = |file: &LiveFile| {
            let kept = self.settings.retention.kept(file.data.date, now_ns);
            let expires = kept != file.kept && forgets(&kept, &file.data);
            expires || self.state.deletions.is_due(file)
        };
        let (ends, config) = (self.state.ends(), &self.settings.compaction);
        let due = groups(self.state.live.iter(), &ends, &self.state.unfit, config, must);
        let owned = |group: Group<'_>| (group.files.into_iter().cloned().collect(), group.reason);
        due.into_iter().map(owned).collect()
    }

    fn plan(&self, files: &[LiveFile]) -> CompactionPlan {
        let first = files.first().expect("a group is not empty");
        let date = first.data.date;
        let kept = self.settings.retention.kept(date, self.clock.now_unix_nanos());
        let context = || {
            let of_place = |file: &&LiveFile| (file.partition, file.data.date) == (first.partition, date);
            let fit = |file: &&LiveFile| !self.state.unfit.contains(&file.data.path);
            self.state.live.iter().filter(of_place).filter(fit).map(|file| file.data.path.clone()).collect()
        };
        let slow_trace_ms = i64::try_from(self.settings.retention.slow_trace_ms).unwrap_or(i64::MAX);
        let retention =
            (!kept.is_empty()).then(|| PlannedRetention { slow_trace_ms, kept, context: context() });
        CompactionPlan {
            version: FORMAT_VERSION,
            number: self.state.live.next_compaction(),
            topic: self.topic.clone(),
            partition: first.partition,
            date,
            start: first.start,
            next: files.last().map_or(first.next, |file| file.next),
            inputs: files.iter().map(|file| file.data.path.clone()).collect(),
            deletions: self.state.deletions.count(),
            retention,
            row_group_rows: self.settings.row_group_rows,
            zstd_level: self.settings.zstd_level,
            created_unix_ms: self.clock.now_unix_millis(),
            created_by: CREATED_BY.to_owned(),
        }
    }

    /// The plan of the next compaction, where there is one.
    async fn open_plan(&self) -> Result<Option<CompactionPlan>, CompactError> {
        let path = self.root.compaction_plan(self.state.live.next_compaction());
        match self.store.get(&Path::from(path.as_str())).await {
            Ok(found) => Ok(Some(CompactionPlan::parse(&path, &found.bytes().await?)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether another instance may still be at it.
    fn is_anothers(&self, plan: &CompactionPlan) -> bool {
        let age_ms = self.clock.now_unix_millis().saturating_sub(plan.created_unix_ms);
        let patience = i64::try_from(self.settings.compaction.takeover_ms).unwrap_or(i64::MAX);
        self.own != Some(plan.number) && (0..patience).contains(&age_ms)
    }

    /// Compactions whose removed files nobody can be reading any more.
    fn over(&self) -> impl Iterator<Item = &state::Unswept> {
        let grace_ms = i64::try_from(self.settings.compaction.grace_ms).unwrap_or(i64::MAX);
        let until = self.clock.now_unix_millis().saturating_sub(grace_ms);
        self.state.unswept.iter().take_while(move |one| one.since_ms <= until)
    }

    /// Removes files whose grace is over; the next compaction notes how far this is.
    async fn sweep(&mut self) -> Result<usize, CompactError> {
        let over: Vec<state::Unswept> = self.over().cloned().collect();
        let mut removed = 0;
        for one in over {
            let paths = one.paths.iter().map(|path| Ok(Path::from(self.root.join(path))));
            let paths: Vec<object_store::Result<Path>> = paths.collect();
            let mut deleting = self.store.delete_stream(futures::stream::iter(paths).boxed());
            while let Some(deleted) = deleting.next().await {
                match deleted {
                    Ok(_) => removed += 1,
                    // An earlier look removed it, and ended before it was noted.
                    Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            drop(deleting);
            self.state.swept = one.number + 1;
            self.state.unswept.retain(|other| other.number > one.number);
        }
        self.metrics.removed_files.inc_by(removed as u64);
        Ok(removed)
    }
}

/// Whether something of a file may outlive its retention no longer.
fn forgets(kept: &[Kept], file: &DataFile) -> bool {
    kept.iter().any(|one| {
        one.importance.len() < 3 && one.tenant.as_deref().is_none_or(|tenant| file.may_have_tenant(tenant))
    })
}
