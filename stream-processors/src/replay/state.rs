//! What an interrupted replay goes on from: positions, watermarks, the analysts, and how much was told.
//!
//! Invariant: the file is of one moment, at which everything before the positions was counted, analysed and durable in
//! the output topics, and nothing after them.

use std::{collections::BTreeMap, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    ReplayError, Request, Tally,
    prices::Tables,
    stages::{Read, Resumed},
};

const VERSION: u32 = 2;

/// End of each partition of the output topics.
pub(super) type Ends = BTreeMap<String, u64>;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// Of everything that decides what comes out.
    fingerprint: String,
    pub(super) id: String,
    /// Partitions that are not read to their end.
    pub(super) sources: BTreeMap<u32, Resumed>,
    /// Partitions that are.
    pub(super) done: Vec<u32>,
    analysts: Vec<String>,
    pub(super) read: Read,
    pub(super) told: Tally,
    pub(super) ends: Ends,
}

/// What decides the outputs of a replay.
fn fingerprint(request: &Request, tables: &Tables) -> String {
    let Request { id, from_ms, to_ms, warm_up_ms, filter, processor, analyst, dry_run, .. } = request;
    let prices = tables.versions();
    let text = format!(
        "{id} {from_ms} {to_ms} {warm_up_ms} {dry_run} {filter:?} {processor:?} {prices} {analyst:?}"
    );
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

impl State {
    pub(super) fn new(
        request: &Request,
        tables: &Tables,
        sources: BTreeMap<u32, Resumed>,
        done: Vec<u32>,
    ) -> Self {
        Self {
            version: VERSION,
            fingerprint: fingerprint(request, tables),
            id: request.id.clone(),
            sources,
            done,
            analysts: Vec::new(),
            read: Read::default(),
            told: Tally::default(),
            ends: Ends::new(),
        }
    }

    pub(super) fn set_analysts(&mut self, snapshots: &[Vec<u8>]) {
        self.analysts = snapshots.iter().map(|bytes| STANDARD.encode(bytes)).collect();
    }

    pub(super) fn analysts(&self, path: &Path) -> Result<Vec<Vec<u8>>, ReplayError> {
        let decode = |text: &String| STANDARD.decode(text).map_err(|error| wrong(path, &error.to_string()));
        self.analysts.iter().map(decode).collect()
    }

    /// The state in `path`, if there is one.
    pub(super) fn read(path: &Path, request: &Request, tables: &Tables) -> Result<Option<Self>, ReplayError> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|error| wrong(path, &error.to_string()))?,
        };
        let state: Self = serde_json::from_slice(&bytes)
            .map_err(|error| wrong(path, &format!("no replay's state ({error}); remove it to begin anew")))?;
        if state.version != VERSION || state.fingerprint != fingerprint(request, tables) {
            let detail = format!(
                "is of another replay ({}) or of other settings; give its flags, another file, or remove it",
                state.id
            );
            return Err(wrong(path, &detail));
        }
        Ok(Some(state))
    }

    /// Whole or not at all.
    pub(super) fn write(&self, path: &Path) -> Result<(), ReplayError> {
        let temporary = path.with_extension("partial");
        let bytes = serde_json::to_vec(self).map_err(|error| wrong(path, &error.to_string()))?;
        std::fs::write(&temporary, bytes)
            .and_then(|()| std::fs::rename(&temporary, path))
            .map_err(|error| wrong(path, &error.to_string()))
    }
}

fn wrong(path: &Path, detail: &str) -> ReplayError {
    ReplayError::State { path: path.display().to_string(), detail: detail.to_owned() }
}
