//! One trace: header, minimap, waterfall or flame graph, span details.

mod details;
mod flame;
mod header;
mod keys;
mod overview;
mod row;
mod state;
mod tokens;
mod tooltip;
mod waterfall;

use std::sync::Arc;

use infertrace_ui_model::api::TraceDetail;
use infertrace_ui_model::format;
use infertrace_ui_model::route::{Tab, is_trace_id};
use infertrace_ui_model::trace::TraceModel;
use leptos::prelude::*;
use leptos::task::spawn_local;

use crate::erase::{live, mouse, view_of};
use crate::net::{self, LoadError};
use crate::parts::{Heading, failure, icon, statement};
use crate::router::Router;
use state::TraceState;

#[derive(Clone)]
enum Phase {
    Loading,
    Ready(Arc<TraceModel>),
    Failed(LoadError),
}

/// `/traces/{id}`.
#[component]
pub(crate) fn TracePage(id: String) -> AnyView {
    let phase = RwSignal::new(Phase::Loading);
    let id = RwSignal::new(id);
    let load = move || {
        phase.set(Phase::Loading);
        let id = id.get_untracked();
        if !is_trace_id(&id) {
            return phase.set(Phase::Failed(LoadError::Refused(not_an_id(&id))));
        }
        document().set_title(&format!("Trace {} · InferTrace", id.get(..8).unwrap_or(&id)));
        spawn_local(async move {
            let answer = net::get(&format!("/api/v1/traces/{id}"), TraceDetail::parse).await;
            if phase.is_disposed() {
                return;
            }
            let next = match answer {
                Ok(detail) if detail.spans.is_empty() => Phase::Failed(LoadError::Refused(no_spans())),
                Ok(detail) => Phase::Ready(Arc::new(TraceModel::build(detail))),
                Err(error) => Phase::Failed(error),
            };
            let _ = phase.try_set(next);
        });
    };
    load();
    move_focus_to_top();
    let body = move || match phase.get() {
        Phase::Loading => skeleton(),
        Phase::Ready(model) => {
            view! { <Loaded model=model reload=Callback::new(move |()| load())/> }.into_any()
        }
        Phase::Failed(error) if error.status() == 404 => not_found(&id.get_untracked(), load),
        Phase::Failed(error) => failure(Heading::Page, &error, load),
    };
    view! { <div class="page trace">{view_of(body)}</div> }.into_any()
}

fn not_an_id(id: &str) -> infertrace_ui_model::api::Problem {
    infertrace_ui_model::api::Problem {
        title: "This is not a trace id".to_owned(),
        status: 400,
        detail: format!("“{id}” should be 32 hexadecimal digits, not all of them zero."),
        code: String::new(),
    }
}

fn no_spans() -> infertrace_ui_model::api::Problem {
    infertrace_ui_model::api::Problem { status: 404, ..Default::default() }
}

/// A new page starts at its top for the keyboard too.
fn move_focus_to_top() {
    request_animation_frame(|| {
        let at_body = document().active_element().is_none_or(|active| active.tag_name() == "BODY");
        if at_body {
            crate::browser::focus("main");
        }
    });
}

fn not_found(id: &str, retry: impl Fn() + 'static) -> AnyView {
    document().set_title("Trace not found · InferTrace");
    let list = Router::get().list_url();
    let action = view! {
        <button type="button" class="button primary" on:click=mouse(move |_| retry())>{icon("refresh")} "Look again"</button>
        <a class="button" href=list>"Back to the traces"</a>
    }
    .into_any();
    let words = format!(
        "No tier holds a span of {id}. It may be older than the retention, or not have arrived yet: spans of a running \
         request appear when their sender flushes."
    );
    statement(Heading::Page, "search", "Trace not found".to_owned(), words, action)
}

fn skeleton() -> AnyView {
    let rows = (0..14)
        .map(|row: usize| {
            let style = format!("--at:{}%;--wide:{}%", row * 5 % 45, 50 - row * 3);
            view! { <div class="skeleton-span" style=style><i></i><b></b></div> }.into_any()
        })
        .collect_view();
    view! {
        <div class="skeleton" role="status" aria-label="Loading the trace">
            <div class="skeleton-title"></div>
            <div class="skeleton-stats"></div>
            {rows}
        </div>
    }
    .into_any()
}

#[component]
fn Loaded(model: Arc<TraceModel>, reload: Callback<()>) -> AnyView {
    let state = TraceState::new(model.clone());
    if let Some(root) = model.main_root() {
        let duration = format::duration(model.duration).replace('\u{a0}', " ");
        document().set_title(&format!("{} · {duration} · InferTrace", model.span(root).operation));
    }
    keys::install(state);
    let body = move || match state.tab.get() {
        Tab::Waterfall => view! { <waterfall::Waterfall state=state/> }.into_any(),
        Tab::Flame => view! { <flame::FlameGraph state=state/> }.into_any(),
    };
    let minimap = move || {
        (state.tab.get() == Tab::Waterfall).then(|| view! { <overview::Minimap state=state/> }.into_any())
    };
    let details = move || {
        state.selected.get().map(|index| view! { <details::Details state=state index=index/> }.into_any())
    };
    view! {
        <header::Header state=state reload=reload/>
        <div class="trace-work" class:has-details=live(move || state.selected.get().is_some())>
            <div class="trace-main">
                <overview::Toolbar state=state/>
                {view_of(minimap)}
                {view_of(body)}
            </div>
            {view_of(details)}
        </div>
        <tooltip::Tooltip state=state/>
    }
    .into_any()
}
