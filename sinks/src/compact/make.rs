//! Carries a plan out: reads the inputs, stores the new file, puts the compaction into the lake.
//!
//! Invariants: nothing is stored but by conditional create; what is there already is followed; an input that cannot be read
//! makes a record that says so, and changes nothing.

use std::collections::BTreeSet;

use bytes::Bytes;
use infertrace_schemas::lake::{
    DataFile, FORMAT_VERSION,
    compaction::{Compaction, CompactionPlan, Dropped, Kept},
    deletion::Deletions,
    live::LiveFile,
};
use object_store::{ObjectStoreExt as _, path::Path};
use parquet::errors::ParquetError;

use super::{
    CREATED_BY, CompactError, Compactor, Reason, Step,
    classes::Classes,
    merge::{Merged, Merger, settings_of},
    state::create_or_read,
};
use crate::encode::{EncodeError, FileSettings, entry_of_stored};

impl Compactor {
    /// Makes what `plan` says and puts it into the lake, unless another instance did; `None` when there was nothing to do.
    pub(super) async fn carry_out(
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
                    let read = contained(|| Ok(known.read(bytes)?));
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
                // Without a path it is none of them alone.
                return Ok(Outcome::Unfit(path.map_or_else(|| plan.inputs.clone(), |path| vec![path])));
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

/// Merges what comes in. An error names the input that it is about, if it is about one.
fn merge_all(
    mut inputs: tokio::sync::mpsc::Receiver<(String, Bytes)>,
    settings: &FileSettings,
    rows: u64,
    deletions: &Deletions,
    classes: Option<&Classes>,
    starts: &BTreeSet<u64>,
) -> Result<Merged, (Option<String>, EncodeError)> {
    let of_all = |error| (None, error);
    let mut merger = Merger::new(settings, rows, deletions, classes, starts).map_err(of_all)?;
    while let Some((path, bytes)) = inputs.blocking_recv() {
        contained(|| merger.add(bytes)).map_err(|error| (Some(path), error))?;
    }
    contained(|| merger.finish()).map_err(of_all)
}

/// Makes a panic in a decoder an error: noise in a file must not stop the lake's compaction for good.
fn contained<T>(work: impl FnOnce() -> Result<T, EncodeError>) -> Result<T, EncodeError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(ParquetError::General("it cannot be decoded".to_owned()).into()))
}

/// What a plan over `files` would do.
pub(super) fn step_of(plan: &CompactionPlan, files: &[LiveFile], reason: Reason) -> Step {
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
