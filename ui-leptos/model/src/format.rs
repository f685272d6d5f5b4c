//! Numbers as people read them: durations, counts, bytes, times.
//!
//! Three significant digits, units with a space (no-break), a thin vocabulary: ns, µs, ms, s, m, h, d.

const NBSP: char = '\u{a0}';

/// `850 ns`, `12.3 µs`, `4.56 ms`, `1.23 s`, `2 m 03 s`, `1 h 05 m`, `3 d 04 h`.
pub fn duration(nanos: i64) -> String {
    if nanos < 0 {
        return format!("−{}", duration(nanos.saturating_neg()));
    }
    let value = nanos as f64;
    match nanos {
        0 => format!("0{NBSP}ms"),
        1..1_000 => format!("{nanos}{NBSP}ns"),
        _ if value < 999.5e3 => format!("{}{NBSP}µs", significant(value / 1e3)),
        _ if value < 999.5e6 => format!("{}{NBSP}ms", significant(value / 1e6)),
        _ if value < 59.95e9 => format!("{}{NBSP}s", significant(value / 1e9)),
        _ => {
            let seconds = (nanos + 500_000_000) / 1_000_000_000;
            let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
                format!("{big}{NBSP}{big_unit} {small:02}{NBSP}{small_unit}")
            };
            match seconds {
                ..3_600 => pair(seconds / 60, "m", seconds % 60, "s"),
                3_600..86_400 => pair(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
                _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
            }
        }
    }
}

/// Three significant digits below a thousand, without trailing zeros.
pub fn significant(value: f64) -> String {
    let digits = match value.abs() {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    if digits == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

/// Billionths of a US dollar: `$12.35` from a dollar on, three significant digits below, `$0.00382`.
pub fn usd(nano_usd: u64) -> String {
    const DOLLAR: u64 = 1_000_000_000;
    // 0.9995 reads as a dollar.
    if nano_usd >= 999_500_000 {
        let cents = (nano_usd + DOLLAR / 200) / (DOLLAR / 100);
        return format!("${}.{:02}", count(cents / 100), cents % 100);
    }
    let digits = nano_usd.checked_ilog10().map_or(0, |log| log + 1);
    let unit = 10_u64.pow(digits.saturating_sub(3));
    let rounded = (nano_usd + unit / 2) / unit * unit;
    let text = format!("{rounded:09}");
    let decimals = text.trim_end_matches('0');
    if decimals.is_empty() { "$0".to_owned() } else { format!("$0.{decimals:0<2}") }
}

/// `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `950`, `12.3k`, `4.56M`.
pub fn compact(value: u64) -> String {
    let number = value as f64;
    match number {
        v if v < 1_000.0 => value.to_string(),
        v if v < 999_500.0 => format!("{}k", significant(v / 1e3)),
        v if v < 999.5e6 => format!("{}M", significant(v / 1e6)),
        v => format!("{}B", significant(v / 1e9)),
    }
}

/// `512 B`, `1.5 KiB`, `71.2 GiB`.
pub fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = value;
    let mut unit = 0;
    while scaled.abs() >= 1_000.0 && unit + 1 < units.len() {
        scaled /= 1_024.0;
        unit += 1;
    }
    format!("{}{NBSP}{}", significant(scaled), units[unit])
}

/// `42 %`, `0.3 %`; a share that is small but not nothing never reads `0 %`.
pub fn percent(ratio: f64) -> String {
    let value = ratio * 100.0;
    let text = match value {
        v if v <= 0.0 => "0".to_owned(),
        v if v < 0.1 => "<0.1".to_owned(),
        v if v < 9.95 => significant((v * 10.0).round() / 10.0),
        v => format!("{v:.0}"),
    };
    format!("{text}{NBSP}%")
}

/// `just now`, `12 s ago`, `3 m ago`, `5 h ago`, `2 d ago`; a time ahead of the clock is `just now` up to a minute, then
/// `in 5 m`.
pub fn relative(then_ms: i64, now_ms: i64) -> String {
    let delta = now_ms - then_ms;
    let seconds = delta.abs() / 1_000;
    let amount = match seconds {
        ..60 => format!("{seconds}{NBSP}s"),
        60..3_600 => format!("{}{NBSP}m", seconds / 60),
        3_600..86_400 => format!("{}{NBSP}h", seconds / 3_600),
        _ => format!("{}{NBSP}d", seconds / 86_400),
    };
    match delta {
        ..-60_000 => format!("in{NBSP}{amount}"),
        ..1_000 => format!("just{NBSP}now"),
        _ => format!("{amount}{NBSP}ago"),
    }
}

/// A civil date and time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Year.
    pub year: i64,
    /// 1–12.
    pub month: u8,
    /// 1–31.
    pub day: u8,
    /// Seconds since midnight.
    pub second_of_day: u32,
}

