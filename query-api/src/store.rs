//! The tiers behind one face: which rows a trace has, and which tier said so.
//!
//! Inside the hot tier's coverage nothing else is read; inside the warm tier's the lake is not, as long as ClickHouse
//! answers. Rows beyond a coverage are a welcome addition that the analysis collapses by span id. Invariant: whatever
//! could not be read is named in the answer.

use std::{sync::Arc, time::Duration};

use datafusion::prelude::SessionContext;
use infertrace_schemas::lake::LakeRoot;
use object_store::ObjectStore;
use tokio::runtime::Handle;

use crate::{
    config::LakeConfig,
    hot::{Coverage, HotTier, HotView, Rows, TraceId},
    lake::{
        LakeFile, Problem,
        cache::FileCache,
        catalog::{Catalog, CatalogState},
        lookup::{Columns, Lookup},
    },
    metrics::LakeMetrics,
    warm::{
        Away, Warm,
        state::{WarmState, joined, outside},
    },
};

/// A listing younger than this is not repeated on demand.
const ON_DEMAND: Duration = Duration::from_millis(200);

/// Which tier a row came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Memory.
    Hot,
    /// ClickHouse.
    Warm,
    /// Parquet.
    Lake,
}

impl Tier {
    /// As the API names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Warm => "warm",
            Self::Lake => "cold",
        }
    }
}

/// Rows of one batch and where they came from.
#[derive(Clone, Debug)]
pub struct Part {
    /// Tier.
    pub tier: Tier,
    /// Rows.
    pub rows: Rows,
}

/// The lake's reader, complete.
pub struct Lake {
    /// Manifests.
    pub catalog: Catalog,
    /// Look-up by id.
    pub lookup: Lookup,
    /// Footers and bloom filters.
    pub cache: Arc<FileCache>,
}

impl Lake {
    /// A reader of the lake at `root` in `store`, which decodes on `runtime`.
    #[must_use]
    pub fn new(
        store: Arc<dyn ObjectStore>,
        root: LakeRoot,
        config: &LakeConfig,
        runtime: Handle,
        metrics: LakeMetrics,
    ) -> Self {
        let cache = Arc::new(FileCache::new(Arc::clone(&store), config, metrics.clone()));
        let lookup = Lookup {
            cache: Arc::clone(&cache),
            runtime,
            concurrent_files: config.concurrent_files.max(1),
            metrics: metrics.clone(),
        };
        Self { catalog: Catalog::new(store, root, metrics), lookup, cache }
    }
}

/// The tiers.
pub struct Store {
    /// The last minutes.
    pub hot: Option<Arc<dyn HotTier>>,
    /// The last days.
    pub warm: Option<Warm>,
    /// Everything that the sink wrote.
    pub lake: Option<Lake>,
    /// The engine of searches.
    pub context: SessionContext,
    /// Where scans run, apart from the threads that answer requests.
    pub scans: Handle,
}

/// A state of all tiers that belongs together.
pub struct Snapshot {
    /// Hot rows.
    pub hot: Option<Arc<dyn HotView>>,
    /// What they cover.
    pub coverage: Coverage,
    /// What the warm tier holds, if it is to be asked.
    pub(crate) warm: Option<Arc<WarmState>>,
    /// Lake files.
    pub files: Arc<CatalogState>,
    /// What could not be read so far.
    pub problems: Vec<Problem>,
    /// What failed without a span being missed.
    pub warnings: Vec<String>,
}

impl Snapshot {
    /// Files of the lake that hold what no tier before it does.
    pub(crate) fn files_to_read(&self) -> Vec<Arc<LakeFile>> {
        let is_read = |file: &&Arc<LakeFile>| {
            self.warm.as_ref().is_none_or(|warm| !warm.covers(file, &self.coverage))
                && !self.coverage.contains(file.partition, &file.offsets)
        };
        self.files.files.iter().filter(is_read).cloned().collect()
    }

    /// Goes on without the warm tier: names what only it holds, or where that is nothing, that it is away.
    pub(crate) fn lose_warm(&mut self, warm: &Warm, reason: &str) {
        let (problems, warnings) = self.without_warm(warm, reason);
        self.warm = None;
        let is_new = |problem: &Problem| !self.problems.contains(problem);
        let problems: Vec<Problem> = problems.into_iter().filter(is_new).collect();
        self.problems.extend(problems);
        self.warnings.extend(warnings);
    }

    fn without_warm(&self, warm: &Warm, reason: &str) -> (Vec<Problem>, Vec<String>) {
        let held = match (warm.view(), &self.warm) {
            (Err(Away { held, .. }), _) => held,
            (Ok(state), _) => Some(state.coverage.clone()),
        };
        let Some(held) = held else {
            return (vec![Problem::warm(warm.name(), reason)], Vec::new());
        };
        let mut problems = Vec::new();
        for (&partition, range) in &held.0 {
            let of_lake =
                |ends: &std::collections::BTreeMap<i32, i64>| ends.get(&partition).copied().unwrap_or(0);
            let lake = of_lake(&self.files.starts)..of_lake(&self.files.ends);
            for missing in outside(range.clone(), &[lake, self.coverage.of(partition)]) {
                let what = format!("partition {partition}, offsets {}..{}", missing.start, missing.end);
                problems.push(Problem::warm(what, reason));
            }
        }
        let warnings = if problems.is_empty() {
            vec![format!("warm tier, {}: {reason}; the other tiers hold what it does", warm.name())]
        } else {
            Vec::new()
        };
        (problems, warnings)
    }
}

