//! The trace in a few figures: what it was, how long it took, where the time went, whether it is whole.

use infertrace_ui_model::api::Nanos;
use infertrace_ui_model::cost::unknown;
use infertrace_ui_model::critical;
use infertrace_ui_model::format;
use infertrace_ui_model::insight::strip;
use infertrace_ui_model::summary::stage_class;
use infertrace_ui_model::trace::TraceModel;
use leptos::prelude::*;

use super::state::TraceState;
use crate::browser;
use crate::erase::{live, mouse};
use crate::parts::{Colours, CopyButton, icon, region, service_tag};
use crate::router::Router;

/// Parts of the critical path that are named; the rest is summed up.
const MOST_SHARES: usize = 6;

#[component]
pub(super) fn Header(state: TraceState, reload: Callback<()>) -> AnyView {
    let model = state.model();
    let router = Router::get();
    let root = model.main_root();
    let name = root.map_or_else(String::new, |root| model.span(root).operation.clone());
    let service = root.map(|root| service_tag(&model.span(root).service));
    let id = model.detail.trace_id.clone();
    let short = id.get(..8).unwrap_or(&id).to_owned();
    let failed = model.errors > 0;
    view! {
        <header class="trace-header">
            <div class="trace-title">
                <nav aria-label="Breadcrumb" class="crumbs">
                    <a href=live(move || router.list_url())>"Traces"</a>
                    <span aria-hidden="true">"/"</span>
                    <span class="mono" title=id.clone()>{short}</span>
                    <CopyButton text=id.clone() label="Copy the trace id"/>
                    <button type="button" class="icon-button" title="Load the trace again" aria-label="Load the trace again"
                        on:click=mouse(move |_| reload.run(()))>{icon("refresh")}</button>
                </nav>
                <h1>
                    {service}
                    <span class="trace-name">{name}</span>
                    {failed.then(|| view! { <span class="badge is-error">{icon("alert")} "Failed"</span> }.into_any())}
                </h1>
            </div>
            {strip(&model.detail.insights).map(|found| region("", move || found.clone()))}
            {figures(&model)}
            {completeness(&model)}
            {path_shares(&model)}
        </header>
    }
    .into_any()
}

fn figure(label: &'static str, value: AnyView, title: String) -> AnyView {
    view! { <div class="figure" title=title><dt>{label}</dt><dd class="num">{value}</dd></div> }.into_any()
}

fn figures(model: &TraceModel) -> AnyView {
    let start = model.start_unix_nano;
    let offset = browser::offset_minutes(start / 1_000_000);
    let absolute = format::absolute(start, offset);
    let mut out = vec![
        figure(
            "Duration",
            format::duration(model.duration).into_any(),
            format!("{} ns", format::count(model.duration.unsigned_abs())),
        ),
        figure("Started", absolute.clone().into_any(), format!("{absolute} {}", format::zone(offset))),
        figure("Spans", spans(model), String::new()),
        figure("Services", model.services.len().to_string().into_any(), service_list(model)),
    ];
    let detail = &model.detail;
    if detail.input_tokens.is_some() || detail.output_tokens.is_some() {
        let side = |tokens: Option<Nanos>| {
            tokens.map_or("–".to_owned(), |tokens| format::count(tokens.0.unsigned_abs()))
        };
        let (input, output) = (side(detail.input_tokens), side(detail.output_tokens));
        let cached =
            detail.cached_tokens.map(|_| format!(" ({} from the cache)", side(detail.cached_tokens)));
        let title = format!("{input} input{}, {output} output tokens", cached.unwrap_or_default());
        out.push(figure(
            "Tokens",
            view! { {input} <span class="muted">" → "</span> {output} }.into_any(),
            title,
        ));
    }
    out.extend(cost(model));
    if let Some(ttft) = detail.ttft_nano {
        let title = if detail.ttft_measured == Some(false) {
            "Derived from queue and prefill spans"
        } else {
            "As reported"
        };
        let value = ttft_split(ttft, detail.ttft_queue_nano, detail.ttft_prefill_nano);
        out.push(figure("Time to first token", value, title.to_owned()));
    }
    if let Some(first) = detail.models.first() {
        out.push(figure("Model", first.clone().into_any(), detail.models.join("\n")));
    }
    if !model.detail.tiers.is_empty() {
        out.push(figure(
            "Stored",
            model.detail.tiers.join(" + ").into_any(),
            "Which tiers hold spans of this trace".to_owned(),
        ));
    }
    view! { <dl class="figures">{out}</dl> }.into_any()
}

