//! What requests cost: GPU time at dated prices, shared steps charged once, or tokens at a provider's prices.
//!
//! `table` reads dated prices; `pricer` finds the price that holds and computes one request; `ledger` divides a
//! device's window among its requests so that nothing is charged twice or lost; `trace` adds up the requests of one
//! trace; `diff` compares two tables by model; `exact` is the integer arithmetic under all of them.
//!
//! Invariants: money is whole billionths of a US dollar; every figure says whether it was measured or estimated
//! and with which version of the table; what cannot be priced says `Unknown` and costs nothing, it is never guessed.

mod date;
mod diff;
mod exact;
mod ledger;
mod pricer;
mod table;
mod trace;

#[cfg(test)]
mod tests;

pub use diff::{CostDiff, ModelDiff};
pub use exact::{NANOS_PER_USD, Share, price_of_time};
pub use ledger::{Charge, Claim, DeviceLedger, Settlement, split_claim};
pub use pricer::{Defaults, DeviceFacts, Pricer, Rate, RequestFacts, StepShare};
pub use table::{GpuPrice, PriceError, PriceTable, TokenPrice};
pub use trace::{TraceCost, trace_cost, trace_cost_of};

/// Whether a cost follows from what was recorded, or from an assumption on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CostKind {
    /// The batch of every step, or every token count, was recorded, and the price holds for that time and place.
    Measured,
    /// Something was assumed: only a mean batch is known, the instance or region is another one, the price is of
    /// another time, or claims had to be scaled to the device's time.
    #[default]
    Estimated,
}

impl CostKind {
    /// The name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Estimated => "estimated",
        }
    }

    /// Measured only if both are.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Measured, Self::Measured) => Self::Measured,
            _ => Self::Estimated,
        }
    }

    const fn measured_if(is_measured: bool) -> Self {
        if is_measured { Self::Measured } else { Self::Estimated }
    }
}

/// What a cost was computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Basis {
    /// GPU time.
    Gpu,
    /// Tokens at a provider's price.
    Tokens,
    /// Nothing fits: no GPU time, or no price. The cost is 0 and means "not known".
    #[default]
    Unknown,
}

impl Basis {
    /// The name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Tokens => "tokens",
            Self::Unknown => "unknown",
        }
    }
}

/// What one request cost, at the prices of one version ([`Pricer::version`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// Billionths of a US dollar.
    pub nano_usd: u64,
    /// GPU time charged, microseconds of one whole GPU; a step shared by n requests counts 1/n.
    pub gpu_micros: u64,
    /// Measured or estimated.
    pub kind: CostKind,
    /// What it was computed from.
    pub basis: Basis,
}

impl Cost {
    /// Whether anything fitted, so that 0 means free and not unknown.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        !matches!(self.basis, Basis::Unknown)
    }
}
