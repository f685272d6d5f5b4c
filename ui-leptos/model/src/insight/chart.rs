//! The chart of an insight's metric: its course from merged rollups, over the band that is normal.

use serde_json::Value;

use super::{Evidence, Insight, items, nanos, strings, words};
use crate::api::number_of;
use crate::format;
use crate::node::{Node, el, text};
use crate::query_string::Writer;

const SECOND: i64 = 1_000_000_000;
/// Points that a chart takes at most, and the steps to choose from.
const MOST_POINTS: i64 = 240;
const STEPS: [i64; 4] = [10, 60, 600, 3_600];
/// A robust standard deviation is this many median absolute deviations (of a normal distribution).
const MAD_TO_SIGMA: f64 = 1.4826;
/// Half of the band, in such deviations.
const BAND_SIGMAS: f64 = 3.0;

/// How a metric of evidence is read from rollups.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    /// A statistic of a distribution, times a factor.
    Metric(&'static str, &'static str, f64),
    /// One sum of counters over another, times a factor.
    Ratio(&'static str, &'static [&'static str], f64),
    /// A counter a second, times a factor.
    Rate(&'static str, f64),
}

/// Source, and the baseline of the same quantity.
fn source(metric: &str) -> Option<(Source, &str)> {
    use Source::{Metric, Rate, Ratio};
    let micros = |name, statistic| Metric(name, statistic, 1e-6);
    let permille = |name| Metric(name, "mean", 1e-3);
    let mean = |name| Metric(name, "mean", 1.0);
    let source = match metric {
        "latency_p50" => micros("duration_micros", "p50"),
        "latency_p99" => micros("duration_micros", "p99"),
        "latency_mean" => micros("duration_micros", "mean"),
        "ttft_p50" => micros("ttft_micros", "p50"),
        "ttft_p99" => micros("ttft_micros", "p99"),
        "tpot_p50" => micros("tpot_micros", "p50"),
        "tpot_mean" | "version_tpot" | "device_tpot" => {
            return Some((micros("tpot_micros", "mean"), "tpot_mean"));
        }
        "queue_mean" => micros("queue_micros", "mean"),
        "prefill_mean" => micros("prefill_micros", "mean"),
        "decode_mean" => micros("decode_micros", "mean"),
        "batch" => permille("batch_milli"),
        "batch_fill" => permille("batch_fill_permille"),
        "queue_depth" | "waiting" => return Some((mean("queue_depth"), "queue_depth")),
        "running" => mean("engine_running"),
        "cache_hit_ratio" => Ratio("cached_tokens", &["input_tokens"], 1.0),
        "error_rate" | "version_error_rate" => {
            return Some((Ratio("errors", &["requests"], 1.0), "error_rate"));
        }
        "request_rate" | "arrivals" => return Some((Rate("requests", 1.0), "request_rate")),
        "requests" => return Some((Rate("requests", 10.0), "")),
        "preemptions" => Rate("preemptions", 60.0),
        "input_tokens" => mean("input_tokens"),
        "output_tokens" => mean("output_tokens"),
        "cost_per_1k_tokens" => Ratio("cost_nano_usd", &["input_tokens", "output_tokens"], 1e-6),
        "kv_cache_usage" => permille("kv_usage_permille"),
        "gpu_busy" => permille("gpu_utilization_permille"),
        "gpu_throttled" => permille("gpu_throttled_permille"),
        "gpu_memory" => permille("gpu_memory_permille"),
        "gpu_temperature" => permille("gpu_temperature_millicelsius"),
        "gpu_sm_clock" => mean("gpu_sm_clock_mhz"),
        _ => return None,
    };
    Some((source, metric))
}

/// The evidence that is drawn: the first of which rollups tell the course.
pub fn drawn(insight: &Insight) -> Option<&Evidence> {
    insight.evidence.iter().find(|one| source(&one.metric).is_some())
}

/// The range that is drawn, nanoseconds since 1970: the insight's life and as much before, ten minutes at least.
pub fn range(insight: &Insight, now_ns: i64) -> (i64, i64) {
    let last = insight.resolved_at.unwrap_or(now_ns).max(insight.window_end);
    let life = (last - insight.first_window).max(0);
    let before = life.clamp(600 * SECOND, 3 * 3_600 * SECOND);
    let end = (last + 120 * SECOND).min(now_ns.max(last));
    (insight.first_window - before, end)
}

/// Asks for the course.
pub fn rollup_query(insight: &Insight, now_ns: i64) -> String {
    let (start, end) = range(insight, now_ns);
    let step = STEPS.into_iter().find(|step| (end - start) / (step * SECOND) <= MOST_POINTS).unwrap_or(3_600);
    let mut writer = Writer::default();
    writer.push_some("model", &insight.model);
    writer.push_some("tenant", &insight.tenant);
    writer.push_some("version", &insight.version);
    writer.push_some("device", &insight.device);
    writer.push("start", &start.to_string());
    writer.push("end", &end.to_string());
    writer.push("step", &step.to_string());
    writer.finish()
}

/// Asks for what is normal.
pub fn baseline_query(insight: &Insight, evidence: &Evidence) -> String {
    let mut writer = Writer::default();
    writer.push("model", &insight.model);
    writer.push_some("metric", source(&evidence.metric).map_or("", |source| source.1));
    writer.finish()
}

/// What is normal: the middle and the edges of the band.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// Median.
    pub middle: f64,
    /// Lower edge.
    pub low: f64,
    /// Upper edge.
    pub high: f64,
}

/// The baseline of the hour, else of all hours; of the insight's tenant and version, else of all.
pub fn band(baselines: &Value, insight: &Insight, evidence: &Evidence) -> Option<Band> {
    let (_, metric) = source(&evidence.metric)?;
    // 1970-01-01 was a Thursday; 0 is Monday 00:00 UTC.
    let hour = (insight.window_start.div_euclid(3_600 * SECOND) + 72).rem_euclid(168);
    let rank = |one: &Value| {
        let same = |name: &str, wanted: &str| {
            let value = one[name].as_str().unwrap_or_default();
            if value == wanted { Some(2) } else { value.is_empty().then_some(1) }
        };
        let hour = match one["hour_of_week"].as_i64() {
            Some(known) if known == hour => 2,
            Some(_) => return None,
            None => 1,
        };
        let stage = one["stage"].as_str().unwrap_or_default().is_empty();
        let of = stage && one["metric"].as_str() == Some(metric);
        of.then_some(())?;
        Some((same("tenant", &insight.tenant)?, same("model_version", &insight.version)?, hour))
    };
    let best = items(baselines, "baselines")
        .iter()
        .filter_map(|one| Some((rank(one)?, one)))
        .max_by_key(|one| one.0);
    let one = best?.1;
    let (median, mad) = (number_of(&one["median"])?, number_of(&one["mad"])?);
    let spread = BAND_SIGMAS * MAD_TO_SIGMA * mad;
    let scale = |value: f64| if one["log_scale"] == true { value.exp() } else { value };
    let low = scale(median - spread).max(0.0);
    Some(Band { middle: scale(median), low, high: scale(median + spread) })
}

/// The course: a value a step, where there is one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Course {
    /// Starts of steps, nanoseconds since 1970.
    pub times: Vec<i64>,
    /// In the evidence's unit.
    pub values: Vec<Option<f64>>,
    /// Length of a step.
    pub step: i64,
}

