//! What a search asks, as SQL over the tables that the sink fills.
//!
//! Invariants: texts of a request are parameters, never SQL; what stands in the SQL itself is numbers, hexadecimal
//! digits and names of columns. A condition has two bounds: rows that certainly satisfy it and rows that possibly do.
//! Where they differ, the rows between them are decided here, by the code that decides for the other tiers.

use std::fmt::Write as _;

use infertrace_query_language::{
    Comparison, Expr, Field, Operator, Scope, Value,
    clickhouse::{Bound, ParameterValue, Predicate, bounded},
};
use infertrace_schemas::columns::name;

use crate::{hot::TraceId, search::SpanFilters};

const SECOND_NS: i64 = 1_000_000_000;
const MINUTE_S: i64 = 60;
/// Minutes that a statement lists; more are asked for as one range, so that the SQL stays small.
const LISTED_MINUTES: usize = 1_000;
/// How rows are to come: bytes as they are, not packed.
const ARROW: &str =
    "output_format_arrow_string_as_string = 0, output_format_arrow_compression_method = 'none'";

/// A statement, and the values of its parameters by name, in ClickHouse's format `Escaped`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) parameters: Vec<(String, String)>,
}

/// What a row must satisfy, but for the time range of the scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    certain: Statement,
    possible: Statement,
    is_exact: bool,
    /// Columns by which rows between the bounds are decided.
    columns: Vec<&'static str>,
}

impl Condition {
    /// The filters, and that the span starts no later than `latest_ns`.
    pub(crate) fn new(filters: &SpanFilters, latest_ns: Option<i64>) -> Self {
        // Both stand in one statement, so the names of their parameters differ.
        let compiled = |bound, prefix| {
            let mut compiler = Compiler { statement: Statement::default(), bound, prefix };
            compiler.filters(filters, latest_ns);
            compiler.statement
        };
        let certain = compiled(Bound::Certain, 'c');
        let is_exact = compiled(Bound::Possible, 'c') == certain;
        let mut columns = vec![name::TRACE_ID, name::START_TIME];
        for column in filters.columns() {
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        Self { certain, possible: compiled(Bound::Possible, 'a'), is_exact, columns }
    }

    /// Whether SQL alone decides.
    pub(crate) fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// Columns of [`Self::undecided`], in their order.
    pub(crate) fn columns(&self) -> &[&'static str] {
        &self.columns
    }
}

/// Half-open range of start times, nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from_ns: i64,
    pub(crate) to_ns: i64,
}

/// Statements over one database.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    /// Letters, digits and `_`.
    pub(crate) database: String,
    /// Seconds after which the server gives up.
    pub(crate) timeout_s: u64,
}

impl Statements {
    /// Ids and earliest starts of traces with spans that satisfy `condition`, at most `limit`.
    pub(crate) fn candidates(&self, condition: &Condition, within: Span, limit: usize) -> Statement {
        let sql = format!(
            "SELECT trace_id, min(start_time) AS first FROM `{}`.spans WHERE {} AND {} GROUP BY trace_id LIMIT {limit} {}",
            self.database,
            range(within),
            condition.certain.sql,
            self.as_arrow()
        );
        Statement { sql, parameters: condition.certain.parameters.clone() }
    }

    /// Rows that possibly but not certainly satisfy `condition`, at most `limit`.
    pub(crate) fn undecided(&self, condition: &Condition, within: Span, limit: usize) -> Statement {
        let sql = format!(
            "SELECT {} FROM `{}`.spans WHERE {} AND {} AND NOT ifNull({}, 0) LIMIT {limit} {}",
            listed(&condition.columns),
            self.database,
            range(within),
            condition.possible.sql,
            condition.certain.sql,
            self.as_arrow()
        );
        let parameters = condition.possible.parameters.iter().chain(&condition.certain.parameters);
        Statement { sql, parameters: parameters.cloned().collect() }
    }

    /// Minutes, in seconds since 1970, in which spans of traces began.
    pub(crate) fn minutes(&self, ids: &[TraceId]) -> Statement {
        let lows: Vec<String> = ids.iter().map(|id| low(id).to_string()).collect();
        let sql = format!(
            "SELECT DISTINCT toUnixTimestamp(minute) FROM `{}`.trace_times WHERE trace_low IN ({}) \
             SETTINGS max_execution_time = {} FORMAT TabSeparated",
            self.database,
            lows.join(", "),
            self.timeout_s
        );
        Statement { sql, parameters: Vec::new() }
    }

