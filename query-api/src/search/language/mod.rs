//! Searches by a query of the language.
//!
//! Candidates are traces with a span that a match cannot be without ([`TraceQuery::necessary`]), found in the scan by the
//! meaning itself, row by row, and by plain comparisons of columns that prune files and row groups. Whether a
//! candidate matches is then decided over all its spans. A trace's place in the list is the earliest such span's start.

mod matches;
mod row;

use std::{collections::BTreeSet, sync::Arc};

use datafusion::{common::ScalarValue, logical_expr::Expr as Plan, prelude::col};
use infertrace_query_language::{
    Comparison, Connective, Expr, Field, Intrinsic, Measure, Operator, Place, Query, QueryError, Scope,
    Spanset, SpansetOperator, Stage, Type, Value,
    evaluate::{Scalar, SpanSource, Trace, first},
    parse, parse_metrics,
};
use infertrace_schemas::columns::{name, span_schema};

use self::row::{Fields, Row, SERVICE, columns_of};
use super::filters::{literal, term};
use crate::{
    lake::LakeFile,
    store::Part,
    trace::{Assembled, MissingColumn},
};

/// A query, and what it needs of a span.
#[derive(Clone, Debug)]
pub struct TraceQuery {
    text: String,
    query: Query,
    /// What one of the spans of every match satisfies; `None` where any may.
    necessary: Option<Arc<Expr>>,
    /// Fields whose values are told of the spans found.
    shown: Vec<Field>,
}

/// A span that a query finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its place among the nodes of the trace's analysis.
    pub node: usize,
    /// The first value that it has for each of [`TraceQuery::shown`].
    pub values: Vec<Option<Value>>,
}

/// What is counted of the spans that a query finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// The query; it shows [`Self::by`], and behind them the field of [`Self::measure`] if it has one.
    pub query: TraceQuery,
    /// What is counted.
    pub measure: Measure,
    /// What series differ by.
    pub by: Vec<Field>,
}

/// By its text, since that is what two requests have in common.
impl PartialEq for TraceQuery {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for TraceQuery {}

/// Why a text is no query that a search takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceQueryError {
    /// Not of the language.
    #[error("{0}")]
    Language(String),
    /// It asks for what no tier stores.
    #[error(
        "a search cannot ask for `{0}`: it is computed, not stored; the trace's page and rollups have it"
    )]
    NotStored(String),
}

impl TraceQuery {
    /// The query that finds every trace.
    #[must_use]
    pub fn all() -> Self {
        let spanset = Spanset::Filter(Expr::Constant(true));
        Self::new(Query { spanset, stages: Vec::new() })
    }

    fn new(query: Query) -> Self {
        let query = query.normalised();
        let necessary = necessary(&query.spanset).map(Arc::new);
        let mut parsed = Self { text: query.to_string(), query, necessary, shown: Vec::new() };
        let mut shown: Vec<Field> = Vec::new();
        let selected = parsed.query.stages.iter().filter_map(|stage| match stage {
            Stage::Select(fields) => Some(fields),
            Stage::Aggregate(_) | Stage::By(_) => None,
        });
        for field in parsed.fields().into_iter().chain(selected.flatten()) {
            if !shown.contains(field) {
                shown.push(field.clone());
            }
        }
        parsed.shown = shown;
        parsed
    }

    /// Reads a query; its text in normal form is its identity.
    ///
    /// # Errors
    /// [`TraceQueryError`]; a mistake's message shows the place.
    pub fn parse(text: &str) -> Result<Self, TraceQueryError> {
        let shown = |error: QueryError| TraceQueryError::Language(error.render(text));
        Self::new(parse(text).map_err(shown)?).stored()
    }

