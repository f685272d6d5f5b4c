//! The second stage: merges partials, closes windows, and says what they show.
//!
//! Neighbours: [`crate::rollup`] is what comes in, [`crate::output`] what goes out. Invariants: outputs are a function
//! of the partials and marks alone; the order of partials within a window, and how they were cut, does not matter; a
//! restored analyst goes on as the one that was saved would have. A window closes when the least watermark of all
//! sources has passed its end by [`AnalystConfig::lateness_ms`]. A source that wrote nothing for
//! [`AnalystConfig::idle_after_ms`] does not hold the others up, and what it brings later counts as late; one that writes is
//! waited for, however far behind it is up to [`AnalystConfig::most_behind_ms`], so that what is counted where does not
//! depend on the pace at which an outage is caught up with. One whose watermark is [`Millis::MIN`] has nothing yet
//! and is idle from the start. Silence is measured on the clock of the log: the time stamps of what all sources
//! wrote, in which a pause of all of them counts as one window at most, since nobody in particular was silent then. The first window to close is the first that anything is
//! seen in: an event far older than the log opens no windows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    config::AnalystConfig,
    facts::{ModelWindow, models_of},
    merge::{Cells, Windows},
    model::Model,
    output::Output,
    rollup::{Counter, Key, Millis, OVERFLOW, Partial, Shape, WINDOW_MS, window_of},
};

/// Empty windows that are closed one by one; a longer hole in time is jumped over.
const MAX_EMPTY_WINDOWS: Millis = 8_640;
const HOUR_MS: Millis = 3_600_000;
/// Grows when a snapshot of before cannot be read any more.
const SNAPSHOT_VERSION: u8 = 4;

/// A snapshot that cannot be restored.
#[derive(Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// Made by a version with another layout: start without it and read the partials again.
    Version(Option<u8>),
    /// The bytes are not what a snapshot consists of.
    Malformed(String),
}

impl std::fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version(found) => write!(
                f,
                "snapshot of the analysis has layout {found:?}, this program reads {SNAPSHOT_VERSION}: read the partials again"
            ),
            Self::Malformed(why) => {
                write!(f, "snapshot of the analysis is damaged ({why}): read the partials again")
            }
        }
    }
}

impl std::error::Error for SnapshotError {}

/// How far a source has come.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Mark {
    watermark_ms: Millis,
    /// The log's clock when the source wrote last.
    heard_ms: Millis,
}

/// What changes over time; all of it goes into a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Memory {
    windows: Windows,
    /// Of each source whose watermark was read.
    marks: BTreeMap<u32, Mark>,
    /// Sources that count, where they were named.
    sources: Option<Vec<u32>>,
    /// The log's clock when they were named.
    named_ms: Millis,
    /// The log's clock: time that passed between records, from 0.
    clock_ms: Millis,
    /// The latest time stamp of a record.
    written_ms: Option<Millis>,
    models: BTreeMap<(String, String), Model>,
    /// Models that were not analysed because there were too many.
    left_out: u64,
}

/// See the module's words.
#[derive(Clone, Debug)]
pub struct Analyst {
    config: AnalystConfig,
    memory: Memory,
}

impl Analyst {
    /// One that has seen nothing.
    #[must_use]
    pub fn new(config: AnalystConfig) -> Self {
        let memory = Memory {
            windows: Windows::new(),
            marks: BTreeMap::new(),
            sources: None,
            named_ms: 0,
            clock_ms: 0,
            written_ms: None,
            models: BTreeMap::new(),
            left_out: 0,
        };
        Self { config, memory }
    }

    /// Names the sources whose watermarks count. Until then, those count that have been heard of.
    pub fn set_sources(&mut self, sources: &[u32]) {
        if self.memory.sources.as_deref() != Some(sources) {
            self.memory.sources = Some(sources.to_vec());
            self.memory.named_ms = self.memory.clock_ms;
        }
        self.memory.marks.retain(|source, _| sources.contains(source));
    }

    /// Moves the log's clock on: what comes next was written at this time, milliseconds since 1970. Without it the
    /// clock stands, and no source is ever silent for long.
    pub fn written_at(&mut self, at_ms: Millis) {
        let memory = &mut self.memory;
        let before_ms = memory.written_ms.unwrap_or(at_ms);
        memory.clock_ms += at_ms.saturating_sub(before_ms).clamp(0, WINDOW_MS);
        memory.written_ms = Some(before_ms.max(at_ms));
    }

    /// Takes what a source counted.
    pub fn partial(&mut self, source: u32, partial: Partial) {
        if let Some(mark) = self.memory.marks.get_mut(&source) {
            mark.heard_ms = self.memory.clock_ms;
        }
        self.memory.windows.add(&partial);
    }

    /// Moves a source's watermark on, and closes the windows that are over for all. [`Millis::MIN`] says that the source
    /// has nothing yet: it is not waited for.
    pub fn watermark(&mut self, source: u32, watermark_ms: Millis, out: &mut Vec<Output>) {
        if self.memory.sources.as_ref().is_some_and(|sources| !sources.contains(&source)) {
            return;
        }
        let heard_ms = self.memory.clock_ms;
        let mark = self.memory.marks.entry(source).or_insert(Mark { watermark_ms, heard_ms });
        *mark = Mark { watermark_ms: mark.watermark_ms.max(watermark_ms), heard_ms };
        let Some(least) = self.least_mark() else { return };
        let Some(mut window_ms) = self.next_window() else { return };
        while window_ms + WINDOW_MS + self.config.lateness_ms <= least {
            window_ms = self.jump(window_ms, least);
            self.close(window_ms, out);
            window_ms += WINDOW_MS;
        }
    }

