//! Finds the price that holds for a device or a model, and computes what one request cost.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Basis, Cost, CostKind, GpuPrice, PriceTable, Share, TokenPrice,
    exact::{MICROS_PER_HOUR, narrow, price_of, scaled},
};
use crate::rollup::Millis;

/// What to assume where a span does not say; stated by the operator, so it counts as known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Region of devices whose region is not known. Empty: not known.
    pub region: String,
    /// Instance type of requests that name neither one nor a device. Empty: such requests have no GPU cost.
    pub instance_type: String,
}

/// Which device, for a price. Empty texts are unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceFacts<'a> {
    /// Cloud region.
    pub region: &'a str,
    /// Instance type.
    pub instance_type: &'a str,
    /// Product name, as NVML gives it.
    pub gpu_name: &'a str,
    /// MIG profile, for an instance of a divided GPU.
    pub mig_profile: &'a str,
}

/// Some time on a GPU that a request shared with `batch - 1` others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepShare {
    /// Length of the step.
    pub micros: u64,
    /// Sequences in it, this one included; 0 counts as 1.
    pub batch: u32,
}

/// What is known of a request. `None` and empty texts are unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestFacts<'a> {
    /// When it ended, event time: which dated price holds.
    pub at_ms: Millis,
    /// Provider (`gen_ai.provider.name`).
    pub provider: &'a str,
    /// Model.
    pub model: &'a str,
    /// The device it ran on.
    pub device: DeviceFacts<'a>,
    /// Devices that ran its steps together (tensor parallelism); 0 counts as 1.
    pub devices: u32,
    /// Scheduled to first token, microseconds.
    pub prefill_micros: Option<u64>,
    /// First to last token, microseconds.
    pub decode_micros: Option<u64>,
    /// Mean batch while it ran, thousandths of a sequence; below 1,000 counts as 1,000, that is, alone.
    pub batch_milli: Option<u64>,
    /// Every step it took part in, where that was recorded; then it decides, not the times and the mean batch.
    pub steps: &'a [StepShare],
    /// Prompt tokens, those from a cache included.
    pub input_tokens: Option<u64>,
    /// Prompt tokens from a cache.
    pub cached_tokens: Option<u64>,
    /// Generated tokens.
    pub output_tokens: Option<u64>,
}

/// The price of a device at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Billionths of a US dollar for one hour of one whole GPU.
    pub nano_usd_per_hour: u64,
    /// The part of the GPU that is meant.
    pub share: Share,
    /// Whether the price is that of this instance type in this region at this time.
    pub is_exact: bool,
}

/// A price table that answers.
#[derive(Clone, Debug)]
pub struct Pricer {
    table: PriceTable,
    defaults: Defaults,
    /// Entries of an instance type by the hash of its name, so that a look-up allocates nothing.
    instances: BTreeMap<u64, Vec<u32>>,
}

impl Rate {
    /// Billionths of a US dollar for one hour of the part that is meant, rounded half up.
    #[must_use]
    pub const fn nano_usd_per_share_hour(&self) -> u64 {
        price_of(MICROS_PER_HOUR as u64, self.nano_usd_per_hour, self.share)
    }
}

impl Pricer {
    /// Answers from `table`.
    #[must_use]
    pub fn new(table: PriceTable, defaults: Defaults) -> Self {
        let mut instances: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for (index, price) in (0u32..).zip(table.gpu()) {
            instances.entry(hash_of(&price.instance_type)).or_default().push(index);
        }
        Self { table, defaults, instances }
    }

    /// The version of the table, as it stands on every cost.
    #[must_use]
    pub const fn version(&self) -> &Arc<str> {
        self.table.version()
    }

    /// The table.
    #[must_use]
    pub const fn table(&self) -> &PriceTable {
        &self.table
    }