/// Rows, and what they lack.
#[derive(Debug, Default)]
pub struct Found {
    /// Rows, hot ones first.
    pub parts: Vec<Part>,
    /// What could not be read.
    pub problems: Vec<Problem>,
    /// What failed without a span being missed.
    pub warnings: Vec<String>,
}

impl Store {
    /// The state now. A lake that seems to lag behind the other tiers is listed anew first.
    pub async fn snapshot(&self) -> Snapshot {
        let mut problems = Vec::new();
        let hot = match &self.hot {
            Some(hot) => {
                hot.view().await.map_err(|error| problems.push(Problem::hot(error.to_string()))).ok()
            }
            None => None,
        };
        let coverage = hot.as_ref().map(|hot| hot.coverage().clone()).unwrap_or_default();
        let mut away = None;
        let mut warm = None;
        if let Some(tier) = &self.warm {
            tier.look_first().await;
            warm = tier.view().map_err(|reason| away = Some((tier, reason.reason))).ok();
        }
        let mut files = Arc::new(CatalogState::default());
        if let Some(lake) = &self.lake {
            files = lake.catalog.state();
            if lake.catalog.last_error().is_some() || !gaps(&coverage, warm.as_deref(), &files).is_empty() {
                // The error is kept by the catalog and named below.
                let _ = lake.catalog.refresh(ON_DEMAND).await;
                files = lake.catalog.state();
            }
            problems.extend(lake.catalog.last_error().map(|error| Problem::lake("manifests", error)));
            problems.extend(files.problems.iter().cloned());
        }
        if self.lake.is_some() || warm.is_some() {
            problems.extend(gaps(&coverage, warm.as_deref(), &files));
        }
        let mut snapshot = Snapshot { hot, coverage, warm, files, problems, warnings: Vec::new() };
        if let Some((tier, reason)) = away {
            snapshot.lose_warm(tier, &reason);
        }
        snapshot
    }

    /// The rows of `ids` in every tier, with all columns or those named. A trace that is to be forgotten has none.
    pub async fn rows(&self, snapshot: &Snapshot, ids: &[TraceId], columns: &Columns) -> Found {
        let is_kept = |id: &&TraceId| !snapshot.files.deletions.has_trace(id);
        let ids: Vec<TraceId> = ids.iter().filter(is_kept).copied().collect();
        let ids = ids.as_slice();
        let mut found = Found::default();
        if let Some(hot) = &snapshot.hot {
            match hot.lookup(ids).await {
                Ok(rows) => found.parts.extend(rows.into_iter().map(|rows| Part { tier: Tier::Hot, rows })),
                Err(error) => found.problems.push(Problem::hot(error.to_string())),
            }
        }
        let files = snapshot.files_to_read();
        let from_lake = self.from_lake(&files, snapshot, ids, columns);
        let (Some(warm), Some(state)) = (&self.warm, &snapshot.warm) else {
            found.merge(from_lake.await);
            return found;
        };
        match tokio::join!(warm.lookup(ids, &snapshot.coverage, columns), from_lake) {
            (Ok(rows), from_lake) => {
                found.parts.extend(rows.into_iter().map(|rows| Part { tier: Tier::Warm, rows }));
                found.merge(from_lake);
            }
            (Err(reason), from_lake) => {
                found.merge(from_lake);
                let (problems, warnings) = snapshot.without_warm(warm, &reason);
                found.problems.extend(problems);
                found.warnings.extend(warnings);
                let is_left = |file: &&Arc<LakeFile>| {
                    state.covers(file, &snapshot.coverage)
                        && !snapshot.coverage.contains(file.partition, &file.offsets)
                };
                let left: Vec<_> = snapshot.files.files.iter().filter(is_left).cloned().collect();
                found.merge(self.from_lake(&left, snapshot, ids, columns).await);
            }
        }
        found
    }

    async fn from_lake(
        &self,
        files: &[Arc<LakeFile>],
        snapshot: &Snapshot,
        ids: &[TraceId],
        columns: &Columns,
    ) -> Found {
        let Some(lake) = &self.lake else { return Found::default() };
        let found =
            lake.lookup.find(files, ids, &snapshot.coverage, &snapshot.files.deletions, columns).await;
        let parts = found.rows.into_iter().map(|rows| Part { tier: Tier::Lake, rows }).collect();
        Found { parts, problems: found.problems, warnings: Vec::new() }
    }
}

impl Found {
    fn merge(&mut self, other: Self) {
        self.parts.extend(other.parts);
        self.problems.extend(other.problems);
        self.warnings.extend(other.warnings);
    }
}

/// Offsets that the hot tier no longer has in full and that are in no other tier yet.
fn gaps(hot: &Coverage, warm: Option<&WarmState>, files: &CatalogState) -> Vec<Problem> {
    let mut gaps = Vec::new();
    for (partition, held) in &hot.0 {
        let of_warm = warm.map(|warm| warm.coverage.of(*partition)).unwrap_or_default();
        let in_lake = 0..files.ends.get(partition).copied().unwrap_or(0);
        let end = joined(&in_lake, &of_warm).end;
        if end < held.start {
            let what = format!("partition {partition}, offsets {end}..{}", held.start);
            gaps.push(Problem::lake(what, "left the hot tier and is not in the lake yet"));
        }
    }
    gaps
}
