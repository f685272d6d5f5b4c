//! Small pieces that every page uses.

use infertrace_ui_model::colour::Palette;
use infertrace_ui_model::node::Node;
use leptos::html;
use leptos::prelude::*;

use crate::browser;
use crate::erase::{mouse, view_of};
use crate::net::LoadError;

const COLOURS_KEY: &str = "infertrace.colours";

/// Colours of services, shared by all pages and kept between visits.
#[derive(Clone, Copy)]
pub(crate) struct Colours(StoredValue<Palette>);

impl Colours {
    pub(crate) fn load() -> Self {
        let text = browser::stored(COLOURS_KEY).unwrap_or_default();
        Self(StoredValue::new(Palette::from_text(&text)))
    }

    pub(crate) fn get() -> Self {
        expect_context()
    }

    /// The class that sets a service's colour.
    pub(crate) fn class(self, service: &str) -> String {
        let mut slot = 0;
        let mut changed = None;
        self.0.update_value(|palette| {
            let (given, new) = palette.assign(service);
            slot = given;
            changed = new.then(|| palette.to_text());
        });
        if let Some(text) = changed {
            browser::store(COLOURS_KEY, Some(&text));
        }
        format!("svc-{slot}")
    }
}

/// A second-by-second clock, milliseconds since 1970.
#[derive(Clone, Copy)]
pub(crate) struct Now(pub(crate) RwSignal<i64>);

impl Now {
    pub(crate) fn install() -> Self {
        let now = RwSignal::new(browser::now_ms());
        let tick = move || {
            if !document().hidden() {
                now.set(browser::now_ms());
            }
        };
        if let Ok(handle) = set_interval_with_handle(tick, std::time::Duration::from_secs(1)) {
            on_cleanup(move || handle.clear());
        }
        Self(now)
    }
}

/// A symbol of the sprite in `index.html`.
pub(crate) fn icon(name: &'static str) -> AnyView {
    let href = format!("#i-{name}");
    view! {
        <svg class="icon" aria-hidden="true" focusable="false">
            <use href=href></use>
        </svg>
    }
    .into_any()
}

/// A coloured square with a service's name.
pub(crate) fn service_tag(name: &str) -> AnyView {
    let class = format!("service {}", Colours::get().class(name));
    view! { <span class=class><span class="swatch"></span><span class="service-name">{name.to_owned()}</span></span> }
        .into_any()
}

/// Copies a text and says so for a moment.
#[component]
pub(crate) fn CopyButton(#[prop(into)] text: String, #[prop(into)] label: String) -> AnyView {
    let copied = RwSignal::new(false);
    let copy = move |event: web_sys::MouseEvent| {
        event.stop_propagation();
        browser::copy(&text);
        copied.set(true);
        set_timeout(move || _ = copied.try_set(false), std::time::Duration::from_millis(1_400));
    };
    let title = label.clone();
    view! {
        <button type="button" class="icon-button copy" on:click=mouse(copy) title=title aria-label=label>
            {view_of(move || icon(if copied.get() { "check" } else { "copy" }))}
            <span class="visually-hidden" aria-live="polite">{view_of(move || copied.get().then_some("Copied"))}</span>
        </button>
    }
    .into_any()
}

/// A part of a page that is computed as a tree of elements and drawn anew when it changes; the focus stays on the element
/// with the same id.
pub(crate) fn region(class: &'static str, tree: impl Fn() -> Node + Send + Sync + 'static) -> AnyView {
    let tree: Box<dyn Fn() -> Node + Send + Sync> = Box::new(tree);
    let place: NodeRef<html::Div> = NodeRef::new();
    Effect::new(move |shown: Option<Option<Node>>| {
        let tree = tree();
        let place = place.get()?;
        if shown.flatten().as_ref() != Some(&tree) {
            let focused = document().active_element().filter(|active| place.contains(Some(active)));
            let focused = focused.map(|active| active.id()).filter(|id| !id.is_empty());
            place.set_text_content(None);
            if let Some(element) = browser::draw(&tree) {
                let _ = place.append_child(&element);
            }
            focused.iter().for_each(|id| browser::focus(id));
        }
        Some(tree)
    });
    view! { <div class=class node_ref=place></div> }.into_any()
}

/// Rank of a statement's heading.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Heading {
    /// The statement is all that the page says.
    Page,
    /// It is a part of a page that has a heading.
    Section,
}

fn heading(rank: Heading, words: String) -> AnyView {
    match rank {
        Heading::Page => view! { <h1>{words}</h1> }.into_any(),
        Heading::Section => view! { <h2>{words}</h2> }.into_any(),
    }
}

/// A page-sized statement with something to do about it.
pub(crate) fn statement(
    rank: Heading,
    symbol: &'static str,
    title: String,
    detail: String,
    action: AnyView,
) -> AnyView {
    view! {
        <section class="statement" role="status">
            <div class="statement-symbol">{icon(symbol)}</div>
            {heading(rank, title)}
            <p>{detail}</p>
            <div class="actions">{action}</div>
        </section>
    }
    .into_any()
}

/// What went wrong, with the server's own words and a way to try again.
pub(crate) fn failure(rank: Heading, error: &LoadError, retry: impl Fn() + 'static) -> AnyView {
    let (title, detail) = error.words();
    let code = match error {
        LoadError::Refused(problem) if problem.code.is_empty() => format!("HTTP {}", problem.status),
        LoadError::Refused(problem) => format!("HTTP {} · {}", problem.status, problem.code),
        _ => String::new(),
    };
    view! {
        <section class="statement is-error" role="alert">
            <div class="statement-symbol">{icon("alert")}</div>
            {heading(rank, title)}
            <p>{detail}</p>
            {(!code.is_empty()).then(|| view! { <p class="mono muted">{code}</p> }.into_any())}
            <div class="actions">
                <button type="button" class="button primary" on:click=mouse(move |_| retry())>
                    {icon("refresh")} "Try again"
                </button>
            </div>
        </section>
    }
    .into_any()
}
