//! The table. On a phone the rows become cards, by the style sheet alone.

use std::hash::{DefaultHasher, Hash, Hasher};

use infertrace_ui_model::format;
use infertrace_ui_model::route::Route;
use infertrace_ui_model::summary::{TraceSummary, stage_class};
use leptos::prelude::*;
use wasm_bindgen::JsCast;

use super::state::ListState;
use crate::browser;
use crate::erase::{Entry, focus, list_of, live, mouse, pointer, view_of};
use crate::net::Phase;
use crate::parts::{Colours, Now, icon, service_tag};

/// Services named in a row; the rest is counted.
const MOST_SERVICES: usize = 3;

#[component]
pub(super) fn TraceTable(state: ListState) -> AnyView {
    let entries = move || {
        let entry = |trace: &TraceSummary| {
            let trace = trace.clone();
            Entry { key: key_of(&trace), draw: Box::new(move || row(&trace, state)) }
        };
        state.traces.with(|traces| traces.iter().map(entry).collect())
    };
    let focus_left = move |event: web_sys::FocusEvent| {
        let inside = event
            .related_target()
            .and_then(|target| target.dyn_into::<web_sys::Element>().ok())
            .is_some_and(|element| element.closest(".trace-table").ok().flatten().is_some());
        if !inside {
            state.held.set(false);
        }
    };
    let notice = move || {
        state.notice.get().map(|words| view! { <p class="notice">{icon("info")} {words}</p> }.into_any())
    };
    view! {
        {view_of(notice)}
        <div
            class="trace-table"
            role="table"
            aria-label="Traces"
            on:pointerenter=pointer(move |event| if event.pointer_type() == "mouse" { state.held.set(true) })
            on:pointerleave=pointer(move |_| state.held.set(false))
            on:focusin=focus(move |_| state.held.set(true))
            on:focusout=focus(focus_left)
        >
            <div class="trace-head" role="row">
                <span role="columnheader">"Trace"</span>
                <span role="columnheader">"Started"</span>
                <span role="columnheader">"Duration"</span>
                <span role="columnheader" class="stages-head"><span class="visually-hidden">"Stages"</span>{legend()}</span>
                <span role="columnheader">"Model"</span>
                <span role="columnheader" class="right">"Tokens"</span>
                <span role="columnheader" class="right">"Cost"</span>
                <span role="columnheader" class="right"><abbr title="Time to first token">"TTFT"</abbr></span>
                <span role="columnheader" class="right">"Spans"</span>
            </div>
            <div role="rowgroup" class="trace-rows">
                {list_of(entries)}
            </div>
        </div>
        <More state=state/>
    }
    .into_any()
}

/// A row is drawn anew when what it shows changes.
fn key_of(trace: &TraceSummary) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&trace.trace_id, trace.span_count, trace.duration_nano, trace.error_count).hash(&mut hasher);
    hasher.finish()
}

fn row(trace: &TraceSummary, state: ListState) -> AnyView {
    let now: Now = expect_context();
    let error = trace.is_error();
    let fresh = state.fresh.with_untracked(|fresh| fresh.contains(&trace.trace_id));
    let href = Route::trace(&trace.trace_id).to_url();
    let start = trace.start_unix_nano.0;
    let start_ms = start.div_euclid(1_000_000);
    let offset = browser::offset_minutes(start_ms);
    let absolute = format!("{} {}", format::absolute(start, offset), format::zone(offset));
    let name = if trace.root_operation.is_empty() {
        "(no root yet)".to_owned()
    } else {
        trace.root_operation.clone()
    };
    let duration = trace.duration_nano.0;
    let width = move || format!("width:{:.2}%", duration as f64 / state.longest.get() as f64 * 100.0);
    let bar = format!("duration-bar {}", Colours::get().class(&trace.root_service));
    let dash = || view! { <span class="muted" aria-label="none">"–"</span> }.into_any();
    let models = trace.model_names();
    let model = match models.as_slice() {
        [] => dash(),
        [only] => view! { <span class="clip" title=only.clone()>{only.clone()}</span> }.into_any(),
        [first, rest @ ..] => {
            view! { <span class="clip" title=models.join(", ")>{first.clone()} <span class="muted">{format!(" +{}", rest.len())}</span></span> }
                .into_any()
        }
    };
    let tokens = match trace.tokens() {
        (None, None) => dash(),
        (input, output) => {
            let side = |tokens: Option<u64>| tokens.map_or("–".to_owned(), format::compact);
            let words = format!("{} input, {} output tokens", side(input), side(output));
            view! { <span title=words>{side(input)} <span class="muted">" → "</span> {side(output)}</span> }
                .into_any()
        }
    };
    let ttft = trace
        .ttft_nano
        .filter(|ttft| ttft.0 > 0)
        .map_or_else(dash, |ttft| format::duration(ttft.0).into_any());
    let cost = trace
        .cost
        .as_ref()
        .map_or_else(dash, |cost| view! { <span title=cost.note()>{cost.amount()}</span> }.into_any());
    view! {
        <div class="trace-row" class:is-error=error class:is-fresh=fresh role="row">
            <div class="cell-root" role="cell">
                <a class="row-link" href=href>
                    <span class="row-name">
                        {error.then(|| view! { <span class="error-mark">{icon("alert")}<span class="visually-hidden">"Failed: "</span></span> }.into_any())}
                        {name}
                    </span>
                </a>
                {services(trace)}
            </div>
            <div class="cell-start num" role="cell" title=absolute>
                <time>{view_of(move || format::relative(start_ms, now.0.get()))}</time>
            </div>
            <div class="cell-duration num" role="cell">
                <span>{format::duration(duration)}</span>
                <span class=bar aria-hidden="true"><i style=live(width)></i></span>
            </div>
            <div class="cell-stages" role="cell">{stages(trace)}</div>
            <div class="cell-model" role="cell">{model}</div>
            <div class="cell-tokens num right" role="cell">{tokens}</div>
            <div class="cell-cost num right" role="cell">{cost}</div>
            <div class="cell-ttft num right" role="cell">{ttft}</div>
            <div class="cell-spans num right" role="cell">
                <span>{format::count(trace.span_count)}<span class="unit">" spans"</span></span>
                {(trace.error_count > 0).then(|| view! { <span class="errors">{format!(" {} failed", format::compact(trace.error_count))}</span> }.into_any())}
                {(trace.complete == Some(false)).then(|| view! { <span class="partial" title="Spans are missing so far">"partial"</span> }.into_any())}
            </div>
        </div>
    }
    .into_any()
}

