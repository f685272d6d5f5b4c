//! Requests to the query API, and what can go wrong with them.

use infertrace_ui_model::api::Problem;
use leptos::prelude::window;
use serde_json::Value;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::Response;

/// Why there is nothing to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LoadError {
    /// No answer: the server is down, or the network.
    Unreachable,
    /// The answer is an error.
    Refused(Problem),
    /// The answer does not parse: page and server differ too much.
    Unreadable(String),
}

impl LoadError {
    /// A heading and a sentence.
    pub(crate) fn words(&self) -> (String, String) {
        match self {
            Self::Unreachable => (
                "The server does not answer".to_owned(),
                "InferTrace may be restarting, or this browser lost its connection to it.".to_owned(),
            ),
            Self::Refused(problem) => {
                let title = if problem.title.is_empty() {
                    "The request failed".to_owned()
                } else {
                    problem.title.clone()
                };
                (title, problem.detail.clone())
            }
            Self::Unreadable(detail) => (
                "The answer could not be read".to_owned(),
                format!("Page and server may be of different versions; reload the page. ({detail})"),
            ),
        }
    }

    /// HTTP status, 0 without an answer.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Refused(problem) => problem.status,
            _ => 0,
        }
    }
}

/// `GET`, answered with JSON text.
pub(crate) async fn get_text(url: &str) -> Result<String, LoadError> {
    text_of(window().fetch_with_str(url)).await
}

/// A request with a method of its own and a JSON body, answered with a tree of JSON.
pub(crate) async fn send(method: &str, url: &str, body: Option<&str>) -> Result<Value, LoadError> {
    let failed = |_: JsValue| LoadError::Unreachable;
    let init = js_sys::Object::new();
    js_sys::Reflect::set(&init, &"method".into(), &method.into()).map_err(failed)?;
    if let Some(body) = body {
        js_sys::Reflect::set(&init, &"body".into(), &body.into()).map_err(failed)?;
    }
    // By its name: the typed call brings kilobytes of bindings for the two members set here.
    let window = window();
    let fetch: js_sys::Function =
        js_sys::Reflect::get(&window, &"fetch".into()).map_err(failed)?.dyn_into().map_err(failed)?;
    let answer = fetch.call2(&window, &url.into(), &init).map_err(failed)?;
    let text = text_of(answer.dyn_into().map_err(failed)?).await?;
    serde_json::from_str(&text).map_err(|error| LoadError::Unreadable(error.to_string()))
}

async fn text_of(answer: js_sys::Promise) -> Result<String, LoadError> {
    let failed = |_: JsValue| LoadError::Unreachable;
    let answer = JsFuture::from(answer).await.map_err(failed)?;
    let response: Response = answer.dyn_into().map_err(|_| LoadError::Unreachable)?;
    let text = JsFuture::from(response.text().map_err(failed)?).await.map_err(failed)?;
    let text = text.as_string().unwrap_or_default();
    if response.ok() {
        return Ok(text);
    }
    let mut problem = Problem::of(&text);
    problem.status = response.status();
    if problem.title.is_empty() {
        problem.title = format!("{} {}", response.status(), response.status_text());
    }
    Err(LoadError::Refused(problem))
}

/// `GET`, parsed.
pub(crate) async fn get<T>(url: &str, parse: fn(&str) -> Result<T, String>) -> Result<T, LoadError> {
    let text = get_text(url).await?;
    parse(&text).map_err(LoadError::Unreadable)
}

/// `GET`, as a tree of JSON.
pub(crate) async fn get_value(url: &str) -> Result<Value, LoadError> {
    get(url, |text| serde_json::from_str(text).map_err(|error| error.to_string())).await
}

/// Where something stands that is asked for.
#[derive(Clone, PartialEq)]
pub(crate) enum Phase {
    /// Nothing to show yet.
    Loading,
    /// Shown.
    Ready,
    /// Nothing to show, and why.
    Failed(LoadError),
}
