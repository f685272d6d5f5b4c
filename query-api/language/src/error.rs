//! What is wrong with a query, and where.

use std::fmt;

/// Characters of a query shown on either side of an error.
const CONTEXT: usize = 60;

/// Why a query was not taken. `Display` is one line with the place, [`Self::render`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryError {
    message: String,
    /// Byte offset, on a character's boundary.
    at: usize,
    line: usize,
    column: usize,
    is_one_line: bool,
}

impl QueryError {
    pub(crate) fn new(text: &str, at: usize, message: impl Into<String>) -> Self {
        let mut at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &text[..at];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            message: message.into(),
            at,
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            is_one_line: !text.contains('\n'),
        }
    }

    /// What is wrong, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Byte offset of the place in the query.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.at
    }

    /// Line of the place, from 1.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line
    }

    /// Column of the place in its line, in characters, from 1.
    #[must_use]
    pub const fn column(&self) -> usize {
        self.column
    }

    /// The message, the line of `query` it is about, and a caret below the place. `query` is the text that was parsed.
    #[must_use]
    pub fn render(&self, query: &str) -> String {
        let line = query.split('\n').nth(self.line - 1).unwrap_or_default();
        let first = (self.column - 1).saturating_sub(CONTEXT);
        // Tabs and the like would move the caret.
        let shown: String = line
            .chars()
            .skip(first)
            .take(2 * CONTEXT)
            .map(|character| if character.is_control() { ' ' } else { character })
            .collect();
        let caret = self.column - 1 - first;
        format!("{self}\n  {shown}\n  {:caret$}^", "")
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_one_line {
            write!(formatter, "{} at column {}", self.message, self.column)
        } else {
            write!(formatter, "{} at line {}, column {}", self.message, self.line, self.column)
        }
    }
}

impl std::error::Error for QueryError {}

/// A query is right, but the tier that was asked cannot answer this part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not supported by {tier} yet; leave it out, or ask for a range that another tier holds")]
pub struct Unsupported {
    /// The part of the query.
    pub what: String,
    /// The tier.
    pub tier: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: an error behind characters of several bytes, on the second of two lines, and far into a long
    /// line. Guarantee: columns count characters, the caret stands below the place, long lines are cut.
    #[test]
    fn the_caret_stands_below_the_place() {
        let text = "{ .é =\n  .ü ? }";
        let error = QueryError::new(text, text.find('?').expect("there"), "bad");
        assert_eq!(error.to_string(), "bad at line 2, column 6");
        assert_eq!(error.render(text), "bad at line 2, column 6\n    .ü ? }\n       ^");
        let long = format!("{}?{}", "x".repeat(500), "y".repeat(500));
        let error = QueryError::new(&long, 500, "bad");
        let rendered = error.render(&long);
        let lines: Vec<&str> = rendered.lines().collect();
        assert_eq!(lines[1].len(), 2 + 2 * CONTEXT);
        assert_eq!(lines[1].find('?'), lines[2].find('^'));
    }
}
