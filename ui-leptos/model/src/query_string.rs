//! The part of a URL after `?`: names and values, percent-encoded.

use std::fmt::Write;

/// Pairs in order, decoded. A malformed escape is kept as it is written.
pub fn parse(query: &str) -> Vec<(String, String)> {
    query
        .trim_start_matches('?')
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// A query string under construction.
#[derive(Clone, Debug, Default)]
pub struct Writer(String);

impl Writer {
    /// Appends a pair.
    pub fn push(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        encode(name, &mut self.0);
        self.0.push('=');
        encode(value, &mut self.0);
    }

    /// Appends a pair unless the value is empty.
    pub fn push_some(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.push(name, value);
        }
    }

    /// The text, without `?`.
    pub fn finish(self) -> String {
        self.0
    }
}

/// Percent-encodes one component. Characters that are common in operation names stay readable.
pub fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z'
            | b'a'..=b'z'
            | b'0'..=b'9'
            | b'-'
            | b'_'
            | b'.'
            | b'~'
            | b'/'
            | b':'
            | b'@'
            | b',' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

/// Percent-encodes one segment of a path: a slash in it is no separator.
pub fn encode_segment(text: &str, out: &mut String) {
    let mut encoded = String::new();
    encode(text, &mut encoded);
    out.push_str(&encoded.replace('/', "%2F"));
}

/// Decodes one component; `+` is a space, as HTML forms write it.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Scenario: any names and values, Unicode and separators among them. Guarantee: they come back unchanged.
        #[test]
        fn round_trips(pairs in proptest::collection::vec((".+", ".*"), 0..6)) {
            let mut writer = Writer::default();
            for (name, value) in &pairs {
                writer.push(name, value);
            }
            prop_assert_eq!(parse(&writer.finish()), pairs);
        }

        /// Scenario: any text as a query. Guarantee: parsing never panics.
        #[test]
        fn parses_anything(text in ".*") {
            parse(&text);
        }
    }

    /// Scenario: what a browser's form and a person's typing produce. Guarantee: decoded leniently.
    #[test]
    fn decodes_leniently() {
        assert_eq!(
            parse("?a=b+c&d&e=%zz"),
            [("a".into(), "b c".into()), ("d".into(), String::new()), ("e".into(), "%zz".into())]
        );
    }
}