    /// Rows of traces in `table` (`spans` or `tokens`), whose spans began in `minutes`, which are ascending and some.
    pub(crate) fn rows(
        &self,
        table: &'static str,
        columns: &[&'static str],
        ids: &[TraceId],
        minutes: &[i64],
    ) -> Statement {
        let (first, last) = (minutes.first().copied(), minutes.last().copied());
        let within = Span {
            from_ns: first.map_or(i64::MIN, |minute| minute.saturating_mul(SECOND_NS)),
            to_ns: last.map_or(i64::MAX, |minute| (minute + MINUTE_S).saturating_mul(SECOND_NS)),
        };
        let mut sql =
            format!("SELECT {} FROM `{}`.{table} WHERE {}", listed(columns), self.database, range(within));
        if minutes.len() <= LISTED_MINUTES {
            let minutes: Vec<String> =
                minutes.iter().map(|minute| format!("toDateTime({minute}, 'UTC')")).collect();
            let _ = write!(sql, " AND toStartOfMinute(start_time, 'UTC') IN ({})", minutes.join(", "));
        }
        let ids: Vec<String> =
            ids.iter().map(|id| format!("toFixedString(unhex('{}'), 16)", hex::encode(id))).collect();
        let _ = write!(sql, " AND trace_id IN ({}) {}", ids.join(", "), self.as_arrow());
        Statement { sql, parameters: Vec::new() }
    }

    /// Names of the columns that are there, by table.
    pub(crate) fn schema(&self) -> Statement {
        let sql = format!(
            "SELECT table, name FROM system.columns WHERE database = '{}' \
             AND table IN ('spans', 'tokens', 'trace_times') FORMAT TabSeparated",
            self.database
        );
        Statement { sql, parameters: Vec::new() }
    }

    /// First start, last start and rows of each day: answered by what parts say of themselves.
    pub(crate) fn days(&self) -> Statement {
        let sql = format!(
            "SELECT toUnixTimestamp64Nano(min(start_time)), toUnixTimestamp64Nano(max(start_time)), count() \
             FROM `{}`.spans GROUP BY toDate(start_time, 'UTC') FORMAT TabSeparated",
            self.database
        );
        Statement { sql, parameters: Vec::new() }
    }

    /// The first offset of each partition, of all rows or of those in a range.
    pub(crate) fn first_offsets(&self, within: Option<Span>) -> Statement {
        let sql = format!(
            "SELECT _partition, min(_offset) FROM `{}`.spans WHERE {} GROUP BY _partition FORMAT TabSeparated",
            self.database,
            within.map_or_else(|| "1".to_owned(), range)
        );
        Statement { sql, parameters: Vec::new() }
    }

    fn as_arrow(&self) -> String {
        format!("SETTINGS max_execution_time = {}, {ARROW} FORMAT ArrowStream", self.timeout_s)
    }
}

/// The last 8 bytes of a trace id, by which `trace_times` finds it.
fn low(id: &TraceId) -> u64 {
    id.last_chunk::<8>().map_or(0, |low| u64::from_be_bytes(*low))
}

fn listed(columns: &[&'static str]) -> String {
    columns.iter().map(|column| format!("`{column}`")).collect::<Vec<_>>().join(", ")
}

fn time(nanos: i64) -> String {
    format!("fromUnixTimestamp64Nano(toInt64({nanos}), 'UTC')")
}

fn range(within: Span) -> String {
    format!("start_time >= {} AND start_time < {}", time(within.from_ns), time(within.to_ns))
}

struct Compiler {
    /// The conjunction so far; never empty once [`Self::filters`] is done.
    statement: Statement,
    bound: Bound,
    /// What names of parameters begin with.
    prefix: char,
}

impl Compiler {
    fn filters(&mut self, filters: &SpanFilters, latest_ns: Option<i64>) {
        let mut all: Vec<String> = Vec::new();
        let terms = [
            (name::SERVICE_NAME, &filters.service),
            (name::OPERATION_NAME, &filters.operation),
            (name::MODEL_NAME, &filters.model),
        ];
        for (column, wanted) in terms {
            all.extend(wanted.as_deref().map(|wanted| format!("{column} = {}", self.text(wanted))));
        }
        all.extend(filters.status.map(|status| format!("status_code = {status}")));
        all.extend(filters.min_duration_ns.map(|least| format!("duration_ns >= {least}")));
        all.extend(filters.max_duration_ns.map(|most| format!("duration_ns <= {most}")));
        all.extend(filters.start_ns.map(|from| format!("start_time >= {}", time(from))));
        all.extend(filters.end_ns.map(|to| format!("start_time < {}", time(to))));
        all.extend(latest_ns.map(|latest| format!("start_time <= {}", time(latest))));
        for (key, value) in &filters.attributes {
            all.push(self.attribute(key, value));
        }
        if let Some(expression) = filters.query.as_ref().and_then(|query| query.of_span()) {
            let predicate = bounded(expression, self.bound);
            all.push(self.embedded(&predicate));
        }
        self.statement.sql = if all.is_empty() { "1".to_owned() } else { format!("({})", all.join(" AND ")) };
    }

    /// The SQL that names a parameter of this value.
    fn bind(&mut self, value: &ParameterValue, type_name: &str) -> String {
        let name = format!("{}{}", self.prefix, self.statement.parameters.len());
        self.statement.parameters.push((name.clone(), value.escaped()));
        format!("{{{name}:{type_name}}}")
    }

    fn text(&mut self, text: &str) -> String {
        self.bind(&ParameterValue::Text(text.to_owned()), "String")
    }

    /// A predicate of the language, its parameters renamed to ours.
    fn embedded(&mut self, predicate: &Predicate) -> String {
        let mut sql = predicate.sql.clone();
        for parameter in &predicate.parameters {
            let type_name = match &parameter.value {
                ParameterValue::Text(_) => "String",
                ParameterValue::Integer(_) => "Int64",
                ParameterValue::Float(_) => "Float64",
                ParameterValue::Bool(_) => "Bool",
            };
            let ours = self.bind(&parameter.value, type_name);
            sql = sql.replace(&format!("{{{}:{type_name}}}", parameter.name), &ours);
        }
        format!("({sql})")
    }

    /// Whether the span or its resource has an attribute that reads as `value`, as
    /// [`crate::search::attribute::attribute_equals`] says it.
    fn attribute(&mut self, key: &str, value: &str) -> String {
        let (bound_key, bound_value) = (self.text(key), self.text(value));
        let has = |map: &str| format!("mapContains({map}, {bound_key})");
        let mut any = vec![format!(
            "({} AND attributes_string[{bound_key}] = {bound_value})",
            has(name::ATTRIBUTES_STRING)
        )];
        let typed = [
            (name::ATTRIBUTES_INT, value.parse().ok().map(ParameterValue::Integer), "Int64"),
            (name::ATTRIBUTES_DOUBLE, value.parse().ok().map(ParameterValue::Float), "Float64"),
            (name::ATTRIBUTES_BOOL, value.parse().ok().map(ParameterValue::Bool), "Bool"),
        ];
        for (map, parsed, type_name) in typed {
            if let Some(parsed) = parsed {
                let parsed = self.bind(&parsed, type_name);
                any.push(format!("({} AND {map}[{bound_key}] = {parsed})", has(map)));
            }
        }
        any.extend(self.resource_text(key, value));
        if self.bound == Bound::Possible {
            // Items of arrays, and numbers of resources.
            any.push(has(name::ATTRIBUTES_OTHER));
            let stands = |text: &str, bound: &str| {
                let escaped = if is_plain(text) { "" } else { " OR position(resource, '\\\\') > 0" };
                format!("(position(resource, {bound}) > 0{escaped})")
            };
            // A number may be spelt otherwise.
            let is_text = value.parse::<f64>().is_err();
            let of_value =
                if is_text { format!(" AND {}", stands(value, &bound_value)) } else { String::new() };
            any.push(format!("({}{of_value})", stands(key, &bound_key)));
        }
        format!("({})", any.join(" OR "))
    }

    /// Whether the resource has the attribute as a text; `None` where that is no column of JSON.
    fn resource_text(&mut self, key: &str, value: &str) -> Option<String> {
        // The language takes this key for the column of services, which is not the same question.
        if key == "service.name" {
            return None;
        }
        let field = Field::Attribute { scope: Scope::Resource, key: key.to_owned() };
        let comparison = Comparison::new(field, Operator::Equal, Value::Text(value.to_owned())).ok()?;
        let predicate = bounded(&Expr::Compare(comparison), self.bound);
        Some(self.embedded(&predicate))
    }
}

/// Whether JSON writes the text as it is.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/: ".contains(&byte))
}

#[cfg(test)]
mod tests;
