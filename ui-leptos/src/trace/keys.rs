//! Keyboard of the trace page.

use infertrace_ui_model::route::Tab;
use infertrace_ui_model::trace::SpanIndex;
use leptos::ev;
use leptos::prelude::*;
use wasm_bindgen::JsCast;

use super::state::TraceState;
use crate::browser;

pub(super) fn install(state: TraceState) {
    let keys = window_event_listener(ev::keydown, move |event| {
        if !browser::is_typing(&event) && on_key(state, &event) {
            event.prevent_default();
        }
    });
    on_cleanup(move || keys.remove());
}

/// Whether the key meant something.
fn on_key(state: TraceState, event: &web_sys::KeyboardEvent) -> bool {
    let key = event.key();
    // Arrows scroll the page and Enter presses buttons, unless the waterfall has the focus.
    let in_waterfall = event
        .target()
        .and_then(|target| target.dyn_into::<web_sys::Element>().ok())
        .is_some_and(|element| element.id() == "waterfall");
    match key.as_str() {
        "/" => browser::focus("span-search"),
        "j" => step(state, 1),
        "k" => step(state, -1),
        "n" => state.step_match(true),
        "N" => state.step_match(false),
        "0" => state.reset_zoom(),
        "+" | "=" => zoom(state, 0.5),
        "-" | "−" => zoom(state, 2.0),
        "t" => {
            state.tab.update(|tab| *tab = if *tab == Tab::Waterfall { Tab::Flame } else { Tab::Waterfall })
        }
        "Escape" if state.selected.get_untracked().is_some() => state.deselect(),
        "ArrowDown" if in_waterfall => step(state, 1),
        "ArrowUp" if in_waterfall => step(state, -1),
        "PageDown" if in_waterfall => step(state, 20),
        "PageUp" if in_waterfall => step(state, -20),
        "Home" if in_waterfall => step(state, i64::MIN),
        "End" if in_waterfall => step(state, i64::MAX),
        "ArrowLeft" if in_waterfall => outward(state),
        "ArrowRight" if in_waterfall => inward(state),
        "Enter" if in_waterfall => browser::focus("span-details"),
        _ => return false,
    }
    true
}

fn step(state: TraceState, by: i64) {
    let next = state.rows.with_untracked(|rows| {
        let last = rows.len() as i64 - 1;
        let here =
            state.selected.get_untracked().and_then(|selected| rows.iter().position(|row| *row == selected));
        let target = match here {
            Some(here) => (here as i64).saturating_add(by).clamp(0, last),
            None if by == i64::MAX => last,
            None => 0,
        };
        usize::try_from(target).ok().and_then(|target| rows.get(target).copied())
    });
    if let Some(next) = next {
        state.select(next);
    }
}

/// Collapses, or goes to the parent of what is collapsed or has no children.
fn outward(state: TraceState) {
    let Some(selected) = state.selected.get_untracked() else {
        return;
    };
    let model = state.model();
    let open = model.node(selected).subtree > 1 && !is_collapsed(state, selected);
    if open {
        state.toggle(selected);
    } else if let Some(parent) = model.node(selected).parent {
        state.select(parent);
    }
}

/// Expands, or goes to the first child.
fn inward(state: TraceState) {
    let Some(selected) = state.selected.get_untracked() else {
        return step(state, 1);
    };
    if is_collapsed(state, selected) {
        state.toggle(selected);
    } else if let Some(child) = state.model().children(selected).first() {
        state.select(*child);
    }
}

fn is_collapsed(state: TraceState, index: SpanIndex) -> bool {
    state.collapsed.with_untracked(|collapsed| collapsed.contains(&index))
}

fn zoom(state: TraceState, factor: f64) {
    let viewport = state.viewport.get_untracked();
    let middle = state.selected.get_untracked().map_or((viewport.start + viewport.end) / 2.0, |index| {
        let model = state.model();
        let node = model.node(index);
        ((node.start + node.end) as f64 / 2.0).clamp(viewport.start, viewport.end)
    });
    state.viewport.set(viewport.scaled(state.duration(), middle, factor));
}
