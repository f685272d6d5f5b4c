//! Layered configuration: defaults, then one TOML file, then `INFERTRACE_*` variables, then flags.
//!
//! The defaults are the `Default` of a configuration type; its serialised form is the list of known keys. The
//! variable of key `gateway.budget_bytes` is `INFERTRACE_GATEWAY_BUDGET_BYTES`. Unknown keys and variables are
//! refused by name, since a misspelt setting that is ignored is worse than an error.

use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

/// What every variable starts with.
pub const VARIABLE_PREFIX: &str = "INFERTRACE_";

/// Variables that are not configuration keys: the file itself, and what clients and builds use.
const OTHER_VARIABLES: [&str; 4] =
    ["INFERTRACE_CONFIG", "INFERTRACE_ENDPOINT", "INFERTRACE_UI_DIST", "INFERTRACE_COMMIT"];

/// What variables of tests start with.
const TEST_PREFIX: &str = "INFERTRACE_TEST_";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{} is not valid TOML: {detail}", path.display())]
    Syntax {
        /// File.
        path: PathBuf,
        /// Where and why.
        detail: String,
    },
    /// A variable names no key.
    #[error("{variable} sets no known key{}", hint(suggestion.as_deref()))]
    UnknownVariable {
        /// Its name.
        variable: String,
        /// The nearest that is known.
        suggestion: Option<String>,
    },
    /// A variable's value has the wrong type.
    #[error("{variable}={value} is not {expected}")]
    BadVariable {
        /// Its name.
        variable: String,
        /// Its value.
        value: String,
        /// The type that the key has.
        expected: &'static str,
    },
    /// A key is unknown or has a value that it cannot have.
    #[error("configuration: {0}")]
    Invalid(String),
}

fn hint(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

/// Loads a configuration from its layers; later ones win.
///
/// `flags` are pairs of a dotted key and a value.
///
/// # Errors
/// [`ConfigError`], which names the file, key or variable.
pub fn load<T: DeserializeOwned + Serialize + Default>(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (String, String)>,
    flags: impl IntoIterator<Item = (&'static str, Value)>,
) -> Result<T, ConfigError> {
    let defaults =
        Table::try_from(T::default()).map_err(|error| ConfigError::Invalid(format!("defaults: {error}")))?;
    let mut merged = Table::new();
    if let Some(path) = file {
        merged = read(path)?;
    }
    let keys = keys(&defaults);
    for (variable, text) in variables {
        let ours = variable.starts_with(VARIABLE_PREFIX) && !variable.starts_with(TEST_PREFIX);
        if !ours || OTHER_VARIABLES.contains(&variable.as_str()) {
            continue;
        }
        let Some(key) = keys.iter().find(|key| key.variable == variable) else {
            let suggestion = nearest(&variable, &keys);
            return Err(ConfigError::UnknownVariable { variable, suggestion });
        };
        let value = parse(&text, key.default).ok_or_else(|| ConfigError::BadVariable {
            variable: variable.clone(),
            value: text.clone(),
            expected: expected(key.default),
        })?;
        set(&mut merged, &key.path, value)?;
    }
    for (key, value) in flags {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        set(&mut merged, &path, value)?;
    }
    merged.try_into().map_err(|error: toml::de::Error| {
        let place = file.map_or_else(String::new, |path| format!("{}: ", path.display()));
        ConfigError::Invalid(format!("{place}{}", error.to_string().trim_end()))
    })
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: path.to_owned(),
        detail: error.to_string().trim_end().to_owned(),
    })
}

struct Key<'a> {
    path: Vec<String>,
    variable: String,
    default: &'a Value,
}

/// Every leaf of the defaults; an empty table is a leaf of free keys.
fn keys(defaults: &Table) -> Vec<Key<'_>> {
    let mut keys = Vec::new();
    let mut open: Vec<(Vec<String>, &Table)> = vec![(Vec::new(), defaults)];
    while let Some((path, table)) = open.pop() {
        for (name, value) in table {
            let mut path = path.clone();
            path.push(name.clone());
            match value {
                Value::Table(inner) if !inner.is_empty() => open.push((path, inner)),
                _ => {
                    let variable = format!("{VARIABLE_PREFIX}{}", path.join("_").to_uppercase());
                    keys.push(Key { path, variable, default: value });
                }
            }
        }
    }
    keys
}

