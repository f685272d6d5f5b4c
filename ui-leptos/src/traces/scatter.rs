//! Latency plot of the listed traces. The table below it says the same in words, so to assistive technology the plot is
//! one image.

use infertrace_ui_model::format;
use infertrace_ui_model::route::Route;
use infertrace_ui_model::scale::Tick;
use infertrace_ui_model::scatter::Scatter;
use infertrace_ui_model::summary::TraceSummary;
use leptos::html;
use leptos::prelude::*;

use super::state::ListState;
use crate::browser;
use crate::erase::{Spot, live, mouse, pointer, view_of};
use crate::router::Router;

/// Pixels within which a point is meant.
const REACH: f64 = 14.0;

#[component]
pub(super) fn ScatterPlot(state: ListState) -> AnyView {
    let router = Router::get();
    let area: NodeRef<html::Div> = NodeRef::new();
    let hovered = RwSignal::new(None::<Spot>);
    let at = move |event: &web_sys::MouseEvent| {
        let area = area.get_untracked()?;
        let bounds = area.get_bounding_client_rect();
        let (x, y) = browser::share_of(event, &area);
        let (width, height) = (bounds.width(), bounds.height());
        let plot = state.traces.with_untracked(|traces| Scatter::build(traces));
        let index = plot.nearest(x * width, y * height, width, height, REACH)?;
        let point = plot.points.get(index)?;
        Some(Spot { index: index as u32, x: point.x, y: point.y })
    };
    let open = move |event: web_sys::MouseEvent| {
        let id = at(&event).and_then(|spot| {
            state
                .traces
                .with_untracked(|list| list.get(spot.index as usize).map(|trace| trace.trace_id.clone()))
        });
        if let Some(id) = id {
            router.go(Route::trace(&id));
        }
    };
    let drawing = move || draw(&state.traces.with(|traces| Scatter::build(traces)));
    let tip = move || {
        let spot = hovered.get()?;
        state
            .traces
            .with(|traces| traces.get(spot.index as usize).map(|trace| tooltip(trace, spot.x, spot.y)))
    };
    let summary = move || {
        state.traces.with(|traces| format!("Plot of start time against duration of {} traces", traces.len()))
    };
    view! {
        <figure class="plot" role="img" aria-label=live(summary)>
            <div
                class="plot-area"
                class:is-pointing=live(move || hovered.get().is_some())
                node_ref=area
                on:pointermove=pointer(move |event| hovered.set(at(&event)))
                on:pointerleave=pointer(move |_| hovered.set(None))
                on:click=mouse(open)
            >
                {view_of(drawing)}
                {view_of(tip)}
            </div>
        </figure>
    }
    .into_any()
}

fn draw(plot: &Scatter) -> AnyView {
    let path = |error: bool| {
        plot.points
            .iter()
            .filter(|point| point.error == error)
            .map(|point| format!("M{:.1} {:.1}h0", point.x * 1_000.0, (1.0 - point.y) * 1_000.0))
            .collect::<String>()
    };
    let mark = |class: &'static str, side: &str, tick: Tick| {
        let style = format!("{side}:{:.2}%", tick.fraction * 100.0);
        view! { <div class=class style=style><span>{tick.label}</span></div> }.into_any()
    };
    let rows = plot.axis.ticks(5).into_iter().map(|tick| mark("plot-row", "bottom", tick)).collect_view();
    let columns = plot
        .time_ticks(6, browser::offset_minutes(plot.end_ms))
        .into_iter()
        .map(|tick| mark("plot-column", "left", tick))
        .collect_view();
    view! {
        {rows}
        {columns}
        <svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">
            <path class="points" d=path(false)></path>
            <path class="points is-error" d=path(true)></path>
        </svg>
    }
    .into_any()
}

fn tooltip(trace: &TraceSummary, x: f64, y: f64) -> AnyView {
    let place = format!("left:{:.2}%;bottom:{:.2}%", x * 100.0, y * 100.0);
    let side = if x > 0.6 { "plot-tip is-left" } else { "plot-tip" };
    let start = trace.start_unix_nano.0;
    let when = format::absolute(start, browser::offset_minutes(start / 1_000_000));
    view! {
        <div class="plot-mark" class:is-error=trace.is_error() style=place.clone()></div>
        <div class=side class:is-low={y < 0.5} style=place>
            <strong>{trace.root_operation.clone()}</strong>
            <span>{trace.root_service.clone()}</span>
            <span class="num">{format!("{} · {} spans", format::duration(trace.duration_nano.0), format::count(trace.span_count))}</span>
            <span class="muted num">{when}</span>
        </div>
    }
    .into_any()
}
