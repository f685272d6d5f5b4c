//! Nothing to list: either the filter is too narrow, or nothing was sent yet, and then the page says how to send.

use infertrace_ui_model::filter::{Filter, PRESETS, TimeRange};
use leptos::prelude::*;

use super::state::ListState;
use crate::erase::mouse;
use crate::parts::{CopyButton, Heading, icon, statement};

pub(super) fn empty(state: ListState) -> AnyView {
    let filter = state.filter.get();
    let all_time = PRESETS.len() - 1;
    let widen = move || {
        view! {
            <button type="button" class="button" on:click=mouse(move |_| state.change(|filter| filter.range = TimeRange::Preset(all_time)))>
                {icon("clock")} "Search all time"
            </button>
        }
        .into_any()
    };
    let widest = filter.range == TimeRange::Preset(all_time);
    if filter.is_narrowed() {
        let action = view! {
            <button
                type="button"
                class="button primary"
                on:click=mouse(move |_| state.change(|filter| *filter = Filter { range: filter.range, ..Filter::default() }))
            >
                "Clear the filters"
            </button>
            {(!widest).then(widen)}
        }.into_any();
        let words = "No trace in this time range passes all filters.".to_owned();
        return statement(Heading::Section, "filter", "Nothing matches".to_owned(), words, action.into_any());
    }
    view! {
        <section class="welcome">
            <div class="welcome-head">
                <h2>{if widest { "No traces yet" } else { "No traces in this time range" }}</h2>
                <p>
                    "InferTrace takes spans from any OpenTelemetry exporter. Send one, and it appears here within a second."
                </p>
                {(!widest).then(widen)}
            </div>
            <div class="welcome-ways">{ways()}</div>
        </section>
    }
    .into_any()
}

fn ways() -> AnyView {
    let host = window().location().hostname().unwrap_or_else(|_| "localhost".to_owned());
    let exporter = format!(
        "export OTEL_EXPORTER_OTLP_ENDPOINT=http://{host}:4317\nexport OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
    );
    let engine = format!("vllm serve MODEL --otlp-traces-endpoint http://{host}:4317");
    let curl = format!(
        "curl -sS http://{host}:4318/v1/traces -H 'content-type: application/json' -d '{{\"resourceSpans\":[{{\n  \
         \"resource\":{{\"attributes\":[{{\"key\":\"service.name\",\"value\":{{\"stringValue\":\"hello\"}}}}]}},\n  \
         \"scopeSpans\":[{{\"spans\":[{{\"name\":\"first span\",\"kind\":2,\n    \
         \"traceId\":\"'$(openssl rand -hex 16)'\",\"spanId\":\"'$(openssl rand -hex 8)'\",\n    \
         \"startTimeUnixNano\":\"'$(date +%s)000000000'\",\"endTimeUnixNano\":\"'$(date +%s)250000000'\"}}]}}]}}]}}'"
    );
    [
        ("Any OpenTelemetry SDK", "Point its exporter at OTLP/gRPC on 4317, or OTLP/HTTP on 4318.", exporter),
        ("An inference engine", "vLLM, SGLang and Triton export traces by themselves.", engine),
        ("By hand", "One span over OTLP/HTTP with curl.", curl),
    ]
    .into_iter()
    .map(|(title, words, code)| {
        view! {
            <article class="way">
                <h3>{title}</h3>
                <p>{words}</p>
                <div class="snippet">
                    <pre tabindex="0" role="region" aria-label=format!("Commands: {title}")><code>{code.clone()}</code></pre>
                    <CopyButton text=code label=format!("Copy: {title}")/>
                </div>
            </article>
        }.into_any()
    })
    .collect_view()
    .into_any()
}
