//! The dated price table: read from TOML, checked entry by entry, versioned by its content.
//!
//! The form is described in `prices.toml`, which is compiled in. Invariant: two tables have one version exactly if
//! they hold the same entries and rates, whatever their comments, order and spacing.

use std::{fmt::Write as _, sync::Arc};

use toml::{Table, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::{date, exact::NANOS_PER_USD};
use crate::rollup::Millis;

const EMBEDDED: &str = include_str!("../../prices.toml");
/// What the embedded table is called in messages.
const EMBEDDED_NAME: &str = "prices.toml (built in)";
/// US dollars an hour, or for a million tokens, above which a figure is taken for a mistake.
const MAX_USD: f64 = 1e6;

/// Why a price table was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("price table {file}: {entry}{key}: {problem}; {remedy}")]
pub struct PriceError {
    /// The file, as it was named.
    pub file: String,
    /// The entry, such as `[[gpu]] number 3 (aws, us-east-1, p5.48xlarge) `; empty for the file as a whole.
    pub entry: String,
    /// The key.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// What one GPU of an instance type costs from a day on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GpuPrice {
    /// Who rents it out.
    pub provider: String,
    /// Where; empty means everywhere.
    pub region: String,
    /// Instance type.
    pub instance_type: String,
    /// First moment at which it holds.
    pub valid_from_ms: Millis,
    /// Words of the device's name.
    pub gpu: String,
    /// GPUs of an instance.
    pub gpus: u32,
    /// Billionths of a US dollar for one GPU-hour.
    pub nano_usd_per_hour: u64,
    /// Where the figure is from.
    pub source: String,
}

/// What a provider charges for tokens of a model from a day on; billionths of a US dollar for 1,000,000 tokens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenPrice {
    /// `gen_ai.provider.name`.
    pub provider: String,
    /// Model; with `*` at its end, all that begin so.
    pub model: String,
    /// First moment at which it holds.
    pub valid_from_ms: Millis,
    /// Prompt tokens.
    pub input: u64,
    /// Prompt tokens served from a cache.
    pub cached_input: u64,
    /// Generated tokens.
    pub output: u64,
    /// Where the figure is from.
    pub source: String,
}

/// Dated prices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceTable {
    /// Sorted by provider, region, instance type and date.
    gpu: Vec<GpuPrice>,
    /// Sorted by provider, model and date.
    tokens: Vec<TokenPrice>,
    version: Arc<str>,
}

impl PriceTable {
    /// The table that is compiled in.
    ///
    /// # Errors
    /// None: a test reads it.
    pub fn embedded() -> Result<Self, PriceError> {
        Self::parse(EMBEDDED_NAME, EMBEDDED)
    }

    /// The table in `text`, which came from `file`.
    ///
    /// # Errors
    /// [`PriceError`] for the first entry that is wrong.
    pub fn parse(file: &str, text: &str) -> Result<Self, PriceError> {
        let document: Table = text.parse().map_err(|error: toml::de::Error| PriceError {
            file: file.to_owned(),
            entry: String::new(),
            key: "syntax".to_owned(),
            problem: error.to_string().trim().replace('\n', " | "),
            remedy: "write it as TOML".to_owned(),
        })?;
        let whole = Entry { file, name: String::new(), table: &document, rates: &[] };
        whole.allow(&["extend", "rates", "gpu", "tokens"])?;
        let rates = whole.rates()?;
        let gpu = whole.entries("gpu", &rates)?.iter().map(Entry::gpu).collect::<Result<Vec<_>, _>>()?;
        let tokens =
            whole.entries("tokens", &rates)?.iter().map(Entry::tokens).collect::<Result<Vec<_>, _>>()?;
        let mut table = Self { gpu, tokens, version: "".into() };
        table.sort();
        table.check_unique(file)?;
        if whole.flag("extend")? {
            table.extend(Self::embedded()?);
        }
        table.version = table.content_version();
        Ok(table)
    }

    /// The version of the content, as it is stamped on every cost: the newest date in it and a hash of all of it.
    #[must_use]
    pub const fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// Prices of GPUs, by provider, region, instance type and date.
    #[must_use]
    pub fn gpu(&self) -> &[GpuPrice] {
        &self.gpu
    }

    /// Prices of tokens, by provider, model and date.
    #[must_use]
    pub fn tokens(&self) -> &[TokenPrice] {
        &self.tokens
    }

    fn sort(&mut self) {
        self.gpu.sort();
        self.tokens.sort();
    }

