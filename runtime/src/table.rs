//! Tables for terminals: columns as wide as their widest cell, numbers to the right.

use std::fmt::{self, Write as _};

/// Rows under a heading.
#[derive(Clone, Debug)]
pub struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(heading: &[&'static str]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; missing cells stay empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let widths: Vec<usize> = (0..self.heading.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| cell(row, column).chars().count());
                cells.max().unwrap_or(0).max(self.heading[column].chars().count())
            })
            .collect();
        let is_number = |column: usize| {
            let mut cells =
                self.rows.iter().map(|row| cell(row, column)).filter(|cell| !cell.is_empty()).peekable();
            cells.peek().is_some()
                && cells.all(|cell| cell.chars().all(|c| c.is_ascii_digit() || c == '-' || c == '.'))
        };
        let right: Vec<bool> = (0..self.heading.len()).map(is_number).collect();
        let mut write = |cells: &[String]| {
            let mut line = String::new();
            for (column, width) in widths.iter().enumerate() {
                let text = cell(cells, column);
                let gap = if column == 0 { "" } else { "  " };
                if right[column] {
                    write!(line, "{gap}{text:>width$}")?;
                } else {
                    write!(line, "{gap}{text:<width$}")?;
                }
            }
            writeln!(f, "{}", line.trim_end())
        };
        write(&self.heading.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?;
        self.rows.iter().try_for_each(|row| write(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: text, numbers and a row with a cell missing. Guarantee: columns line up, numbers to the right.
    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["topic", "n", "note"]);
        table.row(["a".to_owned(), "7".to_owned(), "x".to_owned()]);
        table.row(["longer".to_owned(), "1234".to_owned()]);
        assert_eq!(table.to_string(), "topic      n  note\na          7  x\nlonger  1234\n");
    }
}
