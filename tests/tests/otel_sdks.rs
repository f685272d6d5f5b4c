//! Unmodified OpenTelemetry SDKs, from their registries, export to `infertrace up`.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use infertrace_tests::{
    golang, http,
    infertrace::{STOP_TIMEOUT, Setup},
    process::{cache_dir, crate_dir, wait_until},
};
use serde_json::{Map, Value, json};

fn sources() -> PathBuf {
    crate_dir().join("otel")
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A virtual environment with the pinned requirements, made once.
fn python() -> anyhow::Result<PathBuf> {
    let requirements = sources().join("python/requirements.txt");
    let folder = cache_dir().join("otel-python");
    let done = folder.join("requirements.txt");
    let python = folder.join("bin/python");
    let wanted = std::fs::read_to_string(&requirements)?;
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    run(Command::new(&python).args(["-m", "pip", "install", "-q", "-r"]).arg(&requirements))?;
    std::fs::write(&done, wanted)?;
    Ok(python)
}

/// The Node program in a folder with its locked packages.
fn node() -> anyhow::Result<PathBuf> {
    let folder = cache_dir().join("otel-node");
    std::fs::create_dir_all(&folder)?;
    let mut changed = !folder.join("node_modules").is_dir();
    for name in ["package.json", "package-lock.json", "emit.mjs"] {
        let wanted = std::fs::read(sources().join("node").join(name))?;
        if std::fs::read(folder.join(name)).ok().as_ref() != Some(&wanted) {
            std::fs::write(folder.join(name), wanted)?;
            changed = true;
        }
    }
    if changed {
        run(Command::new("npm").args(["ci", "--silent"]).current_dir(&folder))?;
    }
    Ok(folder.join("emit.mjs"))
}

/// OTLP/JSON's list of key-values as a map.
fn attributes(list: &Value) -> Value {
    let empty = Vec::new();
    let pairs = list.as_array().unwrap_or(&empty).iter();
    let map: Map<String, Value> = pairs
        .map(|pair| (pair["key"].as_str().unwrap_or_default().to_owned(), pair["value"].clone()))
        .collect();
    Value::Object(map)
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// What the API returned, in the form in which the programs print what they sent.
fn received(otlp: &Value) -> Value {
    let mut spans: Vec<Value> = Vec::new();
    let (mut service, mut scope, mut replica) = (Value::Null, Value::Null, Value::Null);
    for resource_spans in list(otlp, "resourceSpans") {
        let resource = attributes(&resource_spans["resource"]["attributes"]);
        service = resource["service.name"]["stringValue"].clone();
        replica = resource["replica"].clone();
        for scope_spans in list(resource_spans, "scopeSpans") {
            scope = scope_spans["scope"]["name"].clone();
            for span in list(scope_spans, "spans") {
                let events: Vec<Value> = list(span, "events")
                    .map(|event| json!({"name": event["name"], "attributes": attributes(&event["attributes"])}))
                    .collect();
                let links: Vec<Value> = list(span, "links")
                    .map(|link| {
                        json!({"traceId": link["traceId"], "spanId": link["spanId"], "attributes": attributes(&link["attributes"])})
                    })
                    .collect();
                spans.push(json!({
                    "spanId": span["spanId"],
                    "parentSpanId": span["parentSpanId"].as_str().unwrap_or_default(),
                    "name": span["name"],
                    "kind": span["kind"],
                    "status": {
                        "code": span["status"]["code"].as_i64().unwrap_or_default(),
                        "message": span["status"]["message"].as_str().unwrap_or_default(),
                    },
                    "attributes": attributes(&span["attributes"]),
                    "events": events,
                    "links": links,
                }));
            }
        }
    }
    // The root first, as the programs print it.
    spans.sort_by_key(|span| span["parentSpanId"].as_str().map(str::len));
    json!({"service": service, "scope": scope, "replica": replica, "spans": spans})
}

fn comes_back(api: &str, printed: &str) -> anyhow::Result<()> {
    let mut sent: Value = serde_json::from_str(printed.trim()).context("the program's output")?;
    let id = sent["trace_id"].as_str().context("a trace id")?.to_owned();
    sent.as_object_mut().context("an object")?.remove("trace_id");
    sent["replica"] = json!({"intValue": "3"});
    let url = format!("{api}/api/v1/traces/{id}?format=otlp");
    wait_until(&url, Duration::from_secs(20), || Ok(http::status(&url) == Some(200)))?;
    let mut got = Value::Null;
    let outcome = wait_until("both spans", Duration::from_secs(20), || {
        got = received(&http::get_json(&url)?);
        Ok(got == sent)
    });
    outcome.with_context(|| format!("sent {sent:#}\ngot {got:#}"))
}

/// Scenario: the OpenTelemetry SDKs of Python and Go over gRPC and HTTP/protobuf (Go with gzip), and of Node over
/// HTTP/JSON, each pointed at the default ports' services with nothing else set.
/// Guarantee: the API returns the same ids, names, kinds, attributes with their types, events, links, status,
/// resource and scope.
#[test]
fn unmodified_sdks_export_and_nothing_is_lost() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let setup = Setup::new(dir.path())?;
    let mut up = setup.up()?;
    let addresses = &setup.addresses;
    let (grpc, http_url, api) = (addresses.grpc_url(), addresses.http_url(), addresses.api_url());
    let go = golang::build(&sources().join("go"), "otel-go/emit")?;
    let (python, node) = (python()?, node()?);
    let emit = sources().join("python/emit.py");
    let runs = [
        ("Python, gRPC", run(Command::new(&python).arg(&emit).args(["grpc", &grpc]))?),
        ("Python, HTTP", run(Command::new(&python).arg(&emit).args(["http", &http_url]))?),
        ("Go, gRPC", run(Command::new(&go).args(["grpc", &format!("127.0.0.1:{}", addresses.grpc)]))?),
        ("Go, HTTP", run(Command::new(&go).args(["http", &format!("127.0.0.1:{}", addresses.http)]))?),
        ("Node, JSON", run(Command::new("node").arg(&node).args(["http", &http_url]))?),
    ];
    for (name, printed) in runs {
        comes_back(&api, &printed).with_context(|| format!("{name}\n{}", up.tail()))?;
    }
    ensure!(up.terminate(STOP_TIMEOUT)?.success(), "infertrace up did not end well\n{}", up.tail());
    Ok(())
}
