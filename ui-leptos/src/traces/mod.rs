//! The list of traces: filters, live mode, latency plot, table.

mod empty;
mod filters;
mod scatter;
mod state;
mod table;

use infertrace_ui_model::format;
use leptos::ev;
use leptos::prelude::*;

use crate::browser;
use crate::erase::{live, mouse, view_of};
use crate::net::Phase;
use crate::parts::{Heading, failure, icon};
pub(crate) use state::ListState;
pub(crate) use table::move_focus;

/// `/traces`.
#[component]
pub(crate) fn TracesPage() -> AnyView {
    let state = ListState::get();
    document().set_title("Traces · InferTrace");
    state.follow();
    let keys = window_event_listener(ev::keydown, move |event| on_key(state, &event));
    on_cleanup(move || keys.remove());

    let body = move || match state.phase.get() {
        Phase::Failed(error) => failure(Heading::Section, &error, move || state.reload()),
        Phase::Loading => skeleton(),
        Phase::Ready if state.is_empty.get() => empty::empty(state),
        Phase::Ready => view! {
            <scatter::ScatterPlot state=state/>
            <table::TraceTable state=state/>
        }
        .into_any(),
    };
    view! {
        <div class="page traces">
            <div class="page-head">
                <h1>"Traces"</h1>
                <p class="count" role="status">{view_of(move || count_words(state))}</p>
                <LiveControl state=state/>
            </div>
            <filters::FilterBar state=state/>
            {view_of(body)}
        </div>
    }
    .into_any()
}

fn count_words(state: ListState) -> String {
    if state.phase.get() != Phase::Ready {
        return String::new();
    }
    let shown = state.traces.with(Vec::len);
    let more = if state.cursor.with(Option::is_some) { "+" } else { "" };
    match shown {
        0 => String::new(),
        1 => "1 trace".to_owned(),
        _ => format!("{}{more} traces, newest first", format::count(shown as u64)),
    }
}

/// Live or paused, and what waits while the list is held.
#[component]
fn LiveControl(state: ListState) -> AnyView {
    let possible = move || state.filter.with(infertrace_ui_model::filter::Filter::can_be_live);
    let on = move || possible() && state.live.get();
    let words = move || {
        if !possible() {
            "Fixed range"
        } else if !state.live.get() {
            "Paused"
        } else if state.offline.get() {
            "Reconnecting"
        } else {
            "Live"
        }
    };
    let waiting = move || {
        let count = state.waiting();
        (count > 0).then(|| {
            view! {
                <button type="button" class="pill" on:click=mouse(move |_| state.release())>
                    {format!("{} new", format::count(count as u64))}
                </button>
            }
            .into_any()
        })
    };
    view! {
        <div class="live">
            {view_of(waiting)}
            <button
                type="button"
                class="button live-button"
                class:is-live=live(on)
                class:is-offline=live(move || on() && state.offline.get())
                aria-pressed=live(move || on().to_string())
                aria-label=live(move || if on() { "Live, pause updates" } else { "Paused, resume live updates" })
                title="Live updates (l)"
                prop:disabled=live(move || !possible())
                on:click=mouse(move |_| state.live.update(|live| *live = !*live))
            >
                <span class="live-dot"></span>
                <span>{view_of(words)}</span>
                {view_of(move || possible().then(|| icon(if on() { "pause" } else { "play" })))}
            </button>
        </div>
    }
    .into_any()
}

fn skeleton() -> AnyView {
    let rows = (0..12)
        .map(|_| view! { <div class="skeleton-row"><i></i><i></i><i></i><i></i></div> }.into_any())
        .collect_view();
    view! {
        <div class="skeleton" role="status" aria-label="Loading traces">
            <div class="skeleton-plot"></div>
            {rows}
        </div>
    }
    .into_any()
}

fn on_key(state: ListState, event: &web_sys::KeyboardEvent) {
    if browser::is_typing(event) {
        return;
    }
    match event.key().as_str() {
        "/" => browser::focus("filter-query"),
        "l" if state.filter.with_untracked(infertrace_ui_model::filter::Filter::can_be_live) => {
            state.live.update(|live| *live = !*live);
        }
        "j" => table::move_focus(1),
        "k" => table::move_focus(-1),
        _ => return,
    }
    event.prevent_default();
}
