//! Text that must not be shown: it has no `Display`, and its `Debug` says only that it is there.

use std::fmt;

/// A secret read from a file or a variable.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// Text that stands in the configuration.
    pub(super) fn plain(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// What was read, for those who need it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// The secret in the variable `variable` or else in the file `file`; `None` when neither is named.
    ///
    /// # Errors
    /// A sentence that names the key and the source, never the content.
    pub(super) fn load(key: &str, variable: &str, file: &str) -> Result<Option<Self>, String> {
        let text = if !variable.is_empty() {
            if !file.is_empty() {
                return Err(format!("set {key}_env or {key}_file, not both"));
            }
            std::env::var(variable)
                .map_err(|_| format!("{key}_env names the variable {variable}, which is not set"))?
        } else if !file.is_empty() {
            std::fs::read_to_string(file).map_err(|error| format!("{key}_file {file}: {error}"))?
        } else {
            return Ok(None);
        };
        let text = text.trim();
        if text.is_empty() {
            return Err(format!("{key}: {variable}{file} is empty"));
        }
        Ok(Some(Self(text.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Scenario: a secret from a file with a line end, from nowhere, from a missing variable, from two places at once.
    /// Guarantee: the text without the line end, or a sentence that names the source; no debug output shows it.
    #[test]
    fn secrets_come_from_files_and_are_not_shown() {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        writeln!(file, "s3cret").expect("written");
        let path = file.path().display().to_string();
        let secret = Secret::load("secret", "", &path).expect("reads").expect("is there");
        assert_eq!(secret.expose(), "s3cret");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(Secret::load("secret", "", ""), Ok(None));
        let error = Secret::load("secret", "NO_SUCH_VARIABLE_HERE", "").expect_err("not set");
        assert!(error.contains("NO_SUCH_VARIABLE_HERE"), "{error}");
        let error = Secret::load("secret", "A", &path).expect_err("both");
        assert!(error.contains("not both"), "{error}");
        let error = Secret::load("url", "", "/no/such/file").expect_err("missing");
        assert!(error.contains("/no/such/file"), "{error}");
    }
}
