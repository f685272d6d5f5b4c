//! Both tiers behind one face: which rows a trace has, and which tier said so.
//!
//! Inside the hot tier's coverage the lake is not read; outside of it hot rows are a welcome addition that
//! the analysis collapses by span id. Invariant: whatever could not be read is named in the answer.

use std::{sync::Arc, time::Duration};

use datafusion::prelude::SessionContext;
use infertrace_schemas::lake::LakeRoot;
use object_store::ObjectStore;
use tokio::runtime::Handle;

use crate::{
    config::LakeConfig,
    hot::{Coverage, HotTier, HotView, Rows, TraceId},
    lake::{
        Problem,
        cache::FileCache,
        catalog::{Catalog, CatalogState},
        lookup::{Columns, Lookup},
    },
    metrics::LakeMetrics,
};

/// A listing younger than this is not repeated on demand.
const ON_DEMAND: Duration = Duration::from_millis(200);

/// Which tier a row came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Memory.
    Hot,
    /// Parquet.
    Lake,
}

impl Tier {
    /// As the API names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
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
    /// Everything that the sink wrote.
    pub lake: Option<Lake>,
    /// The engine of searches.
    pub context: SessionContext,
    /// Where scans run, apart from the threads that answer requests.
    pub scans: Handle,
}

/// A state of both tiers that belongs together.
pub struct Snapshot {
    /// Hot rows.
    pub hot: Option<Arc<dyn HotView>>,
    /// What they cover.
    pub coverage: Coverage,
    /// Lake files.
    pub files: Arc<CatalogState>,
    /// What could not be read so far.
    pub problems: Vec<Problem>,
}

impl Store {
    /// The state now. A lake that seems to lag behind the hot tier is listed anew first.
    pub async fn snapshot(&self) -> Snapshot {
        let mut problems = Vec::new();
        let hot = match &self.hot {
            Some(hot) => {
                hot.view().await.map_err(|error| problems.push(Problem::hot(error.to_string()))).ok()
            }
            None => None,
        };
        let coverage = hot.as_ref().map(|hot| hot.coverage().clone()).unwrap_or_default();
        let mut files = Arc::new(CatalogState::default());
        if let Some(lake) = &self.lake {
            files = lake.catalog.state();
            if lake.catalog.last_error().is_some() || !gaps(&coverage, &files).is_empty() {
                // The error is kept by the catalog and named below.
                let _ = lake.catalog.refresh(ON_DEMAND).await;
                files = lake.catalog.state();
            }
            problems.extend(lake.catalog.last_error().map(|error| Problem::lake("manifests", error)));
            problems.extend(files.problems.iter().cloned());
            problems.extend(gaps(&coverage, &files));
        }
        Snapshot { hot, coverage, files, problems }
    }

    /// The rows of `ids` in every tier, with all columns or those named.
    pub async fn rows(
        &self,
        snapshot: &Snapshot,
        ids: &[TraceId],
        columns: &Columns,
    ) -> (Vec<Part>, Vec<Problem>) {
        let mut parts = Vec::new();
        let mut problems = Vec::new();
        if let Some(hot) = &snapshot.hot {
            match hot.lookup(ids).await {
                Ok(found) => parts.extend(found.into_iter().map(|rows| Part { tier: Tier::Hot, rows })),
                Err(error) => problems.push(Problem::hot(error.to_string())),
            }
        }
        if let Some(lake) = &self.lake {
            let found = lake.lookup.find(&snapshot.files.files, ids, &snapshot.coverage, columns).await;
            parts.extend(found.rows.into_iter().map(|rows| Part { tier: Tier::Lake, rows }));
            problems.extend(found.problems);
        }
        (parts, problems)
    }
}

/// Offsets that the hot tier no longer has in full and no manifest names yet.
fn gaps(coverage: &Coverage, files: &CatalogState) -> Vec<Problem> {
    let mut gaps = Vec::new();
    for (partition, held) in &coverage.0 {
        let end = files.ends.get(partition).copied().unwrap_or(0);
        if end < held.start {
            let what = format!("partition {partition}, offsets {end}..{}", held.start);
            gaps.push(Problem::lake(what, "left the hot tier and is not in the lake yet"));
        }
    }
    gaps
}
