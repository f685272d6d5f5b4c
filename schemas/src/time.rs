//! Times as operators write and read them: RFC 3339 in UTC, a date, or a time before now.
//!
//! Invariant: what [`text`] writes, [`parse`] reads back to the millisecond.

use crate::lake::EventDate;

const DAY_MS: i64 = 86_400_000;

/// `2026-11-23T10:15:30.250Z`.
#[must_use]
pub fn text(unix_ms: i64) -> String {
    let date = EventDate::of_nanos(unix_ms.saturating_mul(1_000_000));
    let rest = unix_ms.rem_euclid(DAY_MS);
    let (hours, minutes, seconds, ms) =
        (rest / 3_600_000, rest / 60_000 % 60, rest / 1_000 % 60, rest % 1_000);
    format!("{date}T{hours:02}:{minutes:02}:{seconds:02}.{ms:03}Z")
}

/// Milliseconds since 1970 of `2026-11-23T10:15:30Z`, `…+02:00`, `2026-11-23` (its start), `now`, `-90s`, `-15m`,
/// `-2h`, `-7d` (before `now_ms`) or `@1795429530250` (milliseconds).
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse(written: &str, now_ms: i64) -> Result<i64, String> {
    let wrong = || {
        format!(
            "{written:?} is no time: give 2026-11-23T10:15:30Z, 2026-11-23, now, -2h (s, m, h, d) or @MILLISECONDS"
        )
    };
    if written == "now" {
        return Ok(now_ms);
    }
    if let Some(ms) = written.strip_prefix('@') {
        return ms.parse().map_err(|_| wrong());
    }
    if let Some(age) = written.strip_prefix('-') {
        let unit = age.chars().last().ok_or_else(wrong)?;
        let scale = match unit {
            's' => 1_000,
            'm' => 60_000,
            'h' => 3_600_000,
            'd' => DAY_MS,
            _ => return Err(wrong()),
        };
        let count: i64 = age[..age.len() - 1].parse().map_err(|_| wrong())?;
        return count.checked_mul(scale).and_then(|age| now_ms.checked_sub(age)).ok_or_else(wrong);
    }
    let (date, time) = written.split_once(['T', ' ']).unwrap_or((written, "00:00:00Z"));
    let day: EventDate = date.parse().map_err(|_| wrong())?;
    let (clock, shift_minutes) = zone(time).ok_or_else(wrong)?;
    let of_day = of_day(clock).ok_or_else(wrong)?;
    Ok(i64::from(day.0) * DAY_MS + of_day - shift_minutes * 60_000)
}

/// The time of day and the zone's minutes east of UTC.
fn zone(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let at = time.rfind(['+', '-'])?;
    let (hours, minutes) = time[at + 1..].split_once(':')?;
    let minutes: i64 = digits(hours, 23)? * 60 + digits(minutes, 59)?;
    Some((&time[..at], if time[at..].starts_with('-') { -minutes } else { minutes }))
}

fn of_day(clock: &str) -> Option<i64> {
    let mut parts = clock.splitn(3, ':');
    let (hours, minutes) = (digits(parts.next()?, 23)?, digits(parts.next()?, 59)?);
    let seconds = parts.next().unwrap_or("00");
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let ms: i64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    Some(((hours * 60 + minutes) * 60 + digits(whole, 60)?) * 1_000 + ms)
}

fn digits(text: &str, most: i64) -> Option<i64> {
    let good = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    good.then(|| text.parse().ok()).flatten().filter(|value| *value <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_429_530_250;

    /// Scenario: every form, and what is none. Guarantee: the first give the same instant, the rest say what to write.
    #[test]
    fn each_form_is_read_and_nonsense_is_refused() {
        let at = parse(&text(NOW), 0).expect("reads what it writes");
        assert_eq!(at, NOW);
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(parse("1970-01-02", 0), Ok(DAY_MS));
        assert_eq!(parse("1970-01-01T02:30:00+02:00", 0), Ok(30 * 60_000));
        assert_eq!(parse("1970-01-01 00:00:01.5Z", 0), Ok(1_500));
        assert_eq!(parse("1970-01-01T00:01Z", 0), Ok(60_000));
        assert_eq!(parse("@42", 0), Ok(42));
        assert_eq!(parse("now", NOW), Ok(NOW));
        assert_eq!(parse("-2h", NOW), Ok(NOW - 7_200_000));
        for wrong in [
            "",
            "yesterday",
            "-",
            "-2y",
            "-xh",
            "1970-13-01",
            "1970-01-01T25:00:00Z",
            "1970-01-01T00:00:00",
            "@x",
            "-9223372036854775807d",
        ] {
            assert!(parse(wrong, NOW).is_err(), "{wrong}");
        }
    }
}