    /// What a device costs at a time: by its instance type; else by its name, the least price of such a GPU; else by
    /// the default instance type, if the device is not described at all.
    ///
    /// A region that is not in the table takes the least price elsewhere; a time before the first entry takes that
    /// entry. Both are estimates.
    #[must_use]
    pub fn rate(&self, device: &DeviceFacts<'_>, at_ms: Millis) -> Option<Rate> {
        let region = if device.region.is_empty() { self.defaults.region.as_str() } else { device.region };
        let share = Share::of_mig(device.mig_profile);
        let by_instance = |name: &str| {
            let indexes = self.instances.get(&hash_of(name)).map_or(&[][..], Vec::as_slice);
            let entries = indexes.iter().map(|&index| &self.table.gpu()[index as usize]);
            best(entries.filter(|price| price.is_of(name)), region, at_ms)
        };
        let found = if !device.instance_type.is_empty() {
            by_instance(device.instance_type)
        } else if device.gpu_name.is_empty() && !self.defaults.instance_type.is_empty() {
            by_instance(&self.defaults.instance_type)
        } else {
            None
        };
        let by_name = || {
            if device.gpu_name.is_empty() {
                return None;
            }
            let entries = self.table.gpu().iter().filter(|price| is_named(device.gpu_name, &price.gpu));
            best(entries, region, at_ms).map(|(price, _)| (price, false))
        };
        let (price, is_exact) = found.or_else(by_name)?;
        Some(Rate { nano_usd_per_hour: price.nano_usd_per_hour, share, is_exact })
    }

    /// What a provider charges for tokens of a model at a time, and whether the price is of that time. The longest
    /// pattern wins; without a provider any provider of that very model name counts, as an estimate.
    #[must_use]
    pub fn token_price(&self, provider: &str, model: &str, at_ms: Millis) -> Option<(&TokenPrice, bool)> {
        if model.is_empty() {
            return None;
        }
        let fits = |price: &&TokenPrice| {
            let is_provider = provider.is_empty() || price.provider.eq_ignore_ascii_case(provider);
            is_provider && model_fits(&price.model, model)
        };
        let entries = || self.table.tokens().iter().filter(fits);
        let pattern = entries().max_by_key(|price| (!price.model.ends_with('*'), price.model.len()))?;
        let same =
            || entries().filter(|price| price.model == pattern.model && price.provider == pattern.provider);
        match same().rfind(|price| price.valid_from_ms <= at_ms) {
            Some(price) => Some((price, !provider.is_empty())),
            None => same().next().map(|price| (price, false)),
        }
    }

    /// What one request cost: by GPU time where its device has a price and its time is known, else by tokens where
    /// its provider has a price, else nothing that is known.
    #[must_use]
    pub fn request_cost(&self, facts: &RequestFacts<'_>) -> Cost {
        let (gpu_micros, is_measured) = gpu_time(facts);
        let has_device = !facts.device.instance_type.is_empty() || !facts.device.gpu_name.is_empty();
        let by_tokens = || self.token_cost(facts);
        let by_gpu = || {
            let rate = gpu_micros.and_then(|_| self.rate(&facts.device, facts.at_ms))?;
            let micros = gpu_micros.unwrap_or(0);
            let nano_usd = price_of(micros, rate.nano_usd_per_hour, rate.share);
            Some((nano_usd, CostKind::measured_if(is_measured && rate.is_exact), Basis::Gpu))
        };
        let found = if has_device { by_gpu().or_else(by_tokens) } else { by_tokens().or_else(by_gpu) };
        let (nano_usd, kind, basis) = found.unwrap_or((0, CostKind::Estimated, Basis::Unknown));
        let charged = if basis == Basis::Tokens { None } else { gpu_micros };
        Cost { nano_usd, gpu_micros: charged.unwrap_or(0), kind, basis }
    }

    fn token_cost(&self, facts: &RequestFacts<'_>) -> Option<(u64, CostKind, Basis)> {
        if facts.input_tokens.is_none() && facts.output_tokens.is_none() {
            return None;
        }
        let (price, is_exact) = self.token_price(facts.provider, facts.model, facts.at_ms)?;
        let input = facts.input_tokens.unwrap_or(0);
        let cached = facts.cached_tokens.unwrap_or(0).min(input);
        let product = |tokens: u64, nanos: u64| u128::from(tokens) * u128::from(nanos);
        let sum = product(input - cached, price.input)
            + product(cached, price.cached_input)
            + product(facts.output_tokens.unwrap_or(0), price.output);
        let is_counted = facts.input_tokens.is_some() && facts.output_tokens.is_some();
        let kind = CostKind::measured_if(is_exact && is_counted);
        Some((narrow(scaled(sum, 1, 1_000_000)), kind, Basis::Tokens))
    }
}

