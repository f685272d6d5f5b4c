//! How far a long command is, on stderr: one rewritten line on a terminal, else a line every few seconds.
//!
//! Invariant: stdout has results only. Work that ends within [`LINE_EVERY`] writes nothing to a log file.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{Progress, Throttle, line};

/// How often a terminal's line is rewritten.
const REWRITE_EVERY: Duration = Duration::from_millis(200);
/// How often a log file that is no terminal gets a line.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress of one command; threads may share it.
#[derive(Debug)]
pub struct Bar {
    begun: Instant,
    is_terminal: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    throttle: Throttle,
    /// Done when this run began.
    before: Option<u64>,
    /// Whether a line stands on the terminal.
    is_shown: bool,
}

impl Default for Bar {
    fn default() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let throttle = Throttle::new(if is_terminal { REWRITE_EVERY } else { LINE_EVERY });
        let state = Mutex::new(State { throttle, before: None, is_shown: false });
        Self { begun: Instant::now(), is_terminal, state }
    }
}

impl Bar {
    /// Shows that `done` of `total` are done, if a line is due; what was done at the first call is not of this run.
    ///
    /// `words` is asked for what is done in words, given the time since the start.
    pub fn show(&self, done: u64, total: u64, words: impl FnOnce(Duration) -> String) {
        let elapsed = self.begun.elapsed();
        // A line while another thread writes one would come too soon anyway.
        let Ok(mut state) = self.state.try_lock() else { return };
        let before = *state.before.get_or_insert(done);
        if !state.throttle.is_due(elapsed) {
            return;
        }
        let line = line(&Progress { done, total, before, words: &words(elapsed), elapsed });
        if self.is_terminal {
            eprint!("\r\x1b[2K{line}");
            // A terminal that went away is no reason to stop.
            let _ = std::io::stderr().flush();
            state.is_shown = true;
        } else {
            eprintln!("{line}");
        }
    }

    /// Takes the line off the terminal, for other text in its place; also at the end.
    pub fn clear(&self) {
        let Ok(mut state) = self.state.lock() else { return };
        if std::mem::take(&mut state.is_shown) {
            eprint!("\r\x1b[2K");
            let _ = std::io::stderr().flush();
        }
    }
}
