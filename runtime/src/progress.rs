//! A progress line: bar, share, what is done, time gone and left; and when the next one is due.

mod bar;

use std::time::Duration;

pub use bar::Bar;

const WIDTH: usize = 24;

/// Work that is under way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress<'a> {
    /// Done, in the unit that the share is of.
    pub done: u64,
    /// In all.
    pub total: u64,
    /// Done before this run began: says nothing about its pace.
    pub before: u64,
    /// What is done, in words, as in `3 of 50 scenarios`.
    pub words: &'a str,
    /// Since this run began.
    pub elapsed: Duration,
}

/// `[████░░]  62 %  1.23 M spans  410 k/s  0:58 gone, 0:35 left`.
#[must_use]
pub fn line(progress: &Progress<'_>) -> String {
    let Progress { done, total, before, words, elapsed } = *progress;
    let share = if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) };
    let filled = (share * WIDTH as f64) as usize;
    let bar: String = (0..WIDTH).map(|at| if at < filled { '█' } else { '░' }).collect();
    let fresh = done.saturating_sub(before);
    let left = if fresh == 0 || done >= total {
        String::new()
    } else {
        let left = elapsed.as_secs_f64() * (total - done) as f64 / fresh as f64;
        format!(", {} left", clock(left as u64))
    };
    format!("[{bar}] {:>3.0} %  {words}  {} gone{left}", share * 100.0, clock(elapsed.as_secs()))
}

/// `1.23 M spans  410 k/s`: a count since the run began, and its pace.
#[must_use]
pub fn pace(count: u64, unit: &str, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    let pace = if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    format!("{} {unit}  {}/s", short(count as f64), short(pace))
}

/// Lets a line through when the last one is `every` old; the first when the work has taken so long.
#[derive(Clone, Copy, Debug)]
pub struct Throttle {
    every: Duration,
    last: Duration,
}

impl Throttle {
    /// A line every `every` at most.
    #[must_use]
    pub const fn new(every: Duration) -> Self {
        Self { every, last: Duration::ZERO }
    }

    /// Whether a line is due `elapsed` after the work began; if so, it counts as written.
    pub fn is_due(&mut self, elapsed: Duration) -> bool {
        let is_due = elapsed.saturating_sub(self.last) >= self.every;
        if is_due {
            self.last = elapsed;
        }
        is_due
    }
}

/// A number with three digits and `k`, `M` or `G`.
#[must_use]
pub fn short(value: f64) -> String {
    let (scaled, letter) = match value {
        value if value >= 1e9 => (value / 1e9, " G"),
        value if value >= 1e6 => (value / 1e6, " M"),
        value if value >= 1e4 => (value / 1e3, " k"),
        value => (value, ""),
    };
    match scaled {
        scaled if letter.is_empty() => format!("{scaled:.0}"),
        scaled if scaled < 10.0 => format!("{scaled:.2}{letter}"),
        scaled if scaled < 100.0 => format!("{scaled:.1}{letter}"),
        scaled => format!("{scaled:.0}{letter}"),
    }
}

fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the start, the middle of a resumed run, the end, nothing to do. Guarantee: share, pace and time left
    /// are of this run, and nothing divides by zero.
    #[test]
    fn the_line_says_how_far_and_how_long() {
        let start = line(&Progress { total: 100, words: "0 of 5 scenarios", ..Progress::default() });
        assert_eq!(start, format!("[{}]   0 %  0 of 5 scenarios  0:00 gone", "░".repeat(24)));
        let elapsed = Duration::from_secs(10);
        let words = pace(1_234_567, "spans", elapsed);
        let middle = Progress { done: 60, total: 100, before: 20, words: &words, elapsed };
        let bar = format!("{}{}", "█".repeat(14), "░".repeat(10));
        assert_eq!(line(&middle), format!("[{bar}]  60 %  1.23 M spans  123 k/s  0:10 gone, 0:10 left"));
        assert!(line(&Progress { done: 100, ..middle }).starts_with(&format!("[{}] 100 %", "█".repeat(24))));
        assert!(line(&Progress::default()).contains("100 %"));
        assert_eq!(pace(0, "spans", Duration::ZERO), "0 spans  0/s");
        assert_eq!(short(9_999.0), "9999");
        assert_eq!(short(12_345.0), "12.3 k");
        assert_eq!(clock(3_725), "1:02:05");
    }

    /// Scenario: work that reports far more often than a line is wanted. Guarantee: short work writes none, long work
    /// one every five seconds.
    #[test]
    fn a_line_is_due_every_few_seconds() {
        let mut throttle = Throttle::new(Duration::from_secs(5));
        let due: Vec<u64> =
            (0..=12_000).step_by(100).filter(|at| throttle.is_due(Duration::from_millis(*at))).collect();
        assert_eq!(due, [5_000, 10_000]);
    }
}