    fn check_unique(&self, file: &str) -> Result<(), PriceError> {
        let twice = |entry: String| PriceError {
            file: file.to_owned(),
            entry,
            key: "valid_from".to_owned(),
            problem: "the same day is priced twice".to_owned(),
            remedy: "remove one of the two entries or give it another day".to_owned(),
        };
        if let Some(pair) = self.gpu.windows(2).find(|pair| gpu_key(&pair[0]) == gpu_key(&pair[1])) {
            let GpuPrice { provider, region, instance_type, .. } = &pair[0];
            return Err(twice(format!("[[gpu]] ({provider}, {region}, {instance_type}) ")));
        }
        if let Some(pair) = self.tokens.windows(2).find(|pair| token_key(&pair[0]) == token_key(&pair[1])) {
            return Err(twice(format!("[[tokens]] ({}, {}) ", pair[0].provider, pair[0].model)));
        }
        Ok(())
    }

    /// Adds what `other` has and this has not.
    fn extend(&mut self, other: Self) {
        for entry in other.gpu {
            if !self.gpu.iter().any(|own| gpu_key(own) == gpu_key(&entry)) {
                self.gpu.push(entry);
            }
        }
        for entry in other.tokens {
            if !self.tokens.iter().any(|own| token_key(own) == token_key(&entry)) {
                self.tokens.push(entry);
            }
        }
        self.sort();
    }

    fn content_version(&self) -> Arc<str> {
        let mut content = String::new();
        let mut newest = Millis::MIN;
        // `{:?}` quotes texts, so that no two contents are written alike.
        for GpuPrice {
            provider,
            region,
            instance_type,
            valid_from_ms,
            gpu,
            gpus,
            nano_usd_per_hour,
            source,
        } in &self.gpu
        {
            let names = (provider, region, instance_type, gpu, source);
            let _ = writeln!(content, "gpu {names:?} {valid_from_ms} {gpus} {nano_usd_per_hour}");
            newest = newest.max(*valid_from_ms);
        }
        for TokenPrice { provider, model, valid_from_ms, input, cached_input, output, source } in &self.tokens
        {
            let names = (provider, model, source);
            let _ = writeln!(content, "tokens {names:?} {valid_from_ms} {input} {cached_input} {output}");
            newest = newest.max(*valid_from_ms);
        }
        let hash = xxh3_64(content.as_bytes());
        if newest == Millis::MIN {
            return format!("empty-{hash:016x}").into();
        }
        format!("{}-{hash:016x}", date::name(newest)).into()
    }
}

fn gpu_key(price: &GpuPrice) -> (String, String, String, Millis) {
    let lower = |text: &str| text.to_ascii_lowercase();
    (lower(&price.provider), lower(&price.region), lower(&price.instance_type), price.valid_from_ms)
}

fn token_key(price: &TokenPrice) -> (String, String, Millis) {
    let lower = |text: &str| text.to_ascii_lowercase();
    (lower(&price.provider), lower(&price.model), price.valid_from_ms)
}

/// One table of the document, with what its error messages need.
struct Entry<'a> {
    file: &'a str,
    name: String,
    table: &'a Table,
    /// US dollars of one unit, by currency.
    rates: &'a [(String, f64)],
}

impl<'a> Entry<'a> {
    fn error(&self, key: &str, problem: impl Into<String>, remedy: impl Into<String>) -> PriceError {
        PriceError {
            file: self.file.to_owned(),
            entry: self.name.clone(),
            key: key.to_owned(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    fn allow(&self, keys: &[&str]) -> Result<(), PriceError> {
        match self.table.keys().find(|key| !keys.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                Err(self.error(key, "there is no such key", format!("use one of {}", keys.join(", "))))
            }
        }
    }

    fn rates(&self) -> Result<Vec<(String, f64)>, PriceError> {
        let Some(value) = self.table.get("rates") else { return Ok(Vec::new()) };
        let Value::Table(table) = value else {
            return Err(self.error(
                "rates",
                "not a table",
                "write [rates] and below it lines like EUR = 1.08",
            ));
        };
        let rates = Entry { file: self.file, name: "[rates] ".to_owned(), table, rates: &[] };
        table
            .keys()
            .map(|currency| {
                let rate = rates.number(currency)?;
                let is_sane = rate > 0.0 && rate < MAX_USD && currency != "USD";
                if is_sane {
                    return Ok((currency.clone(), rate));
                }
                Err(rates.error(
                    currency,
                    format!("{rate} US dollars for one {currency} cannot be"),
                    "give the US dollars that one unit of another currency costs, above 0",
                ))
            })
            .collect()
    }

    fn entries<'b>(&self, kind: &str, rates: &'b [(String, f64)]) -> Result<Vec<Entry<'b>>, PriceError>
    where
        'a: 'b,
    {
        let Some(value) = self.table.get(kind) else { return Ok(Vec::new()) };
        let not_entries =
            || self.error(kind, "not a list of entries", format!("write [[{kind}]] before each"));
        let Value::Array(list) = value else { return Err(not_entries()) };
        let mut entries = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            let Value::Table(table) = value else { return Err(not_entries()) };
            let ids: Vec<&str> = ["provider", "region", "instance_type", "model"]
                .iter()
                .filter_map(|key| table.get(*key)?.as_str())
                .collect();
            let name = format!("[[{kind}]] number {} ({}) ", index + 1, ids.join(", "));
            entries.push(Entry { file: self.file, name, table, rates });
        }
        Ok(entries)
    }

