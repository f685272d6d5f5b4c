//! Tables read or refused, prices found, requests priced, windows divided, history priced again.

use proptest::prelude::*;

use super::*;
use crate::rollup::WINDOW_MS;

mod ledger;
mod pricing;
mod tables;

/// 2026-09-15, after every entry of the embedded table.
pub(super) const AUTUMN: i64 = 1_789_430_400_000;

pub(super) fn pricer(defaults: Defaults) -> Pricer {
    Pricer::new(PriceTable::embedded().expect("the embedded table is valid"), defaults)
}
