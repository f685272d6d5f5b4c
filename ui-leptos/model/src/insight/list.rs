//! The list of insights.

use super::filter::{InsightFilter, SEVERITIES, STATES};
use super::{Cause, Insight, triage, words};
use crate::format;
use crate::node::{Node, el, icon, link, text};
use crate::route::Route;

/// Causes named in a row.
const MOST_CAUSES: usize = 3;

/// How long it has lasted, or when it was over.
pub(super) fn since(insight: &Insight, now_ms: i64) -> String {
    let opened_ms = insight.opened.div_euclid(1_000_000);
    let began = format::relative(opened_ms, now_ms);
    match insight.resolved_at {
        Some(end) => {
            format!("{began}, lasted {}", format::duration((end - insight.opened).max(0)))
        }
        None => format!("for {}", format::duration((now_ms - opened_ms).max(0) * 1_000_000)),
    }
}

/// What it is about: model, version, service, stage, device.
pub(super) fn subject(insight: &Insight) -> String {
    let parts = [&insight.model, &insight.version, &insight.service, &insight.stage, &insight.device];
    let named: Vec<&str> = parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    named.join(" · ")
}

/// Shares of causes as one bar.
pub(super) fn cause_bar(causes: &[Cause]) -> Node {
    let part = |cause: &Cause| {
        let style = format!("width:{:.1}%", cause.share * 100.0);
        el("i", words::cause_class(&cause.cause)).with("style", &style)
    };
    el("span", "stage-bar cause-bar").with("aria-hidden", "true").all(causes.iter().map(part))
}

fn causes(insight: &Insight) -> Node {
    let shown = &insight.causes[..insight.causes.len().min(MOST_CAUSES)];
    let entry = |cause: &Cause| {
        let square = el("i", words::cause_class(&cause.cause));
        let name = cause.cause.replace('_', " ");
        el("span", "cause-name").add(square).text(&format!("{name} {}", format::percent(cause.share)))
    };
    if shown.is_empty() {
        return el("div", "insight-causes").add(text("span", "muted", "No cause stands out"));
    }
    el("div", "insight-causes")
        .add(cause_bar(&insight.causes))
        .add(el("div", "cause-names").all(shown.iter().map(entry)))
}

fn row(insight: &Insight, now_ms: i64) -> Node {
    let id = format!("i-{}", insight.id);
    let title = link("row-link insight-title", &Route::insight(&insight.id).to_url(), &insight.title);
    let resolved = insight.resolved.then(|| el("span", "badge").add(icon("check")).text("Resolved"));
    let head = el("div", "insight-head")
        .add(insight.severity.badge())
        .all(resolved)
        .all(triage::badge(insight, now_ms))
        .add(title.with("id", &id));
    let meta = el("p", "insight-meta muted")
        .add(text("span", "", &words::name(&insight.kind)))
        .add(text("span", "", &subject(insight)))
        .add(text("span", "num", &since(insight, now_ms)));
    let class = format!(
        "insight-row {}{}",
        insight.severity.names().0,
        if insight.is_settled() { " is-over" } else { "" }
    );
    el("li", &class).add(el("div", "insight-what").add(head).add(meta)).add(causes(insight))
}

/// The rows.
pub fn rows(insights: &[Insight], now_ms: i64) -> Node {
    el("ol", "insight-list")
        .with("aria-label", "Insights")
        .all(insights.iter().map(|insight| row(insight, now_ms)))
}

/// Nothing to list, and what that means.
pub fn nothing(filter: &InsightFilter) -> (String, String) {
    if filter.is_narrowed() {
        return ("Nothing matches".to_owned(), "No insight passes all filters.".to_owned());
    }
    let words = match filter.state.as_str() {
        "" => (
            "All is as it usually is",
            "Nothing is open. An insight appears here within seconds when a model gets slower, dearer or less reliable \
             than it normally is, with its likeliest cause and what to change.",
        ),
        "resolved" => ("Nothing was resolved lately", "Insights that are over appear here."),
        _ => (
            "No insights yet",
            "They appear when a model gets slower, dearer or less reliable than it normally is. What is normal is learned \
             from its own traffic.",
        ),
    };
    (words.0.to_owned(), words.1.to_owned())
}

fn choice(label: &str, name: &str, current: &str, options: Vec<(String, String)>) -> Node {
    let option = |(value, words): (String, String)| {
        let chosen = value == current;
        let option = text("option", "", &words).with("value", &value);
        if chosen { option.with("selected", "") } else { option }
    };
    let class = if current.is_empty() { "" } else { "is-set" };
    let select = el("select", class).with("name", name).with("id", &format!("insight-{name}"));
    el("label", "field").add(text("span", "", label)).add(select.all(options.into_iter().map(option)))
}

/// The filter bar; its selects are named as the filter's members.
pub fn filters(filter: &InsightFilter, models: &[String], kinds: &[String]) -> Node {
    let fixed = |choices: &[(&str, &str)]| {
        choices.iter().map(|(value, words)| ((*value).to_owned(), (*words).to_owned())).collect::<Vec<_>>()
    };
    // A name from the address that nobody knows is kept.
    let known = |all: &str, names: &[String], current: &str, shown: fn(&str) -> String| {
        let mut names = names.to_vec();
        if !current.is_empty() && !names.iter().any(|name| name == current) {
            names.insert(0, current.to_owned());
        }
        let mut out = vec![(String::new(), all.to_owned())];
        out.extend(names.into_iter().map(|name| (name.clone(), shown(&name))));
        out
    };
    let models = known("All models", models, &filter.model, str::to_owned);
    let kinds = known("Every kind", kinds, &filter.kind, words::name);
    let clear = filter.is_narrowed().then(|| {
        let href = Route::Insights(InsightFilter { state: filter.state.clone(), ..InsightFilter::default() });
        el("a", "button quiet clear").with("href", &href.to_url()).add(icon("close")).text("Clear")
    });
    el("div", "filters-fields insight-filters")
        .add(choice("State", "state", &filter.state, fixed(&STATES)))
        .add(choice("Severity", "severity", &filter.severity, fixed(&SEVERITIES)))
        .add(choice("Model", "model", &filter.model, models))
        .add(choice("Kind", "kind", &filter.kind, kinds))
        .all(clear)
}
