//! Requests of the range at two price tables.

use std::{collections::BTreeMap, sync::Arc};

use infertrace_analytics::{
    cost::{Cost, CostDiff, ModelDiff, Pricer},
    rollup::{Millis, WINDOW_MS, window_of},
};
use serde::Serialize;

use super::{ReplayError, Request, stages::Filter};
use crate::{
    Config,
    rollup::{Columns, Pricing},
};

/// The tables of a replay.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    /// At which costs are told.
    pub(super) told: Arc<Pricer>,
    /// With which they are compared, if another table was asked for.
    pub(super) before: Option<Arc<Pricer>>,
}

impl Tables {
    /// Reads the tables of `request`.
    pub(super) fn of(request: &Request) -> Result<Self, ReplayError> {
        let configured = request.processor.pricer().map_err(ReplayError::Request)?;
        let Some(prices) = &request.prices else { return Ok(Self { told: configured, before: None }) };
        let config = Config { prices: prices.clone(), ..request.processor.clone() };
        let told = config.pricer().map_err(ReplayError::Request)?;
        Ok(Self { told, before: Some(configured) })
    }

    /// Versions, as far as they decide what comes out.
    pub(super) fn versions(&self) -> String {
        let before = self.before.as_ref().map_or("", |before| before.version());
        format!("{} {before}", self.told.version())
    }

    /// What a summary says of the requests' costs.
    pub(super) fn summary(&self, diff: &CostDiff) -> Option<Costs> {
        let before = self.before.as_ref()?;
        Some(Costs {
            before_version: before.version().to_string(),
            after_version: self.told.version().to_string(),
            total: diff.total(),
            models: diff.models().map(|(model, diff)| (model.to_owned(), *diff)).collect(),
        })
    }
}

/// What the requests of the range cost at the table of the configuration and at another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Costs {
    /// Version of the configured table.
    pub before_version: String,
    /// Version of the other one, which stands on everything that the replay told.
    pub after_version: String,
    /// All models.
    pub total: ModelDiff,
    /// By model.
    pub models: BTreeMap<String, ModelDiff>,
}

/// Compares the requests of windows that are told.
#[derive(Debug)]
pub(super) struct Comparison {
    before: Pricing,
    range: (Millis, Millis),
    filter: Filter,
    pub(super) diff: CostDiff,
}

impl Comparison {
    pub(super) fn new(before: Arc<Pricer>, request: &Request) -> Self {
        Self {
            before: Pricing::new(before),
            range: (request.from_ms, request.to_ms),
            filter: request.filter.clone(),
            diff: CostDiff::default(),
        }
    }

    /// Takes the request of span `row`, which costs `after` at the told table.
    pub(super) fn take(&mut self, columns: &mut Columns<'_>, row: usize, after: &Cost) {
        let Some(before) = columns.cost(row, &mut self.before) else { return };
        let Some(usage) = columns.usage(row) else { return };
        let window_ms = window_of(usage.end_ms);
        let is_told = window_ms + WINDOW_MS > self.range.0 && window_ms < self.range.1;
        if is_told && self.filter.takes_request(usage.tenant, usage.model) {
            self.diff.take(usage.model, &before, after);
        }
    }
}
