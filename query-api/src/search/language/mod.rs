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
    Comparison, Connective, Expr, Field, Intrinsic, Operator, Place, Query, QueryError, Scope, Spanset,
    SpansetOperator, Stage, Type, Value,
    evaluate::{Scalar, SpanSource, Trace},
    parse,
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
    /// Reads a query; its text in normal form is its identity.
    ///
    /// # Errors
    /// [`TraceQueryError`]; a mistake's message shows the place.
    pub fn parse(text: &str) -> Result<Self, TraceQueryError> {
        let shown = |error: QueryError| TraceQueryError::Language(error.render(text));
        let query = parse(text).map_err(shown)?.normalised();
        let necessary = necessary(&query.spanset).map(Arc::new);
        let parsed = Self { text: query.to_string(), query, necessary };
        match parsed.fields().into_iter().find(|field| **field == Field::Intrinsic(Intrinsic::Cost)) {
            Some(field) => Err(TraceQueryError::NotStored(field.to_string())),
            None => Ok(parsed),
        }
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

    /// Columns by which [`Self::matches`] decides.
    #[must_use]
    pub fn columns(&self) -> Vec<&'static str> {
        let of_fields: BTreeSet<_> = self.fields().into_iter().flat_map(columns_of).collect();
        of_fields.into_iter().collect()
    }

    /// Whether a trace, given with the parts that it was assembled from, matches.
    ///
    /// # Errors
    /// [`MissingColumn`] when a part lacks one of [`Self::columns`].
    pub fn matches(&self, trace: &Assembled, parts: &[Part]) -> Result<bool, MissingColumn> {
        let fields = self.fields();
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
        Ok(!Trace::new(&spans, parent).find(&self.query).is_empty())
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