/// What the trace cost, never without what kind of figure that is.
fn cost(model: &TraceModel) -> Option<AnyView> {
    let detail = &model.detail;
    let Some(cost) = &detail.cost else {
        let reason = unknown(&detail.models, detail.output_tokens)?;
        return Some(figure("Cost", "–".into_any(), reason.to_owned()));
    };
    let value =
        view! { {cost.amount()} <span class="figure-note">{format!(" {}", cost.note())}</span> }.into_any();
    Some(figure("Cost", value, cost.basis_text()))
}

fn spans(model: &TraceModel) -> AnyView {
    let failed = (model.errors > 0).then(|| view! { <span class="errors">{format!(" {} failed", format::count(u64::from(model.errors)))}</span> }.into_any());
    view! { {format::count(model.spans.len() as u64)} {failed} }.into_any()
}

fn service_list(model: &TraceModel) -> String {
    let lines = model.services.iter().map(|part| {
        format!(
            "{}: {} spans, self time {}",
            part.name,
            format::count(u64::from(part.spans)),
            format::duration(part.self_time)
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn ttft_split(ttft: Nanos, queue: Option<Nanos>, prefill: Option<Nanos>) -> AnyView {
    let parts = [("queue", "stage-queue", queue), ("prefill", "stage-prefill", prefill)];
    let split = parts.iter().any(|part| part.2.is_some()).then(|| {
        let words = parts
            .iter()
            .filter_map(|(name, class, time)| {
                let time = (*time)?;
                Some(view! { <span class="ttft-part"><i class=*class></i>{format!("{name} {}", format::duration(time.0))}</span> }.into_any())
            })
            .collect_view();
        view! { <span class="ttft-split">{words}</span> }.into_any()
    });
    view! { {format::duration(ttft.0)} {split} }.into_any()
}

/// Says whether the trace is whole, and if not, why.
fn completeness(model: &TraceModel) -> AnyView {
    let clocks = clocks(model);
    if model.detail.complete != Some(false) && model.detail.truncated != Some(true) {
        return clocks;
    }
    let orphans = model.orphans();
    let reason = model.detail.incomplete_reason().map(|reason| format!(": {reason}")).unwrap_or_default();
    let orphans = match orphans {
        0 => String::new(),
        1 => " One span names a parent that is not here.".to_owned(),
        many => format!(" {} spans name parents that are not here.", format::count(many as u64)),
    };
    let warnings = model.detail.warnings.join(" ");
    view! {
        {clocks}
        <p class="notice is-warning" role="status">
            {icon("partial")}
            <span><strong>{format!("This trace is incomplete{reason}.")}</strong>{orphans}" Durations and the critical path cover what has arrived. "{warnings}</span>
        </p>
    }
    .into_any()
}

/// Says that clocks differ, since bars may then begin before what called them.
fn clocks(model: &TraceModel) -> AnyView {
    let shifts = &model.detail.clock_shifts;
    if shifts.is_empty() {
        return ().into_any();
    }
    let shift = |shift: &infertrace_ui_model::api::ClockShift| {
        format!("{} by {}", shift.service, format::duration(shift.shift_nano.0.saturating_abs()))
    };
    let list = shifts.iter().map(shift).collect::<Vec<_>>().join(", ");
    view! {
        <p class="notice">
            {icon("clock")}
            <span>{format!("Clocks differ: {list}. Bars show the times as reported.")}</span>
        </p>
    }
    .into_any()
}

/// Where the critical path went.
fn path_shares(model: &TraceModel) -> AnyView {
    let shares = critical::shares(model);
    if shares.is_empty() {
        return ().into_any();
    }
    let style = |ratio: f64| format!("width:{:.2}%", ratio * 100.0);
    let colours = Colours::get();
    let colour = |share: &critical::Share| {
        if share.is_stage {
            stage_class(&share.name).to_owned()
        } else {
            format!("stage-service {}", colours.class(&share.name))
        }
    };
    let shown = &shares[..shares.len().min(MOST_SHARES)];
    let rest: f64 = shares.iter().skip(MOST_SHARES).map(|share| share.ratio).sum();
    let bar = shown
        .iter()
        .map(|share| view! { <i class=colour(share) style=style(share.ratio)></i> }.into_any())
        .collect_view();
    let legend = shown
        .iter()
        .map(|share| {
            let class = colour(share);
            let title = format!("{} on the critical path", format::duration(share.time));
            view! { <li title=title><i class=class></i><span>{share.name.clone()}</span><b class="num">{format::percent(share.ratio)}</b></li> }.into_any()
        })
        .collect_view();
    view! {
        <div class="path-shares">
            <h2>"Critical path"</h2>
            <span class="stage-bar" aria-hidden="true">{bar}</span>
            <ul>
                {legend}
                {(rest > 0.0).then(|| view! { <li><i></i><span>"other"</span><b class="num">{format::percent(rest)}</b></li> }.into_any())}
            </ul>
        </div>
    }
    .into_any()
}
