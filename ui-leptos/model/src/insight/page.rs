//! One insight: what happened, what to do, why, the numbers, traces of both sides, its life.

use super::{Insight, Revision, triage, words};
use crate::filter::{Filter, TimeRange};
use crate::format;
use crate::node::{Node, el, icon, link, text};
use crate::route::Route;

/// Traces listed a side.
const MOST_TRACES: usize = 8;
/// Air around the window when its traces are searched.
const AIR_MS: i64 = 10_000;

/// What the page needs besides the insight.
pub struct Frame {
    /// Milliseconds since 1970.
    pub now_ms: i64,
    /// Minutes east of UTC.
    pub offset_minutes: i32,
    /// Address of the list as it was left.
    pub list_url: String,
}

impl Frame {
    pub(super) fn time(&self, unix_nano: i64) -> String {
        let text = format::absolute(unix_nano, self.offset_minutes);
        text.get(..19).unwrap_or(&text).to_owned()
    }
}

fn figure(label: &str, value: Node) -> Node {
    el("div", "figure").add(text("dt", "", label)).add(el("dd", "num").add(value))
}

/// The page in reading order: what, what to do, why, the numbers, then what backs them.
pub fn all(insight: &Insight, frame: &Frame) -> Node {
    let main = el("div", "insight-main")
        .add(advice(insight))
        .add(causes(insight))
        .all(insight.chart.clone())
        .add(evidence(insight));
    let side = el("div", "insight-side").add(traces(insight)).add(history(insight, frame));
    el("article", "").add(head(insight, frame)).add(el("div", "insight-columns").add(main).add(side))
}

/// Title and what it is about.
pub(super) fn head(insight: &Insight, frame: &Frame) -> Node {
    let crumbs = el("nav", "crumbs")
        .with("aria-label", "Breadcrumb")
        .add(link("", &frame.list_url, "Insights"))
        .add(text("span", "", "/").with("aria-hidden", "true"))
        .add(text("span", "", &words::name(&insight.kind)));
    let state = if insight.resolved {
        el("span", "badge").add(icon("check")).text("Resolved")
    } else {
        text("span", "badge is-open", "Open")
    };
    let badges = el("p", "insight-badges")
        .add(insight.severity.badge())
        .add(state)
        .all(triage::badge(insight, frame.now_ms));
    let mut figures = el("dl", "figures");
    let of_model = Filter { model: insight.model.clone(), ..Filter::default() };
    let subjects = [
        ("Model", &insight.model),
        ("Version", &insight.version),
        ("Service", &insight.service),
        ("Stage", &insight.stage),
        ("Device", &insight.device),
        ("Tenant", &insight.tenant),
    ];
    for (label, value) in subjects.into_iter().filter(|(_, value)| !value.is_empty()) {
        let value = match label {
            "Model" => link("", &Route::Traces(of_model.clone()).to_url(), value),
            _ => text("span", "", value),
        };
        figures = figures.add(figure(label, value));
    }
    figures = figures
        .add(figure("Opened", text("time", "", &frame.time(insight.opened))))
        .add(figure("Lasts", text("span", "", &lasted(insight, frame.now_ms))));
    el("header", "insight-header")
        .add(crumbs)
        .add(text("h1", "", &insight.title))
        .add(badges)
        .add(figures)
        .add(triage::bar(insight, frame))
}

fn lasted(insight: &Insight, now_ms: i64) -> String {
    match insight.resolved_at {
        Some(end) => format::duration((end - insight.opened).max(0)),
        None => {
            let since = now_ms - insight.opened.div_euclid(1_000_000);
            format!("{} so far", format::duration(since.max(0) * 1_000_000))
        }
    }
}

fn section(title: &str) -> Node {
    el("section", "panel").add(text("h2", "", title))
}

fn share_bar(class: &str, share: f64) -> Node {
    let style = format!("width:{:.1}%", share * 100.0);
    el("span", "share-bar").with("aria-hidden", "true").add(el("i", class).with("style", &style))
}

/// What to change.
pub(super) fn advice(insight: &Insight) -> Node {
    let panel = section("What to do").with("id", "advice");
    let Some(advice) = &insight.advice else {
        return panel.add(text("p", "muted", "No change is known to help; the causes say where to look."));
    };
    let gain = (!advice.gain.is_empty())
        .then(|| el("div", "").add(text("dt", "", "Expected gain")).add(text("dd", "", &advice.gain)));
    let confidence = el("div", "").add(text("dt", "", "Confidence")).add(
        el("dd", "confidence").add(share_bar("", advice.confidence)).add(text(
            "b",
            "num",
            &format::percent(advice.confidence),
        )),
    );
    panel.add(text("p", "advice", &advice.text)).add(el("dl", "advice-facts").all(gain).add(confidence))
}

