//! Latency plot of the listed traces. The table below it says the same in words, so to assistive technology the plot is
//! one image.

use std::sync::Arc;

use infertrace_ui_model::filter::TimeRange;
use infertrace_ui_model::format;
use infertrace_ui_model::route::Route;
use infertrace_ui_model::scatter::Scatter;
use infertrace_ui_model::summary::TraceSummary;
use leptos::html;
use leptos::prelude::*;

use super::state::ListState;
use crate::browser;
use crate::parts::Now;
use crate::router::Router;

/// Pixels within which a point is meant.
const REACH: f64 = 14.0;

#[component]
pub(super) fn ScatterPlot(state: ListState) -> AnyView {
    let router = Router::get();
    let now: Now = expect_context();
    let area: NodeRef<html::Div> = NodeRef::new();
    let hovered = RwSignal::new(None::<usize>);
    let plot = Memo::new(move |_| {
        let until = state
            .filter
            .with(|filter| matches!(filter.range, TimeRange::Preset(_)))
            .then(|| now.0.get_untracked());
        Arc::new(state.traces.with(|traces| Scatter::build(traces, until)))
    });
    let at = move |event: &web_sys::MouseEvent| {
        let area = area.get_untracked()?;
        let bounds = area.get_bounding_client_rect();
        let (x, y) = browser::share_of(event, &area);
        let (width, height) = (bounds.width(), bounds.height());
        plot.with_untracked(|plot| plot.nearest(x * width, y * height, width, height, REACH))
    };
    let open = move |event: web_sys::MouseEvent| {
        let id = at(&event).and_then(|index| {
            state.traces.with_untracked(|list| list.get(index).map(|t| t.trace_id.clone()))
        });
        if let Some(id) = id {
            router.go(Route::trace(&id));
        }
    };
    let drawing = move || {
        plot.with(|plot| {
            let path = |error: bool| {
                plot.points
                    .iter()
                    .filter(|point| point.error == error)
                    .map(|point| format!("M{:.1} {:.1}h0", point.x * 1_000.0, (1.0 - point.y) * 1_000.0))
                    .collect::<String>()
            };
            view! {
                <svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">
                    <path class="points" d=path(false)></path>
                    <path class="points is-error" d=path(true)></path>
                </svg>
            }
        })
    };
    let rows = move || {
        plot.with(|plot| {
            plot.axis
                .ticks(5)
                .into_iter()
                .map(|tick| view! { <div class="plot-row" style=format!("bottom:{:.2}%", tick.fraction * 100.0)><span>{tick.label}</span></div> })
                .collect_view()
        })
    };
    let columns = move || {
        plot.with(|plot| {
            plot.time_ticks(6, browser::offset_minutes(plot.end_ms))
                .into_iter()
                .map(|tick| view! { <div class="plot-column" style=format!("left:{:.2}%", tick.fraction * 100.0)><span>{tick.label}</span></div> })
                .collect_view()
        })
    };
    let tip = move || {
        let index = hovered.get()?;
        let point = plot.with(|plot| plot.points.get(index).cloned())?;
        state.traces.with(|traces| traces.get(index).map(|trace| tooltip(trace, point.x, point.y)))
    };
    let summary = move || {
        state.traces.with(|traces| format!("Plot of start time against duration of {} traces", traces.len()))
    };
    view! {
        <figure class="plot" role="img" aria-label=summary>
            <div
                class="plot-area"
                class:is-pointing=move || hovered.get().is_some()
                node_ref=area
                on:pointermove=move |event| hovered.set(at(&event))
                on:pointerleave=move |_| hovered.set(None)
                on:click=open
            >
                {rows}
                {columns}
                {drawing}
                {tip}
            </div>
        </figure>
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