    /// Reads a query that ends in a metrics function.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_metrics(text: &str) -> Result<Metrics, TraceQueryError> {
        let shown = |error: QueryError| TraceQueryError::Language(error.render(text));
        let parsed = parse_metrics(text).map_err(shown)?;
        let mut query = Self::new(parsed.query).stored()?;
        query.shown = parsed.by.iter().chain(parsed.measure.field()).cloned().collect();
        match query.shown.iter().find(|field| is_cost(field)) {
            Some(field) => Err(TraceQueryError::NotStored(field.to_string())),
            None => Ok(Metrics { query, measure: parsed.measure, by: parsed.by }),
        }
    }

    /// Itself, unless it is decided by what no tier stores.
    fn stored(self) -> Result<Self, TraceQueryError> {
        match self.fields().into_iter().find(|field| is_cost(field)) {
            Some(field) => Err(TraceQueryError::NotStored(field.to_string())),
            None => Ok(self),
        }
    }

    /// Fields whose values [`Self::found`] tells: those that decide, and those that `select` names.
    #[must_use]
    pub fn shown(&self) -> &[Field] {
        &self.shown
    }

    /// What a span must satisfy for its trace to be looked at, as an expression for the engine.
    #[must_use]
    pub fn necessary(&self) -> Option<Plan> {
        let expression = self.necessary.as_ref()?;
        if let Expr::Constant(holds) = **expression {
            return Some(literal(holds));
        }
        let mut all = Vec::new();
        conjuncts(expression, &mut |comparison| all.extend(comparison_of_column(comparison)));
        all.push(matches::call(expression));
        all.into_iter().reduce(Plan::and)
    }

    /// The same as a condition of the language.
    #[must_use]
    pub fn of_span(&self) -> Option<&Expr> {
        self.necessary.as_deref()
    }

    /// Whether a file may hold such a span, by its manifest's entry alone.
    #[must_use]
    pub fn may_match(&self, file: &LakeFile) -> bool {
        let mut may = true;
        let Some(expression) = &self.necessary else { return true };
        conjuncts(expression, &mut |comparison| {
            let (Operator::Equal, Value::Text(text)) = (comparison.operator(), comparison.value()) else {
                return;
            };
            may &= match comparison.field() {
                Field::Intrinsic(Intrinsic::Model) => file.data.may_have_model(text),
                Field::Attribute { scope: Scope::Resource, key } if key == SERVICE => {
                    file.data.may_have_service(text)
                }
                _ => true,
            };
        });
        may
    }

    /// Columns that [`Self::matches`] and [`Self::found`] read.
    #[must_use]
    pub fn columns(&self) -> Vec<&'static str> {
        let fields = self.fields().into_iter().chain(&self.shown);
        let of_fields: BTreeSet<_> = fields.flat_map(columns_of).collect();
        of_fields.into_iter().collect()
    }

    /// Whether a trace, given with the parts that it was assembled from, matches.
    ///
    /// # Errors
    /// [`MissingColumn`] when a part lacks one of [`Self::columns`].
    pub fn matches(&self, trace: &Assembled, parts: &[Part]) -> Result<bool, MissingColumn> {
        self.decide(trace, parts, self.fields(), |_, sets| !sets.is_empty())
    }

    /// The sets of spans that the query finds in a trace; none where it does not match.
    ///
    /// # Errors
    /// As [`Self::matches`].
    pub fn found(&self, trace: &Assembled, parts: &[Part]) -> Result<Vec<Vec<Found>>, MissingColumn> {
        let fields = self.fields().into_iter().chain(&self.shown).collect();
        self.decide(trace, parts, fields, |spans, sets| {
            let told = |node: usize| {
                let values = self.shown.iter().map(|field| first(field, &spans[node])).collect();
                Found { node, values }
            };
            sets.into_iter().map(|set| set.into_iter().map(told).collect()).collect()
        })
    }

    /// Hands the trace's spans, with `fields` opened, and the sets of them that the query finds to `tell`.
    fn decide<T>(
        &self,
        trace: &Assembled,
        parts: &[Part],
        fields: Vec<&Field>,
        tell: impl FnOnce(&[Node<'_>], Vec<Vec<usize>>) -> T,
    ) -> Result<T, MissingColumn> {
        let opened = parts
            .iter()
            .map(|part| Fields::open(&part.rows.batch, fields.iter().copied()))
            .collect::<Result<Vec<_>, _>>()?;
        let nodes = &trace.analysis.nodes;
        let mut children = vec![0_i64; nodes.len()];
        for node in nodes {
            if let Some(count) = children.get_mut(node.parent as usize) {
                *count += 1;
            }
        }
        let root = nodes.get(trace.analysis.root as usize).map(|root| &trace.spans[root.input as usize]);
        let of_trace = OfTrace {
            duration_ns: i64::try_from(trace.analysis.duration_ns()).unwrap_or(i64::MAX),
            root_name: root.map(|root| trace.names.get(root.operation)),
            root_service: root.map(|root| trace.names.get(root.service)),
        };
        let spans: Vec<Node<'_>> = (0..nodes.len())
            .map(|index| {
                let place = trace.place(index);
                let row = opened[place.part as usize].row(place.row as usize);
                Node { row, of_trace: &of_trace, children: children[index] }
            })
            .collect();
        let parent = |index: usize| Some(nodes[index].parent as usize);
        let sets = Trace::new(&spans, parent).find(&self.query);
        Ok(tell(&spans, sets))
    }

    /// Every field that decides.
    fn fields(&self) -> Vec<&Field> {
        let mut fields = Vec::new();
        fields_of_spanset(&self.query.spanset, &mut fields);
        for stage in &self.query.stages {
            match stage {
                Stage::Aggregate(aggregate) => fields.extend(aggregate.field()),
                Stage::By(field) => fields.push(field),
                // Names what is shown, and decides nothing.
                Stage::Select(_) => {}
            }
        }
        fields
    }
}

fn is_cost(field: &Field) -> bool {
    *field == Field::Intrinsic(Intrinsic::Cost)
}

/// What the spans of one trace share.
struct OfTrace<'a> {
    duration_ns: i64,
    root_name: Option<&'a str>,
    root_service: Option<&'a str>,
}

