//! A validator for the part of JSON Schema that the API's description uses; an unknown keyword fails the test.

use serde_json::Value as Json;

/// What is wrong with `value`, by path; empty when it conforms.
pub fn violations(document: &Json, schema: &Json, value: &Json) -> Vec<String> {
    let mut found = Vec::new();
    check(document, schema, value, "$", &mut found);
    found
}

fn resolve<'d>(document: &'d Json, schema: &'d Json) -> &'d Json {
    match schema["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').expect("references stay in the document");
            let target = document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"));
            resolve(document, target)
        }
        None => schema,
    }
}

fn type_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(number) if number.is_f64() => "number",
        Json::Number(_) => "integer",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

fn check(document: &Json, schema: &Json, value: &Json, path: &str, found: &mut Vec<String>) {
    let schema = resolve(document, schema);
    let Some(keywords) = schema.as_object() else { return };
    for (keyword, rule) in keywords {
        match keyword.as_str() {
            "type" => {
                let allowed: Vec<&str> = match rule {
                    Json::Array(types) => types.iter().filter_map(Json::as_str).collect(),
                    one => one.as_str().into_iter().collect(),
                };
                let is = type_of(value);
                if !allowed.iter().any(|allowed| *allowed == is || (*allowed == "number" && is == "integer"))
                {
                    found.push(format!("{path}: is {is}, not {allowed:?}"));
                }
            }
            "required" => {
                for key in rule.as_array().into_iter().flatten().filter_map(Json::as_str) {
                    if value.is_object() && value.get(key).is_none() {
                        found.push(format!("{path}: {key} is missing"));
                    }
                }
            }
            "properties" => {
                for (key, rule) in rule.as_object().into_iter().flatten() {
                    if let Some(value) = value.get(key) {
                        check(document, rule, value, &format!("{path}.{key}"), found);
                    }
                }
            }
            "additionalProperties" => {
                let known = keywords.get("properties").and_then(Json::as_object);
                for (key, value) in value.as_object().into_iter().flatten() {
                    let is_known = known.is_some_and(|known| known.contains_key(key));
                    match rule {
                        Json::Bool(false) if !is_known => {
                            found.push(format!("{path}: {key} is not described"))
                        }
                        Json::Object(_) if !is_known => {
                            check(document, rule, value, &format!("{path}.{key}"), found)
                        }
                        _ => {}
                    }
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, rule, item, &format!("{path}[{index}]"), found);
                }
            }
            "enum" => {
                if !rule.as_array().is_some_and(|allowed| allowed.contains(value)) {
                    found.push(format!("{path}: {value} is not among {rule}"));
                }
            }
            "const" => {
                if rule != value {
                    found.push(format!("{path}: {value} is not {rule}"));
                }
            }
            "pattern" => {
                if let (Some(pattern), Some(text)) = (rule.as_str(), value.as_str())
                    && !matches_pattern(pattern, text)
                {
                    found.push(format!("{path}: {text:?} does not match {pattern}"));
                }
            }
            "minimum" => {
                if let (Some(least), Some(number)) = (rule.as_f64(), value.as_f64())
                    && number < least
                {
                    found.push(format!("{path}: {number} is below {least}"));
                }
            }
            "description" | "title" | "examples" | "format" | "default" | "maximum" | "$ref" => {}
            other => panic!("the description uses {other}, which this validator does not know"),
        }
    }
}

/// The patterns in use: digits with an optional sign, and hex of a fixed length.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    match pattern {
        "^-?[0-9]+$" => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        }
        "^[0-9a-f]{32}$" => text.len() == 32 && is_hex(text),
        "^[0-9a-f]{16}$" => text.len() == 16 && is_hex(text),
        "^([0-9a-f]{16})?$" => text.is_empty() || (text.len() == 16 && is_hex(text)),
        other => panic!("the description uses the pattern {other}, which this validator does not know"),
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
