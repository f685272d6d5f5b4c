//! What a trace cost: each piece of work once, however many spans report it.

use super::{Basis, Cost, CostKind};

/// The cost of a trace's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceCost {
    /// Billionths of a US dollar.
    pub nano_usd: u64,
    /// The part of it that follows from tokens at a provider's price.
    pub token_nano_usd: u64,
    /// GPU time charged, microseconds of one whole GPU.
    pub gpu_micros: u64,
    /// Measured only if the cost of every request was.
    pub kind: CostKind,
    /// Requests whose cost is known.
    pub priced: u32,
    /// Requests whose cost is not, and below which nothing reports: the cost is of the others alone.
    pub unpriced: u32,
}

impl TraceCost {
    /// `gpu`, `tokens` or, of requests of both kinds, `mixed`.
    #[must_use]
    pub const fn basis(&self) -> &'static str {
        match (self.token_nano_usd, self.nano_usd) {
            (0, _) => Basis::Gpu.name(),
            (tokens, all) if tokens == all => Basis::Tokens.name(),
            _ => "mixed",
        }
    }
}

/// What reports below a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Below {
    Nothing,
    Unpriced,
    Priced,
}

/// Adds up the costs of a trace's spans, given in pre-order as the index of the parent (anything past the end for a
/// root) and the cost of the request that the span reports, if it reports one.
///
/// A caller, a proxy and an engine may report one request below each other: the report that has no other with a known
/// cost below it counts, since it is nearest to the work. `None` where no cost is known.
#[must_use]
pub fn trace_cost(spans: &[(u32, Option<Cost>)]) -> Option<TraceCost> {
    trace_cost_of(spans, |_| {})
}

/// [`trace_cost`], telling `counted` the index of each span whose cost is part of it.
pub fn trace_cost_of(spans: &[(u32, Option<Cost>)], mut counted: impl FnMut(usize)) -> Option<TraceCost> {
    let mut below = vec![Below::Nothing; spans.len()];
    let mut sum = TraceCost { kind: CostKind::Measured, ..TraceCost::default() };
    for (index, (parent, cost)) in spans.iter().enumerate().rev() {
        let mut found = below[index];
        match cost {
            Some(cost) if cost.is_known() && found != Below::Priced => {
                found = Below::Priced;
                counted(index);
                sum.priced += 1;
                sum.nano_usd = sum.nano_usd.saturating_add(cost.nano_usd);
                sum.gpu_micros = sum.gpu_micros.saturating_add(cost.gpu_micros);
                sum.kind = sum.kind.and(cost.kind);
                if cost.basis == Basis::Tokens {
                    sum.token_nano_usd = sum.token_nano_usd.saturating_add(cost.nano_usd);
                }
            }
            Some(_) if found == Below::Nothing => {
                found = Below::Unpriced;
                sum.unpriced += 1;
            }
            _ => {}
        }
        if let Some(above) = below.get_mut(*parent as usize) {
            *above = found.max(*above);
        }
    }
    (sum.priced > 0).then_some(sum)
}
