//! A series as text: a header with `timestamp` and `value`, then one row an observation, oldest first.

use std::fmt;

use super::timestamp;

/// One observation, with the texts it was read from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'text> {
    /// The time stamp as the file writes it.
    pub timestamp: &'text str,
    /// The value as the file writes it.
    pub value_text: &'text str,
    /// The time stamp in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The value.
    pub value: f64,
}

/// A series read from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesFile<'text> {
    /// In the order of the file.
    pub rows: Vec<Row<'text>>,
    /// Lines (from 1) whose time stamp is before the one above. Clocks that are set back leave a few.
    pub backward: Vec<usize>,
}

/// Why a text is no series, and in which line (from 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesError {
    /// Where.
    pub line: usize,
    /// What, and what was expected instead.
    pub problem: String,
}

impl fmt::Display for SeriesError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.line, self.problem)
    }
}

impl std::error::Error for SeriesError {}

/// Reads a series. One row in a hundred may step back in time; more means that the file is not in order of time.
///
/// # Errors
/// The first line that is not as it should be.
pub fn parse(text: &str) -> Result<SeriesFile<'_>, SeriesError> {
    let fail = |line: usize, problem: String| SeriesError { line, problem };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let (_, header) = lines
        .next()
        .ok_or_else(|| fail(1, "the file is empty; a header timestamp,value is expected".into()))?;
    let column = |name: &str| header.split(',').position(|cell| cell.trim().eq_ignore_ascii_case(name));
    let (Some(at), Some(of)) = (column("timestamp"), column("value")) else {
        return Err(fail(1, format!("the header is {header:?}; it needs the columns timestamp and value")));
    };
    let columns = header.split(',').count();
    let mut rows: Vec<Row<'_>> = Vec::new();
    let mut backward = Vec::new();
    for (index, line) in lines {
        let number = index + 1;
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        if cells.len() != columns {
            return Err(fail(number, format!("{} columns, but the header has {columns}", cells.len())));
        }
        let (timestamp, value_text) = (cells[at], cells[of]);
        let at_ms = timestamp::parse(timestamp).ok_or_else(|| {
            fail(number, format!("{timestamp:?} is no time stamp like 2014-04-01 00:05:00"))
        })?;
        let value = value_text
            .parse::<f64>()
            .ok()
            .filter(|value| value.is_finite())
            .ok_or_else(|| fail(number, format!("the value {value_text:?} is no finite number")))?;
        if rows.last().is_some_and(|last| at_ms < last.at_ms) {
            backward.push(number);
        }
        rows.push(Row { timestamp, value_text, at_ms, value });
    }
    if rows.is_empty() {
        return Err(fail(1, "there is a header but no row".into()));
    }
    if backward.len() * 100 > rows.len() {
        let problem = format!(
            "time stamps go back in {} of {} rows, here first: sort the file, oldest first",
            backward.len(),
            rows.len()
        );
        return Err(fail(backward[0], problem));
    }
    Ok(SeriesFile { rows, backward })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a good file with one column more, in another order. Guarantee: the rows as written.
    #[test]
    fn reads_by_the_names_of_columns() {
        let file = parse("value,host,timestamp\n1.50,a,2014-04-01 00:00:00\r\n2,a,2014-04-01 00:05:00\n")
            .expect("good");
        assert_eq!(file.rows.len(), 2);
        assert_eq!(file.rows[0].value_text, "1.50");
        assert!((file.rows[0].value - 1.5).abs() < f64::EPSILON);
        assert_eq!(file.rows[1].at_ms - file.rows[0].at_ms, 300_000);
        assert!(file.backward.is_empty());
    }

    /// Scenario: an empty file, a wrong header, a torn row, a bad time, no number, not a number, order reversed.
    /// Guarantee: an error that names the line and quotes what is wrong.
    #[test]
    fn errors_name_the_line() {
        let cases = [
            ("", 1, "empty"),
            ("time,val\n", 1, "timestamp and value"),
            ("timestamp,value\n", 1, "no row"),
            ("timestamp,value\n2014-04-01 00:00:00\n", 2, "1 columns"),
            ("timestamp,value\n\n2014-04-01 00:00,1\nnoon,1\n", 4, "\"noon\""),
            ("timestamp,value\n2014-04-01 00:00,x\n", 2, "\"x\""),
            ("timestamp,value\n2014-04-01 00:00,NaN\n", 2, "finite"),
            ("timestamp,value\n2014-04-02 00:00,1\n2014-04-01 00:00,1\n", 3, "oldest first"),
        ];
        for (text, line, problem) in cases {
            let error = parse(text).expect_err(text);
            assert_eq!(error.line, line, "{text}");
            assert!(error.problem.contains(problem), "{error}");
        }
    }

    /// Scenario: a clock set back once in two hundred rows. Guarantee: read, and the line is told.
    #[test]
    fn a_clock_set_back_once_is_told_and_read() {
        let mut text = String::from("timestamp,value\n");
        for row in 0..200 {
            let minute = if row < 100 { row } else { row - 30 };
            text.push_str(&format!("2014-04-01 {:02}:{:02}:00,1\n", minute / 60, minute % 60));
        }
        let file = parse(&text).expect("readable");
        assert_eq!(file.rows.len(), 200);
        assert_eq!(file.backward, [102]);
    }
}
