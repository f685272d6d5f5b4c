//! What a span says of a model request: who reports it, and what it used of a device and in tokens.
//!
//! Neighbours: rollups count by [`Role`]; processors and the API price [`Usage`] alike, so that a request costs the
//! same in both. No prices here. Nothing is guessed: what a span does not say is `None` or empty.

use arrow::{array::Array, record_batch::RecordBatch};

use crate::view::{SpanView, TokensView, ViewError};

/// OTLP's kind of a caller's side.
const CLIENT: u8 = 3;
/// Where a cloud's resource detectors write the region.
const REGION: &str = "cloud.region";

/// What a span counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A serving engine's report of one request.
    Request,
    /// A client's or a proxy's report of one.
    Call,
    /// Anything else.
    Other,
}

/// What one request used.
#[derive(Clone, Debug, Default)]
pub struct Usage<'a> {
    /// When it ended, milliseconds since 1970.
    pub end_ms: i64,
    /// Tenant.
    pub tenant: &'a str,
    /// Provider.
    pub provider: &'a str,
    /// Model.
    pub model: &'a str,
    /// Cloud region of its host.
    pub region: &'a str,
    /// Instance type of its host.
    pub instance_type: &'a str,
    /// Product name of its device.
    pub gpu_name: &'a str,
    /// MIG profile of its device.
    pub mig_profile: &'a str,
    /// Scheduled to first token, or, of a model that generates no tokens, to the end; microseconds. As all that is of
    /// a device, only where an engine reports.
    pub prefill_micros: Option<u64>,
    /// First to last token, microseconds.
    pub decode_micros: Option<u64>,
    /// Sequences in its batch.
    pub batch: Option<u32>,
    /// Tokens in.
    pub input_tokens: Option<u64>,
    /// Tokens in that a cache served.
    pub cached_tokens: Option<u64>,
    /// Tokens out.
    pub output_tokens: Option<u64>,
    /// Its tokens one by one, where each was recorded with its batch.
    tokens: Option<TokensView<'a>>,
}

impl Usage<'_> {
    /// Prefill and decode as far as they can be shared out, microseconds: time in a batch of unknown size is charged to
    /// nobody, since all of it would charge a step as often as it had requests.
    #[must_use]
    pub fn shared_micros(&self) -> [Option<u64>; 2] {
        [self.prefill_micros, self.decode_micros].map(|micros| micros.filter(|_| self.batch.is_some()))
    }

    /// Every step that it took part in, microseconds and sequences, where each was recorded. The first is the
    /// prefill, whose wait in the queue is no time on a device.
    pub fn steps(&self) -> impl Iterator<Item = (u64, u32)> {
        let (times, batches) =
            self.tokens.as_ref().map_or((&[][..], &[][..]), |tokens| (tokens.itl_micros, tokens.batch_sizes));
        let first = batches.first().and_then(|batch| Some((self.prefill_micros?, *batch)));
        let rest = times.iter().zip(batches).skip(1).map(|(micros, batch)| (u64::from(*micros), *batch));
        first.into_iter().chain(rest)
    }
}

/// Usages of a batch of spans.
pub struct Usages<'a> {
    view: SpanView<'a>,
    /// Region by the key of the resource, once asked for.
    regions: Vec<Option<String>>,
}

impl std::fmt::Debug for Usages<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Usages").field("spans", &self.view.len()).finish_non_exhaustive()
    }
}

impl<'a> Usages<'a> {
    /// Opens a batch of the span schema.
    ///
    /// # Errors
    /// [`ViewError`] when it has another schema.
    pub fn new(batch: &'a RecordBatch) -> Result<Self, ViewError> {
        let view = SpanView::new(batch)?;
        let regions = vec![None; view.resource_column().values().len()];
        Ok(Self { view, regions })
    }

