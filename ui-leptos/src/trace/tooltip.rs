//! What a row shows under the pointer: times, and what the device, the queue and the batch were like. The details say
//! all of it and more, so it is hidden from assistive technology.

use infertrace_ui_model::api::{Fields, Span};
use infertrace_ui_model::format;
use leptos::prelude::*;

use super::state::TraceState;
use crate::erase::view_of;

#[component]
pub(super) fn Tooltip(state: TraceState) -> AnyView {
    let body = move || {
        let hover = state.hover.get()?;
        let model = state.model();
        let node = model.node(hover.index);
        let span = model.span(hover.index);
        let mut lines: Vec<(&'static str, String)> = vec![
            ("Duration", format::duration(node.end - node.start)),
            ("Self time", format::duration(node.self_time)),
            ("Starts at", format::duration(node.start)),
        ];
        let critical: i64 =
            model.critical_segments(hover.index).iter().map(|segment| segment.end - segment.start).sum();
        if critical > 0 {
            lines.push(("Critical", format::duration(critical)));
        }
        if let Some(stage) = model.stage(hover.index) {
            lines.push(("Stage", stage.to_owned()));
        }
        lines.extend(conditions(span));
        let width = f64::from(document().document_element().map_or(1_280, |root| root.client_width()));
        let height = f64::from(document().document_element().map_or(800, |root| root.client_height()));
        let (x, y) = (hover.x, hover.y);
        let across = if x > width - 340.0 {
            format!("right:{}px", width - x + 14.0)
        } else {
            format!("left:{}px", x + 14.0)
        };
        let down = if y > height - 280.0 {
            format!("bottom:{}px", height - y + 14.0)
        } else {
            format!("top:{}px", y + 16.0)
        };
        let class = format!("tooltip {}", state.colour(node.service));
        let rows = lines
            .into_iter()
            .map(|(label, value)| view! { <dt>{label}</dt><dd class="num">{value}</dd> }.into_any())
            .collect_view();
        Some(view! {
            <div class=class style=format!("{across};{down}") aria-hidden="true">
                <p class="tooltip-title"><span class="swatch"></span><strong>{span.operation.clone()}</strong></p>
                <p class="muted">{span.service.clone()}</p>
                <dl>{rows}</dl>
            </div>
        }.into_any())
    };
    view! { {view_of(body)} }.into_any()
}

/// Queue, batch, cache and device while the span ran.
fn conditions(span: &Span) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    let number =
        |group: &Option<Fields>, name: &str| group.as_ref().and_then(|fields| fields.number(&[name]));
    let wait = number(&span.queue, "wait_time_ms").map(|millis| format::duration((millis * 1e6) as i64));
    let depth = number(&span.queue, "depth").map(|depth| format!("depth {depth:.0}"));
    push(&mut out, "Queue", [wait, depth]);
    let size = number(&span.batch, "size").map(|size| match number(&span.batch, "max_size") {
        Some(most) => format!("{size:.0} of {most:.0}"),
        None => format!("{size:.0}"),
    });
    let fill = number(&span.batch, "fill_ratio").map(|fill| format!("{} full", format::percent(fill)));
    push(&mut out, "Batch", [size, fill]);
    let hit = number(&span.cache, "hit_ratio").map(|ratio| format!("{} hit", format::percent(ratio)));
    let usage =
        number(&span.cache, "kv_usage_ratio").map(|ratio| format!("KV {} used", format::percent(ratio)));
    push(&mut out, "Cache", [hit, usage]);
    let busy = number(&span.gpu, "utilization_percent")
        .map(|busy| format!("{} busy", format::percent(busy / 100.0)));
    let memory = number(&span.gpu, "memory_used_bytes").map(format::bytes);
    push(&mut out, "GPU", [busy, memory]);
    out
}

fn push(out: &mut Vec<(&'static str, String)>, label: &'static str, parts: [Option<String>; 2]) {
    let words: Vec<String> = parts.into_iter().flatten().collect();
    if !words.is_empty() {
        out.push((label, words.join(", ")));
    }
}
