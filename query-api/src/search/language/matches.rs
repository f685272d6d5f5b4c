//! `span_matches`: whether a row satisfies a condition of the query language, by its meaning.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{BooleanArray, RecordBatch},
    datatypes::{DataType, Field as ArrowField, Schema},
};
use datafusion::{
    common::exec_datafusion_err,
    error::Result,
    logical_expr::{
        ColumnarValue, Expr as Plan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
    prelude::col,
};
use infertrace_query_language::{Expr, evaluate::matches};

use super::{
    fields_of,
    row::{Fields, columns_of},
};

/// The expression for a condition that the row alone decides.
pub(super) fn call(expression: &Arc<Expr>) -> Plan {
    let mut fields = Vec::new();
    fields_of(expression, &mut fields);
    let mut columns: Vec<&'static str> = fields.into_iter().flat_map(columns_of).collect();
    columns.sort_unstable();
    columns.dedup();
    let function = SpanMatches {
        text: format!("{expression:?}"),
        expression: Arc::clone(expression),
        columns: columns.clone(),
        signature: Signature::variadic_any(Volatility::Immutable),
    };
    ScalarUDF::from(function).call(columns.into_iter().map(col).collect())
}

#[derive(Debug)]
struct SpanMatches {
    /// Stands for the condition where two are compared.
    text: String,
    expression: Arc<Expr>,
    columns: Vec<&'static str>,
    signature: Signature,
}

impl PartialEq for SpanMatches {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpanMatches {}

impl Hash for SpanMatches {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl ScalarUDFImpl for SpanMatches {
    fn name(&self) -> &str {
        "span_matches"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let mut columns = Vec::with_capacity(args.args.len());
        let mut declared = Vec::with_capacity(args.args.len());
        for (name, argument) in self.columns.iter().zip(args.args) {
            let column = argument.into_array(rows)?;
            declared.push(ArrowField::new(*name, column.data_type().clone(), true));
            columns.push(column);
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(declared)), columns, &options)?;
        let mut named = Vec::new();
        fields_of(&self.expression, &mut named);
        let fields = Fields::open(&batch, named).map_err(|error| exec_datafusion_err!("{error}"))?;
        let found: BooleanArray =
            (0..rows).map(|row| Some(matches(&self.expression, &fields.row(row)))).collect();
        Ok(ColumnarValue::Array(Arc::new(found)))
    }
}
