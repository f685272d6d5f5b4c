//! The waterfall: only rows on screen exist in the document.
//!
//! The scroller holds a spacer as tall as all rows; rows are placed in it by their number. Scrolling changes one signal,
//! and the keyed list adds and removes the few rows at the edges.

use infertrace_ui_model::scale;
use infertrace_ui_model::trace::SpanIndex;
use infertrace_ui_model::waterfall::{row_window, scroll_to};
use leptos::html;
use leptos::prelude::*;
use wasm_bindgen::closure::Closure;
use wasm_bindgen::{JsCast, JsValue};

use super::overview::Drag;
use super::row::row;
use super::state::TraceState;
use crate::browser;
use crate::erase::{Entry, list_of, live, mouse, plain, pointer, view_of, wheel};

/// Height of a row in pixels; the style sheet has the same number.
const ROW: f64 = 28.0;
/// Rows beyond the screen's edges.
const OVERSCAN: usize = 10;

#[component]
pub(super) fn Waterfall(state: TraceState) -> AnyView {
    let scroller: NodeRef<html::Div> = NodeRef::new();
    let scroll_top = RwSignal::new(0_i64);
    let height = RwSignal::new(600_i64);
    watch_height(scroller, height);
    let window = Memo::new(move |_| {
        let rows = state.rows.with(|rows| rows.len());
        let window = row_window(scroll_top.get() as f64, height.get() as f64, ROW, rows, OVERSCAN);
        // Steps of four rows: scrolling by a pixel changes nothing, and a step is one update.
        (window.start / 4 * 4, window.end.div_ceil(4).saturating_mul(4).min(rows))
    });
    let on_screen = move || {
        let (from, to) = window.get();
        let entry = |(place, index): (usize, &SpanIndex)| {
            let (place, index) = (from + place, *index);
            let key = (place as u64) << 32 | u64::from(index);
            Entry { key, draw: Box::new(move || row(state, place, index, ROW)) }
        };
        state.rows.with(|rows| rows.get(from..to).unwrap_or_default().iter().enumerate().map(entry).collect())
    };
    Effect::new(move |_| {
        let Some((target, scroller)) = state.reveal.get().zip(scroller.get()) else {
            return;
        };
        let place = state.rows.with_untracked(|rows| rows.iter().position(|row| *row == target));
        let seen = f64::from(scroller.client_height());
        if let Some(top) =
            place.and_then(|place| scroll_to(place, f64::from(scroller.scroll_top()), seen, ROW))
        {
            scroller.set_scroll_top(top as i32);
        }
        state.reveal.set(None);
    });
    let zoom_by_wheel = move |event: web_sys::WheelEvent| {
        let element = browser::current_element(&event);
        if let Some(element) = element.filter(|_| event.ctrl_key() || event.meta_key()) {
            event.prevent_default();
            let names = element
                .query_selector(".ruler-names")
                .ok()
                .flatten()
                .map_or(0.0, |names| names.get_bounding_client_rect().width());
            let area = element.get_bounding_client_rect();
            let at = ((f64::from(event.client_x()) - area.left() - names) / (area.width() - names).max(1.0))
                .clamp(0.0, 1.0);
            let factor = (event.delta_y() / 300.0).clamp(-1.0, 1.0).exp();
            state.viewport.update(|viewport| {
                *viewport = viewport.scaled(state.duration(), viewport.time_at(at), factor)
            });
        }
    };
    let lines = move || {
        scale::ticks(state.viewport.get(), 6)
            .into_iter()
            .map(|tick| view! { <i style=format!("left:{:.3}%", tick.fraction * 100.0)></i> }.into_any())
            .collect_view()
    };
    view! {
        <div class="waterfall" id="trace-panel" role="tabpanel" aria-labelledby="tab-waterfall">
            <div
                class="scroller"
                id="waterfall"
                node_ref=scroller
                tabindex="0"
                role="treegrid"
                aria-label="Spans"
                aria-rowcount=live(move || state.rows.with(|rows| rows.len() + 1).to_string())
                aria-activedescendant=live(move || state.selected.get().map(|index| format!("span-row-{index}")))
                on:scroll=plain(move |event| scroll_top.set(browser::current_element(&event).map_or(0, |element| i64::from(element.scroll_top()))))
                on:wheel=wheel(zoom_by_wheel)
                on:pointerleave=pointer(move |_| state.hover.set(None))
            >
                <Ruler state=state/>
                <div class="rows" role="rowgroup" style=live(move || format!("height:{}px", state.rows.with(|rows| rows.len()) as f64 * ROW))>
                    <div class="lines" aria-hidden="true">{view_of(lines)}</div>
                    {list_of(on_screen)}
                </div>
            </div>
            <div class="legend" aria-hidden="true">
                <span><i class="legend-own"></i>"self time"</span>
                <span><i class="legend-children"></i>"in children"</span>
                <span><i class="legend-critical"></i>"critical path"</span>
                <span><i class="legend-event"></i>"event"</span>
                <span class="legend-hint">"Drag the ruler or the overview to zoom"</span>
            </div>
        </div>
    }
    .into_any()
}

#[component]
fn Ruler(state: TraceState) -> AnyView {
    let drag = Drag::new();
    let marks = move || {
        scale::ticks(state.viewport.get(), 6)
            .into_iter()
            .map(|tick| view! { <span class="num" class:is-last={tick.fraction > 0.9} style=format!("left:{:.3}%", tick.fraction * 100.0)>{tick.label}</span> }.into_any())
            .collect_view()
    };
    view! {
        <div class="ruler" role="row">
            <div class="ruler-names" role="columnheader">"Span"</div>
            <div
                class="ruler-times"
                role="columnheader"
                aria-label="Time"
                on:pointerdown=pointer(move |event| drag.start(&event))
                on:pointermove=pointer(move |event| drag.follow(&event))
                on:pointerup=pointer(move |event| drag.finish(&event, state.viewport.get_untracked(), state))
                on:pointercancel=pointer(move |_| drag.cancel())
                on:dblclick=mouse(move |_| state.reset_zoom())
            >
                {view_of(marks)}
                {view_of(move || drag.selection())}
            </div>
        </div>
    }
    .into_any()
}

/// Follows the scroller's height, which the window, the details and the header change.
fn watch_height(scroller: NodeRef<html::Div>, height: RwSignal<i64>) {
    Effect::new(move |_| {
        let Some(scroller) = scroller.get() else {
            return;
        };
        let observed = scroller.clone();
        let on_resize = Closure::<dyn FnMut(JsValue)>::new(move |_| {
            let now = i64::from(observed.client_height());
            if height.try_get_untracked().is_some_and(|known| known != now) {
                height.set(now);
            }
        });
        let Ok(observer) = web_sys::ResizeObserver::new(on_resize.as_ref().unchecked_ref()) else {
            return;
        };
        observer.observe(&scroller);
        let keep = StoredValue::new_local((observer, on_resize));
        on_cleanup(move || {
            let _ = keep.try_with_value(|(observer, _)| observer.disconnect());
        });
    });
}