/// Ranked causes.
pub(super) fn causes(insight: &Insight) -> Node {
    let panel = section("Why");
    if insight.causes.is_empty() {
        return panel.add(text(
            "p",
            "muted",
            "No cause stands out: the window differs from its baseline in nothing else.",
        ));
    }
    let entry = |cause: &super::Cause| {
        let class = words::cause_class(&cause.cause);
        el("li", "cause")
            .add(text("b", "cause-title", &words::name(&cause.cause)))
            .add(share_bar(class, cause.share))
            .add(text("b", "num", &format::percent(cause.share)))
            .add(text("p", "", &cause.explanation))
    };
    panel
        .add(text("p", "panel-hint muted", "Share of the change that each explains."))
        .add(el("ol", "causes").all(insight.causes.iter().map(entry)))
}

/// Numbers beside their baseline.
pub(super) fn evidence(insight: &Insight) -> Node {
    let panel = section("Evidence");
    if insight.evidence.is_empty() {
        return panel.add(text("p", "muted", "The detector gave no numbers."));
    }
    let column = |class: &str, words: &str| text("th", class, words).with("scope", "col");
    let head = el("tr", "")
        .add(column("", "Metric"))
        .add(column("right", "Now"))
        .add(column("right", "Normal"))
        .add(column("right", "Ratio"))
        .add(column("right samples", "Samples"));
    let row = |one: &super::Evidence| {
        let normal = one.baseline.map_or("–".to_owned(), |normal| words::value(normal, &one.unit));
        let ratio = one.ratio.map_or("–".to_owned(), words::ratio);
        el("tr", "")
            .add(text("th", "", &words::name(&one.metric)).with("scope", "row"))
            .add(text("td", "num right observed", &words::value(one.observed, &one.unit)))
            .add(text("td", "num right", &normal))
            .add(text("td", "num right", &ratio))
            .add(text("td", "num right samples", &format::compact(one.samples)))
    };
    let table = el("table", "evidence")
        .add(el("thead", "").add(head))
        .add(el("tbody", "").all(insight.evidence.iter().map(row)));
    panel.add(table)
}

/// Traces of both sides, and the search that finds more.
pub(super) fn traces(insight: &Insight) -> Node {
    let side = |title: &str, ids: &[String], none: &str| {
        let entry = |id: &String| el("li", "").add(link("mono", &Route::trace(id).to_url(), id));
        let list = if ids.is_empty() {
            text("p", "muted", none)
        } else {
            el("ul", "").all(ids.iter().take(MOST_TRACES).map(entry))
        };
        el("div", "trace-side").add(text("h3", "", title)).add(list)
    };
    let millis = |nanos: i64| nanos.div_euclid(1_000_000);
    let end = insight.resolved_at.unwrap_or(insight.window_end);
    let range = TimeRange::Custom {
        start_ms: millis(insight.first_window) - AIR_MS,
        end_ms: millis(end).max(millis(insight.first_window)) + AIR_MS,
    };
    let filter =
        Filter { model: insight.model.clone(), service: insight.service.clone(), range, ..Filter::default() };
    let more = el("a", "button").with("href", &Route::Traces(filter).to_url());
    section("Example traces")
        .add(el("div", "trace-sides").add(side("Show it", &insight.examples, "None was kept.")).add(side(
            "Normal, to compare",
            &insight.normal,
            "None was kept.",
        )))
        .add(el("p", "panel-more").add(more.add(icon("search")).text("Search traces of this time")))
}

/// Its life so far, the latest first.
pub(super) fn history(insight: &Insight, frame: &Frame) -> Node {
    let entry = |one: &Revision| {
        let what = match one.state.as_str() {
            "OPEN" => "Opened",
            "RESOLVED" => "Resolved",
            _ => "Updated",
        };
        el("li", "")
            .add(text("time", "num", &frame.time(one.window_end)))
            .add(text("b", "", what))
            .add(one.severity.badge())
    };
    let detector = format!("Found by {}, revision {}.", insight.detector, insight.revision);
    section("History")
        .add(el("ol", "history").all(insight.revisions.iter().rev().map(entry)))
        .add(text("p", "muted", &detector))
}
