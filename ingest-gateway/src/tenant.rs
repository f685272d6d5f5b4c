//! Tenant names.

use std::collections::HashSet;

use parking_lot::RwLock;

/// Headers that carry a tenant, the first one present counts.
pub(crate) const HEADERS: [&str; 2] = ["x-infertrace-tenant", "x-scope-orgid"];
const MAX_BYTES: usize = 64;

/// A name that cannot be a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tenant is 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
pub(crate) struct BadTenant;

/// Checks a tenant's name; an empty one is the default tenant.
pub(crate) fn validate(bytes: &[u8]) -> Result<&str, BadTenant> {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if bytes.len() > MAX_BYTES || !bytes.iter().all(allowed) {
        return Err(BadTenant);
    }
    str::from_utf8(bytes).map_err(|_| BadTenant)
}

/// The tenant a request names, empty for the default.
pub(crate) fn from_headers(headers: &http::HeaderMap) -> Result<&str, BadTenant> {
    match HEADERS.iter().find_map(|name| headers.get(*name)) {
        Some(value) => validate(value.as_bytes()),
        None => Ok(""),
    }
}

/// Keeps the number of distinct tenant labels bounded.
#[derive(Debug)]
pub(crate) struct TenantLabels {
    known: RwLock<HashSet<Box<str>>>,
    limit: usize,
}

/// The label of tenants past the limit.
const OTHER: &str = "other";

impl TenantLabels {
    pub(crate) fn new(limit: usize) -> Self {
        Self { known: RwLock::new(HashSet::new()), limit }
    }

    /// The label for `tenant`: its name, or `other` once the limit is reached.
    pub(crate) fn label<'t>(&self, tenant: &'t str) -> &'t str {
        if tenant.is_empty() || self.known.read().contains(tenant) {
            return tenant;
        }
        let mut known = self.known.write();
        if known.contains(tenant) {
            return tenant;
        }
        if known.len() >= self.limit {
            return OTHER;
        }
        known.insert(tenant.into());
        tenant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: plain, empty, overlong and odd names. Guarantee: only names safe in labels and paths pass.
    #[test]
    fn names_are_checked() {
        assert_eq!(validate(b""), Ok(""));
        assert_eq!(validate(b"team-a.prod_1"), Ok("team-a.prod_1"));
        for bad in [&b"a/b"[..], b"a b", b"\xff", &[b'x'; 65]] {
            assert_eq!(validate(bad), Err(BadTenant));
        }
    }

    /// Scenario: more tenants than labels. Guarantee: the first keep their label, the rest share one.
    #[test]
    fn labels_are_bounded() {
        let labels = TenantLabels::new(1);
        assert_eq!(labels.label("a"), "a");
        assert_eq!(labels.label("b"), OTHER);
        assert_eq!(labels.label("a"), "a");
        assert_eq!(labels.label(""), "");
    }
}