/// Names of the stages that matter most; the rest is in each bar's tooltip.
fn legend() -> AnyView {
    ["queue", "prefill", "decode"]
        .map(|stage| view! { <span class=stage_class(stage)><i></i>{stage}</span> }.into_any())
        .into_any()
}

fn services(trace: &TraceSummary) -> AnyView {
    let names = trace.service_names();
    let rest = names.len().saturating_sub(MOST_SERVICES);
    let title = names
        .iter()
        .map(|(name, spans)| {
            spans.map_or_else(|| name.clone(), |spans| format!("{name}: {}", format::count(spans)))
        })
        .collect::<Vec<_>>()
        .join("\n");
    let shown = names.iter().take(MOST_SERVICES).map(|(name, _)| service_tag(name)).collect_view();
    view! { <span class="services" title=title>{shown} {(rest > 0).then(|| view! { <span class="muted rest">{format!("+{rest}")}</span> }.into_any())}</span> }
        .into_any()
}

/// Self time by stage as a bar, named in full for assistive technology and in the tooltip.
fn stages(trace: &TraceSummary) -> AnyView {
    let times = trace.stage_times();
    let total: i64 = times.iter().map(|(_, time)| time).sum();
    if total <= 0 {
        return view! { <span class="muted" aria-label="no stages">"–"</span> }.into_any();
    }
    let words = times
        .iter()
        .map(|(name, time)| {
            format!("{name} {} ({})", format::duration(*time), format::percent(*time as f64 / total as f64))
        })
        .collect::<Vec<_>>()
        .join("\n");
    let parts = times
        .iter()
        .map(|(name, time)| {
            let style = format!("width:{:.2}%", *time as f64 / total as f64 * 100.0);
            view! { <i class=stage_class(name) style=style></i> }.into_any()
        })
        .collect_view();
    view! { <span class="stage-bar" role="img" aria-label=words.replace('\n', ", ") title=words.clone()>{parts}</span> }.into_any()
}

#[component]
fn More(state: ListState) -> AnyView {
    let button = move || {
        state.cursor.with(Option::is_some).then(|| {
            view! {
                <button type="button" class="button" prop:disabled=live(move || state.more.with(|more| *more == Phase::Loading)) on:click=mouse(move |_| state.load_more())>
                    {view_of(move || if state.more.with(|more| *more == Phase::Loading) { "Loading…" } else { "Load more" })}
                </button>
            }.into_any()
        })
    };
    let problem = move || match state.more.get() {
        Phase::Failed(error) => {
            let (title, detail) = error.words();
            Some(
                view! { <p class="field-problem" role="alert">{format!("{title}. {detail}")}</p> }.into_any(),
            )
        }
        _ => None,
    };
    view! { <div class="more">{view_of(button)} {view_of(problem)}</div> }.into_any()
}

/// Moves the focus to another row's link; from outside of the table to its first or last row.
pub(crate) fn move_focus(step: i32) {
    let Ok(links) = document().query_selector_all(".row-link") else {
        return;
    };
    let count = links.length() as i32;
    let active = document().active_element();
    let here = (0..count).find(|index| {
        let link = links.item(*index as u32);
        matches!((&link, &active), (Some(link), Some(active)) if active.is_same_node(Some(link)))
    });
    if count == 0 {
        return;
    }
    let next = match here {
        Some(here) => (here + step).clamp(0, count - 1),
        None if step > 0 => 0,
        None => count - 1,
    };
    let link = u32::try_from(next)
        .ok()
        .and_then(|next| links.item(next))
        .and_then(|link| link.dyn_into::<web_sys::HtmlElement>().ok());
    if let Some(link) = link {
        let _ = link.focus();
    }
}