    /// What span `row` counts as. A request is at no stage or at `inference`, is not the client's side, and carries token
    /// counts, a time to first token or, of a named model, a queue time, a batch or a device; and something says that
    /// an engine reports it. Otherwise, with token counts or a time to first token, it is a call.
    #[inline]
    #[must_use]
    pub fn role(&self, row: usize) -> Role {
        let view = &self.view;
        let is_inference = match view.stage(row) {
            None | Some("") => false,
            Some("inference") => true,
            Some(_) => return Role::Other,
        };
        let is_named = |text: Option<&str>| text.is_some_and(|text| !text.is_empty());
        let has_numbers = view.input_tokens(row).is_some()
            || view.output_tokens(row).is_some()
            || view.ttft_ns(row).is_some();
        let is_served = view.queue_wait_ms(row).is_some()
            || view.batch_size(row).is_some()
            || is_named(view.gpu_device_id(row));
        if !has_numbers && (!is_served || !is_named(view.model_name(row))) {
            return Role::Other;
        }
        // Everything that names itself serves, but for this proxy.
        let names_engine = || is_named(view.framework(row).filter(|name| *name != "litellm"));
        let is_engine = is_served || is_inference || names_engine();
        match (view.kind(row) != CLIENT && is_engine, has_numbers) {
            (true, _) => Role::Request,
            (false, true) => Role::Call,
            (false, false) => Role::Other,
        }
    }

    /// What the request that span `row` reports used; `None` for a span that reports none.
    pub fn of(&mut self, row: usize) -> Option<Usage<'_>> {
        let role = self.role(row);
        if role == Role::Other {
            return None;
        }
        let view = self.view;
        let usage = Usage {
            end_ms: view.end_ns(row).div_euclid(1_000_000),
            tenant: view.tenant(row),
            provider: view.provider(row).unwrap_or_default(),
            model: view.model_name(row).unwrap_or_default(),
            input_tokens: view.input_tokens(row),
            cached_tokens: view.cached_tokens(row),
            output_tokens: view.output_tokens(row),
            ..Usage::default()
        };
        if role == Role::Call {
            return Some(usage);
        }
        let duration = view.duration_ns(row).max(0) as u64 / 1_000;
        let ttft = view.ttft_ns(row).map(|nanos| nanos / 1_000);
        let queue = view.queue_wait_ms(row).filter(|wait| wait.is_finite() && *wait >= 0.0);
        let queue = queue.map(|wait| (wait * 1e3).round() as u64);
        let whole = |tokens: &TokensView<'_>| {
            let batches = tokens.batch_sizes;
            !batches.is_empty() && tokens.itl_micros.len() == batches.len() && !batches.contains(&0)
        };
        let prefill_micros = queue.map(|queue| ttft.unwrap_or(duration).saturating_sub(queue));
        Some(Usage {
            region: self.region(row),
            instance_type: view.gpu_instance_type(row).unwrap_or_default(),
            gpu_name: view.gpu_name(row).unwrap_or_default(),
            mig_profile: view.gpu_mig_profile(row).unwrap_or_default(),
            prefill_micros,
            decode_micros: ttft.and_then(|ttft| duration.checked_sub(ttft)),
            batch: view.batch_size(row).filter(|size| *size > 0),
            tokens: view.tokens(row).filter(|tokens| prefill_micros.is_some() && whole(tokens)),
            ..usage
        })
    }

    fn region(&mut self, row: usize) -> &str {
        let key = self.view.resource_column().key(row);
        let Some(known) = self.regions.get_mut(key) else { return "" };
        known.get_or_insert_with(|| region_of(self.view.resource(row)).unwrap_or_default())
    }
}

/// The region in an OTLP/JSON resource.
fn region_of(resource: &str) -> Option<String> {
    if !resource.contains(REGION) {
        return None;
    }
    let resource: serde_json::Value = serde_json::from_str(resource).ok()?;
    let attributes = resource.get("attributes")?.as_array()?;
    let region = attributes.iter().find(|one| one.get("key").is_some_and(|key| key == REGION))?;
    Some(region.get("value")?.get("stringValue")?.as_str()?.to_owned())
}
