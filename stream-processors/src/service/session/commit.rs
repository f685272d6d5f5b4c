//! When a session commits, and what goes into the transaction.

use std::time::Duration;

use infertrace_runtime::log::{LogError, Millis, NextOffset, TopicPartition};
use tokio::time::Instant;

use super::{Error, Session};
use crate::{partials::RollupState, rollup::Mark, service::pending::Outcome, stitching::SightingWriter};

/// Tries of the last commit when shutting down.
const LAST_TRIES: u32 = 3;
/// Shortest time between transactions that only a closed window asks for.
const WINDOW_PAUSE: Duration = Duration::from_millis(50);

impl Session<'_> {
    pub(super) fn is_commit_due(&self) -> bool {
        if let Some(is_due) = self.pending.retry_is_due() {
            return is_due;
        }
        let since = self.pending.elapsed();
        let config = &self.service.config;
        let interval = Duration::from_millis(config.commit_interval_ms);
        if since >= interval.min(WINDOW_PAUSE) && self.inputs.keys().any(|&p| self.wants_flush(p)) {
            return true;
        }
        if self.pending.is_empty() {
            return since >= Duration::from_millis(config.position_commit_ms);
        }
        since >= interval
            || self.pending.len() >= config.max_commit_records
            || self.pending.bytes() >= config.max_pending_bytes
    }

    /// Whether a window is over, or memory for what is counted or seen of requests is short.
    fn wants_flush(&self, partition: u32) -> bool {
        let is_full = |writer: &SightingWriter| writer.bytes() >= self.service.config.max_pending_bytes;
        self.roller.wants_flush(partition) || self.sightings.get(&partition).is_some_and(is_full)
    }

    /// Positions that moved since they were committed.
    fn positions(&self) -> Vec<(TopicPartition, NextOffset)> {
        self.inputs
            .iter()
            .filter_map(|(&partition, input)| {
                let rolled_to = self.roller.rolled_to(partition)?;
                let position = self.assembly.committable(partition)?.min(rolled_to);
                (input.committed != Some(position)).then(|| (input.at.clone(), NextOffset(position)))
            })
            .collect()
    }

    /// Ends a transaction's worth of summaries, with what was counted of their traces. After a burst and a silence all
    /// traces are closed at once, and a transaction has its bounds. Not while outputs of a transaction that failed
    /// are there, which belong with its states.
    pub(super) fn seal_if_full(&mut self) {
        let is_full = self.pending.open_bytes() >= self.service.config.max_pending_bytes;
        if !is_full || self.pending.is_paused() || !self.states.is_empty() {
            return;
        }
        for &partition in self.inputs.keys() {
            self.roller.flush_traces(partition, &mut self.partials);
            self.service.metrics.rollups.partials.inc_by(self.partials.len() as u64);
            let now = Millis(self.service.clock.now_unix_millis());
            let pending = &mut self.pending;
            let put = |record| pending.push(partition, record);
            self.rollups.records(partition, &mut self.partials, None, now, put);
        }
        // Where the group stands already, so that a member that lost its partitions is fenced.
        let standing = self
            .inputs
            .values()
            .filter_map(|input| input.committed.map(|position| (input.at.clone(), NextOffset(position))));
        self.pending.seal(standing.collect());
    }

    /// Makes partials of what has to be in the next transaction: traces whose summaries are, and spans of windows that
    /// are over, that memory is short for, that keep a position from moving on, or (`all`) any.
    fn flush_rollups(&mut self, all: bool) {
        let patience = Duration::from_millis(self.service.config.position_commit_ms);
        let due: Vec<u32> = self.inputs.keys().copied().filter(|&p| self.wants_flush(p)).collect();
        for (&partition, input) in &mut self.inputs {
            let before = self.roller.rolled_to(partition);
            let holds_back = self.assembly.committable(partition) > before;
            let is_patient = !holds_back || input.last_flush.elapsed() < patience;
            let mut mark: Option<Mark> = None;
            if all || !is_patient || due.contains(&partition) {
                mark = self.roller.flush(partition, &mut self.partials);
                input.last_flush = Instant::now();
            } else {
                self.roller.flush_traces(partition, &mut self.partials);
            }
            let is_counted = !self.partials.is_empty();
            self.service.metrics.rollups.partials.inc_by(self.partials.len() as u64);
            let timestamp = Millis(self.roller.watermark_ms(partition).unwrap_or(0));
            let pending = &mut self.pending;
            let put = |record| pending.push(partition, record);
            let now = Millis(self.service.clock.now_unix_millis());
            self.rollups.records(partition, &mut self.partials, mark.as_ref(), now, put);
            // A span that is seen is counted too, so both are told in one transaction, with one state.
            if let (Some(mark), Some(writer)) = (&mark, self.sightings.get_mut(&partition)) {
                writer
                    .records(timestamp, mark.is_new_window)
                    .into_iter()
                    .for_each(|record| pending.push(partition, record));
            }
            if let Some(Mark { rolled_to, watermark_ms, is_new_window }) = mark
                && (is_counted || is_new_window)
            {
                self.states.insert(partition, RollupState { source: partition, rolled_to, watermark_ms });
            }
        }
    }

    /// One transaction; a passing fault leaves everything as it was and pauses the input.
    pub(super) async fn commit(&mut self, all: bool) -> Result<(), Error> {
        self.flush_rollups(all);
        let positions = self.positions();
        if self.pending.is_empty() && positions.is_empty() && self.states.is_empty() {
            self.pending.skip();
            return Ok(());
        }
        let states = self.states.values().map(|state| self.rollups.state_record(state)).collect();
        let group = self.consumer.group_metadata();
        let service = self.service;
        match self.pending.commit(states, group.as_ref(), &positions, &service.metrics).await? {
            Outcome::Done { resumed } => {
                self.states.clear();
                for (at, position) in positions {
                    if let Some(input) = self.inputs.get_mut(&at.partition) {
                        input.committed = Some(position.0);
                        input.dead_lettered.retain(|&offset| offset >= position.0);
                    }
                }
                if resumed {
                    self.pause_all(false)?;
                }
            }
            Outcome::Later { first: true } => self.pause_all(true)?,
            Outcome::Later { first: false } => {}
        }
        Ok(())
    }

    fn pause_all(&mut self, paused: bool) -> Result<(), LogError> {
        self.service.metrics.paused.set(i64::from(paused));
        for input in self.inputs.values() {
            if paused {
                self.consumer.pause(&input.at)?;
            } else {
                self.consumer.resume(&input.at)?;
            }
        }
        Ok(())
    }

    /// The last commit. What cannot be committed now is made again at the next start.
    pub(super) async fn drain(&mut self) -> Result<(), Error> {
        for attempt in 0..LAST_TRIES {
            match self.commit(true).await {
                Ok(()) if self.pending.is_empty() => return Ok(()),
                Ok(()) => {}
                // Another member goes on from the committed positions: nothing is lost.
                Err(Error::Log(LogError::Fenced(_) | LogError::Ambiguous(_))) => return Ok(()),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(self.service.config.retry() * (attempt + 1)).await;
        }
        tracing::warn!(
            outputs = self.pending.len(),
            "stopping without the last commit; it is made again at the next start"
        );
        Ok(())
    }
}
