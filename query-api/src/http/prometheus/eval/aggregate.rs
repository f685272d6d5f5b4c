//! Many samples as one a group.

use hashbrown::HashMap;

use super::{
    super::{
        promql::{Aggregate, Aggregator, Grouping},
        value::{Histogram, Labels, NAME, Sample, Value},
    },
    QueryError,
};

/// The labels by which samples belong together. The metric's name is none of them unless it is named.
pub(super) fn grouped(labels: &Labels, grouping: &Grouping) -> Labels {
    match grouping {
        Grouping::All => labels.without_name(),
        Grouping::Only(wanted) => labels.filtered(|name| wanted.iter().any(|one| one == name)),
        Grouping::Without(others) => {
            labels.filtered(|name| name != NAME && !others.iter().any(|one| one == name))
        }
    }
}

pub(super) fn aggregate(
    aggregate: &Aggregate,
    number: Option<f64>,
    samples: Vec<Sample>,
) -> Result<Vec<Sample>, QueryError> {
    let mut groups: Vec<(Labels, Vec<Sample>)> = Vec::new();
    let mut places: HashMap<Labels, usize> = HashMap::new();
    for sample in samples {
        let labels = grouped(&sample.labels, &aggregate.grouping);
        let place = *places.entry(labels).or_insert_with_key(|labels| {
            groups.push((labels.clone(), Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(sample);
    }
    let mut out = Vec::new();
    for (labels, samples) in groups {
        let value = match aggregate.aggregator {
            Aggregator::Count => Value::Number(samples.len() as f64),
            Aggregator::Group => Value::Number(1.0),
            Aggregator::Sum | Aggregator::Avg => {
                let count = samples.len() as f64;
                let divisor = if aggregate.aggregator == Aggregator::Avg { count } else { 1.0 };
                sum(samples, divisor)?
            }
            Aggregator::Min => Value::Number(extreme(&numbers(&samples)?, f64::min)),
            Aggregator::Max => Value::Number(extreme(&numbers(&samples)?, f64::max)),
            Aggregator::Topk | Aggregator::Bottomk => {
                out.extend(most(samples, number, aggregate.aggregator == Aggregator::Topk)?);
                continue;
            }
        };
        out.push(Sample { labels, value });
    }
    Ok(out)
}

fn numbers(samples: &[Sample]) -> Result<Vec<f64>, QueryError> {
    let number = |sample: &Sample| match sample.value {
        Value::Number(number) => Ok(number),
        Value::Histogram(_) => Err(QueryError::execution(format!(
            "{} is a distribution, which has no order: take histogram_quantile() of it first",
            sample.labels.shown()
        ))),
    };
    samples.iter().map(number).collect()
}

/// NaN only where there is nothing else.
fn extreme(numbers: &[f64], pick: impl Fn(f64, f64) -> f64) -> f64 {
    numbers.iter().copied().reduce(pick).unwrap_or(f64::NAN)
}

fn sum(samples: Vec<Sample>, divisor: f64) -> Result<Value, QueryError> {
    let mut merged: Option<Histogram> = None;
    let mut total = 0.0;
    let mut has_numbers = false;
    for sample in &samples {
        match (&sample.value, &mut merged) {
            (Value::Number(number), _) => {
                total += number;
                has_numbers = true;
            }
            (Value::Histogram(one), None) => merged = Some(one.clone()),
            (Value::Histogram(one), Some(all)) => {
                *all = all.plus(one).ok_or_else(|| QueryError::unlike(&sample.labels))?;
            }
        }
    }
    match merged {
        Some(_) if has_numbers => Err(QueryError::execution("distributions and numbers cannot be added up")),
        Some(merged) => Ok(Value::Histogram(merged.times(1.0 / divisor))),
        None => Ok(Value::Number(total / divisor)),
    }
}

fn most(mut samples: Vec<Sample>, number: Option<f64>, greatest: bool) -> Result<Vec<Sample>, QueryError> {
    let mut ranked: Vec<(f64, Sample)> = numbers(&samples)?.into_iter().zip(samples.drain(..)).collect();
    ranked.sort_by(|(one, _), (other, _)| {
        let order = one.is_nan().cmp(&other.is_nan());
        order.then(if greatest { other.total_cmp(one) } else { one.total_cmp(other) })
    });
    let wanted = number.filter(|number| *number >= 1.0).unwrap_or(0.0) as usize;
    Ok(ranked.into_iter().take(wanted).map(|(_, sample)| sample).collect())
}
