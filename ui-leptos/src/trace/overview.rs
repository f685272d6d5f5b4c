//! Toolbar and minimap above the waterfall.

use infertrace_ui_model::format;
use infertrace_ui_model::minimap;
use infertrace_ui_model::route::Tab;
use infertrace_ui_model::scale::{self, Viewport};
use infertrace_ui_model::waterfall::collapse_to_depth;
use leptos::prelude::*;

use super::state::TraceState;
use crate::browser;
use crate::erase::{Spot, key, live, mouse, plain, pointer, view_of};
use crate::parts::icon;

/// Units of the minimap's drawing.
const WIDTH: u32 = 1_200;
const ROWS: u32 = 44;
/// Least share of the width that a drag has to cover to be a zoom and not a click.
const LEAST_DRAG: f64 = 0.004;

#[component]
pub(super) fn Toolbar(state: TraceState) -> AnyView {
    let tab = |which: Tab, words: &'static str| {
        let chosen = move || state.tab.get() == which;
        view! {
            <button
                type="button"
                role="tab"
                aria-selected=live(move || chosen().to_string())
                aria-controls="trace-panel"
                tabindex=live(move || if chosen() { "0" } else { "-1" })
                on:click=mouse(move |_| state.tab.set(which))
                on:keydown=key(move |event| if matches!(event.key().as_str(), "ArrowLeft" | "ArrowRight") {
                    event.prevent_default();
                    state.tab.update(|tab| *tab = if *tab == Tab::Waterfall { Tab::Flame } else { Tab::Waterfall });
                    browser::focus(if state.tab.get_untracked() == Tab::Waterfall { "tab-waterfall" } else { "tab-flame" });
                })
                id=if which == Tab::Waterfall { "tab-waterfall" } else { "tab-flame" }
            >
                {words}
            </button>
        }.into_any()
    };
    let found = move || {
        if state.search.with(|search| search.trim().is_empty()) {
            return None;
        }
        let total = state.matches.with(|matches| matches.len());
        let at = state.selected.get().and_then(|selected| {
            state.matches.with(|matches| matches.iter().position(|index| *index == selected))
        });
        Some(match (total, at) {
            (0, _) => "no match".to_owned(),
            (_, Some(at)) => format!("{} of {}", format::count(at as u64 + 1), format::count(total as u64)),
            (1, None) => "1 match".to_owned(),
            _ => format!("{} matches", format::count(total as u64)),
        })
    };
    let searching = move || found().is_some();
    let only_waterfall = move || state.tab.get() == Tab::Waterfall;
    view! {
        <div class="toolbar">
            <div class="segmented tabs" role="tablist" aria-label="View">
                {tab(Tab::Waterfall, "Waterfall")}
                {tab(Tab::Flame, "Flame graph")}
            </div>
            <div class="span-search" role="search">
                {icon("search")}
                <input
                    id="span-search"
                    type="text"
                    aria-label="Search in this trace"
                    placeholder="Find spans"
                    spellcheck="false"
                    autocomplete="off"
                    prop:value=live(move || state.search.get())
                    on:input=plain(move |event| state.search.set(event_target_value(&event)))
                    on:keydown=key(move |event| match event.key().as_str() {
                        "Enter" => state.step_match(!event.shift_key()),
                        "Escape" => {
                            state.search.set(String::new());
                            browser::focus("waterfall");
                        }
                        _ => {}
                    })
                />
                <span class="found num" role="status">{view_of(found)}</span>
                {view_of(move || searching().then(|| view! {
                    <button type="button" class="icon-button" aria-label="Previous match" title="Previous match (N)" on:click=mouse(move |_| state.step_match(false))>{icon("up")}</button>
                    <button type="button" class="icon-button" aria-label="Next match" title="Next match (n)" on:click=mouse(move |_| state.step_match(true))>{icon("down")}</button>
                }.into_any()))}
            </div>
            <div class="toolbar-end">
                {view_of(move || state.is_zoomed().then(|| view! {
                    <button type="button" class="button quiet" title="Show the whole trace (0)" on:click=mouse(move |_| state.reset_zoom())>{icon("zoom-out")} "Reset zoom"</button>
                }.into_any()))}
                {view_of(move || only_waterfall().then(|| view! {
                    <button type="button" class="icon-button" aria-label="Collapse all" title="Collapse all"
                        on:click=mouse(move |_| state.collapsed.set(collapse_to_depth(&state.model(), 2)))>{icon("collapse")}</button>
                    <button type="button" class="icon-button" aria-label="Expand all" title="Expand all"
                        on:click=mouse(move |_| state.collapsed.update(|collapsed| collapsed.clear()))>{icon("expand")}</button>
                }.into_any()))}
            </div>
        </div>
    }
    .into_any()
}

