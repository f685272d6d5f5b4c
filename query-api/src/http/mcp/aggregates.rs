//! `compare_versions`, `cost` and `list_models`: sums and percentiles of the rollups.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value as Json, json};

use super::{
    arguments::{Arguments, Range},
    ask::{Numbers, ToolError, metrics, of, quoted, rounded, route},
};
use crate::http::App;

/// By what costs are told.
pub(super) const COST_LABELS: [&str; 5] = ["model", "tenant", "version", "service", "device"];
/// Names told of models that had no traffic.
const MOST_IDLE_MODELS: usize = 50;

/// Matchers of PromQL for what is given.
pub(super) fn matchers(given: &[(&str, Option<&str>)]) -> String {
    let given =
        given.iter().filter_map(|(label, value)| value.map(|value| format!("{label}={}", quoted(value))));
    format!("{{{}}}", given.collect::<Vec<_>>().join(","))
}

/// Name, query by `label` and factor of what is told of requests.
fn figures(label: &str, matchers: &str, range: &str) -> Vec<(&'static str, String, f64)> {
    let sum = |metric: &str| format!("sum by ({label}) (increase(infertrace_{metric}{matchers}[{range}]))");
    let quantile = |q: &str, metric: &str| {
        format!(
            "histogram_quantile({q}, sum by ({label}) (increase(infertrace_{metric}{matchers}[{range}])))"
        )
    };
    vec![
        ("requests", sum("requests_total"), 1.0),
        ("errors", sum("request_errors_total"), 1.0),
        ("duration_p50_ms", quantile("0.5", "request_duration_seconds"), 1e3),
        ("duration_p99_ms", quantile("0.99", "request_duration_seconds"), 1e3),
        ("ttft_p50_ms", quantile("0.5", "ttft_seconds"), 1e3),
        ("ttft_p99_ms", quantile("0.99", "ttft_seconds"), 1e3),
        ("tpot_p50_ms", quantile("0.5", "tpot_seconds"), 1e3),
        ("tpot_p99_ms", quantile("0.99", "tpot_seconds"), 1e3),
        ("output_tokens", sum("output_tokens_total"), 1.0),
        ("cost_usd", sum("cost_usd_total"), 1.0),
    ]
}

/// What is told of requests, by the value of a label.
struct Table {
    figures: Vec<(&'static str, f64, Numbers)>,
    label: &'static str,
}

impl Table {
    async fn of(app: &App, label: &'static str, matchers: &str, range: Range) -> Result<Self, ToolError> {
        let figures = figures(label, matchers, &range.promql());
        let queries = figures.iter().map(|(_, query, _)| query.clone()).collect();
        let found = metrics(app, queries, range.to_ns).await?;
        let figures =
            figures.into_iter().zip(found).map(|((name, _, factor), numbers)| (name, factor, numbers));
        Ok(Self { figures: figures.collect(), label })
    }

    /// Values of the label, those with the most requests first.
    fn busiest(&self) -> Vec<String> {
        let mut all: Vec<(f64, &str)> = self
            .figures
            .iter()
            .filter(|(name, ..)| *name == "requests")
            .flat_map(|(_, _, numbers)| numbers)
            .map(|(labels, requests)| (*requests, labels.get(self.label).map_or("", String::as_str)))
            .collect();
        all.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(other.1)));
        all.into_iter().map(|(_, value)| value.to_owned()).collect()
    }

    fn numbers(&self, value: &str) -> BTreeMap<&'static str, f64> {
        let mut row: BTreeMap<&'static str, f64> = self
            .figures
            .iter()
            .filter_map(|(name, factor, numbers)| Some((*name, of(numbers, self.label, value)? * factor)))
            .collect();
        let requests = row.get("requests").copied().unwrap_or_default();
        if requests > 0.0 {
            let errors = row.remove("errors").unwrap_or_default();
            row.insert("error_percent", errors / requests * 100.0);
            if let Some(cost) = row.get("cost_usd").copied() {
                row.insert("cost_per_request_usd", cost / requests);
            }
        }
        row
    }
}

fn told(row: &BTreeMap<&'static str, f64>) -> Map<String, Json> {
    row.iter().map(|(name, value)| ((*name).to_owned(), rounded(*value))).collect()
}

