//! Text into tokens. Attributes are scanned whole, because nearly any character may stand in their keys.

use crate::{
    ast::Value,
    error::QueryError,
    field::{Scope, is_of_key},
    print::UNITS,
};

/// Longest first, so that the first that fits is the token.
const SYMBOLS: [&str; 19] =
    ["&&", "||", "=~", "!~", "!=", "<=", ">=", ">>", "<<", "=", "<", ">", "!", "~", "|", "{", "}", "(", ")"];

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TokenKind<'a> {
    Symbol(&'static str),
    /// A keyword or an intrinsic, with its scope.
    Word(&'a str),
    Attribute(Scope, String),
    Literal(Value),
    End,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: TokenKind<'a>,
    /// Byte offset.
    pub(crate) at: usize,
    pub(crate) text: &'a str,
}

pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take_while(&mut self, is_wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|character| !is_wanted(character)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn error(&self, at: usize, message: impl Into<String>) -> QueryError {
        QueryError::new(self.text, at, message)
    }

    pub(crate) fn next(&mut self) -> Result<Token<'a>, QueryError> {
        self.take_while(char::is_whitespace);
        let at = self.at;
        let kind = self.scan()?;
        Ok(Token { kind, at, text: &self.text[at..self.at] })
    }

    fn scan(&mut self) -> Result<TokenKind<'a>, QueryError> {
        let at = self.at;
        let Some(first) = self.peek() else { return Ok(TokenKind::End) };
        match first {
            '.' => self.attribute(Scope::Any),
            '"' => self.quoted().map(|text| TokenKind::Literal(Value::Text(text))),
            '`' => self.raw(),
            ',' => {
                self.at += 1;
                Ok(TokenKind::Symbol(","))
            }
            '0'..='9' => self.number(),
            '-' if self.rest()[1..].starts_with(|next: char| next.is_ascii_digit()) => self.number(),
            'a'..='z' | 'A'..='Z' | '_' => self.word(),
            '\'' => Err(self.error(at, "text stands in double quotes or backticks")),
            _ => {
                if self.rest().starts_with("==") {
                    return Err(self.error(at, "equality is written `=`"));
                }
                if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| self.rest().starts_with(symbol)) {
                    self.at += symbol.len();
                    return Ok(TokenKind::Symbol(symbol));
                }
                let message = match first {
                    '&' => "conditions are joined by `&&`".to_owned(),
                    '+' | '-' | '*' | '/' | '%' | '^' => format!("arithmetic (`{first}`) is not supported"),
                    other => format!("unexpected character {other:?}"),
                };
                Err(self.error(at, message))
            }
        }
    }

    fn word(&mut self) -> Result<TokenKind<'a>, QueryError> {
        let is_of_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
        let at = self.at;
        let word = self.take_while(is_of_word);
        match self.peek() {
            Some('.') => match Scope::ALL.into_iter().find(|scope| scope.prefix() == word) {
                Some(scope) => self.attribute(scope),
                None if word == "parent" => {
                    Err(self.error(at, "attributes of the parent (`parent.`) are not supported; use `>`"))
                }
                None => {
                    let known = "`span.`, `resource.`, `event.`, `link.`, `instrumentation.`";
                    Err(self.error(
                        at,
                        format!("`{word}.` is no scope; attributes begin with `.` or with {known}"),
                    ))
                }
            },
            Some(':') if self.rest()[1..].starts_with(|next: char| next.is_ascii_alphabetic()) => {
                self.at += 1;
                self.take_while(is_of_word);
                Ok(TokenKind::Word(&self.text[at..self.at]))
            }
            _ => Ok(TokenKind::Word(word)),
        }
    }

    /// From the dot on.
    fn attribute(&mut self, scope: Scope) -> Result<TokenKind<'a>, QueryError> {
        let at = self.at;
        self.at += 1;
        let mut key = String::new();
        loop {
            key.push_str(self.take_while(is_of_key));
            if self.peek() != Some('"') {
                break;
            }
            self.quoted_key(&mut key)?;
        }
        if key.is_empty() {
            return Err(self.error(at + 1, "expected an attribute's key after `.`"));
        }
        Ok(TokenKind::Attribute(scope, key))
    }

    /// A quoted part of a key, where only quotes and backslashes are escaped.
    fn quoted_key(&mut self, key: &mut String) -> Result<(), QueryError> {
        let open = self.at;
        self.at += 1;
        while let Some(character) = self.peek() {
            self.at += character.len_utf8();
            match character {
                '"' => return Ok(()),
                '\\' => match self.peek() {
                    Some(escaped @ ('"' | '\\')) => {
                        self.at += 1;
                        key.push(escaped);
                    }
                    _ => return Err(self.error(self.at - 1, r#"keys have the escapes `\"` and `\\` only"#)),
                },
                plain => key.push(plain),
            }
        }
        Err(self.error(open, "this quote is not closed"))
    }

    fn raw(&mut self) -> Result<TokenKind<'a>, QueryError> {
        let open = self.at;
        self.at += 1;
        let text = self.take_while(|character| character != '`');
        if self.peek().is_none() {
            return Err(self.error(open, "this backtick is not closed"));
        }
        self.at += 1;
        Ok(TokenKind::Literal(Value::Text(text.to_owned())))
    }

    fn quoted(&mut self) -> Result<String, QueryError> {
        let open = self.at;
        self.at += 1;
        let mut text = String::new();
        while let Some(character) = self.peek() {
            self.at += character.len_utf8();
            match character {
                '"' => return Ok(text),
                '\n' => break,
                '\\' => text.push(self.escape()?),
                plain => text.push(plain),
            }
        }
        Err(self.error(open, "this quote is not closed"))
    }

    /// What an escape of Go's stands for, after its backslash.
    fn escape(&mut self) -> Result<char, QueryError> {
        let at = self.at - 1;
        let Some(letter) = self.peek() else { return Err(self.error(at, "expected an escape after `\\`")) };
        self.at += letter.len_utf8();
        let digits = match letter {
            '"' | '\\' => return Ok(letter),
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'a' => return Ok('\u{7}'),
            'b' => return Ok('\u{8}'),
            'f' => return Ok('\u{c}'),
            'v' => return Ok('\u{b}'),
            'u' => 4,
            'U' => 8,
            other => {
                let message = format!(
                    "`\\{other}` is no escape; write `\\\\{other}`, or put the text in backticks instead of quotes"
                );
                return Err(self.error(at, message));
            }
        };
        let code = self.rest().get(..digits).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = code.and_then(|code| u32::from_str_radix(code, 16).ok()).and_then(char::from_u32);
        self.at += if code.is_some() { digits } else { 0 };
        code.ok_or_else(|| {
            self.error(at, format!("`\\{letter}` takes {digits} hexadecimal digits of a character"))
        })
    }

    fn number(&mut self) -> Result<TokenKind<'a>, QueryError> {
        let at = self.at;
        let is_negative = self.peek() == Some('-');
        self.at += usize::from(is_negative);
        let too_large = |scanner: &Self| scanner.error(at, "this number does not fit into 64 bits");
        let mut nanos: Option<i128> = None;
        loop {
            let (whole, fraction) = self.digits();
            let has_exponent = self.exponent();
            let suffix_at = self.at;
            let suffix =
                self.take_while(|next| next.is_alphanumeric() && !next.is_ascii_digit() || next == '_');
            if suffix.is_empty() && nanos.is_none() {
                let text = &self.text[at..self.at];
                let number = if fraction.is_some() || has_exponent {
                    text.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Float)
                } else {
                    text.parse().ok().map(Value::Integer)
                };
                return number.map(TokenKind::Literal).ok_or_else(|| too_large(self));
            }
            let name = if suffix == "µs" || suffix == "μs" { "us" } else { suffix };
            let unit = UNITS.iter().find(|(known, _)| *known == name && !has_exponent);
            let Some((_, unit)) = unit else {
                let message = format!("{suffix:?} is no unit; there are ns, us, ms, s, m, h, d, w and y");
                return Err(self.error(suffix_at, message));
            };
            let part = duration(whole, fraction.unwrap_or_default(), *unit).ok_or_else(|| too_large(self))?;
            nanos = Some(nanos.unwrap_or_default() + part);
            if !self.peek().is_some_and(|next| next.is_ascii_digit()) {
                break;
            }
        }
        let nanos = nanos.unwrap_or_default() * if is_negative { -1 } else { 1 };
        let nanos = i64::try_from(nanos).map_err(|_| too_large(self))?;
        Ok(TokenKind::Literal(Value::Duration(nanos)))
    }

    /// Digits, and those behind a point.
    fn digits(&mut self) -> (&'a str, Option<&'a str>) {
        let whole = self.take_while(|next| next.is_ascii_digit());
        let is_fraction = self
            .rest()
            .strip_prefix('.')
            .is_some_and(|rest| rest.starts_with(|next: char| next.is_ascii_digit()));
        if !is_fraction {
            return (whole, None);
        }
        self.at += 1;
        (whole, Some(self.take_while(|next| next.is_ascii_digit())))
    }

    /// Takes an exponent, if there is one.
    fn exponent(&mut self) -> bool {
        let rest = self.rest();
        let Some(behind) = rest.strip_prefix(['e', 'E']) else { return false };
        let unsigned = behind.strip_prefix(['+', '-']).unwrap_or(behind);
        if !unsigned.starts_with(|next: char| next.is_ascii_digit()) {
            return false;
        }
        self.at += rest.len() - unsigned.len();
        self.take_while(|next| next.is_ascii_digit());
        true
    }
}

/// `whole.fraction` units in nanoseconds, exact but for what is below one; `None` when far too large.
fn duration(whole: &str, fraction: &str, unit: i64) -> Option<i128> {
    let whole: u64 = whole.parse().ok()?;
    let fraction = &fraction[..fraction.len().min(18)];
    let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scale = 10_i128.pow(fraction.len() as u32);
    let nanos = i128::from(whole) * i128::from(unit) + part * i128::from(unit) / scale;
    (nanos <= 1 << 64).then_some(nanos)
}