impl Course {
    /// From an answer.
    pub fn of(rollups: &Value, evidence: &Evidence) -> Option<Self> {
        let (source, _) = source(&evidence.metric)?;
        let step = nanos(rollups, "step_nano").max(1);
        let times: Vec<i64> =
            strings(rollups, "window_start_unix_nano").iter().filter_map(|text| text.parse().ok()).collect();
        let counter = |name: &str, index: usize| number_of(&rollups["counters"][name][index]);
        let value = |index: usize| match source {
            Source::Metric(name, statistic, factor) => {
                Some(number_of(&rollups["metrics"][name][statistic][index])? * factor)
            }
            Source::Ratio(part, whole, factor) => {
                let whole: f64 = whole.iter().filter_map(|name| counter(name, index)).sum();
                (whole > 0.0).then(|| counter(part, index).unwrap_or(0.0) / whole * factor)
            }
            Source::Rate(name, factor) => {
                let known = counter("spans", index).or_else(|| counter("requests", index)).is_some();
                let rate = counter(name, index).unwrap_or(0.0) / (step as f64 / 1e9) * factor;
                known.then_some(rate)
            }
        };
        Some(Self { values: (0..times.len()).map(value).collect(), times, step })
    }

    fn is_empty(&self) -> bool {
        self.values.iter().all(Option::is_none)
    }
}

/// The next of 1, 2, 5 times a power of ten.
fn round_step(rough: f64) -> f64 {
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough)
        .unwrap_or(10.0 * power)
}

/// A linear axis from 0, with round marks.
fn axis(most: f64, unit: &str) -> (f64, Vec<(f64, String)>) {
    let most = if most > 0.0 { most * 1.08 } else { 1.0 };
    let most = if unit == "share" { most.min(1.0).max(0.02) } else { most };
    let step = round_step(most / 4.0);
    let count = (most / step) as usize;
    let marks = (0..=count).map(|index| {
        let value = step * index as f64;
        (value / most, if index == 0 { "0".to_owned() } else { words::value(value, unit) })
    });
    (most, marks.collect())
}