pub(super) async fn compare(app: &Arc<App>, arguments: &Arguments) -> Result<Json, ToolError> {
    let range = arguments.range(app)?;
    let model = arguments.required("model")?;
    let tenant = arguments.text("tenant")?;
    let matchers = matchers(&[("model", Some(&model)), ("tenant", tenant.as_deref())]);
    let table = Table::of(app, "version", &matchers, range).await?;
    let known = table.busiest();
    let mut wanted = Vec::new();
    for name in ["a", "b"] {
        let given = arguments.text(name)?;
        let free = known.iter().find(|version| !wanted.contains(*version));
        let Some(version) = given.or_else(|| free.cloned()) else { break };
        wanted.push(version);
    }
    let missing = wanted.iter().find(|version| !known.contains(version));
    let (Some(first), Some(second), None) = (wanted.first(), wanted.get(1), missing) else {
        return Err(ToolError(format!(
            "model {model:?} has no two such versions with requests in the range; versions with requests: {known:?}. Take a longer \
             range, or another model of list_models"
        )));
    };
    let (a, b) = (table.numbers(first), table.numbers(second));
    let changes = a.iter().filter_map(|(name, before)| {
        let after = b.get(name)?;
        let percent = (after / before - 1.0) * 100.0;
        percent.is_finite().then(|| ((*name).to_owned(), json!((percent * 10.0).round() / 10.0)))
    });
    Ok(json!({
        "range": range.json(),
        "model": model,
        "a": {"version": first, "figures": told(&a)},
        "b": {"version": second, "figures": told(&b)},
        "change_percent": changes.collect::<Map<_, _>>(),
        "versions": known.iter().take(20).collect::<Vec<_>>(),
    }))
}

pub(super) async fn models(app: &Arc<App>, arguments: &Arguments) -> Result<Json, ToolError> {
    let range = arguments.range(app)?;
    let limit = arguments.limit("limit", 20, 100)?;
    let table = Table::of(app, "model", "", range).await?;
    let busiest = table.busiest();
    let row = |model: &String| {
        let mut row = told(&table.numbers(model));
        row.insert("model".to_owned(), model.as_str().into());
        Json::Object(row)
    };
    let known = route(app, "/api/v1/models", &[]).await?;
    let known = known["models"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
    let idle: Vec<&str> =
        known.filter(|name| !busiest.iter().any(|one| one == name)).take(MOST_IDLE_MODELS).collect();
    Ok(json!({
        "range": range.json(),
        "models": busiest.iter().take(limit).map(row).collect::<Json>(),
        "truncated": busiest.len() > limit,
        "without_requests_in_range": idle,
    }))
}

pub(super) async fn cost(app: &Arc<App>, arguments: &Arguments) -> Result<Json, ToolError> {
    let range = arguments.range(app)?;
    let limit = arguments.limit("limit", 20, 100)?;
    let labels = arguments.words("by", &COST_LABELS, "model")?;
    let (model, tenant) = (arguments.text("model")?, arguments.text("tenant")?);
    let matchers = matchers(&[("model", model.as_deref()), ("tenant", tenant.as_deref())]);
    let (by, length) = (labels.join(","), range.promql());
    let sum = |metric: &str| format!("sum by ({by}) (increase(infertrace_{metric}{matchers}[{length}]))");
    let names = ["cost_usd", "estimated_cost_usd", "requests", "unpriced_requests", "output_tokens"];
    let mut queries: Vec<String> = names.iter().map(|name| sum(&format!("{name}_total"))).collect();
    queries.push(format!("sum(increase(infertrace_device_idle_usd_total[{length}]))"));
    let found = metrics(app, queries, range.to_ns).await?;
    let mut rows: BTreeMap<Vec<&str>, BTreeMap<&str, f64>> = BTreeMap::new();
    for (name, numbers) in names.iter().zip(&found) {
        for (values, value) in numbers {
            let key = labels.iter().map(|label| values.get(*label).map_or("", String::as_str)).collect();
            rows.entry(key).or_default().insert(name, *value);
        }
    }
    let usd = |row: &BTreeMap<&str, f64>| row.get("cost_usd").copied().unwrap_or_default();
    let total: f64 = rows.values().map(usd).sum();
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|(_, one), (_, other)| usd(other).total_cmp(&usd(one)));
    let row = |(key, row): &(Vec<&str>, BTreeMap<&str, f64>)| {
        let mut out: Map<String, Json> =
            row.iter().map(|(name, value)| ((*name).to_owned(), rounded(*value))).collect();
        out.extend(labels.iter().zip(key).map(|(label, value)| ((*label).to_owned(), (*value).into())));
        if let Some(tokens) = row.get("output_tokens").filter(|tokens| **tokens > 0.0) {
            out.insert("usd_per_million_output_tokens".to_owned(), rounded(usd(row) / tokens * 1e6));
        }
        Json::Object(out)
    };
    Ok(json!({
        "range": range.json(),
        "total_usd": rounded(total),
        "rows": rows.iter().take(limit).map(row).collect::<Json>(),
        "truncated": rows.len() > limit,
        "idle_devices_usd": found.last().and_then(super::ask::alone).map(rounded),
        "note": "requests without a price add nothing to the cost; the range is that of the rollups in memory",
    }))
}
