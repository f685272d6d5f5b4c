//! Everything about one span.

use infertrace_ui_model::api::{Event, Fields, Link};
use infertrace_ui_model::attributes::{self, Row};
use infertrace_ui_model::filter::Filter;
use infertrace_ui_model::format;
use infertrace_ui_model::route::{Route, TraceView};
use infertrace_ui_model::tokens::Timeline;
use infertrace_ui_model::trace::{SpanIndex, TraceModel};
use leptos::prelude::*;

use super::state::TraceState;
use super::tokens;
use crate::browser;
use crate::erase::mouse;
use crate::parts::{CopyButton, icon, service_tag};

/// Values longer than this scroll in a box of their own.
const LONG: usize = 240;
/// Events shown at once.
const MOST_EVENTS: usize = 200;

#[component]
pub(super) fn Details(state: TraceState, index: SpanIndex) -> AnyView {
    let model = state.model();
    let span = model.span(index);
    let status = (!span.status.code.is_empty() && span.status.code != "UNSET").then(|| {
        let error = span.is_error();
        view! { <span class="badge" class:is-error=error>{icon(if error { "alert" } else { "check" })} {if error { "Error" } else { "OK" }}</span> }.into_any()
    });
    let message = (!span.status.message.is_empty()).then(|| {
        view! { <p class="notice is-error">{icon("alert")}<span>{span.status.message.clone()}</span></p> }
            .into_any()
    });
    let kind = (!span.kind.is_empty() && span.kind != "UNSPECIFIED")
        .then(|| view! { <span class="badge">{span.kind.to_lowercase()}</span> }.into_any());
    let stage = span.stage.clone().filter(|stage| !stage.is_empty()).map(|stage| {
        let class = format!("badge is-stage {}", infertrace_ui_model::summary::stage_class(&stage));
        view! { <span class=class><i></i>{stage}</span> }.into_any()
    });
    view! {
        <aside class="details" id="span-details" tabindex="-1" aria-label=format!("Span {}", span.operation)>
            <header class="details-head">
                <div>
                    <h2>{span.operation.clone()}</h2>
                    <p class="details-tags">{service_tag(&span.service)} {kind} {stage} {status}</p>
                </div>
                <button type="button" class="icon-button" aria-label="Close the details" title="Close (Esc)" on:click=mouse(move |_| state.deselect())>{icon("close")}</button>
            </header>
            {message}
            {times(&model, index)}
            {token_section(&model, index)}
            {groups(&model, index)}
            {events(&model, index)}
            {links(&span.links)}
            {attribute_section("Attributes", "attributes", attributes::rows(span.attributes.as_deref(), span.attribute_types.as_deref()), true, span.dropped_attributes_count)}
            {attribute_section("Resource", "resource", attributes::origin_rows(span.resource.as_deref()), false, 0)}
            {attribute_section("Scope", "scope", attributes::origin_rows(span.scope.as_deref()), false, 0)}
            {identity(&model, index)}
        </aside>
    }
    .into_any()
}

fn pair(label: &'static str, value: String, title: String) -> AnyView {
    view! { <div class="figure" title=title><dt>{label}</dt><dd class="num">{value}</dd></div> }.into_any()
}

fn times(model: &TraceModel, index: SpanIndex) -> AnyView {
    let node = model.node(index);
    let length = node.end - node.start;
    let share = |part: i64, whole: i64| format::percent(part as f64 / whole.max(1) as f64);
    let start = model.start_unix_nano + node.start;
    let offset = browser::offset_minutes(start / 1_000_000);
    let critical: i64 =
        model.critical_segments(index).iter().map(|segment| segment.end - segment.start).sum();
    let exact = |nanos: i64| format!("{} ns", format::count(nanos.unsigned_abs()));
    view! {
        <dl class="figures is-small">
            {pair("Duration", format::duration(length), exact(length))}
            {pair("Self time", format!("{} ({})", format::duration(node.self_time), share(node.self_time, length)), exact(node.self_time))}
            {pair("Starts at", format!("+{}", format::duration(node.start)), format!("{} {}", format::absolute(start, offset), format::zone(offset)))}
            {pair("Of the trace", share(length, model.duration), String::new())}
            {model.span(index).cost.as_ref().map(|cost| pair("Cost", format!("{} ({})", cost.amount(), cost.note()), cost.basis_text()))}
            {(critical > 0).then(|| pair("On the critical path", format!("{} ({})", format::duration(critical), share(critical, model.duration)), exact(critical)))}
        </dl>
    }
    .into_any()
}

fn section(title: &'static str, body: AnyView) -> AnyView {
    view! { <section class="details-section"><h3>{title}</h3>{body}</section> }.into_any()
}

fn token_section(model: &TraceModel, index: SpanIndex) -> AnyView {
    let span = model.span(index);
    match span.tokens.as_deref().filter(|_| span.has_tokens()).and_then(Timeline::parse) {
        Some(timeline) => section("Token timeline", tokens::chart(timeline)),
        None => ().into_any(),
    }
}

