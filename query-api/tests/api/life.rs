//! The lake changes under a running API: files are merged, removed, and spans are to be forgotten.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex},
};

use futures::stream::BoxStream;
use infertrace_runtime::{clock::ManualClock, telemetry::MetricsRegistry};
use infertrace_schemas::{
    lake::{Id16, LakeRoot, deletion::Subject},
    topics,
};
use infertrace_sinks::compact::{self, Compactor, Settings, deletion::forget};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use serde_json::Value as Json;

use crate::{
    common::{
        NOW_NS, Server, Setup, lake,
        spans::{self, TestSpan, hex_id},
        until,
    },
    support::*,
};

const GRACE_NS: i64 = 900_000_000_000;

/// A store that notes what is read of it.
#[derive(Debug)]
struct Noting {
    inner: InMemory,
    read: Mutex<Vec<Path>>,
}

impl fmt::Display for Noting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Noting")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Noting {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }
    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.read.lock().unwrap().push(location.clone());
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn compactor(store: &Arc<dyn ObjectStore>, clock: &ManualClock) -> Compactor {
    let compaction = compact::Config { min_files: 2, ..compact::Config::default() };
    let settings = Settings {
        compaction,
        retention: compact::Retention::default(),
        row_group_rows: 65_536,
        zstd_level: 1,
    };
    let (root, clock) = (LakeRoot::new(lake::ROOT), Arc::new(clock.clone()));
    Compactor::new(store.clone(), root, topics::SPANS, settings, clock, &mut MetricsRegistry::default())
}

async fn files(server: &Server) -> u64 {
    server.get("/api/v1/status").await.json()["tiers"]["cold"]["files"].as_u64().unwrap()
}

/// Every answer that names a span of the lake.
async fn answers(server: &Server, traces: u64) -> Vec<Json> {
    let mut answers = Vec::new();
    for path in ["/api/v1/traces?limit=200", "/api/v1/traces?limit=200&service=engine&attr=cached%3Dtrue"] {
        let page = server.get(path).await.json();
        assert_eq!(page["partial"], Json::Array(Vec::new()), "{page}");
        answers.push(page["traces"].clone());
    }
    for trace in 1..=traces {
        let mut answer = server.get(&format!("/api/v1/traces/{}", hex_id(trace))).await.json();
        // Spans of one trace come in the order of the files.
        if let Some(spans) = answer["spans"].as_array_mut() {
            spans.sort_by_key(|span| span["span_id"].as_str().unwrap_or_default().to_owned());
        }
        answers.push(answer["spans"].clone());
    }
    answers
}

/// Scenario: the lake is compacted under a running API, then the merged files are removed. Guarantee: every answer stays, none
/// names anything unread, and the API read the compactions alone, no manifest again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_stay_over_a_compaction() {
    let all = spans::varied(60);
    let noting = Arc::new(Noting { inner: InMemory::new(), read: Mutex::default() });
    let store: Arc<dyn ObjectStore> = noting.clone();
    write_lake(&store, &records(&all), |count| count).await;
    let server = Setup { store: Some(store.clone()), ..Setup::default() }.start().await;
    let (before, many) = (answers(&server, 60).await, files(&server).await);
    let clock = ManualClock::new(NOW_NS);
    // The compactor reads the manifests for itself.
    let mut compactor = compactor(&store, &clock);
    compactor.dry_run().await.unwrap();
    noting.read.lock().unwrap().clear();
    let pass = compactor.pass().await.unwrap();
    let few = many - pass.steps.iter().map(|step| step.files as u64 - 1).sum::<u64>();
    assert!(few < many / 2, "{pass:?}");
    until("the compactions are seen", || async { files(&server).await == few }).await;
    assert_eq!(answers(&server, 60).await, before);
    clock.advance(GRACE_NS);
    assert!(compactor.pass().await.unwrap().removed > 0);
    assert_eq!(answers(&server, 60).await, before);
    let read = noting.read.lock().unwrap().clone();
    assert!(!read.iter().any(|path| path.as_ref().contains("_manifests")), "{read:?}");
    server.stop().await;
}

/// Scenario: a trace is to be forgotten, then what began before some time, of every tenant there is. Guarantee: the API leaves
/// them out of look-ups and searches before any file is written again, and has everything else, and so afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_to_be_forgotten_is_in_no_answer() {
    let all = spans::varied(60);
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    write_lake(&store, &records(&all), |count| count).await;
    let server = Setup { store: Some(store.clone()), ..Setup::default() }.start().await;
    let root = LakeRoot::new(lake::ROOT);
    let subject = Subject::TraceId(Id16(spans::trace_id(7)));
    forget(&store, &root, &subject, NOW_NS, false).await.unwrap();
    let path = format!("/api/v1/traces/{}", hex_id(7));
    until("the trace is forgotten", || async { server.get(&path).await.status == 404 }).await;
    let mut starts: Vec<i64> = all.iter().map(|span| span.start_ns).collect();
    starts.sort_unstable();
    let middle = starts[starts.len() / 2];
    forget(&store, &root, &Subject::Tenant(String::new()), middle, false).await.unwrap();
    let stays = |span: &&TestSpan| span.trace != 7 && span.start_ns >= middle;
    let kept: BTreeSet<String> = all.iter().filter(stays).map(|span| hex_id(span.trace)).collect();
    assert!(kept.len() > 5 && kept.len() < 55, "{}", kept.len());
    let seen = || async {
        let page = server.get("/api/v1/traces?limit=200").await.json();
        listed(&page).into_iter().collect::<BTreeSet<_>>()
    };
    until("the tenant is forgotten", || async { seen().await == kept }).await;
    for written_again in [false, true] {
        if written_again {
            let clock = ManualClock::new(NOW_NS);
            let mut compactor = compactor(&store, &clock);
            compactor.pass().await.unwrap();
            let few = compactor.files().await.unwrap().len() as u64;
            until("the files are seen", || async { files(&server).await == few }).await;
            // Only now the grace is over.
            clock.advance(GRACE_NS);
            assert!(compactor.pass().await.unwrap().removed > 0);
            assert_eq!(seen().await, kept);
        }
        for trace in 1..=60u64 {
            let answer = server.get(&format!("/api/v1/traces/{}", hex_id(trace))).await;
            let spans = all.iter().filter(|span| span.trace == trace).filter(stays).count();
            if spans == 0 {
                assert_eq!(answer.status, 404, "trace {trace}");
            } else {
                assert_eq!(answer.json()["spans"].as_array().unwrap().len(), spans, "trace {trace}");
            }
        }
    }
    server.stop().await;
}
