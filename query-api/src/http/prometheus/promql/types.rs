//! What type an expression has, and whether it is a percentile.

use super::{Aggregator, Expr, Function, Operator, functions::Type};

pub(super) fn type_of(expr: &Expr) -> Type {
    match expr {
        Expr::Number(_) => Type::Scalar,
        Expr::Selector(_) | Expr::Over(..) | Expr::Aggregate(_) => Type::Vector,
        Expr::Call(function, _) => function.result(),
        Expr::Negate(of) => type_of(of),
        Expr::Binary(binary) => match (type_of(&binary.left), type_of(&binary.right)) {
            (Type::Scalar, Type::Scalar) => Type::Scalar,
            _ => Type::Vector,
        },
    }
}

/// Whether the values are percentiles, whose sum and mean say nothing.
pub(super) fn is_percentile(expr: &Expr) -> bool {
    match expr {
        Expr::Number(_) | Expr::Selector(_) => false,
        Expr::Over(function, ..) => function.makes_percentiles(),
        Expr::Call(function, arguments) => {
            function.makes_percentiles()
                || (function.keeps_percentiles() && arguments.first().is_some_and(is_percentile))
        }
        Expr::Negate(of) => is_percentile(of),
        Expr::Aggregate(aggregate) => {
            !matches!(aggregate.aggregator, Aggregator::Count | Aggregator::Group)
                && is_percentile(&aggregate.of)
        }
        Expr::Binary(binary) => match binary.operator {
            operator if operator.is_comparison() && binary.is_bool => false,
            Operator::And | Operator::Unless => is_percentile(&binary.left),
            _ => is_percentile(&binary.left) || is_percentile(&binary.right),
        },
    }
}

/// How `function` should be written over something else than a selector's range.
pub(super) fn range_hint(function: Function) -> String {
    format!(
        "{}() takes the range of a selector, such as {}(infertrace_requests_total[5m])",
        function.name(),
        function.name()
    )
}