/// The whole trace; dragging chooses what the waterfall shows.
#[component]
pub(super) fn Minimap(state: TraceState) -> AnyView {
    let model = state.model();
    let layers = minimap::layers(&model, WIDTH, ROWS)
        .into_iter()
        .map(|layer| {
            let class = layer.service.map_or_else(|| "is-error".to_owned(), |service| state.colour(service));
            view! { <path class=class d=layer.path></path> }.into_any()
        })
        .collect_view();
    let drag = Drag::new();
    let duration = model.duration;
    let full = Viewport::full(duration);
    let shade = move || {
        let viewport = state.viewport.get();
        if viewport == full {
            return None;
        }
        let (from, to) = (full.fraction(viewport.start) * 100.0, full.fraction(viewport.end) * 100.0);
        Some(
            view! {
                <div class="shade" style=format!("left:0;width:{from:.3}%")></div>
                <div class="shade" style=format!("left:{to:.3}%;right:0")></div>
                <div class="window" style=format!("left:{from:.3}%;width:{:.3}%", to - from)></div>
            }
            .into_any(),
        )
    };
    let marks = scale::ticks(full, 6)
        .into_iter()
        .filter(|tick| tick.fraction < 0.95)
        .map(|tick| view! { <span class="minimap-tick num" style=format!("left:{:.3}%", tick.fraction * 100.0)>{tick.label}</span> }.into_any())
        .collect_view();
    view! {
        <div
            class="minimap"
            role="img"
            aria-label="Overview of the trace; drag to zoom"
            on:pointerdown=pointer(move |event| drag.start(&event))
            on:pointermove=pointer(move |event| drag.follow(&event))
            on:pointerup=pointer(move |event| drag.finish(&event, full, state))
            on:pointercancel=pointer(move |_| drag.cancel())
            on:dblclick=mouse(move |_| state.reset_zoom())
        >
            <svg viewBox=format!("0 0 {WIDTH} {ROWS}") preserveAspectRatio="none" aria-hidden="true">{layers}</svg>
            {marks}
            {view_of(shade)}
            {view_of(move || drag.selection())}
        </div>
    }
    .into_any()
}

/// A drag along a time axis: `x` is where it began and `y` where it is, as shares of the width.
#[derive(Clone, Copy)]
pub(super) struct Drag(RwSignal<Option<Spot>>);

impl Drag {
    pub(super) fn new() -> Self {
        Self(RwSignal::new(None))
    }

    pub(super) fn start(self, event: &web_sys::PointerEvent) {
        let Some(element) = browser::current_element(event).filter(|_| event.button() == 0) else {
            return;
        };
        let _ = element.set_pointer_capture(event.pointer_id());
        let at = browser::share_of(event, &element).0.clamp(0.0, 1.0);
        self.0.set(Some(Spot { index: 0, x: at, y: at }));
    }

    pub(super) fn follow(self, event: &web_sys::PointerEvent) {
        if let Some((spot, element)) = self.0.get_untracked().zip(browser::current_element(event)) {
            let y = browser::share_of(event, &element).0.clamp(0.0, 1.0);
            self.0.set(Some(Spot { y, ..spot }));
        }
    }

    /// Zooms to what was dragged over.
    pub(super) fn finish(self, event: &web_sys::PointerEvent, axis: Viewport, state: TraceState) {
        self.follow(event);
        if let Some(Spot { x: from, y: to, .. }) = self.0.get_untracked()
            && (from - to).abs() >= LEAST_DRAG
        {
            state.viewport.set(Viewport::within(state.duration(), axis.time_at(from), axis.time_at(to)));
        }
        self.cancel();
    }

    pub(super) fn cancel(self) {
        self.0.set(None);
    }

    /// The band that is being dragged.
    pub(super) fn selection(self) -> Option<AnyView> {
        let Spot { x: from, y: to, .. } = self.0.get()?;
        let (from, to) = (from.min(to) * 100.0, from.max(to) * 100.0);
        Some(
            view! { <div class="drag" style=format!("left:{from:.3}%;width:{:.3}%", to - from)></div> }
                .into_any(),
        )
    }
}