fn groups(model: &TraceModel, index: SpanIndex) -> AnyView {
    let span = model.span(index);
    let named: [(&'static str, &Option<Fields>); 7] = [
        ("Inference", &span.inference),
        ("Queue", &span.queue),
        ("Batch", &span.batch),
        ("Cache", &span.cache),
        ("GPU", &span.gpu),
        ("CPU", &span.cpu),
        ("Memory", &span.memory),
    ];
    let shown = named
        .into_iter()
        .filter_map(|(title, group)| {
            let fields = attributes::fields(group.as_ref()?);
            if fields.is_empty() {
                return None;
            }
            let rows = fields
                .into_iter()
                .map(|field| view! { <div class="fact" title=field.exact><dt>{field.label}</dt><dd class="num">{field.value}</dd></div> }.into_any())
                .collect_view();
            Some(view! { <div class="group"><h3>{title}</h3><dl>{rows}</dl></div> }.into_any())
        })
        .collect::<Vec<_>>();
    if shown.is_empty() {
        return ().into_any();
    }
    view! { <div class="details-section groups">{shown}</div> }.into_any()
}

fn events(model: &TraceModel, index: SpanIndex) -> AnyView {
    let span = model.span(index);
    if span.events.is_empty() {
        return ().into_any();
    }
    let start = span.start_unix_nano.0;
    let more = span.events.len().saturating_sub(MOST_EVENTS);
    let rows = span.events.iter().take(MOST_EVENTS).map(|event| event_row(event, start)).collect_view();
    let body = view! {
        <ol class="events">{rows}</ol>
        {(more > 0).then(|| view! { <p class="muted">{format!("and {} more", format::count(more as u64))}</p> }.into_any())}
        {dropped(span.dropped_events_count, "events")}
    }.into_any();
    section("Events", body.into_any())
}

fn event_row(event: &Event, start: i64) -> AnyView {
    let rows = attributes::rows(event.attributes.as_deref(), event.attribute_types.as_deref());
    let head = view! { <span class="event-time num">{format!("+{}", format::duration(event.time_unix_nano.0 - start))}</span><span class="event-name">{event.name.clone()}</span> }.into_any();
    if rows.is_empty() {
        return view! { <li>{head}</li> }.into_any();
    }
    view! { <li><details><summary>{head}</summary>{table(rows, false)}</details></li> }.into_any()
}

fn dropped(count: u64, what: &'static str) -> Option<AnyView> {
    (count > 0).then(|| {
        view! { <p class="muted">{format!("The sender dropped {} {what}.", format::count(count))}</p> }
            .into_any()
    })
}

fn links(links: &[Link]) -> AnyView {
    if links.is_empty() {
        return ().into_any();
    }
    let rows = links
        .iter()
        .map(|link| {
            let view = TraceView { span: link.span_id.clone(), ..TraceView::default() };
            let href = Route::Trace { id: link.trace_id.clone(), view }.to_url();
            let rows = attributes::rows(link.attributes.as_deref(), link.attribute_types.as_deref());
            view! {
                <li>
                    <a href=href>{icon("link")}<span class="mono">{link.trace_id.clone()}</span></a>
                    {(!rows.is_empty()).then(|| table(rows, false))}
                </li>
            }
            .into_any()
        })
        .collect_view();
    section("Links", view! { <ul class="links">{rows}</ul> }.into_any())
}

fn attribute_section(
    title: &'static str,
    id: &'static str,
    rows: Vec<Row>,
    open: bool,
    dropped_count: u64,
) -> AnyView {
    if rows.is_empty() && dropped_count == 0 {
        return ().into_any();
    }
    let count = rows.len();
    let searchable = id == "attributes";
    view! {
        <details class="details-section" open=open>
            <summary><h3>{title}</h3><span class="muted num">{count}</span></summary>
            {table(rows, searchable)}
            {dropped(dropped_count, "attributes")}
        </details>
    }
    .into_any()
}

/// Rows of attributes; `searchable` ones lead to the traces that have the same value.
fn table(rows: Vec<Row>, searchable: bool) -> AnyView {
    let rows = rows
        .into_iter()
        .map(|row| {
            let long = row.value.chars().count() > LONG;
            let value = if long {
                view! { <div class="attribute-value is-long" tabindex="0" role="region" aria-label=format!("Value of {}", row.key)>{row.value.clone()}</div> }.into_any()
            } else {
                view! { <div class="attribute-value">{row.value.clone()}</div> }.into_any()
            };
            let search = (searchable && !long).then(|| {
                let filter = Filter { attributes: vec![(row.key.clone(), row.value.clone())], ..Filter::default() };
                let label = format!("Traces with {}={}", row.key, row.value);
                view! { <a class="icon-button" href=Route::Traces(filter).to_url() aria-label=label.clone() title=label>{icon("filter")}</a> }.into_any()
            });
            view! {
                <div class="attribute">
                    <dt>{row.key.clone()} <span class="attribute-kind">{row.kind}</span></dt>
                    <dd>{value}<span class="attribute-tools">{search}<CopyButton text=row.value label=format!("Copy the value of {}", row.key)/></span></dd>
                </div>
            }.into_any()
        })
        .collect_view();
    view! { <dl class="attributes">{rows}</dl> }.into_any()
}

fn identity(model: &TraceModel, index: SpanIndex) -> AnyView {
    let span = model.span(index);
    let line = |label: &'static str, value: &str| {
        let (text, copied) = (value.to_owned(), value.to_owned());
        view! { <div class="attribute"><dt>{label}</dt><dd><div class="attribute-value">{text}</div><span class="attribute-tools"><CopyButton text=copied label=format!("Copy the {}", label.to_lowercase())/></span></dd></div> }.into_any()
    };
    let body = view! {
        <dl class="attributes">
            {line("Span id", &span.span_id)}
            {(!span.parent_span_id.is_empty()).then(|| line("Parent span id", &span.parent_span_id))}
            {(!span.trace_state.is_empty()).then(|| line("Trace state", &span.trace_state))}
        </dl>
        {dropped(span.dropped_links_count, "links")}
    }
    .into_any();
    section("Identity", body.into_any())
}
