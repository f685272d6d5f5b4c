//! Time stamps as series files write them, without a calendar library.

/// Milliseconds since the Unix epoch of `2014-04-01 00:05:00`, with `T` for the blank, a fraction of a second and
/// a final `Z` allowed; seconds may be left out. The time is taken as UTC. `None` if it is anything else.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let text = text.trim().strip_suffix('Z').unwrap_or(text.trim());
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (number(date.next()?, 4)?, number(date.next()?, 2)?, number(date.next()?, 2)?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (number(time.next()?, 2)?, number(time.next()?, 2)?);
    let second = time.next().map_or(Some(0), |text| number(text, 2))?;
    let in_range = (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    if !in_range || fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let millis = number(&format!("{fraction:0<3}")[..3], 3)?;
    Some((((days_from_civil(year, month, day) * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + millis)
}

/// A number of at most that many digits, and digits only.
fn number(text: &str, digits: usize) -> Option<i64> {
    let good = !text.is_empty() && text.len() <= digits && text.bytes().all(|byte| byte.is_ascii_digit());
    good.then(|| text.parse().ok())?
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar.
///
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: dates with known epoch seconds, with and without fraction, `T`, `Z` and seconds.
    /// Guarantee: each is read to the millisecond.
    #[test]
    fn known_instants() {
        assert_eq!(parse("1970-01-01 00:00:00"), Some(0));
        assert_eq!(parse("2000-02-29 12:00:00"), Some(951_825_600_000));
        assert_eq!(parse("2014-04-10 07:15:00.000000"), Some(1_397_114_100_000));
        assert_eq!(parse("2014-04-10T07:15:00.25Z"), Some(1_397_114_100_250));
        assert_eq!(parse("2014-04-10 07:15"), Some(1_397_114_100_000));
        assert_eq!(parse("1969-12-31 23:59:59"), Some(-1_000));
    }

    /// Scenario: texts that are no instants. Guarantee: none is read as one.
    #[test]
    fn what_is_not_an_instant() {
        for text in [
            "",
            "yesterday",
            "2014-13-01 00:00:00",
            "2014-02-29 00:00:00",
            "2014-04-10",
            "2014-04-10 24:00:00",
            "2014-04-10 07:15:00.",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
