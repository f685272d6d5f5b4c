//! Words of PromQL.

use super::ParseError;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A name, a keyword, or `Inf` and `NaN`.
    Word(String),
    Number(f64),
    /// Nanoseconds.
    Duration(i64),
    Text(String),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

impl Token {
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Word(word) => format!("`{word}`"),
            Self::Number(number) => format!("the number {number}"),
            Self::Duration(_) => "a duration".to_owned(),
            Self::Text(_) => "a string".to_owned(),
            Self::Sign(sign) => format!("`{sign}`"),
            Self::End => "the end".to_owned(),
        }
    }
}

/// Longest first, so that none hides another.
const SIGNS: [&str; 22] = [
    "==", "!=", "=~", "!~", "<=", ">=", "<", ">", "=", "+", "-", "*", "/", "%", "^", "(", ")", "{", "}", "[",
    "]", ",",
];
/// Signs that only occur in what is not supported, so that it can be named.
const FOREIGN: [&str; 2] = ["@", ":"];
const UNITS: [(&str, i64); 7] = [
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3_600 * SECOND),
    ("d", 86_400 * SECOND),
    ("w", 604_800 * SECOND),
    ("y", 31_536_000 * SECOND),
];
const SECOND: i64 = 1_000_000_000;

/// A duration of Prometheus in nanoseconds: `90s`, `1h30m`, units from the largest.
pub(super) fn duration(text: &str) -> Option<i64> {
    let mut nanos = 0i64;
    let mut rest = text;
    let mut last_unit = i64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).filter(|digits| *digits > 0)?;
        let number: i64 = rest[..digits].parse().ok()?;
        let end = rest[digits..].find(|letter: char| letter.is_ascii_digit());
        let end = end.map_or(rest.len(), |end| digits + end);
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[digits..end])?;
        if *unit >= last_unit {
            return None;
        }
        last_unit = *unit;
        nanos = nanos.checked_add(number.checked_mul(*unit)?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(nanos)
}

/// Tokens and where they begin; the last is the end.
pub(super) fn scan(text: &str) -> Result<Vec<(usize, Token)>, ParseError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(letter) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = match letter {
            letter if letter.is_whitespace() => letter.len_utf8(),
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '"' | '\'' | '`' => {
                let (value, length) = string(rest, letter).ok_or_else(|| {
                    ParseError::new(text, at, "a string that does not end, or an unknown escape")
                })?;
                tokens.push((at, Token::Text(value)));
                length
            }
            letter if letter.is_ascii_digit() || letter == '.' => {
                let (token, length) = number(rest)
                    .ok_or_else(|| ParseError::new(text, at, "a malformed number or duration"))?;
                tokens.push((at, token));
                length
            }
            letter if letter.is_ascii_alphabetic() || letter == '_' => {
                let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
                let length = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
                tokens.push((at, Token::Word(rest[..length].to_owned())));
                length
            }
            _ => {
                let sign = SIGNS.iter().chain(&FOREIGN).find(|sign| rest.starts_with(**sign));
                let sign = sign
                    .ok_or_else(|| ParseError::new(text, at, format!("unexpected character {letter:?}")))?;
                tokens.push((at, Token::Sign(sign)));
                sign.len()
            }
        };
        at += length;
    }
    tokens.push((text.len(), Token::End));
    Ok(tokens)
}

fn number(text: &str) -> Option<(Token, usize)> {
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let length = digits.find(|letter: char| !letter.is_ascii_hexdigit()).unwrap_or(digits.len());
        let value = u64::from_str_radix(&digits[..length], 16).ok()?;
        return Some((Token::Number(value as f64), length + 2));
    }
    let word =
        text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.').unwrap_or(text.len());
    if let Some(nanos) = duration(&text[..word]) {
        return Some((Token::Duration(nanos), word));
    }
    // The sign of an exponent is no operator.
    let has_exponent = text[..word].ends_with(['e', 'E']) && text[word..].starts_with(['+', '-']);
    let length = if has_exponent {
        let digits = &text[word + 1..];
        word + 1 + digits.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(digits.len())
    } else {
        word
    };
    text[..length].parse().ok().map(|value| (Token::Number(value), length))
}

/// The string at the start of `text`, and its length with its quotes.
fn string(text: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            letter if letter == quote => return Some((value, at + 1)),
            '\n' if quote != '`' => return None,
            '\\' if quote != '`' => {
                let (_, escaped) = letters.next()?;
                value.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    '\\' | '"' | '\'' => escaped,
                    'u' => {
                        let hex: String = letters.by_ref().take(4).map(|(_, letter)| letter).collect();
                        char::from_u32(u32::from_str_radix(&hex, 16).ok()?)?
                    }
                    _ => return None,
                });
            }
            letter => value.push(letter),
        }
    }
    None
}
