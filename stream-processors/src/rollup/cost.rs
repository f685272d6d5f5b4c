//! What a request costs, from its span's columns.
//!
//! A request of an engine is priced by its GPU time: by every step where the span has a token timeline with batch
//! sizes, else by its phases and the batch that it reports. Where no batch is known, no GPU time is charged: taking such a request
//! to have run alone would charge a step as often as it had requests. A client's call is priced by its tokens, if its
//! provider has token prices.

use std::fmt;

use arrow::array::RecordBatch;
use infertrace_analytics::cost::{Cost, DeviceFacts, Pricer, RequestFacts, StepShare};
use infertrace_schemas::view::SpanView;

use crate::rows::BadColumn;

/// The columns that only costs need.
pub(super) struct CostColumns<'a> {
    view: SpanView<'a>,
}

impl fmt::Debug for CostColumns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CostColumns").finish_non_exhaustive()
    }
}

/// What the other columns say of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Phases {
    pub(super) end_ms: i64,
    /// Scheduled to first token.
    pub(super) prefill_micros: Option<u64>,
    /// First to last token.
    pub(super) decode_micros: Option<u64>,
}

impl<'a> CostColumns<'a> {
    pub(super) fn new(batch: &'a RecordBatch) -> Result<Self, BadColumn> {
        let view = SpanView::new(batch)?;
        Ok(Self { view })
    }

    /// The cost of the request of an engine; `steps` is for reuse.
    pub(super) fn of_request(
        &self,
        row: usize,
        phases: Phases,
        pricer: &Pricer,
        steps: &mut Vec<StepShare>,
    ) -> Cost {
        let view = &self.view;
        self.steps(row, phases, steps);
        let device = DeviceFacts {
            region: "",
            instance_type: view.gpu_instance_type(row).unwrap_or(""),
            gpu_name: view.gpu_name(row).unwrap_or(""),
            mig_profile: view.gpu_mig_profile(row).unwrap_or(""),
        };
        pricer.request_cost(&RequestFacts {
            device,
            prefill_micros: phases.prefill_micros,
            decode_micros: phases.decode_micros,
            batch_milli: view.batch_size(row).filter(|&size| size > 0).map(|size| u64::from(size) * 1_000),
            steps,
            ..self.facts(row, phases.end_ms)
        })
    }

    /// The cost of a client's call.
    pub(super) fn of_call(&self, row: usize, end_ms: i64, pricer: &Pricer) -> Cost {
        pricer.request_cost(&self.facts(row, end_ms))
    }

    fn facts(&self, row: usize, end_ms: i64) -> RequestFacts<'a> {
        let view = &self.view;
        RequestFacts {
            at_ms: end_ms,
            provider: view.provider(row).unwrap_or(""),
            model: view.model_name(row).unwrap_or(""),
            input_tokens: view.input_tokens(row),
            cached_tokens: view.cached_tokens(row),
            output_tokens: view.output_tokens(row),
            ..RequestFacts::default()
        }
    }

    /// The steps of the token timeline: the first token's is the prefill, whose queue is no GPU time.
    fn steps(&self, row: usize, phases: Phases, steps: &mut Vec<StepShare>) {
        steps.clear();
        let Some(tokens) = self.view.tokens(row) else { return };
        let (times, batches) = (tokens.itl_micros, tokens.batch_sizes);
        let (Some(prefill), true) =
            (phases.prefill_micros, !batches.is_empty() && times.len() == batches.len())
        else {
            return;
        };
        if batches.contains(&0) {
            return;
        }
        steps.push(StepShare { micros: prefill, batch: batches[0] });
        let rest = times.iter().zip(batches).skip(1);
        steps.extend(rest.map(|(&micros, &batch)| StepShare { micros: u64::from(micros), batch }));
    }
}
