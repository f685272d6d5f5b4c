//! JSON-RPC 2.0 as MCP uses it: one message a request, no batches.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Map, Value as Json, json};

use super::{ask::ToolError, tools};
use crate::http::App;

/// Versions whose requests are understood, the one that is spoken first.
pub(super) const VERSIONS: [&str; 2] = ["2025-06-18", "2025-03-26"];

const PARSE_ERROR: i64 = -32_700;
const INVALID_REQUEST: i64 = -32_600;
const METHOD_NOT_FOUND: i64 = -32_601;
const INVALID_PARAMS: i64 = -32_602;

/// For the model, of the server as a whole.
const INSTRUCTIONS: &str = "InferTrace holds traces, metrics and insights of AI inference. To find out why a model is slow, call \
    explain_slowness with the model, or with a trace_id from find_traces. list_models says which models there are. Durations are in \
    milliseconds (_ms), costs in US dollars (_usd), times in RFC 3339. Lists are bounded: `truncated` or a cursor says that there is more.";

/// An answer to a message.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Json,
}

fn failed(status: StatusCode, id: Json, code: i64, message: impl Into<String>) -> Option<Answer> {
    let error = json!({"code": code, "message": message.into()});
    Some(Answer { status, body: json!({"jsonrpc": "2.0", "id": id, "error": error}) })
}

/// Answers a message; a notification, or an answer of the client, has none.
pub(super) async fn answer(app: &Arc<App>, body: &[u8]) -> Option<Answer> {
    let message: Json = match serde_json::from_slice(body) {
        Ok(message) => message,
        Err(error) => {
            return failed(StatusCode::BAD_REQUEST, Json::Null, PARSE_ERROR, format!("not JSON: {error}"));
        }
    };
    let invalid = |message: &str| failed(StatusCode::BAD_REQUEST, Json::Null, INVALID_REQUEST, message);
    let Json::Object(message) = message else {
        return invalid("expected one JSON-RPC message; batches are not part of this version");
    };
    if message.get("jsonrpc").and_then(Json::as_str) != Some("2.0") {
        return invalid("expected \"jsonrpc\": \"2.0\"");
    }
    let Some(method) = message.get("method").and_then(Json::as_str) else {
        let is_answer = message.contains_key("result") || message.contains_key("error");
        return if is_answer { None } else { invalid("expected a method") };
    };
    let id = match message.get("id") {
        None => return None,
        Some(id) if id.is_string() || id.is_number() => id.clone(),
        Some(_) => return invalid("an id is a string or a number"),
    };
    let empty = Map::new();
    let params = message.get("params").and_then(Json::as_object).unwrap_or(&empty);
    let result = match method {
        "initialize" => initialized(params),
        "ping" => json!({}),
        "tools/list" => json!({"tools": tools::list()}),
        "tools/call" => {
            let name = params.get("name").and_then(Json::as_str).unwrap_or_default();
            let arguments = params.get("arguments").and_then(Json::as_object).cloned().unwrap_or_default();
            match tools::call(app, name, arguments).await {
                Some(outcome) => called(outcome),
                None => {
                    let message = format!("there is no tool {name:?}; tools: {}", tools::NAMES.join(", "));
                    return failed(StatusCode::OK, id, INVALID_PARAMS, message);
                }
            }
        }
        method => {
            let message = format!("there is no method {method:?}: initialize, ping, tools/list, tools/call");
            return failed(StatusCode::OK, id, METHOD_NOT_FOUND, message);
        }
    };
    Some(Answer { status: StatusCode::OK, body: json!({"jsonrpc": "2.0", "id": id, "result": result}) })
}

fn initialized(params: &Map<String, Json>) -> Json {
    let asked = params.get("protocolVersion").and_then(Json::as_str).unwrap_or_default();
    let version = VERSIONS.into_iter().find(|version| *version == asked).unwrap_or(VERSIONS[0]);
    json!({
        "protocolVersion": version,
        "capabilities": {"tools": {"listChanged": false}},
        "serverInfo": {"name": "infertrace", "title": "InferTrace", "version": env!("CARGO_PKG_VERSION")},
        "instructions": INSTRUCTIONS,
    })
}

/// What went wrong in a tool is told as its result, so that the model reads it and can do better.
fn called(outcome: Result<Json, ToolError>) -> Json {
    match outcome {
        Ok(answer) => json!({
            "content": [{"type": "text", "text": answer.to_string()}],
            "structuredContent": answer,
            "isError": false,
        }),
        Err(error) => json!({"content": [{"type": "text", "text": error.0}], "isError": true}),
    }
}
