//! What a trace and its spans cost, in words: an amount is never without its currency and whether it was measured, and the
//! trace says at which prices.

use crate::api::Nanos;
use crate::format;
use crate::json::Members;

/// The cost of a trace, or of the request that one of its spans reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Billionths of a US dollar.
    pub nano_usd: u64,
    /// GPU time charged, microseconds of one whole GPU.
    pub gpu_micros: u64,
    /// `measured` or `estimated`.
    pub kind: String,
    /// `gpu`, `tokens` or, of a trace, `mixed`.
    pub basis: String,
    /// Version of the price table; only of a trace.
    pub price_version: String,
    /// Requests of the trace whose cost is known.
    pub priced: u64,
    /// Requests whose cost is not, and is not part of it.
    pub unpriced: u64,
    /// Whether a span's cost is part of the trace's.
    pub is_counted: bool,
}

impl Cost {
    /// From a `cost` member; none where it is absent or says that nothing is known.
    pub(crate) fn of(members: &Members<'_>) -> Option<Self> {
        let members = Members::of(members.get("cost")?.get());
        members.get("nano_usd")?;
        Some(Self {
            nano_usd: members.count(&["nano_usd"]),
            gpu_micros: members.count(&["gpu_micros"]),
            kind: members.text(&["kind"]),
            basis: members.text(&["basis"]),
            price_version: members.text(&["price_version"]),
            priced: members.count(&["priced_requests"]),
            unpriced: members.count(&["unpriced_requests"]),
            is_counted: members.flag("counted").unwrap_or(true),
        })
    }

    /// The amount: `$0.00382`.
    pub fn amount(&self) -> String {
        format::usd(self.nano_usd)
    }

    /// What stands beside a trace's amount: `USD, estimated, prices 2026-09-01`.
    pub fn note(&self) -> String {
        let prices = if self.price_version.is_empty() {
            String::new()
        } else {
            format!(", prices {}", self.price_version)
        };
        let unpriced = match self.unpriced {
            0 => String::new(),
            unknown => format!(
                ", {} of {} requests without a price",
                format::count(unknown),
                format::count(unknown + self.priced)
            ),
        };
        let counted = if self.is_counted { "" } else { ", not in the trace's cost" };
        format!("USD, {}{prices}{unpriced}{counted}", self.kind)
    }

    /// What it follows from: `From 2 s of one whole GPU`.
    pub fn basis_text(&self) -> String {
        let gpu_nanos = i64::try_from(self.gpu_micros.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let gpu = format!("{} of one whole GPU", format::duration(gpu_nanos));
        let text = match self.basis.as_str() {
            "gpu" => format!("From {gpu}"),
            "tokens" => "From its tokens at the provider's price".to_owned(),
            _ => format!("From {gpu}, and from tokens at the provider's price"),
        };
        if self.is_counted { text } else { format!("{text}; a report further below counts instead") }
    }
}

/// Why no cost is known, of a trace that has requests at all.
pub fn unknown(models: &[String], output_tokens: Option<Nanos>) -> Option<&'static str> {
    (!models.is_empty() || output_tokens.is_some()).then_some(
        "No request of this trace has a price: its device or its batch is not known, and no token price fits",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::TraceDetail;

    fn detail(json: &str) -> TraceDetail {
        TraceDetail::parse(json).expect("an object")
    }

    /// Scenario: the cost of a trace and of two of its spans as the API writes them, one counted and one not. Guarantee:
    /// amount, currency, kind and price version are said, what is missing from the sum too, and what each follows from.
    #[test]
    fn a_cost_says_what_it_is() {
        let trace = detail(
            r#"{"trace_id":"ab","cost":{"status":"available","usd":0.003822222,"nano_usd":"3822222","gpu_micros":"2000000",
            "kind":"estimated","basis":"gpu","price_version":"2026-09-01","priced_requests":2,"unpriced_requests":1},
            "spans":[{"span_id":"1","cost":{"usd":0.01,"nano_usd":"10000000","gpu_micros":"0","kind":"measured",
            "basis":"tokens","counted":false}},{"span_id":"2"}]}"#,
        );
        let cost = trace.cost.expect("known");
        assert_eq!(cost.amount(), "$0.00382");
        assert_eq!(cost.note(), "USD, estimated, prices 2026-09-01, 1 of 3 requests without a price");
        assert_eq!(cost.basis_text().replace('\u{a0}', " "), "From 2 s of one whole GPU");
        let span = trace.spans[0].cost.as_deref().expect("known");
        assert_eq!((span.amount().as_str(), span.kind.as_str()), ("$0.01", "measured"));
        assert_eq!(span.note(), "USD, measured, not in the trace's cost");
        assert!(span.basis_text().ends_with("a report further below counts instead"));
        assert_eq!(trace.spans[1].cost, None);
    }

    /// Scenario: a server that says nothing of cost, one that knows none, for a trace with a model and one without.
    /// Guarantee: no amount, and a reason where there is inference.
    #[test]
    fn an_unknown_cost_is_no_amount() {
        for json in [r#"{"trace_id":"ab"}"#, r#"{"trace_id":"ab","cost":{"status":"unavailable"}}"#] {
            assert_eq!(detail(json).cost, None);
        }
        assert!(unknown(&["llama".to_owned()], None).is_some());
        assert!(unknown(&[], None).is_none());
    }
}