/// A span within its trace.
struct Node<'a> {
    row: Row<'a, 'a>,
    of_trace: &'a OfTrace<'a>,
    children: i64,
}

impl SpanSource for Node<'_> {
    fn any(&self, field: &Field, test: &mut dyn FnMut(Scalar<'_>) -> bool) -> bool {
        match field {
            Field::Intrinsic(Intrinsic::TraceDuration) => test(Scalar::Duration(self.of_trace.duration_ns)),
            Field::Intrinsic(Intrinsic::RootName) => {
                self.of_trace.root_name.is_some_and(|name| test(Scalar::Text(name)))
            }
            Field::Intrinsic(Intrinsic::RootServiceName) => {
                self.of_trace.root_service.is_some_and(|name| test(Scalar::Text(name)))
            }
            Field::Intrinsic(Intrinsic::ChildCount) => test(Scalar::Integer(self.children)),
            field => self.row.any(field, test),
        }
    }
}

fn fields_of_spanset<'q>(spanset: &'q Spanset, fields: &mut Vec<&'q Field>) {
    match spanset {
        Spanset::Filter(expression) => fields_of(expression, fields),
        Spanset::Binary { left, right, .. } => {
            fields_of_spanset(left, fields);
            fields_of_spanset(right, fields);
        }
    }
}

fn fields_of<'q>(expression: &'q Expr, fields: &mut Vec<&'q Field>) {
    match expression {
        Expr::Constant(_) => {}
        Expr::Compare(comparison) => fields.push(comparison.field()),
        Expr::Not(inner) => fields_of(inner, fields),
        Expr::Binary { left, right, .. } => {
            fields_of(left, fields);
            fields_of(right, fields);
        }
    }
}

/// What one of the spans of every matching trace satisfies, decided by that span alone; `None` where any may.
fn necessary(spanset: &Spanset) -> Option<Expr> {
    match spanset {
        Spanset::Filter(expression) => Some(expression.assuming(&is_of_trace, true).normalised())
            .filter(|all| *all != Expr::Constant(true)),
        Spanset::Binary { operator: SpansetOperator::Or, left, right } => {
            let (left, right) = (Box::new(necessary(left)?), Box::new(necessary(right)?));
            Some(Expr::Binary { connective: Connective::Or, left, right })
        }
        // Neither side may be empty; what is found is on the right, which is as a rule the rarer.
        Spanset::Binary { left, right, .. } => necessary(right).or_else(|| necessary(left)),
    }
}

/// Whether one row does not tell it.
const fn is_of_trace(comparison: &Comparison) -> bool {
    use Intrinsic::{ChildCount, RootName, RootServiceName, TraceDuration};
    matches!(comparison.field(), Field::Intrinsic(TraceDuration | RootName | RootServiceName | ChildCount))
}

