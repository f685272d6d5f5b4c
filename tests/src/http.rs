//! Small HTTP requests to servers under test.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(30)))
        .http_status_as_error(false)
        .build()
        .new_agent()
}

/// Status and body of a GET.
///
/// # Errors
/// When no answer comes.
pub fn get(url: &str) -> anyhow::Result<(u16, String)> {
    let mut answer = agent().get(url).call().with_context(|| format!("GET {url}"))?;
    Ok((answer.status().as_u16(), answer.body_mut().with_config().limit(512 << 20).read_to_string()?))
}

/// The JSON of a GET that must answer 200.
///
/// # Errors
/// Any other status, with the body.
pub fn get_json(url: &str) -> anyhow::Result<Value> {
    let (status, body) = get(url)?;
    anyhow::ensure!(status == 200, "GET {url} answered {status}: {body}");
    serde_json::from_str(&body).with_context(|| format!("GET {url} answered no JSON: {body}"))
}

/// Status of a GET; `None` when nobody answers.
#[must_use]
pub fn status(url: &str) -> Option<u16> {
    agent().get(url).call().ok().map(|answer| answer.status().as_u16())
}

/// Status and body of a POST.
///
/// # Errors
/// When no answer comes.
pub fn post(url: &str, content_type: &str, body: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut answer =
        agent().post(url).content_type(content_type).send(body).with_context(|| format!("POST {url}"))?;
    Ok((answer.status().as_u16(), answer.body_mut().read_to_vec()?))
}