/// Milliseconds since 1970 as a date, shifted by minutes east of UTC.
pub fn civil(unix_ms: i64, offset_minutes: i32) -> Civil {
    let seconds = unix_ms.div_euclid(1_000) + i64::from(offset_minutes) * 60;
    let days = seconds.div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    Civil {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month: u8::try_from(month).unwrap_or(1),
        day: u8::try_from(day).unwrap_or(1),
        second_of_day: u32::try_from(seconds.rem_euclid(86_400)).unwrap_or(0),
    }
}

/// `2026-11-22 14:03:07.123`, local to the given offset.
pub fn absolute(unix_nano: i64, offset_minutes: i32) -> String {
    let unix_ms = unix_nano.div_euclid(1_000_000);
    let date = civil(unix_ms, offset_minutes);
    let millis = unix_ms.rem_euclid(1_000);
    format!(
        "{:04}-{:02}-{:02} {}.{millis:03}",
        date.year,
        date.month,
        date.day,
        clock(date.second_of_day, true)
    )
}

/// `14:03` or `14:03:07`.
pub fn clock(second_of_day: u32, with_seconds: bool) -> String {
    let (hours, minutes, seconds) = (second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60);
    if with_seconds {
        format!("{hours:02}:{minutes:02}:{seconds:02}")
    } else {
        format!("{hours:02}:{minutes:02}")
    }
}

/// `UTC+02:00`.
pub fn zone(offset_minutes: i32) -> String {
    if offset_minutes == 0 {
        return "UTC".to_owned();
    }
    let sign = if offset_minutes < 0 { '−' } else { '+' };
    let minutes = offset_minutes.abs();
    format!("UTC{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

/// `250ms`, `1.5s`, `80us`, `2m`, or a bare number of milliseconds, as microseconds. Empty is `None`, nonsense an error.
pub fn parse_duration_micros(text: &str) -> Result<Option<u64>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ',')).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let value: f64 = digits
        .replace(',', ".")
        .parse()
        .map_err(|_| format!("“{text}” is not a duration; try 250ms or 1.5s"))?;
    let factor = match unit.trim() {
        "" | "ms" => 1e3,
        "us" | "µs" => 1.0,
        "s" => 1e6,
        "m" | "min" => 60e6,
        "h" => 3_600e6,
        other => return Err(format!("unknown unit “{other}”; use us, ms, s, m or h")),
    };
    let micros = value * factor;
    if micros > 9e15 {
        return Err(format!("“{text}” is too long"));
    }
    Ok(Some(micros.round() as u64))
}

