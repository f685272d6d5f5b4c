//! Functions of samples.

use super::{
    super::{
        promql::{Expr, Function},
        value::{Histogram, Labels, Outcome, Sample, Value},
    },
    Moment, QueryError,
};

/// Every number through `map`; distributions are left out, as in Prometheus.
pub(super) fn mapped(samples: Vec<Sample>, map: impl Fn(f64) -> f64) -> Vec<Sample> {
    let samples = samples.into_iter().filter_map(|sample| match sample.value {
        Value::Number(number) => {
            Some(Sample { labels: sample.labels.without_name(), value: Value::Number(map(number)) })
        }
        Value::Histogram(_) => None,
    });
    samples.collect()
}

/// Every distribution through `map`; numbers are left out, as in Prometheus.
fn of_histograms(samples: Vec<Sample>, map: impl Fn(&Histogram) -> f64) -> Vec<Sample> {
    let samples = samples.into_iter().filter_map(|sample| match &sample.value {
        Value::Histogram(histogram) => {
            Some(Sample { labels: sample.labels.without_name(), value: Value::Number(map(histogram)) })
        }
        Value::Number(_) => None,
    });
    samples.collect()
}

/// A function over the readings of a gauge.
pub(super) fn of_readings(function: Function, readings: &Histogram, number: Option<f64>) -> f64 {
    match function {
        Function::MinOverTime => readings.sketch.min() as f64 * readings.scale,
        Function::MaxOverTime => readings.sketch.max() as f64 * readings.scale,
        Function::SumOverTime => readings.sum(),
        Function::CountOverTime => readings.count(),
        Function::QuantileOverTime => readings.quantile(number.unwrap_or(f64::NAN)),
        _ => readings.mean(),
    }
}

fn sorted(mut samples: Vec<Sample>, descending: bool) -> Vec<Sample> {
    samples.retain(|sample| matches!(sample.value, Value::Number(_)));
    let number = |sample: &Sample| match sample.value {
        Value::Number(number) => number,
        Value::Histogram(_) => f64::NAN,
    };
    samples.sort_by(|one, other| {
        let (one, other) = (number(one), number(other));
        // NaN last either way.
        let order = one.is_nan().cmp(&other.is_nan());
        order.then(if descending { other.total_cmp(&one) } else { one.total_cmp(&other) })
    });
    samples
}

impl Moment<'_> {
    pub(super) fn call(&mut self, function: Function, arguments: &[Expr]) -> Result<Outcome, QueryError> {
        let mut numbers = Vec::new();
        let mut samples = Vec::new();
        for argument in arguments {
            match self.eval(argument)? {
                Outcome::Scalar(number) => numbers.push(number),
                Outcome::Vector(vector) => samples = vector,
            }
        }
        let number = |index: usize| numbers.get(index).copied();
        let (first, second) = (number(0).unwrap_or(f64::NAN), number(1).unwrap_or(f64::NAN));
        Ok(Outcome::Vector(match function {
            Function::Time => return Ok(Outcome::Scalar((self.at_ns / 1_000_000) as f64 / 1e3)),
            Function::Scalar => {
                return Ok(Outcome::Scalar(match samples.as_slice() {
                    [Sample { value: Value::Number(number), .. }] => *number,
                    _ => f64::NAN,
                }));
            }
            Function::Vector => vec![Sample { labels: Labels::default(), value: Value::Number(first) }],
            Function::HistogramQuantile => of_histograms(samples, |one| one.quantile(first)),
            Function::HistogramFraction => of_histograms(samples, |one| one.fraction(first, second)),
            Function::HistogramAvg => of_histograms(samples, Histogram::mean),
            Function::HistogramCount => of_histograms(samples, Histogram::count),
            Function::HistogramSum => of_histograms(samples, Histogram::sum),
            Function::Abs => mapped(samples, f64::abs),
            Function::Ceil => mapped(samples, f64::ceil),
            Function::Floor => mapped(samples, f64::floor),
            Function::Round => {
                let nearest = number(0).unwrap_or(1.0);
                // Halves go up, as in Prometheus.
                mapped(samples, |value| (value / nearest + 0.5).floor() * nearest)
            }
            Function::Sqrt => mapped(samples, f64::sqrt),
            Function::Exp => mapped(samples, f64::exp),
            Function::Ln => mapped(samples, f64::ln),
            Function::Log2 => mapped(samples, f64::log2),
            Function::Log10 => mapped(samples, f64::log10),
            Function::Clamp if first > second => Vec::new(),
            Function::Clamp => mapped(samples, |value| value.max(first).min(second)),
            Function::ClampMin => mapped(samples, |value| value.max(first)),
            Function::ClampMax => mapped(samples, |value| value.min(first)),
            Function::Sort => sorted(samples, false),
            Function::SortDesc => sorted(samples, true),
            // Those over ranges are no calls.
            _ => Vec::new(),
        }))
    }
}