/// GPU time that is charged to a request, and whether every step of it was recorded.
fn gpu_time(facts: &RequestFacts<'_>) -> (Option<u64>, bool) {
    let devices = u128::from(facts.devices.max(1));
    if !facts.steps.is_empty() {
        // Thousandths of a microsecond, rounded once at the end.
        let step = |step: &StepShare| scaled(u128::from(step.micros), 1_000, u128::from(step.batch.max(1)));
        let milli: u128 = facts.steps.iter().map(step).sum();
        return (Some(narrow(scaled(milli, devices, 1_000))), true);
    }
    let busy = match (facts.prefill_micros, facts.decode_micros) {
        (None, None) => return (None, false),
        (prefill, decode) => u128::from(prefill.unwrap_or(0)) + u128::from(decode.unwrap_or(0)),
    };
    let batch_milli = u128::from(facts.batch_milli.unwrap_or(1_000).max(1_000));
    (Some(narrow(scaled(busy, 1_000 * devices, batch_milli))), false)
}

/// The entry that fits best, and whether it is of this region and time: the region before the time before the least
/// price; of equals the first of the table.
fn best<'t>(
    entries: impl Iterator<Item = &'t GpuPrice>,
    region: &str,
    at_ms: Millis,
) -> Option<(&'t GpuPrice, bool)> {
    let is_here = |price: &GpuPrice| {
        price.region.is_empty() || (!region.is_empty() && price.region.eq_ignore_ascii_case(region))
    };
    let same = |a: &GpuPrice, b: &GpuPrice| {
        (&a.provider, &a.region, &a.instance_type) == (&b.provider, &b.region, &b.instance_type)
    };
    // One candidate an instance type and region: the newest entry that has begun, else the first one.
    let mut candidates: Vec<(&GpuPrice, bool)> = Vec::new();
    for price in entries {
        let holds = price.valid_from_ms <= at_ms;
        match candidates.last_mut() {
            Some((last, _)) if same(last, price) && !holds => {}
            Some(last) if same(last.0, price) => *last = (price, true),
            _ => candidates.push((price, holds)),
        }
    }
    let order = |(price, holds): &(&GpuPrice, bool)| (!is_here(price), !holds, price.nano_usd_per_hour);
    let (price, holds) = candidates.into_iter().min_by_key(order)?;
    Some((price, holds && is_here(price)))
}

/// Whether a device's name has all words of `words`: `NVIDIA A100-SXM4-80GB` has `A100 80GB`.
fn is_named(name: &str, words: &str) -> bool {
    let has = |word: &str| {
        name.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part.eq_ignore_ascii_case(word))
    };
    words.split_whitespace().all(has)
}

fn model_fits(pattern: &str, model: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => {
            model.get(..start.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(start))
        }
        None => pattern.eq_ignore_ascii_case(model),
    }
}

impl GpuPrice {
    /// Whether this is a price of the instance type `name`.
    #[must_use]
    pub fn is_of(&self, name: &str) -> bool {
        bare(&self.instance_type).eq_ignore_ascii_case(bare(name))
    }
}

/// An instance type without the word that Azure's interfaces put before some and leave from others.
fn bare(instance_type: &str) -> &str {
    const PREFIX: &str = "standard_";
    match instance_type.get(..PREFIX.len()) {
        Some(start) if start.eq_ignore_ascii_case(PREFIX) => &instance_type[PREFIX.len()..],
        _ => instance_type,
    }
}

/// FNV-1a of the name as it is compared.
fn hash_of(instance_type: &str) -> u64 {
    bare(instance_type).bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
    })
}
