//! Regular expressions that mean the same to every engine: what Rust's `regex` and RE2 share.
//!
//! A pattern matches the whole text; `.` takes newlines; `\d`, `\w`, `\s` and `\b` are ASCII's. Both engines run in
//! time linear in the text; sizes are bounded by [`crate::limits`] before anything is compiled.

use std::fmt::Write as _;

use regex::{Regex, RegexBuilder};
use regex_syntax::ast::{
    self, AssertionKind, Ast, ClassPerl, ClassPerlKind, ClassSetItem, ClassUnicodeKind, Flag, FlagsItemKind,
    GroupKind, HexLiteralKind, LiteralKind, RepetitionKind, RepetitionRange, Span,
};

use crate::limits;

/// Why a pattern was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Longer than [`limits::PATTERN_LENGTH`].
    #[error("a regular expression is at most {} bytes long", limits::PATTERN_LENGTH)]
    TooLong,
    /// Larger than [`limits::PATTERN_COMPILED`] once compiled.
    #[error("the regular expression takes too much memory; repeat less, or shorter things")]
    TooLarge,
    /// Not a regular expression.
    #[error("not a regular expression: {0}")]
    Syntax(String),
    /// Something that not every engine has, or that has different meanings.
    #[error("{0} is not supported in regular expressions; {1}")]
    Foreign(&'static str, &'static str),
}

/// A regular expression over whole texts. Equal to another of the same text.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    /// Checks and compiles.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.len() > limits::PATTERN_LENGTH {
            return Err(PatternError::TooLong);
        }
        let tree = ast::parse::ParserBuilder::new()
            .nest_limit(limits::PATTERN_DEPTH)
            .build()
            .parse(text)
            .map_err(|error| PatternError::Syntax(error.kind().to_string()))?;
        let replacements = ast::visit(&tree, Dialect::default())?;
        let mut portable = String::from(r"\A(?s:");
        let mut from = 0;
        for (span, replacement) in replacements {
            let _ = write!(portable, "{}{replacement}", &text[from..span.start.offset]);
            from = span.end.offset;
        }
        let _ = write!(portable, r"{})\z", &text[from..]);
        let regex = RegexBuilder::new(&portable)
            .size_limit(limits::PATTERN_COMPILED)
            .dfa_size_limit(limits::PATTERN_COMPILED)
            .nest_limit(limits::PATTERN_DEPTH + 8)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
                _ => PatternError::Syntax("it does not compile".to_owned()),
            })?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The same for RE2, where a search anywhere in a text finds the whole text or nothing.
    #[must_use]
    pub fn re2(&self) -> String {
        format!(r"\A(?s:{})\z", self.text)
    }
}

/// Refuses what the engines do not share, and collects what Rust's must be told in other words to mean ASCII.
#[derive(Default)]
struct Dialect {
    replacements: Vec<(Span, &'static str)>,
    /// How often the repetitions around the current node repeat it, together and each.
    repeats: Vec<u32>,
}

const fn foreign<T>(what: &'static str, hint: &'static str) -> Result<T, PatternError> {
    Err(PatternError::Foreign(what, hint))
}

const fn ascii(class: &ClassPerl) -> &'static str {
    match (&class.kind, class.negated) {
        (ClassPerlKind::Digit, false) => "[0-9]",
        (ClassPerlKind::Digit, true) => "[^0-9]",
        (ClassPerlKind::Space, false) => r"[\t\n\f\r ]",
        (ClassPerlKind::Space, true) => r"[^\t\n\f\r ]",
        (ClassPerlKind::Word, false) => "[0-9A-Za-z_]",
        (ClassPerlKind::Word, true) => "[^0-9A-Za-z_]",
    }
}

fn check_property(kind: &ClassUnicodeKind) -> Result<(), PatternError> {
    let is_category = |name: &str| {
        let mut letters = name.chars();
        letters.next().is_some_and(|first| "LMNPSZ".contains(first))
            && letters.next().is_none_or(|second| second.is_ascii_lowercase())
            && letters.next().is_none()
    };
    match kind {
        ClassUnicodeKind::OneLetter(letter) if is_category(letter.encode_utf8(&mut [0; 4])) => Ok(()),
        ClassUnicodeKind::Named(name) if is_category(name) => Ok(()),
        _ => foreign("this Unicode property", r"use a general category such as `\pL` or `\p{Lu}`"),
    }
}

const fn check_literal(kind: &LiteralKind) -> Result<(), PatternError> {
    match kind {
        LiteralKind::HexFixed(HexLiteralKind::X) | LiteralKind::HexBrace(HexLiteralKind::X) => Ok(()),
        LiteralKind::HexFixed(_) | LiteralKind::HexBrace(_) => foreign(r"`\u`", r"write `\x{…}`"),
        _ => Ok(()),
    }
}

fn check_flags(flags: &ast::Flags) -> Result<(), PatternError> {
    let is_shared = |kind: &FlagsItemKind| {
        use Flag::{CaseInsensitive, DotMatchesNewLine, MultiLine, SwapGreed};
        matches!(
            kind,
            FlagsItemKind::Negation
                | FlagsItemKind::Flag(CaseInsensitive | MultiLine | DotMatchesNewLine | SwapGreed)
        )
    };
    if flags.items.iter().all(|item| is_shared(&item.kind)) {
        return Ok(());
    }
    foreign("this flag", "those that are: `i`, `m`, `s`, `U`")
}

