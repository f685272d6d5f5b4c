//! Numbers as people read them: few digits, a unit, no names of units that only machines use.

/// At most three significant digits, without trailing zeros; whole above 100.
#[must_use]
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "unknown".to_owned();
    }
    let size = value.abs();
    let decimals = match size {
        _ if size >= 100.0 || size == 0.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 1.0 => 2,
        _ => (2.0 - size.log10().floor()).min(12.0) as usize,
    };
    let text = format!("{value:.decimals$}");
    if decimals == 0 {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `12 s`, `1.2 s`, `45 ms`.
#[must_use]
pub fn seconds(value: f64) -> String {
    match value {
        value if value >= 10.0 => format!("{value:.0} s"),
        value if value >= 1.0 => format!("{value:.1} s"),
        value if value >= 0.01 => format!("{:.0} ms", value * 1e3),
        value => format!("{:.1} ms", value * 1e3),
    }
}

/// `35 %`, `1.2 %`.
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if !percent.is_finite() {
        return "unknown".to_owned();
    }
    let text = if percent.abs() >= 9.95 { format!("{percent:.0}") } else { format!("{percent:.1}") };
    format!("{} %", text.strip_suffix(".0").unwrap_or(&text))
}

/// A value in a unit of evidence (`s`, `share`, `1/s`, `USD`, `Cel`, or a noun).
#[must_use]
pub fn amount(value: f64, unit: &str) -> String {
    match unit {
        _ if !value.is_finite() => "unknown".to_owned(),
        "s" if value == 0.0 => "0 s".to_owned(),
        "s" => seconds(value),
        "share" => percent(value),
        "USD" => format!("${}", number(value)),
        "Cel" => format!("{} °C", number(value)),
        "" | "1" => number(value),
        _ => match unit.strip_prefix("1/") {
            Some(each) => format!("{}/{each}", number(value)),
            // Of things that are counted, hundredths are as good as none.
            None => format!("{} {unit}", number((value * 100.0).round() / 100.0)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: numbers from tiny to large. Guarantee: three significant digits, no trailing zeros, no exponent.
    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.000_123_4, "0.000123"),
            (0.25, "0.25"),
            (4.001_19, "4"),
            (52.34, "52.3"),
            (840.25, "840"),
            (1_234_567.8, "1234568"),
            (-3.456, "-3.46"),
            (f64::NAN, "unknown"),
        ];
        for (value, expected) in cases {
            assert_eq!(number(value), expected);
        }
    }

    /// Scenario: numbers of several sizes and units, and none. Guarantee: as people write them.
    #[test]
    fn numbers_are_readable() {
        assert_eq!([12.34, 1.234, 0.0456, 0.0012].map(seconds), ["12 s", "1.2 s", "46 ms", "1.2 ms"]);
        assert_eq!([1.0, 0.352, 0.0996, 0.012, 0.0].map(percent), ["100 %", "35 %", "10 %", "1.2 %", "0 %"]);
        let amounts = [
            amount(0.84, "s"),
            amount(0.35, "share"),
            amount(312.0, "1/min"),
            amount(0.00214, "USD"),
            amount(84.0, "Cel"),
            amount(1410.0, "MHz"),
            amount(0.0357, "requests"),
            amount(0.0, "s"),
            amount(f64::NAN, "share"),
        ];
        assert_eq!(
            amounts,
            ["840 ms", "35 %", "312/min", "$0.00214", "84 °C", "1410 MHz", "0.04 requests", "0 s", "unknown"]
        );
    }
}
