//! A row of the waterfall.

use std::fmt::Write;

use infertrace_ui_model::format;
use infertrace_ui_model::scale::Viewport;
use infertrace_ui_model::trace::{SpanIndex, TraceModel};
use infertrace_ui_model::waterfall::row_bars;
use leptos::attr::custom::custom_attribute;
use leptos::prelude::*;

use super::state::TraceState;
use crate::erase::{Spot, live, mouse, pointer, view_of};
use crate::parts::icon;

/// Levels that are indented; deeper spans line up with the deepest of these.
const MOST_INDENT: u32 = 24;

pub(super) fn row(state: TraceState, place: usize, index: SpanIndex, height: f64) -> AnyView {
    let model = state.model();
    let node = model.node(index);
    let span = model.span(index);
    let children = node.subtree - 1;
    let is_collapsed = move || state.collapsed.with(|collapsed| collapsed.contains(&index));
    let error = span.is_error();
    let hidden_errors = node.errors_below;
    let class = format!("row {}", state.colour(node.service));
    let style =
        format!("transform:translateY({}px);--depth:{}", place as f64 * height, node.depth.min(MOST_INDENT));
    let caret = (children > 0).then(|| {
        view! {
            <button
                type="button"
                class="caret"
                tabindex="-1"
                aria-label=live(move || if is_collapsed() { "Expand" } else { "Collapse" })
                on:click=mouse(move |event| {
                    event.stop_propagation();
                    state.toggle(index);
                })
            >
                {icon("caret")}
            </button>
        }
        .into_any()
    });
    let count = move || {
        (children > 0 && is_collapsed()).then(|| {
            let failed = hidden_errors > 0;
            view! { <span class="hidden-count num" class:is-error=failed>{format!("+{}", format::compact(u64::from(children)))}</span> }.into_any()
        })
    };
    let bars_model = model.clone();
    let bars = move || bars_html(&bars_model, index, state.viewport.get());
    let point = move |event: web_sys::PointerEvent| {
        if event.pointer_type() == "mouse" {
            state.hover.set(Some(Spot {
                index,
                x: f64::from(event.client_x()),
                y: f64::from(event.client_y()),
            }));
        }
    };
    view! {
        <div
            class=class
            class:is-selected=live(move || state.selected.get() == Some(index))
            class:is-match=live(move || state.is_match(index))
            class:is-error=error
            class:is-critical=node.critical
            class:is-collapsed=live(is_collapsed)
            id=format!("span-row-{index}")
            role="row"
            {..custom_attribute("aria-level", (node.depth + 1).to_string())}
            aria-rowindex=(place + 2).to_string()
            aria-selected=live(move || (state.selected.get() == Some(index)).to_string())
            aria-expanded=live(move || (children > 0).then(|| (!is_collapsed()).to_string()))
            style=style
            on:click=mouse(move |_| state.select(index))
            on:dblclick=mouse(move |_| state.toggle(index))
            on:pointermove=pointer(point)
        >
            <div class="name" role="gridcell">
                <span class="indent"></span>
                {caret}
                <span class="swatch"></span>
                {error.then(|| view! { <span class="error-mark">{icon("alert")}<span class="visually-hidden">"failed"</span></span> }.into_any())}
                <span class="operation">{span.operation.clone()}</span>
                {node.orphan.then(|| view! { <span class="orphan" title="Its parent is not in this trace">{icon("partial")}<span class="visually-hidden">"without its parent"</span></span> }.into_any())}
                <span class="row-service">{span.service.clone()}</span>
                {view_of(count)}
            </div>
            <div class="time" role="gridcell" aria-label=label(&model, index) inner_html=live(bars)></div>
        </div>
    }
    .into_any()
}

fn label(model: &TraceModel, index: SpanIndex) -> String {
    let node = model.node(index);
    let critical = if node.critical { ", on the critical path" } else { "" };
    format!(
        "{} at {}, self time {}{critical}",
        format::duration(node.end - node.start),
        format::duration(node.start),
        format::duration(node.self_time)
    )
}

/// The bars as markup. Only numbers go in, so there is nothing to escape.
fn bars_html(model: &TraceModel, index: SpanIndex, viewport: Viewport) -> String {
    let Some(bars) = row_bars(model, index, viewport) else {
        let node = model.node(index);
        let before = (node.end as f64) < viewport.start;
        return format!("<span class=\"beyond {}\"></span>", if before { "is-before" } else { "is-after" });
    };
    let mut out = String::with_capacity(256);
    let _ = write!(out, "<i class=\"bar\" style=\"{}\"></i>", bars.whole.style());
    for own in &bars.own {
        let _ = write!(out, "<i class=\"own\" style=\"{}\"></i>", own.style());
    }
    for critical in &bars.critical {
        let _ = write!(out, "<i class=\"critical\" style=\"{}\"></i>", critical.style());
    }
    for event in &bars.events {
        let _ = write!(out, "<i class=\"event\" style=\"left:{event:.3}%\"></i>");
    }
    let node = model.node(index);
    let duration = format::duration(node.end - node.start);
    let (class, side, at) = if bars.label_right {
        ("length", "left", bars.whole.left + bars.whole.width)
    } else if bars.whole.left > 14.0 {
        ("length", "right", 100.0 - bars.whole.left)
    } else {
        ("length is-inside", "right", 0.0)
    };
    let _ = write!(out, "<span class=\"{class}\" style=\"{side}:{at:.3}%\">{duration}</span>");
    out
}
