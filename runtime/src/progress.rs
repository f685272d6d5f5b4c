//! A progress line for terminals: bar, share, count, pace, time left.

use std::time::Duration;

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
    /// What is counted, and how many of them.
    pub items: u64,
    /// Their name, as in `spans`.
    pub unit: &'a str,
    /// Since this run began.
    pub elapsed: Duration,
}

/// `[████░░] 62 %  1.2 M spans  410 k/s  0:35 left`.
#[must_use]
pub fn line(progress: &Progress<'_>) -> String {
    let Progress { done, total, before, items, unit, elapsed } = *progress;
    let share = if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) };
    let filled = (share * WIDTH as f64) as usize;
    let bar: String = (0..WIDTH).map(|at| if at < filled { '█' } else { '░' }).collect();
    let seconds = elapsed.as_secs_f64();
    let pace = if seconds > 0.0 { items as f64 / seconds } else { 0.0 };
    let fresh = done.saturating_sub(before);
    let left = if fresh == 0 || done >= total {
        String::new()
    } else {
        let left = seconds * (total - done) as f64 / fresh as f64;
        format!("  {} left", clock(left as u64))
    };
    format!("[{bar}] {:>3.0} %  {} {unit}  {}/s{left}", share * 100.0, short(items as f64), short(pace))
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
        let start = line(&Progress { total: 100, unit: "spans", ..Progress::default() });
        assert_eq!(start, format!("[{}]   0 %  0 spans  0/s", "░".repeat(24)));
        let middle = Progress {
            done: 60,
            total: 100,
            before: 20,
            items: 1_234_567,
            unit: "spans",
            elapsed: Duration::from_secs(10),
        };
        let bar = format!("{}{}", "█".repeat(14), "░".repeat(10));
        assert_eq!(line(&middle), format!("[{bar}]  60 %  1.23 M spans  123 k/s  0:10 left"));
        assert!(line(&Progress { done: 100, ..middle }).starts_with(&format!("[{}] 100 %", "█".repeat(24))));
        assert!(line(&Progress::default()).contains("100 %"));
        assert_eq!(short(9_999.0), "9999");
        assert_eq!(short(12_345.0), "12.3 k");
        assert_eq!(clock(3_725), "1:02:05");
    }
}
