//! Operators between two values.

use hashbrown::{HashMap, HashSet};

use super::{
    super::{
        promql::{Binary, Grouping, Operator},
        value::{Labels, Outcome, Sample, Value},
    },
    QueryError,
    aggregate::grouped,
};

pub(super) fn binary(binary: &Binary, left: Outcome, right: Outcome) -> Result<Outcome, QueryError> {
    match (left, right) {
        (Outcome::Scalar(left), Outcome::Scalar(right)) => {
            Ok(Outcome::Scalar(number(binary.operator, left, right)))
        }
        (Outcome::Vector(left), Outcome::Scalar(right)) => {
            let right = Value::Number(right);
            with_scalar(binary, left, |value| (value.clone(), right.clone()))
        }
        (Outcome::Scalar(left), Outcome::Vector(right)) => {
            let left = Value::Number(left);
            with_scalar(binary, right, |value| (left.clone(), value.clone()))
        }
        (Outcome::Vector(left), Outcome::Vector(right)) if binary.operator.is_set() => {
            Ok(Outcome::Vector(set(binary, left, right)))
        }
        (Outcome::Vector(left), Outcome::Vector(right)) => {
            one_to_one(binary, left, right).map(Outcome::Vector)
        }
    }
}

/// A comparison is 1 or 0.
fn number(operator: Operator, left: f64, right: f64) -> f64 {
    match operator {
        Operator::Add => left + right,
        Operator::Subtract => left - right,
        Operator::Multiply => left * right,
        Operator::Divide => left / right,
        Operator::Modulo => left % right,
        Operator::Power => left.powf(right),
        Operator::Equal => f64::from(left == right),
        Operator::NotEqual => f64::from(left != right),
        Operator::Less => f64::from(left < right),
        Operator::LessOrEqual => f64::from(left <= right),
        Operator::Greater => f64::from(left > right),
        Operator::GreaterOrEqual => f64::from(left >= right),
        // Between vectors only.
        Operator::Or | Operator::And | Operator::Unless => f64::NAN,
    }
}

fn value(operator: Operator, left: &Value, right: &Value, labels: &Labels) -> Result<Value, QueryError> {
    let unlike = || QueryError::unlike(labels);
    Ok(match (operator, left, right) {
        (_, Value::Number(left), Value::Number(right)) => Value::Number(number(operator, *left, *right)),
        (Operator::Add, Value::Histogram(left), Value::Histogram(right)) => {
            Value::Histogram(left.plus(right).ok_or_else(unlike)?)
        }
        (Operator::Multiply, Value::Histogram(all), Value::Number(factor))
        | (Operator::Multiply, Value::Number(factor), Value::Histogram(all)) => {
            Value::Histogram(all.times(*factor))
        }
        (Operator::Divide, Value::Histogram(all), Value::Number(divisor)) => {
            Value::Histogram(all.times(1.0 / divisor))
        }
        _ => return Err(unlike()),
    })
}

/// The sample that is left of one, if it is.
fn result(
    binary: &Binary,
    labels: Labels,
    kept: &Value,
    left: &Value,
    right: &Value,
) -> Result<Option<Sample>, QueryError> {
    let result = value(binary.operator, left, right, &labels)?;
    if binary.operator.is_comparison() && !binary.is_bool {
        return Ok((result == Value::Number(1.0)).then(|| Sample { labels, value: kept.clone() }));
    }
    Ok(Some(Sample { labels: labels.without_name(), value: result }))
}

fn with_scalar(
    binary: &Binary,
    samples: Vec<Sample>,
    sides: impl Fn(&Value) -> (Value, Value),
) -> Result<Outcome, QueryError> {
    let mut out = Vec::with_capacity(samples.len());
    for sample in samples {
        let (left, right) = sides(&sample.value);
        out.extend(result(binary, sample.labels, &sample.value, &left, &right)?);
    }
    Ok(Outcome::Vector(out))
}

fn set(binary: &Binary, left: Vec<Sample>, right: Vec<Sample>) -> Vec<Sample> {
    let key = |sample: &Sample| grouped(&sample.labels, &binary.matching);
    if binary.operator == Operator::Or {
        let known: HashSet<Labels> = left.iter().map(key).collect();
        let more = right.into_iter().filter(|sample| !known.contains(&key(sample)));
        return left.into_iter().chain(more).collect();
    }
    let known: HashSet<Labels> = right.iter().map(key).collect();
    let wanted = binary.operator == Operator::And;
    left.into_iter().filter(|sample| known.contains(&key(sample)) == wanted).collect()
}

fn one_to_one(binary: &Binary, left: Vec<Sample>, right: Vec<Sample>) -> Result<Vec<Sample>, QueryError> {
    let mut by_key: HashMap<Labels, Sample> = HashMap::with_capacity(right.len());
    for sample in right {
        let key = grouped(&sample.labels, &binary.matching);
        if let Some(other) = by_key.insert(key.clone(), sample) {
            let message = format!(
                "found duplicate series for the match group {} on the right hand-side of the operation, one of them {}; \
                 aggregate it first: many-to-many matching is not allowed",
                key.shown(),
                other.labels.shown(),
            );
            return Err(QueryError::execution(message));
        }
    }
    let mut matched: HashSet<Labels> = HashSet::new();
    let mut out = Vec::new();
    for sample in left {
        let key = grouped(&sample.labels, &binary.matching);
        let Some(other) = by_key.get(&key) else { continue };
        let labels = match &binary.matching {
            Grouping::All => sample.labels.clone(),
            Grouping::Only(_) => key.clone(),
            Grouping::Without(without) => {
                sample.labels.filtered(|name| !without.iter().any(|one| one == name))
            }
        };
        let Some(result) = result(binary, labels, &sample.value, &sample.value, &other.value)? else {
            continue;
        };
        if !matched.insert(key.clone()) {
            let message = format!(
                "multiple matches for labels {} on the left hand-side: vectors match one to one here, aggregate it first",
                key.shown(),
            );
            return Err(QueryError::execution(message));
        }
        out.push(result);
    }
    Ok(out)
}
