//! Days as milliseconds since the epoch.

use crate::rollup::Millis;

const DAY_MS: Millis = 24 * 60 * 60 * 1_000;

/// Midnight, UTC, of a day of the Gregorian calendar; `None` for a day that does not exist.
///
/// H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
pub(super) fn midnight(year: u16, month: u8, day: u8) -> Option<Millis> {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days_in_month = match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => return None,
    };
    if day == 0 || day > days_in_month {
        return None;
    }
    // Years begin in March, so that the day that may be missing is the last one.
    let (year, month) = (i64::from(year) - i64::from(month <= 2), i64::from(month));
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some((era * 146_097 + day_of_era - 719_468) * DAY_MS)
}

/// Midnight of `YYYY-MM-DD`.
pub(super) fn parse(text: &str) -> Option<Millis> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let has_form = year.len() == 4 && month.len() == 2 && day.len() == 2 && parts.next().is_none();
    if !has_form {
        return None;
    }
    midnight(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?)
}

/// The day that holds a moment, as `YYYY-MM-DD`; the inverse of [`midnight`] (`civil_from_days` there).
pub(super) fn name(at: Millis) -> String {
    let days = at.div_euclid(DAY_MS) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: every day of 800 years. Guarantee: it is named as it is read, and days follow one another.
    #[test]
    fn names_are_read_back() {
        let mut at = parse("1600-01-01").expect("valid");
        for _ in 0..292_194 {
            assert_eq!(parse(&name(at)), Some(at), "{}", name(at));
            at += DAY_MS;
        }
    }

    /// Scenario: known days, days that do not exist, other notations. Guarantee: the former are right, the
    /// others are refused.
    #[test]
    fn days_are_found() {
        assert_eq!(parse("1970-01-01"), Some(0));
        assert_eq!(parse("2000-02-29"), Some(951_782_400_000));
        assert_eq!(parse("2026-07-01"), Some(1_782_864_000_000));
        for wrong in [
            "2026-02-29",
            "1900-02-29",
            "2026-13-01",
            "2026-00-10",
            "2026-04-31",
            "2026-1-1",
            "2026-01-01-",
            "July",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