    /// The least watermark of the sources that count; none while a named source has not been heard of.
    fn least_mark(&self) -> Option<Millis> {
        let Memory { marks, sources, named_ms, clock_ms, .. } = &self.memory;
        let foremost = marks.values().map(|mark| mark.watermark_ms).max()?;
        let is_silent = |heard_ms: Millis| clock_ms - heard_ms > self.config.idle_after_ms;
        let all_heard = sources.as_ref().is_none_or(|sources| sources.len() == marks.len());
        if !all_heard && !is_silent(*named_ms) {
            return None;
        }
        let farthest = foremost.saturating_sub(self.config.most_behind_ms);
        let waited_for = |mark: &&Mark| mark.watermark_ms >= farthest && !is_silent(mark.heard_ms);
        marks.values().filter(waited_for).map(|mark| mark.watermark_ms).min()
    }

    fn next_window(&self) -> Option<Millis> {
        self.memory.windows.closed_to_ms().or_else(|| self.memory.windows.first_seen_ms())
    }

    /// Skips a hole that is so long that nothing is remembered across it.
    fn jump(&self, window_ms: Millis, least_ms: Millis) -> Millis {
        let last = window_of(least_ms - self.config.lateness_ms) - WINDOW_MS;
        let to = self.memory.windows.first_seen_ms().map_or(last, |seen| seen.min(last));
        if (to - window_ms) / WINDOW_MS > MAX_EMPTY_WINDOWS { to } else { window_ms }
    }

    fn close(&mut self, window_ms: Millis, out: &mut Vec<Output>) {
        let config = &self.config;
        let view = self.memory.windows.close(window_ms, |key| config.tells_rollup_of(key), out);
        self.analyse(window_ms, &view, out);
        out.push(Output::Closed { window_ms });
    }

    fn analyse(&mut self, window_ms: Millis, view: &Cells, out: &mut Vec<Output>) {
        let Memory { models, left_out, .. } = &mut self.memory;
        let mut windows = models_of(view);
        for ((tenant, name), window) in &windows {
            let of = (tenant.clone(), name.clone());
            let is_quiet = window.all.requests == 0 && window.calls.get(Counter::Requests) == 0;
            if is_quiet || name == OVERFLOW || models.contains_key(&of) {
                continue;
            }
            if models.len() < self.config.most_models {
                models.insert(of, Model::new(tenant, name));
            } else {
                *left_out += 1;
            }
        }
        for (of, model) in models.iter_mut() {
            let window = windows.remove(of).unwrap_or_else(ModelWindow::nothing);
            model.window(&self.config, window_ms, window, out);
        }
        let now_ms = window_ms + WINDOW_MS;
        if now_ms % HOUR_MS == 0 {
            models.retain(|_, model| model.last_ms() > now_ms - self.config.forget_ms);
            for model in models.values_mut() {
                model.turn_hour(now_ms - HOUR_MS, &self.config, out);
            }
        }
    }

    /// Windows of models that were not analysed, because there are more models than
    /// [`AnalystConfig::most_models`].
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.memory.left_out
    }

    /// End of the last closed window.
    #[must_use]
    pub const fn closed_to_ms(&self) -> Option<Millis> {
        self.memory.windows.closed_to_ms()
    }

    /// Keys that were seen too late to correct their 10 s rollup; detectors have counted them.
    #[must_use]
    pub const fn uncorrected_partials(&self) -> u64 {
        self.memory.windows.uncorrected
    }

    /// Everything that it knows, as bytes. The encoding is postcard: whole numbers as varints and no names, a few
    /// hundred lines without dependencies of their own.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        // Encoding into memory fails for maps and sequences of unknown length only; there are none here.
        postcard::to_extend(&self.memory, vec![SNAPSHOT_VERSION]).unwrap_or_default()
    }

    /// The analyst that was saved. The configuration is not part of a snapshot.
    ///
    /// # Errors
    /// [`SnapshotError`]; the answer to all of them is to begin anew and read the partials again.
    pub fn restore(config: AnalystConfig, snapshot: &[u8]) -> Result<Self, SnapshotError> {
        let Some((&SNAPSHOT_VERSION, bytes)) = snapshot.split_first() else {
            return Err(SnapshotError::Version(snapshot.first().copied()));
        };
        let memory =
            postcard::from_bytes(bytes).map_err(|error| SnapshotError::Malformed(error.to_string()))?;
        Ok(Self { config, memory })
    }
}

impl AnalystConfig {
    /// Cells that every partition gets are told by one of them.
    fn tells_rollup_of(&self, key: &Key) -> bool {
        let is_shared = key.model.is_empty() || key.shape() == Shape::Device;
        !is_shared
            || self.partitions <= 1
            || crate::hash::of_key(key) % u64::from(self.partitions) == u64::from(self.partition)
    }
}

#[cfg(test)]
#[path = "analyst_tests.rs"]
mod tests;
