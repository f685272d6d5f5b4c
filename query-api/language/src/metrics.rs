//! TraceQL's metrics: a query, and at its end what is counted of its spans over time.

use crate::{
    ast::{Function, Measure, MetricsQuery, Query, Value},
    field::{Field, Scope, Type},
    parser::{Parser, Result},
    scanner::TokenKind,
};

/// Fields that series differ by, at most; Tempo's limit.
const MOST_FIELDS: usize = 5;
/// Quantiles of one query, at most.
const MOST_QUANTILES: usize = 10;
const KNOWN: &str = "`rate()`, `count_over_time()`, `min_over_time(…)`, `max_over_time(…)`, `avg_over_time(…)`, \
    `sum_over_time(…)`, `quantile_over_time(…)` or `histogram_over_time(…)`";

/// Reads a query that ends in a metrics function, and in `by(…)` where it is wanted.
///
/// # Errors
/// As [`crate::parse`].
pub fn parse_metrics(text: &str) -> Result<MetricsQuery> {
    let mut parser = Parser::new(text)?;
    let spanset = parser.spansets()?;
    let mut stages = Vec::new();
    loop {
        if !parser.take("|")? {
            return Err(parser.expected(&format!("`|` and a metrics function: {KNOWN}")));
        }
        if let Some(measure) = measure(&mut parser)? {
            let by = by(&mut parser)?;
            return match parser.token.kind {
                TokenKind::End => Ok(MetricsQuery { query: Query { spanset, stages }, measure, by }),
                _ => Err(parser
                    .expected("`by(…)` or the query's end; nothing else is taken behind a metrics function")),
            };
        }
        stages.push(parser.stage()?);
    }
}

/// The metrics function that comes next; `None` where another stage does.
fn measure(parser: &mut Parser<'_>) -> Result<Option<Measure>> {
    let TokenKind::Word(word) = parser.token.kind else { return Ok(None) };
    let function = match word {
        "rate" | "count_over_time" | "quantile_over_time" | "histogram_over_time" => None,
        "min_over_time" => Some(Function::Min),
        "max_over_time" => Some(Function::Max),
        "avg_over_time" => Some(Function::Avg),
        "sum_over_time" => Some(Function::Sum),
        "compare" | "topk" | "bottomk" => {
            return Err(parser.error(parser.token.at, format!("`{word}` is not supported; expected {KNOWN}")));
        }
        _ => return Ok(None),
    };
    parser.advance()?;
    parser.require("(")?;
    let measure = match (function, word) {
        (Some(function), word) => Measure::Of(function, number_field(parser, word)?),
        (None, "rate") => Measure::Rate,
        (None, "count_over_time") => Measure::Count,
        (None, "histogram_over_time") => Measure::Histogram(number_field(parser, word)?),
        (None, word) => {
            let field = number_field(parser, word)?;
            let mut quantiles = Vec::new();
            while parser.take(",")? {
                quantiles.push(quantile(parser)?);
            }
            if quantiles.is_empty() || quantiles.len() > MOST_QUANTILES {
                return Err(parser.expected(&format!("1 to {MOST_QUANTILES} quantiles, such as `, 0.99`")));
            }
            Measure::Quantile(field, quantiles)
        }
    };
    parser.require(")")?;
    Ok(Some(measure))
}

fn quantile(parser: &mut Parser<'_>) -> Result<f64> {
    let quantile = match &parser.token.kind {
        TokenKind::Literal(Value::Float(number)) => *number,
        TokenKind::Literal(Value::Integer(number)) => *number as f64,
        // `.99` reads as an attribute elsewhere.
        TokenKind::Attribute(Scope::Any, digits) => format!("0.{digits}").parse().unwrap_or(f64::NAN),
        _ => f64::NAN,
    };
    if !(0.0..=1.0).contains(&quantile) {
        return Err(parser.expected("a number from 0 to 1"));
    }
    parser.advance()?;
    Ok(quantile)
}

/// A field that may have numbers: an intrinsic must, an attribute of other values is left out when it is counted.
fn number_field(parser: &mut Parser<'_>, function: &str) -> Result<Field> {
    let at = parser.token.at;
    let field = parser.field()?;
    match &field {
        Field::Intrinsic(intrinsic)
            if !matches!(intrinsic.value_type(), Type::Integer | Type::Float | Type::Duration) =>
        {
            Err(parser.error(at, format!("`{function}` is of numbers or durations, which `{field}` is not")))
        }
        _ => Ok(field),
    }
}

fn by(parser: &mut Parser<'_>) -> Result<Vec<Field>> {
    let mut fields = Vec::new();
    if !matches!(parser.token.kind, TokenKind::Word("by")) {
        return Ok(fields);
    }
    parser.advance()?;
    parser.require("(")?;
    loop {
        let at = parser.token.at;
        fields.push(parser.field()?);
        if fields.len() > MOST_FIELDS {
            return Err(parser.error(at, format!("series differ by at most {MOST_FIELDS} fields")));
        }
        if !parser.take(",")? {
            parser.require(")")?;
            return Ok(fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Intrinsic;

    fn message(text: &str) -> String {
        parse_metrics(text).map_or_else(|error| error.to_string(), |query| format!("{query:?}"))
    }

    /// Scenario: every metrics function, with and without stages before it and fields behind. Guarantee: each is read
    /// as what it says.
    #[test]
    fn every_function_is_read() {
        let read = |text: &str| parse_metrics(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let service = Field::attribute(Scope::Resource, "service.name").expect("a key");
        let duration = Field::Intrinsic(Intrinsic::Duration);
        assert_eq!(read("{ status = error } | rate()").measure, Measure::Rate);
        let by = read("{ } | count() > 2 | count_over_time() by (resource.service.name, name)");
        assert_eq!((&by.measure, by.query.stages.len()), (&Measure::Count, 1));
        assert_eq!(by.by, [service, Intrinsic::Name.into()]);
        for (word, function) in
            [("min", Function::Min), ("max", Function::Max), ("avg", Function::Avg), ("sum", Function::Sum)]
        {
            let measure = read(&format!("{{ }} | {word}_over_time(duration)")).measure;
            assert_eq!(measure.word(), format!("{word}_over_time"));
            assert_eq!(measure, Measure::Of(function, duration.clone()));
        }
        let quantile = read("{ } | quantile_over_time(llm:ttft, .99, 0.5, 1)").measure;
        assert_eq!(quantile, Measure::Quantile(Intrinsic::Ttft.into(), vec![0.99, 0.5, 1.0]));
        assert_eq!(read("{ } | histogram_over_time(duration)").measure, Measure::Histogram(duration));
    }

    /// Scenario: no metrics function, one that is not taken, fields without numbers, quantiles that are none, something
    /// behind. Guarantee: each is refused with what was expected.
    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("{ }", "a metrics function"),
            ("{ } | count() > 2", "a metrics function"),
            ("{ } | compare({ status = error })", "`compare` is not supported"),
            ("{ } | avg_over_time(name)", "numbers or durations"),
            ("{ } | avg_over_time()", "a field"),
            ("{ } | quantile_over_time(duration)", "quantiles"),
            ("{ } | quantile_over_time(duration, 99)", "from 0 to 1"),
            ("{ } | rate() | topk(5)", "the query's end"),
            ("{ } | rate() by (.a, .b, .c, .d, .e, .f)", "at most 5 fields"),
        ] {
            assert!(message(text).contains(part), "{text}: {}", message(text));
        }
    }
}
