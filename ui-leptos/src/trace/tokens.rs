//! Token timeline of a span: one bar a token, its height the time since the token before; the batch as a line.

use std::fmt::Write;
use std::sync::Arc;

use crate::erase::{Spot, pointer, view_of};
use infertrace_ui_model::format;
use infertrace_ui_model::tokens::{Column, Timeline};
use leptos::prelude::*;

/// Columns of the chart at most; more tokens share one.
const MOST_COLUMNS: usize = 340;

pub(super) fn chart(timeline: Timeline) -> AnyView {
    let micros = |micros: f64| format::duration((micros * 1e3) as i64);
    let columns = timeline.columns(MOST_COLUMNS);
    let count = timeline.tokens.len();
    let figures = [
        ("First", micros(f64::from(timeline.first))),
        ("Median", micros(f64::from(timeline.p50))),
        ("p99", micros(f64::from(timeline.p99))),
        ("Max", micros(f64::from(timeline.max))),
        ("Rate", format!("{}\u{a0}tok/s", format::significant(timeline.per_second))),
    ];
    let figures = figures
        .into_iter()
        .map(|(label, value)| view! { <div><dt>{label}</dt><dd class="num">{value}</dd></div> }.into_any())
        .collect_view();
    if columns.is_empty() {
        return view! { <dl class="token-figures">{figures}</dl> }.into_any();
    }
    let marks = timeline
        .marks()
        .into_iter()
        .map(|mark| {
            let style = format!("bottom:{:.2}%", mark / timeline.top * 100.0);
            view! { <div class="plot-row" style=style><span>{micros(mark)}</span></div> }.into_any()
        })
        .collect_view();
    let steady = bars(&columns, false);
    let stalls = bars(&columns, true);
    let batch = batch_line(&columns);
    let batch_words = (timeline.max_batch > 0).then(|| view! { <span><i class="legend-batch"></i>{format!("batch size, up to {}", timeline.max_batch)}</span> }.into_any());
    let has_stalls = !stalls.is_empty();
    let summary = format!(
        "Latency of {count} tokens: median {}, 99th percentile {}",
        micros(f64::from(timeline.p50)),
        micros(f64::from(timeline.p99))
    );
    let timeline = Arc::new(timeline);
    let starts: Vec<u32> = columns.iter().map(|column| column.from as u32).collect();
    let hovered = RwSignal::new(None::<Spot>);
    let find = move |event: &web_sys::PointerEvent| {
        let element = crate::browser::current_element(event)?;
        let x = crate::browser::share_of(event, &element).0.clamp(0.0, 0.999_9);
        let index = starts.get((x * starts.len() as f64) as usize).copied()?;
        Some(Spot { index, x, y: 0.0 })
    };
    let reading = move || {
        let Spot { index, x: at, .. } = hovered.get()?;
        let token = timeline.tokens.get(index as usize)?;
        let batch = token.batch_size.map(|batch| format!(" · batch {batch}")).unwrap_or_default();
        let words = format!("token {} · {}{batch}", index + 1, micros(f64::from(token.itl_micros)));
        Some(
            view! { <div class="reading num" class:is-left={at > 0.5} style=format!("left:{:.2}%", at * 100.0)>{words}</div> }.into_any(),
        )
    };
    view! {
        <dl class="token-figures">{figures}</dl>
        <div class="token-chart" role="img" aria-label=summary
            on:pointermove=pointer(move |event| hovered.set(find(&event))) on:pointerleave=pointer(move |_| hovered.set(None))>
            {marks}
            <svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">
                <path class="token" d=steady></path>
                <path class="token is-stall" d=stalls></path>
                <path class="batch" d=batch></path>
            </svg>
            {view_of(reading)}
        </div>
        <p class="legend">
            <span><i class="legend-token"></i>"time since the token before"</span>
            {has_stalls.then(|| view! { <span><i class="legend-stall"></i>"stall"</span> }.into_any())}
            {batch_words}
        </p>
    }
    .into_any()
}

fn bars(columns: &[Column], stalls: bool) -> String {
    let width = 1_000.0 / columns.len() as f64;
    let gap = if columns.len() < 160 { width * 0.2 } else { 0.0 };
    let mut out = String::new();
    for (place, column) in columns.iter().enumerate().filter(|(_, column)| column.stall == stalls) {
        let height = (column.high * 1_000.0).max(4.0);
        let left = place as f64 * width + gap / 2.0;
        let _ = write!(out, "M{left:.1} 1000v{:.1}h{:.2}v{height:.1}z", -height, width - gap);
    }
    out
}

fn batch_line(columns: &[Column]) -> String {
    let width = 1_000.0 / columns.len() as f64;
    let mut out = String::new();
    for (place, column) in columns.iter().enumerate() {
        let Some(batch) = column.batch else {
            continue;
        };
        let (left, y) = (place as f64 * width, 985.0 - batch * 960.0);
        let _ = write!(out, "{}{left:.1} {y:.1}H{:.1}", if out.is_empty() { 'M' } else { 'L' }, left + width);
    }
    out
}