fn path(course: &Course, x: &dyn Fn(i64) -> f64, y: &dyn Fn(f64) -> f64) -> String {
    let mut out = String::new();
    let mut pen = false;
    for (time, value) in course.times.iter().zip(&course.values) {
        let Some(value) = value else {
            pen = false;
            continue;
        };
        let command = if pen { 'L' } else { 'M' };
        // A step that stands alone is a dot.
        let dot = if pen { "" } else { "h0" };
        out.push_str(&format!("{command}{:.1} {:.1}{dot}", x(time + course.step / 2), y(*value)));
        pen = true;
    }
    out
}

/// The chart, or a sentence that says why there is none.
pub fn chart(
    insight: &Insight,
    evidence: &Evidence,
    course: &Course,
    band: Option<Band>,
    offset_minutes: i32,
) -> Node {
    let name = words::name(&evidence.metric);
    let panel = el("section", "panel chart-panel").add(text("h2", "", &name));
    let (Some(first), Some(last)) = (course.times.first(), course.times.last()) else {
        return panel.add(missing());
    };
    if course.is_empty() {
        return panel.add(missing());
    }
    let (start, end) = (*first, last + course.step);
    let share = |time: i64| ((time - start) as f64 / (end - start).max(1) as f64).clamp(0.0, 1.0);
    let greatest = course.values.iter().flatten().copied().fold(0.0, f64::max);
    let greatest = greatest.max(band.map_or(0.0, |band| band.middle)).max(evidence.baseline.unwrap_or(0.0));
    // A wide band does not flatten the course.
    let greatest = band.map_or(greatest, |band| greatest.max(band.high.min(greatest * 1.5)));
    let (most, marks) = axis(greatest, &evidence.unit);
    let x = |time: i64| share(time) * 1_000.0;
    let y = |value: f64| 1_000.0 - (value / most).clamp(0.0, 1.0) * 1_000.0;
    let rows = marks.into_iter().map(|(at, label)| {
        el("div", "plot-row")
            .with("style", &format!("bottom:{:.2}%", at * 100.0))
            .add(text("span", "", &label))
    });
    let columns = (0..5).map(|index| {
        let at = start + (end - start) / 5 * index;
        let civil = format::civil(at.div_euclid(1_000_000), offset_minutes);
        let label = format::clock(civil.second_of_day, end - start < 600 * SECOND);
        el("div", "plot-column").with("style", &format!("left:{}%", index * 20)).add(text("span", "", &label))
    });
    let until = insight.resolved_at.unwrap_or(end);
    let (from, until) = (share(insight.first_window) * 100.0, share(until) * 100.0);
    let window =
        el("div", "chart-window").with("style", &format!("left:{from:.2}%;width:{:.2}%", until - from));
    let line = |class: &str, d: String| el("path", class).with("d", &d);
    let area = band.map(|band| {
        let (low, high) = (y(band.low), y(band.high));
        line("chart-band", format!("M0 {low:.1}H1000V{high:.1}H0z"))
    });
    // Without a baseline of the model the detector may still have said what is normal.
    let usual = band.map(|band| band.middle).or(evidence.baseline);
    let usual = usual.map(|usual| line("chart-normal", format!("M0 {:.1}H1000", y(usual))));
    let key_words = match (&area, &usual) {
        (Some(_), _) => Some("Normal: median, and 3 deviations to either side"),
        (None, Some(_)) => Some("Normal"),
        (None, None) => None,
    };
    let svg = el("svg", "")
        .with("viewBox", "0 0 1000 1000")
        .with("preserveAspectRatio", "none")
        .with("aria-hidden", "true")
        .all(area)
        .all(usual)
        .add(line("chart-course", path(course, &x, &y)));
    let width = 100.0 / course.times.len() as f64;
    let hits = course.times.iter().zip(&course.values).filter_map(|(time, value)| {
        let civil = format::civil(time.div_euclid(1_000_000), offset_minutes);
        let title = format!(
            "{}  {}",
            format::clock(civil.second_of_day, true),
            words::value((*value)?, &evidence.unit)
        );
        let style = format!("left:{:.2}%;width:{width:.2}%", share(*time) * 100.0);
        Some(el("i", "chart-hit").with("style", &style).with("title", &title))
    });
    let plot = el("div", "plot-area").add(window).all(rows).all(columns).add(svg).all(hits);
    let said = format!(
        "{name}: {} now, {} normally",
        words::value(evidence.observed, &evidence.unit),
        evidence.baseline.map_or("not known".to_owned(), |normal| words::value(normal, &evidence.unit)),
    );
    let key = |class: &str, words: &str| el("span", "chart-key").add(el("i", class)).text(words);
    let legend = el("p", "chart-legend muted")
        .add(key("is-course", "Measured"))
        .all(key_words.map(|words| key("is-normal", words)))
        .add(key("is-window", "This insight"));
    panel.add(el("figure", "plot chart").with("role", "img").with("aria-label", &said).add(plot)).add(legend)
}

fn missing() -> Node {
    text(
        "p",
        "muted",
        "The course of that time is not in memory any more. The numbers of the evidence were kept.",
    )
}
