//! Small statistics that several detectors share.

/// The median (the lower one of two); none of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    Some(*values.select_nth_unstable_by(last / 2, f64::total_cmp).1)
}

/// An upper bound of the logarithm of the probability of `hits` or more of `trials` at the rate `rate`: Chernoff's,
/// −n·KL(hits/n ‖ rate) (W. Hoeffding, "Probability inequalities for sums of bounded random variables", JASA 1963,
/// theorem 1). 0, that is "no surprise", when there are no more than expected.
pub(crate) fn binomial_tail_ln(hits: u64, trials: u64, rate: f64) -> f64 {
    let trials_f = trials as f64;
    let share = hits as f64 / trials_f.max(1.0);
    let rate = rate.clamp(1e-9, 1.0 - 1e-9);
    if share <= rate {
        return 0.0;
    }
    let part = |p: f64, q: f64| if p <= 0.0 { 0.0 } else { p * (p / q).ln() };
    -trials_f * (part(share, rate) + part(1.0 - share, 1.0 - rate))
}

/// One step of a frugal estimate of a median: towards the value, never further than `step` (Q. Ma, S. Muthukrishnan,
/// M. Sandler, "Frugal streaming for estimating quantiles", 2013).
pub(crate) fn step_towards(estimate: f64, value: f64, step: f64) -> f64 {
    estimate + (value - estimate).clamp(-step, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: no more than expected, somewhat more, much more. Guarantee: 0, a little, and a bound above the exact
    /// probability (for 10 of 100 at 1 %: 7.6e-8).
    #[test]
    fn surprise_grows_with_hits() {
        assert_eq!(binomial_tail_ln(1, 100, 0.01), 0.0);
        let ten = binomial_tail_ln(10, 100, 0.01).exp();
        assert!(ten > 7.6e-8 && ten < 1e-5, "{ten}");
        assert!(binomial_tail_ln(20, 100, 0.01) < binomial_tail_ln(10, 100, 0.01));
    }

    /// Scenario: values around 3 with outliers. Guarantee: the estimate gets there and stays.
    #[test]
    fn a_frugal_median_arrives() {
        let mut estimate = 0.0;
        for index in 0..200 {
            let value = if index % 10 == 0 { 1_000.0 } else { 3.0 };
            estimate = step_towards(estimate, value, 0.1);
        }
        assert!((estimate - 3.0).abs() < 0.2, "{estimate}");
    }
}