/// The comparisons that must all hold.
fn conjuncts(expression: &Expr, each: &mut impl FnMut(&Comparison)) {
    match expression {
        Expr::Compare(comparison) => each(comparison),
        Expr::Binary { connective: Connective::And, left, right } => {
            conjuncts(left, each);
            conjuncts(right, each);
        }
        Expr::Binary { .. } | Expr::Not(_) | Expr::Constant(_) => {}
    }
}

/// The comparison as one of a column with a constant, where statistics of files and pages can prune by it; it may hold for more
/// rows than the comparison does.
fn comparison_of_column(comparison: &Comparison) -> Option<Plan> {
    let column = match comparison.field() {
        Field::Attribute { scope: Scope::Resource, key } if key == SERVICE => name::SERVICE_NAME,
        Field::Intrinsic(intrinsic) => match intrinsic.place() {
            Place::Column(column) | Place::Nullable(column) => column,
            _ => return None,
        },
        Field::Attribute { .. } => return None,
    };
    let schema = span_schema();
    let data_type = schema.field_with_name(column).ok()?.data_type();
    let constant = match (comparison.value(), comparison.field()) {
        (Value::Text(text), Field::Intrinsic(intrinsic)) => match intrinsic.value_type() {
            Type::Text => text_of(text, data_type),
            _ => literal(ScalarValue::FixedSizeBinary(text.len() as i32 / 2, hex::decode(text).ok())),
        },
        (Value::Text(text), Field::Attribute { .. }) => text_of(text, data_type),
        (Value::Integer(number) | Value::Duration(number), _) => {
            literal(ScalarValue::Int64(Some(*number)).cast_to(data_type).ok()?)
        }
        (Value::Status(status), _) => literal(*status as u8),
        (Value::Kind(kind), _) => literal(*kind as u8),
        (Value::Bool(flag), _) => literal(*flag),
        (Value::Float(_) | Value::Nil, _) => return None,
    };
    let column = col(column);
    match comparison.operator() {
        Operator::Equal => Some(column.eq(constant)),
        Operator::Less | Operator::LessOrEqual if is_ordered(comparison) => Some(column.lt_eq(constant)),
        Operator::Greater | Operator::GreaterOrEqual if is_ordered(comparison) => {
            Some(column.gt_eq(constant))
        }
        _ => None,
    }
}

/// Whether the value's order is that of the column.
const fn is_ordered(comparison: &Comparison) -> bool {
    matches!(comparison.value(), Value::Integer(_) | Value::Duration(_))
}

fn text_of(text: &str, data_type: &arrow::datatypes::DataType) -> Plan {
    match data_type {
        arrow::datatypes::DataType::Dictionary(..) => term(text),
        _ => literal(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> String {
        let query = TraceQuery::parse(text).expect("a query");
        query.necessary().map_or_else(|| "any".to_owned(), |plan| plan.to_string())
    }

    /// Scenario: queries of one span, of several, and of the trace. Guarantee: columns are compared where all matches need
    /// it, nothing is asked of a span that a matching trace can be without, and what one row cannot tell is left open.
    #[test]
    fn candidates_have_what_every_match_has() {
        let one = plan(r#"{ resource.service.name = "chat" && duration > 5ms && .a = 1 }"#);
        assert!(one.contains("service_name = ") && one.contains("duration_ns >= Int64(5000000)"), "{one}");
        assert!(one.contains("span_matches(attributes_bool, attributes_double, attributes_int"), "{one}");
        for any in [
            "{ }",
            "{ traceDuration > 1s }",
            "{ status = ok } || { rootName = \"x\" }",
            "{ .a = 1 || childCount = 2 }",
        ] {
            assert_eq!(plan(any), "any", "{any}");
        }
        let below = plan("{ status = error } >> { kind = server }");
        assert!(below.contains("kind = UInt8(2)") && !below.contains("status_code"), "{below}");
        let either = plan("{ status = error } || { kind = server }");
        assert!(!either.contains(" = ") && either.contains("span_matches(kind, status_code)"), "{either}");
        assert!(!plan("{ !(llm:inputTokens > 5) }").contains(">="));
        assert!(!plan("{ llm:inputTokens > -5 }").contains(">="), "no number of the column's type");
        assert_eq!(plan("{ false }"), "Boolean(false)");
    }
}
