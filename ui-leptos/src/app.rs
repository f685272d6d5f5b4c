//! The shell around the pages: product mark, navigation, theme, help.

use infertrace_ui_model::route::Route;
use leptos::ev;
use leptos::prelude::*;

use crate::browser;
use crate::erase::{live, mouse, view_of};
use crate::help::Help;
use crate::insights::{InsightPage, InsightsPage, InsightsState};
use crate::parts::{Colours, Heading, Now, icon, statement};
use crate::router::Router;
use crate::theme;
use crate::trace::TracePage;
use crate::traces::{ListState, TracesPage};

#[derive(Clone, PartialEq)]
enum Page {
    Traces,
    Trace(String),
    Insights,
    Insight(String),
    Unknown(String),
}

/// The whole app.
#[component]
pub(crate) fn App() -> AnyView {
    let router = Router::install();
    provide_context(router);
    provide_context(Colours::load());
    provide_context(Now::install());
    provide_context(ListState::new(router));
    let insights = InsightsState::install();
    provide_context(insights);
    let dark = RwSignal::new(theme::is_dark());
    let help = RwSignal::new(false);
    let keys = window_event_listener(ev::keydown, move |event| {
        if event.key() == "?" && !browser::is_typing(&event) {
            event.prevent_default();
            help.set(true);
        }
    });
    on_cleanup(move || keys.remove());

    let page = Memo::new(move |_| {
        router.route().with(|route| match route {
            Route::Traces(_) => Page::Traces,
            Route::Trace { id, .. } => Page::Trace(id.clone()),
            Route::Insights(_) => Page::Insights,
            Route::Insight(id) => Page::Insight(id.clone()),
            Route::Unknown(path) => Page::Unknown(path.clone()),
        })
    });
    let content = move || match page.get() {
        Page::Traces => view! { <TracesPage/> }.into_any(),
        Page::Trace(id) => view! { <TracePage id=id/> }.into_any(),
        Page::Insights => view! { <InsightsPage/> }.into_any(),
        Page::Insight(id) => view! { <InsightPage id=id/> }.into_any(),
        Page::Unknown(path) => unknown(path),
    };
    let theme_label = move || if dark.get() { "Use the light theme" } else { "Use the dark theme" };
    view! {
        <a class="skip" href="#main">"Skip to content"</a>
        <header class="topbar">
            <a class="brand" href="/traces" aria-label="InferTrace, to the list of traces">
                <svg class="brand-mark" aria-hidden="true"><use href="#i-mark"></use></svg>
                <span class="brand-name">"InferTrace"</span>
            </a>
            <nav aria-label="Pages">
                <a href=live(move || router.list_url()) aria-current=live(move || (page.get() == Page::Traces).then_some("page"))>
                    "Traces"
                </a>
                <a href=live(move || router.insights_url()) aria-current=live(move || (page.get() == Page::Insights).then_some("page"))>
                    "Insights"
                    {view_of(move || insights.badge())}
                </a>
            </nav>
            <div class="topbar-end">
                <button
                    type="button"
                    class="icon-button"
                    aria-label=live(theme_label)
                    title=live(theme_label)
                    on:click=mouse(move |_| dark.set(theme::toggle()))
                >
                    {view_of(move || icon(if dark.get() { "sun" } else { "moon" }))}
                </button>
                <button
                    type="button"
                    class="icon-button"
                    aria-label="Keyboard help"
                    title="Keyboard help (?)"
                    on:click=mouse(move |_| help.set(true))
                >
                    {icon("help")}
                </button>
            </div>
        </header>
        <main id="main" tabindex="-1">{view_of(content)}</main>
        <Help open=help/>
    }
    .into_any()
}

fn unknown(path: String) -> AnyView {
    document().set_title("Not found · InferTrace");
    let back = view! { <a class="button primary" href="/traces">"To the traces"</a> }.into_any();
    statement(
        Heading::Page,
        "search",
        "There is no such page".to_owned(),
        format!("Nothing lives at {path}."),
        back,
    )
}
