//! Insights: the list, one of them, and how both stay up to date.

mod detail;
mod state;

use infertrace_ui_model::insight::list;
use infertrace_ui_model::node::Node;
use infertrace_ui_model::route::Route;
use leptos::ev;
use leptos::prelude::*;
use wasm_bindgen::JsCast;

use crate::browser;
use crate::erase::{live, mouse, plain, view_of};
use crate::net::Phase;
use crate::parts::{Heading, failure, icon, region, statement};
use crate::router::Router;
use crate::traces::move_focus;
pub(crate) use detail::InsightPage;
pub(crate) use state::InsightsState;

/// `/insights`.
#[component]
pub(crate) fn InsightsPage() -> AnyView {
    let state = InsightsState::get();
    let router = Router::get();
    document().set_title("Insights · InferTrace");
    state.follow();
    let keys = window_event_listener(ev::keydown, move |event| {
        if browser::is_typing(&event) {
            return;
        }
        match event.key().as_str() {
            "j" => move_focus(1),
            "k" => move_focus(-1),
            _ => return,
        }
        event.prevent_default();
    });
    on_cleanup(move || keys.remove());
    let choose = move |event: web_sys::Event| {
        let select = event.target().and_then(|target| target.dyn_into::<web_sys::HtmlSelectElement>().ok());
        if let Some(select) = select {
            let mut filter = untrack(move || state.filter());
            if let Some(member) = filter.member(&select.name()) {
                *member = select.value();
                router.go(Route::Insights(filter));
            }
        }
    };
    let filters = move || {
        let filter = state.filter();
        state.models.with(|models| state.kinds.with(|kinds| list::filters(&filter, models, kinds)))
    };
    let rows = move || -> Node { state.list.with(|rows| list::rows(rows, state.clock())) };
    let is_empty = Memo::new(move |_| state.list.with(Vec::is_empty));
    let body = move || match state.phase.get() {
        Phase::Loading => skeleton(),
        Phase::Failed(error) => failure(Heading::Section, &error, move || state.reload()),
        Phase::Ready if is_empty.get() => nothing(state),
        Phase::Ready => view! {
            {region("insight-rows", rows)}
            <div class="more">{view_of(move || more(state))}</div>
        }
        .into_any(),
    };
    let notice = move || {
        state
            .notice
            .get()
            .map(|words| view! { <p class="notice is-warning">{icon("info")} {words}</p> }.into_any())
    };
    view! {
        <div class="page insights">
            <div class="page-head">
                <h1>"Insights"</h1>
                <p class="count" role="status">{view_of(move || count_words(state))}</p>
            </div>
            <div class="filters" role="search" aria-label="Filter insights" on:change=plain(choose)>{region("", filters)}</div>
            {view_of(notice)}
            {view_of(body)}
        </div>
    }
    .into_any()
}

fn count_words(state: InsightsState) -> String {
    if state.phase.get() != Phase::Ready {
        return String::new();
    }
    let more = if state.cursor.with(Option::is_some) { "+" } else { "" };
    match state.list.with(Vec::len) {
        0 => String::new(),
        shown => format!("{shown}{more}, the latest first"),
    }
}

fn nothing(state: InsightsState) -> AnyView {
    let filter = state.filter();
    let (title, words) = list::nothing(&filter);
    let (symbol, href, action) = if filter.is_narrowed() {
        ("filter", Route::Insights(Default::default()), "Clear the filters")
    } else if filter.state.is_empty() {
        let all = infertrace_ui_model::insight::filter::InsightFilter { state: "all".to_owned(), ..filter };
        ("check", Route::Insights(all), "Show what was resolved")
    } else {
        ("check", Route::Traces(Default::default()), "To the traces")
    };
    let action = view! { <a class="button" href=href.to_url()>{action}</a> }.into_any();
    statement(Heading::Section, symbol, title, words, action)
}

fn more(state: InsightsState) -> Option<AnyView> {
    state.cursor.with(Option::is_some).then(|| {
        view! {
            <button type="button" class="button" prop:disabled=live(move || state.loading_more.get()) on:click=mouse(move |_| state.load_more())>
                "Load more"
            </button>
        }
        .into_any()
    })
}

fn skeleton() -> AnyView {
    let rows = (0..6)
        .map(|_| view! { <div class="skeleton-row"><i></i><i></i><i></i><i></i></div> }.into_any())
        .collect_view();
    view! { <div class="skeleton" role="status" aria-label="Loading insights">{rows}</div> }.into_any()
}
