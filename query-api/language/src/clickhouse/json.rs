//! Attributes that are stored as OTLP/JSON text: those of resources and events.

use std::fmt::Write as _;

use super::Compiler;
use crate::ast::{Comparison, Value};

impl Compiler {
    /// Whether the list of `KeyValue`s at `path` of the JSON in `text` has `key`, with a value that satisfies the
    /// comparison; with any value where it is compared with `nil`.
    pub(super) fn in_list(
        &mut self,
        text: &str,
        path: &[&str],
        key: &str,
        comparison: &Comparison,
    ) -> String {
        let bound = self.bind_text(key);
        // JSON escapes some characters; other keys stand in the text as they are, which is quickly looked for.
        let is_plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/: ".contains(&byte));
        let contains = if is_plain { format!("position({text}, {bound}) > 0 AND ") } else { String::new() };
        let path = path.iter().fold(String::new(), |mut path, step| {
            let _ = write!(path, ", '{step}'");
            path
        });
        let compared = self.json_value(comparison);
        let and = if compared.is_empty() { "" } else { " AND " };
        format!(
            "({contains}arrayExists(a -> JSONExtractString(a, 'key') = {bound}{and}{compared}, \
             JSONExtractArrayRaw({text}{path})))"
        )
    }

    /// The `AnyValue` of `a` against the comparison's value; empty where any will do.
    fn json_value(&mut self, comparison: &Comparison) -> String {
        match comparison.value() {
            Value::Nil => String::new(),
            Value::Text(_) => {
                let text = "JSONExtractString(a, 'value', 'stringValue')";
                let compared = self.compare(text, comparison, false);
                format!("JSONType(a, 'value', 'stringValue') = 'String' AND {compared}")
            }
            Value::Integer(_) | Value::Float(_) | Value::Duration(_) => {
                // OTLP/JSON writes whole numbers of 64 bits as text.
                let whole = "toInt64OrNull(trim(BOTH '\"' FROM JSONExtractRaw(a, 'value', 'intValue')))";
                let whole = self.compare(whole, comparison, false);
                let double = "JSONExtractFloat(a, 'value', 'doubleValue')";
                let double = self.compare(double, comparison, false);
                format!(
                    "(ifNull({whole}, 0) OR (JSONType(a, 'value', 'doubleValue') \
                     IN ('Double', 'Int64', 'UInt64') AND {double}))"
                )
            }
            Value::Bool(_) => {
                let flag = "JSONExtractBool(a, 'value', 'boolValue')";
                let compared = self.compare(flag, comparison, false);
                format!("JSONType(a, 'value', 'boolValue') = 'Bool' AND {compared}")
            }
            Value::Status(_) | Value::Kind(_) => "0".to_owned(),
        }
    }
}