fn parse(text: &str, default: &Value) -> Option<Value> {
    Some(match default {
        Value::String(_) => Value::String(text.to_owned()),
        Value::Integer(_) => Value::Integer(text.replace('_', "").parse().ok()?),
        Value::Float(_) => Value::Float(text.parse().ok()?),
        Value::Boolean(_) => Value::Boolean(text.parse().ok()?),
        Value::Array(_) | Value::Table(_) | Value::Datetime(_) => {
            let mut table: Table = format!("value = {text}").parse().ok()?;
            table.remove("value")?
        }
    })
}

const fn expected(default: &Value) -> &'static str {
    match default {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a TOML array",
        Value::Table(_) => "a TOML inline table",
        Value::Datetime(_) => "a TOML date",
    }
}

fn set(table: &mut Table, path: &[String], value: Value) -> Result<(), ConfigError> {
    let Some((name, rest)) = path.split_first() else { return Ok(()) };
    if rest.is_empty() {
        table.insert(name.clone(), value);
        return Ok(());
    }
    match table.entry(name.clone()).or_insert_with(|| Value::Table(Table::new())) {
        Value::Table(inner) => set(inner, rest, value),
        _ => Err(ConfigError::Invalid(format!("{name} is a section, not a value"))),
    }
}

fn nearest(variable: &str, keys: &[Key<'_>]) -> Option<String> {
    let names = keys.iter().map(|key| &key.variable);
    let (distance, name) = names.map(|name| (distance(variable, name), name)).min()?;
    (distance <= variable.len() / 4).then(|| name.clone())
}

/// Levenshtein distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let substitution = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Demo {
        name: String,
        port: u16,
        inner: Inner,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        on: bool,
        ratio: f64,
        free: std::collections::BTreeMap<String, String>,
    }

    impl Default for Demo {
        fn default() -> Self {
            Self { name: "a".into(), port: 1, inner: Inner::default() }
        }
    }

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    /// Scenario: all four layers set the same and different keys. Guarantee: the later layer wins, the rest stays.
    #[test]
    fn later_layers_win() {
        let file = file("name = 'file'\nport = 2\n[inner]\nratio = 0.5\n");
        let variables = variables(&[
            ("INFERTRACE_PORT", "3"),
            ("INFERTRACE_INNER_ON", "true"),
            ("INFERTRACE_INNER_FREE", "{ 'a.b' = 'c' }"),
            ("HOME", "/"),
        ]);
        let flags = [("port", Value::Integer(4))];
        let loaded: Demo = load(Some(file.path()), variables, flags).expect("loads");
        let free = [("a.b".to_owned(), "c".to_owned())].into();
        assert_eq!(
            loaded,
            Demo { name: "file".into(), port: 4, inner: Inner { on: true, ratio: 0.5, free } }
        );
    }

    /// Scenario: misspelt keys and variables, wrong types, broken TOML, no file. Guarantee: each is refused by name.
    #[test]
    fn mistakes_are_named() {
        let broken = file("name = ");
        let unknown = file("nmae = 'x'");
        let cases: [(Result<Demo, _>, &str); 5] = [
            (load(Some(broken.path()), [], []), "not valid TOML"),
            (load(Some(unknown.path()), [], []), "nmae"),
            (load(None, variables(&[("INFERTRACE_PROT", "3")]), []), "did you mean INFERTRACE_PORT"),
            (
                load(None, variables(&[("INFERTRACE_PORT", "x")]), []),
                "INFERTRACE_PORT=x is not a whole number",
            ),
            (load(Some(Path::new("/does/not/exist.toml")), [], []), "/does/not/exist.toml"),
        ];
        for (outcome, needle) in cases {
            let message = outcome.expect_err("refused").to_string();
            assert!(message.contains(needle), "{message} does not say {needle}");
        }
    }
}