    fn value(&self, key: &str) -> Result<&'a Value, PriceError> {
        self.table.get(key).ok_or_else(|| self.error(key, "it is missing", "add it"))
    }

    fn flag(&self, key: &str) -> Result<bool, PriceError> {
        match self.table.get(key) {
            None => Ok(false),
            Some(Value::Boolean(flag)) => Ok(*flag),
            Some(_) => Err(self.error(key, "neither true nor false", "write true or false")),
        }
    }

    fn text(&self, key: &str) -> Result<String, PriceError> {
        match self.value(key)? {
            Value::String(text) => Ok(text.clone()),
            other => Err(self.error(key, format!("{other} is no text"), "write it in quotes")),
        }
    }

    fn filled_text(&self, key: &str) -> Result<String, PriceError> {
        let text = self.text(key)?;
        if text.trim().is_empty() {
            return Err(self.error(key, "it is empty", "fill it in"));
        }
        Ok(text)
    }

    fn number(&self, key: &str) -> Result<f64, PriceError> {
        match self.value(key)? {
            Value::Float(number) => Ok(*number),
            Value::Integer(number) => Ok(*number as f64),
            other => Err(self.error(key, format!("{other} is no number"), "write a number without quotes")),
        }
    }

    /// A price in billionths of a US dollar.
    fn price(&self, key: &str) -> Result<u64, PriceError> {
        let usd = self.number(key)? * self.rate()?;
        if !(0.0..=MAX_USD).contains(&usd) {
            let problem = format!("{usd} US dollars cannot be a price");
            return Err(self.error(key, problem, format!("give a number from 0 to {MAX_USD}")));
        }
        Ok((usd * NANOS_PER_USD as f64).round() as u64)
    }

    /// US dollars of one unit of the entry's currency.
    fn rate(&self) -> Result<f64, PriceError> {
        if !self.table.contains_key("currency") {
            return Ok(1.0);
        }
        let currency = self.text("currency")?;
        if currency == "USD" {
            return Ok(1.0);
        }
        let rate = self.rates.iter().find(|(known, _)| *known == currency).map(|(_, rate)| *rate);
        rate.ok_or_else(|| {
            self.error(
                "currency",
                format!("no rate is given for {currency:?}"),
                format!("give prices in USD, or add a line `{currency} = US dollars of one unit` to [rates]"),
            )
        })
    }

    fn valid_from(&self) -> Result<Millis, PriceError> {
        let value = self.value("valid_from")?;
        let found = match value {
            Value::String(text) => date::parse(text),
            Value::Datetime(when) if when.time.is_none() => {
                when.date.and_then(|day| date::midnight(day.year, day.month, day.day))
            }
            _ => None,
        };
        found.ok_or_else(|| {
            self.error("valid_from", format!("{value} is no day"), "write a day such as 2026-07-01")
        })
    }

    fn gpu(&self) -> Result<GpuPrice, PriceError> {
        self.allow(&[
            "provider",
            "region",
            "instance_type",
            "gpu",
            "gpus",
            "per_gpu_hour",
            "currency",
            "valid_from",
            "source",
        ])?;
        let gpus = self.number("gpus")?;
        if !(1.0..=1024.0).contains(&gpus) || gpus.fract() != 0.0 {
            let problem = format!("{gpus} GPUs cannot be in one instance");
            return Err(self.error("gpus", problem, "give a whole number from 1 to 1024"));
        }
        Ok(GpuPrice {
            provider: self.filled_text("provider")?,
            region: self.text("region")?,
            instance_type: self.filled_text("instance_type")?,
            valid_from_ms: self.valid_from()?,
            gpu: self.filled_text("gpu")?,
            gpus: gpus as u32,
            nano_usd_per_hour: self.price("per_gpu_hour")?,
            source: self.filled_text("source")?,
        })
    }

    fn tokens(&self) -> Result<TokenPrice, PriceError> {
        self.allow(&[
            "provider",
            "model",
            "input",
            "cached_input",
            "output",
            "currency",
            "valid_from",
            "source",
        ])?;
        let input = self.price("input")?;
        let has_cached = self.table.contains_key("cached_input");
        Ok(TokenPrice {
            provider: self.filled_text("provider")?,
            model: self.filled_text("model")?,
            valid_from_ms: self.valid_from()?,
            input,
            cached_input: if has_cached { self.price("cached_input")? } else { input },
            output: self.price("output")?,
            source: self.filled_text("source")?,
        })
    }
}
