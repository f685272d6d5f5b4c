//! What an instance calls itself among those of its role.

/// `configured`, or the host's name.
#[must_use]
pub fn instance_name(configured: &str) -> String {
    if !configured.is_empty() {
        return configured.to_owned();
    }
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = kernel.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "local".to_owned() } else { name.to_owned() }
}