/// Microseconds as a person would type them: `250ms`, `1.5s`.
pub fn duration_input(micros: u64) -> String {
    match micros {
        0 => "0ms".to_owned(),
        m if m % 60_000_000 == 0 => format!("{}m", m / 60_000_000),
        m if m >= 1_000_000 && m % 10_000 == 0 => format!("{}s", m as f64 / 1e6),
        m if m >= 1_000 => format!("{}ms", m as f64 / 1e3),
        m => format!("{m}us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Scenario: durations at and beside every change of unit. Guarantee: three digits, the right unit, no `1000 µs`.
    #[test]
    fn durations_read_well() {
        let spaced = |nanos| duration(nanos).replace(NBSP, " ");
        for (nanos, text) in [
            (0, "0 ms"),
            (999, "999 ns"),
            (1_000, "1 µs"),
            (12_345, "12.3 µs"),
            (999_499, "999 µs"),
            (999_999, "1 ms"),
            (4_560_000, "4.56 ms"),
            (1_234_000_000, "1.23 s"),
            (59_940_000_000, "59.9 s"),
            (59_999_000_000, "1 m 00 s"),
            (123_000_000_000, "2 m 03 s"),
            (3_900_000_000_000, "1 h 05 m"),
            (273_600_000_000_000, "3 d 04 h"),
            (-4_560_000, "−4.56 ms"),
        ] {
            assert_eq!(spaced(nanos), text);
        }
    }

    /// Scenario: counts, bytes and shares. Guarantee: as written here.
    #[test]
    fn quantities_read_well() {
        assert_eq!([count(7), count(1_234), count(1_234_567)], ["7", "1,234", "1,234,567"]);
        assert_eq!(
            [compact(950), compact(12_345), compact(999_499), compact(4_560_000)],
            ["950", "12.3k", "999k", "4.56M"]
        );
        assert_eq!(bytes(1536.0).replace(NBSP, " "), "1.5 KiB");
        assert_eq!(percent(0.0004).replace(NBSP, " "), "<0.1 %");
        assert_eq!(percent(0.037).replace(NBSP, " "), "3.7 %");
        assert_eq!(percent(0.42).replace(NBSP, " "), "42 %");
    }

    /// Scenario: amounts around a dollar, a cent and far below, and beside each rounding. Guarantee: three significant
    /// digits below a dollar, cents from there on, and nothing that is not nothing reads as nothing.
    #[test]
    fn amounts_read_well() {
        for (nano_usd, text) in [
            (0, "$0"),
            (1, "$0.000000001"),
            (3_822_222, "$0.00382"),
            (10_000_000, "$0.01"),
            (300_000_000, "$0.30"),
            (999_499_999, "$0.999"),
            (999_500_000, "$1.00"),
            (12_345_678_901, "$12.35"),
            (1_234_567_000_000, "$1,234.57"),
        ] {
            assert_eq!(usd(nano_usd), text, "{nano_usd}");
        }
    }

    /// Scenario: known instants, before 1970 among them, in several zones. Guarantee: the civil date is right.
    #[test]
    fn civil_dates() {
        assert_eq!(absolute(1_700_000_000_123_456_789, 0), "2023-11-14 22:13:20.123");
        assert_eq!(absolute(1_700_000_000_123_456_789, 120), "2023-11-15 00:13:20.123");
        assert_eq!(absolute(951_782_400_000_000_000, 0), "2000-02-29 00:00:00.000");
        assert_eq!(absolute(-1, 0), "1969-12-31 23:59:59.999");
        assert_eq!(zone(-330), "UTC−05:30");
    }

    /// Scenario: instants around now. Guarantee: a clock that is a little off never shows a negative age.
    #[test]
    fn relative_times() {
        let at = |delta: i64| relative(1_000_000 - delta, 1_000_000).replace(NBSP, " ");
        assert_eq!(
            [at(-5_000), at(500), at(12_000), at(200_000)],
            ["just now", "just now", "12 s ago", "3 m ago"]
        );
        assert_eq!(at(-300_000), "in 5 m");
    }

    proptest! {
        /// Scenario: any duration written by the UI. Guarantee: reading it back gives the same microseconds.
        #[test]
        fn duration_input_round_trips(micros in 0_u64..1_000_000_000_000) {
            prop_assert_eq!(parse_duration_micros(&duration_input(micros)), Ok(Some(micros)));
        }

        /// Scenario: any text typed. Guarantee: an answer or a sentence, never a panic.
        #[test]
        fn duration_input_never_panics(text in ".{0,12}") {
            let _ = parse_duration_micros(&text);
        }
    }
}
