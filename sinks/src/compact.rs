//! The lake's life cycle: small files are merged, deleted and expired spans are taken out, files nobody reads are removed.
//!
//! [`state`] is what the lake holds, [`choose`] which files are due, [`merge`] makes one of them (with [`classes`], where
//! retention goes by importance), [`deletion`] records what is to be forgotten. A compaction is plan, data file, record,
//! each created once by conditional put, and numbered over the whole lake: two compactors cannot both win, and who finds
//! a plan without a record repeats it. Invariants: every state of the store is a whole lake to who reads manifests and
//! compactions; a file is removed only a grace period after the record that took it out; what cannot be read is left
//! alone and named. The clock decides only how long to wait.

mod choose;
mod classes;
mod config;
pub mod deletion;
mod merge;
mod metrics;
mod state;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use infertrace_runtime::{clock::Clock, telemetry::MetricsRegistry};
use infertrace_schemas::lake::{
    DataFile, EventDate, FORMAT_VERSION, LakeError, LakeRoot,
    compaction::{Compaction, CompactionPlan, Dropped, Kept, PlannedRetention},
    live::LiveFile,
};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use choose::Reason;
pub use config::{Config, OfTenant, Retention};

use crate::encode::{EncodeError, entry_of_stored};
use choose::{Group, groups};
use classes::Classes;
use merge::{Merged, Merger, settings_of};
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

    /// Makes what `plan` says and puts it into the lake, unless another instance did; `None` when there was nothing to do.
    async fn carry_out(
        &mut self,
        plan: &CompactionPlan,
        reason: Reason,
    ) -> Result<Option<Step>, CompactError> {
        let files: Option<Vec<LiveFile>> =
            plan.inputs.iter().map(|path| self.state.live.get(path).cloned()).collect();
        let merged = match &files {
            Some(files) => self.merge(plan, files).await?,
            // The plan is of no lake that ever was: damaged, or foreign.
            None => Outcome::Unfit(Vec::new()),
        };
        let (mut removes, mut unfit, mut adds, mut dropped) = (Vec::new(), Vec::new(), None, Vec::new());
        match merged {
            Outcome::Unfit(paths) => unfit = paths,
            Outcome::Merged { entry, dropped: left_out } => {
                removes.clone_from(&plan.inputs);
                (adds, dropped) = (entry, left_out);
            }
        }
        let proposed = Compaction {
            version: FORMAT_VERSION,
            number: plan.number,
            topic: plan.topic.clone(),
            partition: plan.partition,
            start: plan.start,
            next: plan.next,
            removes,
            adds,
            unfit,
            deletions: plan.deletions,
            kept: plan.retention.as_ref().map(|retention| retention.kept.clone()).unwrap_or_default(),
            dropped,
            created_unix_ms: self.clock.now_unix_millis(),
            swept: self.state.swept,
            created_by: CREATED_BY.to_owned(),
        };
        let path = self.root.compaction(plan.number);
        let stored = create_or_read(&self.store, &path, proposed.to_json().into()).await?;
        let compaction = match stored {
            Some(stored) => Compaction::parse(&path, &stored)?,
            None => proposed,
        };
        self.state.apply(&compaction);
        Ok(self.tell(plan, files.as_deref().unwrap_or_default(), &compaction, reason))
    }

    /// Counts and logs a compaction.
    fn tell(
        &self,
        plan: &CompactionPlan,
        files: &[LiveFile],
        compaction: &Compaction,
        reason: Reason,
    ) -> Option<Step> {
        if compaction.removes.is_empty() {
            self.metrics.failures.inc();
            tracing::error!(
                number = compaction.number,
                unfit = ?compaction.unfit,
                "files of the lake cannot be merged and are left as they are; restore them, or look at what the audit says"
            );
            return None;
        }
        let mut step = step_of(plan, files, reason);
        step.new_bytes = compaction.adds.as_ref().map(|file| file.bytes);
        step.dropped = compaction.dropped.iter().map(|dropped| dropped.spans).sum();
        self.metrics.compactions.inc();
        self.metrics.merged_files.inc_by(step.files as u64);
        self.metrics.read_bytes.inc_by(step.bytes);
        self.metrics.written_bytes.inc_by(step.new_bytes.unwrap_or_default());
        self.metrics.dropped_spans.inc_by(step.dropped);
        tracing::info!(
            number = compaction.number,
            date = %step.date,
            partition = step.partition,
            files = step.files,
            bytes = step.bytes,
            new_bytes = step.new_bytes.unwrap_or_default(),
            dropped = step.dropped,
            "files of the lake merged"
        );
        Some(step)
    }

    /// Reads the inputs and stores the new file.
    async fn merge(&self, plan: &CompactionPlan, files: &[LiveFile]) -> Result<Outcome, CompactError> {
        let mut classes = None;
        if let Some(retention) = &plan.retention {
            let mut known = Classes::new(retention);
            let is_all_or_nothing = |kept: &Kept| [0, 3].contains(&kept.importance.len());
            let tells_apart = !retention.kept.iter().all(is_all_or_nothing);
            for path in retention.context.iter().filter(|_| tells_apart) {
                let Some(bytes) = self.read(path).await? else { return Ok(Outcome::unfit(path)) };
                let read = spawn(plan, move || {
                    let read = known.read(bytes);
                    (read, known)
                })
                .await?;
                known = match read {
                    (Ok(()), known) => known,
                    (Err(error), _) => {
                        tracing::error!(path, %error, "a data file of the lake cannot be read");
                        return Ok(Outcome::unfit(path));
                    }
                };
            }
            classes = Some(known);
        }
        let (sender, receiver) = tokio::sync::mpsc::channel::<(String, Bytes)>(1);
        let settings = settings_of(plan);
        let rows = files.iter().map(|file| file.data.rows).sum();
        let (deletions, starts) =
            (self.state.deletions_below(plan.deletions), self.state.starts(plan.partition));
        let merging =
            spawn(plan, move || merge_all(receiver, &settings, rows, &deletions, classes.as_ref(), &starts));
        let feeding = async move {
            for path in &plan.inputs {
                let Some(bytes) = self.read(path).await? else { return Ok(Some(path.clone())) };
                // The merge has ended: it says why.
                if sender.send((path.clone(), bytes)).await.is_err() {
                    break;
                }
            }
            drop(sender);
            Ok::<_, CompactError>(None)
        };
        let (missing, merged) = tokio::join!(feeding, merging);
        if let Some(path) = missing? {
            return Ok(Outcome::unfit(&path));
        }
        let Merged { file, dropped } = match merged? {
            Ok(merged) => merged,
            Err((path, error)) => {
                tracing::error!(path, %error, "a data file of the lake cannot be merged");
                return Ok(Outcome::unfit(&path));
            }
        };
        let Some(file) = file else { return Ok(Outcome::Merged { entry: None, dropped }) };
        let path = self.root.data_file(&file.name);
        let entry = match create_or_read(&self.store, &path, file.bytes.clone()).await? {
            Some(stored) if stored != file.bytes => {
                let entry = entry_of_stored(&file.name, plan.next, &stored)?;
                if entry.rows != file.entry.rows {
                    let detail = format!("it has {} rows, expected {}", entry.rows, file.entry.rows);
                    return Err(EncodeError::Foreign { path, detail }.into());
                }
                entry
            }
            _ => file.entry,
        };
        Ok(Outcome::Merged { entry: Some(entry), dropped })
    }

    /// A data file's bytes; `None` when it is not there.
    async fn read(&self, path: &str) -> Result<Option<Bytes>, CompactError> {
        match self.store.get(&Path::from(self.root.join(path))).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
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

/// What became of a plan.
enum Outcome {
    Merged {
        entry: Option<DataFile>,
        dropped: Vec<Dropped>,
    },
    /// Files that cannot be read.
    Unfit(Vec<String>),
}

impl Outcome {
    fn unfit(path: &str) -> Self {
        Self::Unfit(vec![path.to_owned()])
    }
}

/// Runs a decoder apart from the tasks that answer.
async fn spawn<T: Send + 'static>(
    plan: &CompactionPlan,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CompactError> {
    let panicked = |error: tokio::task::JoinError| CompactError::Panicked {
        path: plan.output().path(),
        detail: error.to_string(),
    };
    tokio::task::spawn_blocking(work).await.map_err(panicked)
}

fn merge_all(
    mut inputs: tokio::sync::mpsc::Receiver<(String, Bytes)>,
    settings: &crate::encode::FileSettings,
    rows: u64,
    deletions: &infertrace_schemas::lake::deletion::Deletions,
    classes: Option<&Classes>,
    starts: &BTreeSet<u64>,
) -> Result<Merged, (String, EncodeError)> {
    let of_all = |error| (String::new(), error);
    let mut merger = Merger::new(settings, rows, deletions, classes, starts).map_err(of_all)?;
    while let Some((path, bytes)) = inputs.blocking_recv() {
        merger.add(bytes).map_err(|error| (path, error))?;
    }
    merger.finish().map_err(of_all)
}

/// Whether something of a file may outlive its retention no longer.
fn forgets(kept: &[Kept], file: &DataFile) -> bool {
    kept.iter().any(|one| {
        one.importance.len() < 3 && one.tenant.as_deref().is_none_or(|tenant| file.may_have_tenant(tenant))
    })
}

fn step_of(plan: &CompactionPlan, files: &[LiveFile], reason: Reason) -> Step {
    let kept = plan.retention.iter().flat_map(|retention| &retention.kept).map(|kept| {
        let classes: Vec<String> =
            kept.importance.iter().map(|class| format!("{class:?}").to_lowercase()).collect();
        format!("{}: {}", kept.tenant.as_deref().unwrap_or("*"), classes.join(", "))
    });
    Step {
        date: plan.date,
        partition: plan.partition,
        reason,
        files: files.len(),
        rows: files.iter().map(|file| file.data.rows).sum(),
        bytes: files.iter().map(|file| file.data.bytes).sum(),
        new_bytes: None,
        dropped: 0,
        kept: kept.collect(),
    }
}