impl Dialect {
    fn repeat(&mut self, kind: &RepetitionKind) -> Result<(), PatternError> {
        let times = match kind {
            RepetitionKind::Range(
                RepetitionRange::Exactly(times)
                | RepetitionRange::AtLeast(times)
                | RepetitionRange::Bounded(_, times),
            ) => *times,
            _ => 1,
        };
        let around = self.repeats.last().copied().unwrap_or(1);
        let all = around.saturating_mul(times.max(1));
        if all > limits::PATTERN_REPEAT {
            return Err(PatternError::TooLarge);
        }
        self.repeats.push(all);
        Ok(())
    }
}

impl ast::Visitor for Dialect {
    type Output = Vec<(Span, &'static str)>;
    type Err = PatternError;

    fn finish(self) -> Result<Self::Output, PatternError> {
        Ok(self.replacements)
    }

    fn visit_pre(&mut self, node: &Ast) -> Result<(), PatternError> {
        match node {
            Ast::Flags(set) => check_flags(&set.flags),
            Ast::Literal(literal) => check_literal(&literal.kind),
            Ast::ClassUnicode(class) => check_property(&class.kind),
            Ast::ClassPerl(class) => {
                self.replacements.push((class.span, ascii(class)));
                Ok(())
            }
            Ast::Assertion(assertion) => match assertion.kind {
                AssertionKind::StartLine
                | AssertionKind::EndLine
                | AssertionKind::StartText
                | AssertionKind::EndText => Ok(()),
                AssertionKind::WordBoundary => {
                    self.replacements.push((assertion.span, r"(?-u:\b)"));
                    Ok(())
                }
                _ => foreign("this word boundary", r"use `\b`"),
            },
            Ast::Group(group) => match &group.kind {
                GroupKind::CaptureIndex(_) => Ok(()),
                GroupKind::NonCapturing(flags) => check_flags(flags),
                GroupKind::CaptureName { .. } => foreign("a group's name", "leave it out"),
            },
            Ast::Repetition(repetition) => {
                if matches!(*repetition.ast, Ast::Repetition(_)) {
                    return foreign("a repetition of a repetition", "put the inner one in parentheses");
                }
                self.repeat(&repetition.op.kind)
            }
            Ast::Empty(_) | Ast::Dot(_) | Ast::ClassBracketed(_) | Ast::Alternation(_) | Ast::Concat(_) => {
                Ok(())
            }
        }
    }

    fn visit_post(&mut self, node: &Ast) -> Result<(), PatternError> {
        if matches!(node, Ast::Repetition(_)) {
            self.repeats.pop();
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), PatternError> {
        match item {
            ClassSetItem::Perl(class) => {
                self.replacements.push((class.span, ascii(class)));
                Ok(())
            }
            ClassSetItem::Literal(literal) => check_literal(&literal.kind),
            ClassSetItem::Range(range) => {
                check_literal(&range.start.kind)?;
                check_literal(&range.end.kind)
            }
            ClassSetItem::Unicode(class) => check_property(&class.kind),
            ClassSetItem::Bracketed(_) => foreign("a class inside a class", r"write `\[` for a bracket"),
            ClassSetItem::Empty(_) | ClassSetItem::Ascii(_) | ClassSetItem::Union(_) => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ast::ClassSetBinaryOp) -> Result<(), PatternError> {
        foreign("an operation on classes", r"escape `&`, `-` or `~` with `\`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern).expect("a pattern").matches(text)
    }

    /// Scenario: patterns whose meaning differs between engines unless it is pinned down. Guarantee: whole texts,
    /// newlines under the dot, ASCII classes, also inside brackets and negated.
    #[test]
    fn meaning_is_pinned_down() {
        assert!(matches("a|bc", "bc") && !matches("a|bc", "abc") && !matches("a", "a\n"));
        assert!(matches("a.b", "a\nb") && matches("é.", "éü"));
        assert!(matches(r"\d+", "42") && !matches(r"\d+", "٤٢"));
        assert!(matches(r"[\D]", "é") && matches(r"[^\d]x", "ax") && !matches(r"[\w.]+", "aé"));
        assert!(matches(r"(?i)chat\b.*", "Chat-1") && matches(r"(?:\s|\S)*", "a b\n"));
    }

    /// Scenario: what only one engine takes, what closes the group around a pattern, and bombs. Guarantee: refused
    /// before it is compiled, saying why.
    #[test]
    fn what_is_not_shared_is_refused() {
        for foreign in [
            r"\Ba",
            r"[a&&b]",
            "[a[b]]",
            r"\u0041",
            "(?x)a #",
            "(?P<n>a)",
            "a{2}{3}",
            r"\p{Greek}",
            r"\b{start}a",
            "(?-u:a)",
        ] {
            assert!(matches!(Pattern::new(foreign), Err(PatternError::Foreign(..))), "{foreign}");
        }
        for broken in ["a)|(b", "(", "[", "*", r"(a)\1", "(?=a)"] {
            assert!(matches!(Pattern::new(broken), Err(PatternError::Syntax(_))), "{broken}");
        }
        assert_eq!(Pattern::new("((a{30}){30}){30}"), Err(PatternError::TooLarge));
        assert_eq!(Pattern::new(r"(\pL{900})"), Err(PatternError::TooLarge));
        assert_eq!(Pattern::new(&"a".repeat(1_025)), Err(PatternError::TooLong));
        let deep = format!("{}a{}", "(".repeat(200), ")".repeat(200));
        assert!(matches!(Pattern::new(&deep), Err(PatternError::Syntax(_))));
    }
}
