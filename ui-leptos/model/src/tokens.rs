//! Token timeline of a span: inter-token latency and batch size, one tick a token.

use serde_json::value::RawValue;

use crate::json::{self, Members};
use crate::scale::nice_step;

/// One generated token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Token {
    /// Vocabulary id.
    pub id: Option<u32>,
    /// Microseconds since the token before; for the first, since the span's start.
    pub itl_micros: u32,
    /// Microseconds in attention.
    pub attention_micros: Option<u32>,
    /// Microseconds in feed-forward layers.
    pub ffn_micros: Option<u32>,
    /// Sequences in the step.
    pub batch_size: Option<u32>,
    /// Off by default.
    pub text: Option<String>,
}

impl Token {
    fn of(raw: &RawValue) -> Self {
        let members = Members::of(raw.get());
        let number = |name| members.nanos(&[name]).and_then(|number| u32::try_from(number.0).ok());
        Self {
            id: number("id"),
            itl_micros: number("itl_micros").unwrap_or_default(),
            attention_micros: number("attention_micros"),
            ffn_micros: number("ffn_micros"),
            batch_size: number("batch_size"),
            text: members.optional_text(&["text"]),
        }
    }
}

/// The timeline with its statistics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// In order.
    pub tokens: Vec<Token>,
    /// Time to the first token, microseconds.
    pub first: u32,
    /// Median of the others.
    pub p50: u32,
    /// 99th percentile of the others.
    pub p99: u32,
    /// Greatest of the others.
    pub max: u32,
    /// Tokens a second after the first.
    pub per_second: f64,
    /// Largest batch, 0 where unknown.
    pub max_batch: u32,
    /// Top of the latency axis, microseconds, a round number.
    pub top: f64,
}

/// Tokens drawn in one column of pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Column {
    /// First token.
    pub from: usize,
    /// After the last.
    pub to: usize,
    /// Greatest latency, share of the axis.
    pub high: f64,
    /// Mean latency, share of the axis.
    pub mean: f64,
    /// Whether a token lies above the 99th percentile by half or more.
    pub stall: bool,
    /// Largest batch, share of [`Timeline::max_batch`].
    pub batch: Option<f64>,
}

impl Timeline {
    /// Reads a span's tokens; `None` without any.
    pub fn parse(raw: &RawValue) -> Option<Self> {
        Self::of(json::items(raw.get()).into_iter().map(Token::of).collect())
    }

    /// Statistics of tokens; `None` without any.
    pub fn of(tokens: Vec<Token>) -> Option<Self> {
        let first = tokens.first()?.itl_micros;
        let mut sorted: Vec<u32> = tokens[1..].iter().map(|token| token.itl_micros).collect();
        sorted.sort_unstable();
        let rank = |quantile: f64| {
            let place = (quantile * sorted.len() as f64).ceil() as usize;
            sorted.get(place.saturating_sub(1)).or(sorted.last()).copied().unwrap_or(0)
        };
        let (p50, p99, max) = (rank(0.5), rank(0.99), rank(1.0));
        let sum: u64 = sorted.iter().map(|micros| u64::from(*micros)).sum();
        let per_second = if sum == 0 { 0.0 } else { sorted.len() as f64 * 1e6 / sum as f64 };
        let max_batch = tokens.iter().filter_map(|token| token.batch_size).max().unwrap_or(0);
        let step = nice_step(f64::from(max.max(10)) * 1e3 / 3.0) / 1e3;
        let top = (f64::from(max.max(10)) / step).ceil() * step;
        Some(Self { tokens, first, p50, p99, max, per_second, max_batch, top })
    }

    /// Columns of a chart, `most` at most; every token but the first is in exactly one. A chart of one token is empty.
    pub fn columns(&self, most: usize) -> Vec<Column> {
        let count = self.tokens.len().saturating_sub(1);
        let columns = count.min(most.max(1));
        (0..columns)
            .map(|column| {
                let from = 1 + column * count / columns;
                let to = 1 + (column + 1) * count / columns;
                let tokens = &self.tokens[from..to];
                let high = tokens.iter().map(|token| token.itl_micros).max().unwrap_or(0);
                let sum: f64 = tokens.iter().map(|token| f64::from(token.itl_micros)).sum();
                let batch = tokens.iter().filter_map(|token| token.batch_size).max();
                Column {
                    from,
                    to,
                    high: f64::from(high) / self.top,
                    mean: sum / tokens.len().max(1) as f64 / self.top,
                    stall: f64::from(high) > f64::from(self.p50) * 3.0 && high >= self.p99,
                    batch: batch.map(|batch| f64::from(batch) / f64::from(self.max_batch.max(1))),
                }
            })
            .collect()
    }

    /// Marks of the latency axis, microseconds, ascending from 0.
    pub fn marks(&self) -> Vec<f64> {
        let step = nice_step(self.top * 1e3 / 3.0) / 1e3;
        (0..=4).map(|index| f64::from(index) * step).take_while(|mark| *mark <= self.top + 1e-6).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Scenario: any timeline and any width. Guarantee: every token after the first is in one column, heights are
        /// shares of the axis, percentiles are in order.
        #[test]
        fn columns_partition_tokens(latencies in proptest::collection::vec(0_u32..2_000_000, 1..600), most in 1_usize..400) {
            let tokens = latencies.iter().map(|itl_micros| Token { itl_micros: *itl_micros, batch_size: Some(itl_micros % 33), ..Token::default() }).collect();
            let timeline = Timeline::of(tokens).expect("not empty");
            let columns = timeline.columns(most);
            prop_assert!(columns.len() <= most);
            let mut next = 1;
            for column in &columns {
                prop_assert_eq!(column.from, next);
                prop_assert!(column.to > column.from);
                prop_assert!((0.0..=1.0).contains(&column.high) && column.mean <= column.high + 1e-9);
                prop_assert!(column.batch.is_some_and(|batch| (0.0..=1.0).contains(&batch)));
                next = column.to;
            }
            prop_assert_eq!(next, latencies.len());
            prop_assert!(timeline.p50 <= timeline.p99 && timeline.p99 <= timeline.max);
            prop_assert!(timeline.marks().windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    /// Scenario: 99 even tokens and one stall. Guarantee: the rate, the percentiles and the mark.
    #[test]
    fn statistics() {
        let json = format!(
            "[{{\"index\":0,\"itl_micros\":90000}},{}{{\"index\":101,\"itl_micros\":200000}}]",
            "{\"itl_micros\":10000},".repeat(99)
        );
        let timeline = Timeline::parse(&RawValue::from_string(json).expect("json")).expect("tokens");
        assert_eq!(
            (timeline.first, timeline.p50, timeline.p99, timeline.max),
            (90_000, 10_000, 10_000, 200_000)
        );
        assert_eq!(timeline.top, 200_000.0);
        let stalls: Vec<usize> =
            timeline.columns(1_000).iter().filter(|column| column.stall).map(|column| column.from).collect();
        assert_eq!(stalls, [100]);
        assert_eq!(Timeline::of(Vec::new()), None);
    }
}
