//! Asks the query API for traces by id: each must have every span once, as it was sent.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use infertrace_runtime::progress::{Bar, pace};
use serde_json::{Map, Value};

use super::{
    Args,
    tally::{Found, Tally},
};
use crate::{
    blast::body::expected_trace_id,
    content::Content,
    ledger::{Entry, Header},
};

type Http = Client<HttpConnector, Empty<Bytes>>;

struct Asker {
    http: Http,
    base: String,
    headers: Vec<(String, String)>,
}

pub(super) async fn read(
    args: &Args,
    header: &Header,
    entries: &[Entry],
    tally: &mut Tally,
    bar: &Bar,
) -> anyhow::Result<()> {
    let traces = choose(args.sample, entries, tally);
    tally.only(traces.iter().map(|(entry, trace)| (entry.sequence, *trace)));
    let mut headers = Vec::new();
    for header in &args.header {
        let (name, value) = header.split_once(':').context("--header is `name: value`")?;
        headers.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    if !header.tenant.is_empty() {
        headers.push(("x-infertrace-tenant".into(), header.tenant.clone()));
    }
    let http = Client::builder(TokioExecutor::new()).build_http();
    let asker = Arc::new(Asker { http, base: args.api.trim_end_matches('/').to_owned(), headers });
    let (run, total) = (header.run, traces.len() as u64);
    let mut answers = stream::iter(traces)
        .map(|(entry, trace)| {
            let asker = Arc::clone(&asker);
            async move {
                let id = hex::encode(expected_trace_id(run, entry.sequence, trace, entry.partitions));
                let answer = asker.trace(&id).await;
                (entry.sequence, trace, id, answer)
            }
        })
        .buffer_unordered(args.concurrency.max(1));
    let mut done = 0;
    while let Some((sequence, trace, id, answer)) = answers.next().await {
        tally.read();
        done += 1;
        bar.show(done, total, |elapsed| pace(done, "traces", elapsed));
        match answer {
            Ok(Some(answer)) => {
                let spans = answer["spans"].as_array().map(Vec::as_slice).unwrap_or_default();
                for span in spans {
                    if let Err(error) = observe(&id, span, tally) {
                        tally.fault(format!("trace {id}: {error:#}"));
                    }
                }
                let expected = tally.spans_of_trace(sequence, trace);
                if spans.len() > expected {
                    tally.fault(format!("trace {id} has {} spans of {expected}", spans.len()));
                }
            }
            Ok(None) => {} // not found: its spans stay lost
            Err(error) => tally.fault(format!("trace {id}: {error:#}")),
        }
    }
    Ok(())
}

/// All traces of the ledger, or so many of them, evenly spread.
fn choose(sample: Option<usize>, entries: &[Entry], tally: &Tally) -> Vec<(Entry, u16)> {
    let mut all: Vec<(Entry, u16)> = entries
        .iter()
        .flat_map(|entry| (0..tally.traces_of(entry.variant)).map(|trace| (*entry, trace)))
        .collect();
    if let Some(sample) = sample.filter(|sample| *sample < all.len()) {
        let total = all.len();
        all = (0..sample).map(|index| all[index * total / sample]).collect();
    }
    all
}

impl Asker {
    async fn trace(&self, id: &str) -> anyhow::Result<Option<Value>> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.ask(id).await {
                Err(_) if attempt < 3 => {
                    tokio::time::sleep(std::time::Duration::from_millis(100 * attempt)).await;
                }
                answer => return answer,
            }
        }
    }

    async fn ask(&self, id: &str) -> anyhow::Result<Option<Value>> {
        let mut request = http::Request::get(format!("{}/api/v1/traces/{id}", self.base));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = self.http.request(request.body(Empty::new())?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status == http::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        Ok(Some(serde_json::from_slice(&body)?))
    }
}

fn observe(trace_id: &str, span: &Value, tally: &mut Tally) -> anyhow::Result<()> {
    let text = |key: &str| span[key].as_str().with_context(|| format!("a span has no {key}"));
    let kind = match text("kind")? {
        "INTERNAL" => 1,
        "SERVER" => 2,
        "CLIENT" => 3,
        "PRODUCER" => 4,
        "CONSUMER" => 5,
        _ => 0,
    };
    let status = match span["status"]["code"].as_str() {
        Some("OK") => 1,
        Some("ERROR") => 2,
        _ => 0,
    };
    let duration = text("duration_nano")?.parse()?;
    let trace_id = hex::decode(trace_id)?;
    let mut content = Content::new(&trace_id, text("service")?, text("operation")?, kind, status, duration);
    let empty = Map::new();
    for (key, value) in span["attributes"].as_object().unwrap_or(&empty) {
        add_attribute(&mut content, key, value, span["attribute_types"][key].as_str());
    }
    tally.observe(&Found {
        trace_id: &trace_id,
        span_id: &hex::decode(text("span_id")?)?,
        parent_span_id: &hex::decode(text("parent_span_id")?)?,
        start_ns: text("start_unix_nano")?.parse()?,
        content: content.digest(),
    });
    Ok(())
}

/// 64-bit integers come as decimal strings of type `int`; everything else as its own JSON type.
fn add_attribute(content: &mut Content, key: &str, value: &Value, kind: Option<&str>) {
    match (value, kind) {
        (Value::String(text), Some("int")) => match text.parse() {
            Ok(integer) => content.int(key, integer),
            Err(_) => content.other(key, text.as_bytes()),
        },
        (Value::String(text), None) => content.string(key, text),
        (Value::Number(number), Some("int")) => match number.as_i64() {
            Some(integer) => content.int(key, integer),
            None => content.other(key, number.to_string().as_bytes()),
        },
        (Value::Number(number), _) => content.double(key, number.as_f64().unwrap_or(f64::NAN)),
        (Value::Bool(truth), _) => content.bool(key, *truth),
        (other, _) => content.other(key, other.to_string().as_bytes()),
    }
}
