//! What a search asks of one span, and of its trace, and the first as an expression for the engine.

use std::sync::Arc;

use datafusion::{
    common::{DFSchema, ScalarValue},
    error::Result,
    logical_expr::Expr,
    physical_expr::PhysicalExpr,
    prelude::{SessionContext, col},
};
use infertrace_schemas::{
    columns::{UTC, name},
    lake::deletion::Deletions,
};
use xxhash_rust::xxh3::xxh3_64;

use super::{attribute::attribute_equals, language::TraceQuery};
use crate::lake::LakeFile;

/// Filters on one span, and a query of its trace; absent ones match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanFilters {
    /// Service name.
    pub service: Option<String>,
    /// Operation name.
    pub operation: Option<String>,
    /// Model name.
    pub model: Option<String>,
    /// [`infertrace_schemas::columns::status`].
    pub status: Option<u8>,
    /// Shortest duration.
    pub min_duration_ns: Option<i64>,
    /// Longest duration.
    pub max_duration_ns: Option<i64>,
    /// Earliest start, nanoseconds since 1970.
    pub start_ns: Option<i64>,
    /// First start that is too late.
    pub end_ns: Option<i64>,
    /// Attributes of span or resource, and what they must read as.
    pub attributes: Vec<(String, String)>,
    /// What the trace must match besides.
    pub query: Option<Arc<TraceQuery>>,
}

pub(super) fn term(value: &str) -> Expr {
    let text = ScalarValue::Utf8(Some(value.to_owned()));
    // Of the column's own type, so that rows are compared by their dictionary.
    let key = arrow::datatypes::DataType::Int32;
    Expr::Literal(ScalarValue::Dictionary(Box::new(key), Box::new(text)), None)
}

fn time(nanos: i64) -> Expr {
    Expr::Literal(ScalarValue::TimestampNanosecond(Some(nanos), Some(UTC.into())), None)
}

pub(super) fn literal(value: impl Into<ScalarValue>) -> Expr {
    Expr::Literal(value.into(), None)
}

/// That a span is of no tenant to be forgotten; `None` where there is none.
pub(super) fn kept(deletions: &Deletions) -> Option<Expr> {
    let of_tenant = |(tenant, before_ns): (&str, i64)| {
        let is_other = if tenant.is_empty() {
            col(name::TENANT).is_not_null().and(col(name::TENANT).not_eq(term("")))
        } else {
            col(name::TENANT).is_null().or(col(name::TENANT).not_eq(term(tenant)))
        };
        is_other.or(col(name::START_TIME).gt_eq(time(before_ns)))
    };
    deletions.tenants().map(of_tenant).reduce(Expr::and)
}

impl SpanFilters {
    /// Whether a file may hold a match, by its manifest's entry alone.
    #[must_use]
    pub fn may_match(&self, file: &LakeFile) -> bool {
        let data = &file.data;
        self.service.as_deref().is_none_or(|service| data.may_have_service(service))
            && self.model.as_deref().is_none_or(|model| data.may_have_model(model))
            && data.may_start_within(self.start_ns.unwrap_or(i64::MIN), self.end_ns.unwrap_or(i64::MAX))
            && self.query.as_ref().is_none_or(|query| query.may_match(file))
    }

    /// The filters, and that the span starts no later than `latest_ns`, as an expression; `None` matches all.
    #[must_use]
    pub fn expression(&self, latest_ns: Option<i64>) -> Option<Expr> {
        let mut all: Vec<Expr> = Vec::new();
        let terms = [
            (name::SERVICE_NAME, &self.service),
            (name::OPERATION_NAME, &self.operation),
            (name::MODEL_NAME, &self.model),
        ];
        for (column, wanted) in terms {
            all.extend(wanted.as_deref().map(|wanted| col(column).eq(term(wanted))));
        }
        all.extend(self.status.map(|status| col(name::STATUS_CODE).eq(literal(status))));
        all.extend(self.min_duration_ns.map(|least| col(name::DURATION_NS).gt_eq(literal(least))));
        all.extend(self.max_duration_ns.map(|most| col(name::DURATION_NS).lt_eq(literal(most))));
        all.extend(self.start_ns.map(|from| col(name::START_TIME).gt_eq(time(from))));
        all.extend(self.end_ns.map(|to| col(name::START_TIME).lt(time(to))));
        all.extend(latest_ns.map(|latest| col(name::START_TIME).lt_eq(time(latest))));
        all.extend(self.attributes.iter().map(|(key, value)| attribute_equals(key, value)));
        all.extend(self.query.as_ref().and_then(|query| query.necessary()));
        all.into_iter().reduce(Expr::and)
    }

    /// The filters for batches that have `schema`.
    ///
    /// # Errors
    /// When the schema lacks a column that they name.
    pub fn physical(
        &self,
        context: &SessionContext,
        schema: &arrow::datatypes::SchemaRef,
    ) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let Some(expression) = self.expression(None) else { return Ok(None) };
        let schema = DFSchema::try_from(schema.as_ref().clone())?;
        context.create_physical_expr(expression, &schema).map(Some)
    }

    /// Columns that the filters read.
    #[must_use]
    pub fn columns(&self) -> Vec<&'static str> {
        let Some(expression) = self.expression(None) else { return Vec::new() };
        let used = expression.column_refs();
        let is_used = |column: &&&'static str| used.iter().any(|reference| reference.name == **column);
        name::ALL.iter().filter(is_used).copied().collect()
    }

    /// A number that differs for other filters, to recognise a cursor of another search. The time range is
    /// left out: a page that follows "the last hour" is asked for a little later than the first.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let timeless = Self { start_ns: None, end_ns: None, ..self.clone() };
        xxh3_64(format!("{timeless:?}").as_bytes())
    }
}
