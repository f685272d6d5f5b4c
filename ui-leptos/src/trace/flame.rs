//! Flame graph by self time, and the operations with the most of it.

use std::sync::Arc;

use infertrace_ui_model::flame::Flame;
use infertrace_ui_model::format;
use infertrace_ui_model::route::Tab;
use leptos::prelude::*;

use super::state::TraceState;
use crate::erase::{live, mouse, view_of};
use crate::parts::icon;

/// Height of a level in pixels.
const LEVEL: u32 = 24;
/// Least share of the width that is drawn.
const NARROWEST: f64 = 0.0012;
const MOST_HOT: usize = 12;

#[component]
pub(super) fn FlameGraph(state: TraceState) -> AnyView {
    let model = state.model();
    let flame = Arc::new(Flame::build(&model));
    let focus = RwSignal::new(None::<u32>);
    let total = flame.total;
    let ratio = total as f64 / (model.duration as f64).max(1.0);
    let parallelism = format!(
        "{} of self time in {} of the clock: {}× parallel",
        format::duration(total),
        format::duration(model.duration),
        format::significant(ratio)
    );
    let drawn = flame.clone();
    let frames = move || {
        let focus_now = focus.get().map(|place| place as usize);
        let mut deepest = 0;
        let frames = drawn
            .frames
            .iter()
            .enumerate()
            .filter_map(|(place, frame)| {
                let (left, width) = drawn.extent(place, focus_now)?;
                if width < NARROWEST {
                    return None;
                }
                deepest = deepest.max(frame.depth);
                let share = format::percent(frame.total as f64 / total.max(1) as f64);
                let spans = if frame.count > 1 { format!(" · {} spans", format::count(u64::from(frame.count))) } else { String::new() };
                let title = format!(
                    "{}\n{} · self {}{spans}\n{share} of all self time",
                    frame.operation,
                    format::duration(frame.total),
                    format::duration(frame.own)
                );
                let class = format!("frame {}", state.colour(frame.service));
                let style = format!("left:{:.3}%;width:{:.3}%;top:{}px", left * 100.0, width * 100.0, frame.depth * LEVEL);
                let name = frame.operation.to_lowercase();
                let dimmed = move || state.search.with(|search| !search.split_whitespace().all(|word| name.contains(&word.to_lowercase())));
                Some(view! {
                    <button type="button" class=class class:is-error={frame.errors > 0} class:is-dimmed=live(dimmed) style=style title=title
                        on:click=mouse(move |_| focus.update(|focus| *focus = (*focus != Some(place as u32)).then_some(place as u32)))>
                        {(width > 0.02).then(|| view! { <span>{frame.operation.clone()}</span> }.into_any())}
                        {(width > 0.12).then(|| view! { <span class="num frame-time">{format::duration(frame.total)}</span> }.into_any())}
                    </button>
                }.into_any())
            })
            .collect_view();
        let height = format!("height:{}px", (deepest + 1) * LEVEL);
        view! { <div class="flame-frames" style=height>{frames}</div> }.into_any()
    };
    let hottest = flame
        .hottest(MOST_HOT)
        .into_iter()
        .map(|hot| {
            let class = format!("hot-name {}", state.colour(hot.service));
            let share = hot.own as f64 / total.max(1) as f64;
            let example = hot.example;
            view! {
                <tr>
                    <th scope="row">
                        <button type="button" class=class title="Show its longest span" on:click=mouse(move |_| {
                            state.tab.set(Tab::Waterfall);
                            state.select(example);
                        })>
                            <span class="swatch"></span><span>{hot.operation}</span>
                        </button>
                    </th>
                    <td class="num">{format::duration(hot.own)}</td>
                    <td class="num">{format::percent(share)}</td>
                    <td class="num">{format::count(u64::from(hot.count))}</td>
                </tr>
            }.into_any()
        })
        .collect_view();
    view! {
        <div class="flame" id="trace-panel" role="tabpanel" aria-labelledby="tab-flame">
            <div class="flame-head">
                <p>{parallelism}</p>
                {view_of(move || focus.get().is_some().then(|| view! {
                    <button type="button" class="button quiet" on:click=mouse(move |_| focus.set(None))>{icon("zoom-out")} "Whole graph"</button>
                }.into_any()))}
            </div>
            {view_of(frames)}
            <section class="hottest">
                <h2>"Most self time"</h2>
                <div class="table-scroll" tabindex="0" role="region" aria-label="Operations with the most self time">
                <table>
                    <thead><tr><th scope="col">"Operation"</th><th scope="col">"Self time"</th><th scope="col">"Share"</th><th scope="col">"Spans"</th></tr></thead>
                    <tbody>{hottest}</tbody>
                </table>
                </div>
            </section>
        </div>
    }
    .into_any()
}
