//! The embedded web UI in a real Chromium over a real `infertrace up`.

use std::{process::Command, time::Duration};

use anyhow::ensure;
use infertrace_tests::{
    http,
    infertrace::{STOP_TIMEOUT, Setup, loadgen},
    process::{crate_dir, wait_until},
};

/// Scenario: `up`, fed by the simulated serving engine; a browser opens the list, the newest trace and a span of it.
/// Guarantee: the UI is served by the API as it was built, shows what was sent, and breaks no content security policy.
#[test]
fn the_embedded_ui_shows_what_was_sent() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let setup = Setup::new(dir.path())?;
    let mut up = setup.up()?;
    let api = setup.addresses.api_url();
    let grpc = setup.addresses.grpc_url();
    loadgen(&["simulate", "--json", "--endpoint", &grpc, "--rps", "20", "--duration", "3", "--seed", "1"])?;
    wait_until("traces", Duration::from_secs(20), || {
        Ok(http::get_json(&format!("{api}/api/v1/traces"))?["traces"]
            .as_array()
            .is_some_and(|traces| traces.len() > 5))
    })?;
    let folder = crate_dir().join("../ui-leptos");
    let output = Command::new("node")
        .args(["--test", "e2e/live.test.mjs"])
        .env("UI_BASE_URL", &api)
        .current_dir(folder)
        .output()?;
    ensure!(
        output.status.success(),
        "{}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        up.tail()
    );
    ensure!(up.terminate(STOP_TIMEOUT)?.success(), "not a clean end\n{}", up.tail());
    Ok(())
}
