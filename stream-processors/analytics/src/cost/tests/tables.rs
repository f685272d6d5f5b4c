//! Price tables.

use super::super::*;

const ENTRY: &str = r#"
[[gpu]]
provider = "own"
region = "basement"
instance_type = "rack-1"
gpu = "H100"
gpus = 4
per_gpu_hour = 2
valid_from = 2026-01-01
source = "bookkeeping"
"#;

fn refusal(text: &str) -> String {
    PriceTable::parse("prices-of-ours.toml", text).expect_err("refused").to_string()
}

/// Scenario: the table that is compiled in. Guarantee: it is valid, every entry has a source and a price.
#[test]
fn the_embedded_table_is_valid() {
    let table = PriceTable::embedded().expect("valid");
    assert_eq!(table.gpu().len(), 19);
    assert!(table.gpu().iter().all(|price| price.nano_usd_per_hour > 0 && !price.source.is_empty()));
    assert!(table.version().starts_with("2026-08-01-"), "{}", table.version());
}

/// Scenario: a table rewritten with comments, another order and spacing, then with one digit, one source, one
/// more entry changed. Guarantee: the version stays for the former and changes for each of the latter.
#[test]
fn the_version_is_that_of_the_content() {
    let version = |text: &str| PriceTable::parse("a", text).expect("valid").version().to_string();
    let second = ENTRY.replace("rack-1", "rack-2");
    let both = version(&format!("{ENTRY}{second}"));
    assert_eq!(both, version(&format!("# mine\n{second}\n\n{}", ENTRY.replace(" = ", "="))));
    let others = [
        ENTRY.to_owned(),
        format!("{ENTRY}{}", second.replace("per_gpu_hour = 2", "per_gpu_hour = 2.000000001")),
        format!("{ENTRY}{}", second.replace("bookkeeping", "guess")),
        format!("{ENTRY}{}", second.replace("01-01", "01-02")),
        format!("{ENTRY}{}", second.replace("gpus = 4", "gpus = 5")),
    ];
    for other in others {
        assert_ne!(both, version(&other), "{other}");
    }
}

/// Scenario: every sort of mistake in a file. Guarantee: the message names the file, the entry, the key, and what to do.
#[test]
fn mistakes_are_named() {
    let changed = |from: &str, to: &str| refusal(&ENTRY.replace(from, to));
    let cases = [
        (changed("[[gpu]]", "[[gpu]"), "syntax: "),
        (changed("gpus = 4", "gpus = 4.5"), "[[gpu]] number 1 (own, basement, rack-1) gpus: 4.5 GPUs"),
        (changed("gpus = 4\n", ""), "gpus: it is missing; add it"),
        (changed("gpus = 4", "gpus = \"4\""), "gpus: \"4\" is no number; write a number without quotes"),
        (changed("per_gpu_hour = 2", "per_gpu_hour = -2"), "per_gpu_hour: -2 US dollars cannot be a price"),
        (changed("per_gpu_hour = 2", "per_gpu_hour = nan"), "per_gpu_hour: NaN US dollars cannot be a price"),
        (changed("2026-01-01", "2026-02-30"), "syntax: "),
        (
            changed("2026-01-01", "\"2026-02-30\""),
            "valid_from: \"2026-02-30\" is no day; write a day such as",
        ),
        (changed("2026-01-01", "2026-01-01T10:00:00Z"), "is no day"),
        (changed("provider = \"own\"", "provider = \" \""), "provider: it is empty; fill it in"),
        (changed("source =", "sources ="), "sources: there is no such key; use one of provider, region"),
        (changed("[[gpu]]", "[gpu]"), "gpu: not a list of entries; write [[gpu]] before each"),
        (refusal("prices = 1"), "prices: there is no such key; use one of extend, rates, gpu, tokens"),
        (refusal("extend = 1"), "extend: neither true nor false"),
        (
            refusal(&format!("{ENTRY}{ENTRY}")),
            "(own, basement, rack-1) valid_from: the same day is priced twice",
        ),
    ];
    for (message, part) in cases {
        assert!(message.starts_with("price table prices-of-ours.toml: "), "{message}");
        assert!(message.contains(part), "{message}\nlacks\n{part}");
    }
}

/// Scenario: prices in another currency, without a rate, with one, with an absurd one. Guarantee: the first is refused
/// and says both ways out, the second is converted, the third is refused.
#[test]
fn other_currencies_need_a_rate() {
    let euros = ENTRY.replace("valid_from", "currency = \"EUR\"\nvalid_from");
    let message = refusal(&euros);
    assert!(message.contains("currency: no rate is given for \"EUR\""), "{message}");
    assert!(message.contains("give prices in USD, or add a line `EUR = "), "{message}");
    let table = PriceTable::parse("a", &format!("rates.EUR = 1.25\n{euros}")).expect("valid");
    assert_eq!(table.gpu()[0].nano_usd_per_hour, 2_500_000_000);
    for rate in ["EUR = 0", "EUR = -1.0", "EUR = inf", "USD = 1.1"] {
        let message = refusal(&format!("rates.{rate}\n{euros}"));
        assert!(message.contains("[rates] ") && message.contains("cannot be"), "{message}");
    }
}

/// Scenario: a file that extends the embedded table and overrides one entry of it. Guarantee: its price replaces that
/// one, the others stay, and the version is another.
#[test]
fn a_file_extends_the_embedded_table() {
    let text = r#"
        extend = true
        [[gpu]]
        provider = "aws"
        region = "us-east-1"
        instance_type = "p5.48xlarge"
        gpu = "H100"
        gpus = 8
        per_gpu_hour = 4.1
        valid_from = "2026-07-01"
        source = "our contract"
    "#;
    let (table, embedded) = (PriceTable::parse("a", text).expect("valid"), PriceTable::embedded().unwrap());
    assert_eq!(table.gpu().len(), embedded.gpu().len());
    assert_ne!(table.version(), embedded.version());
    let price = table.gpu().iter().find(|price| price.instance_type == "p5.48xlarge").expect("valid");
    assert_eq!((price.nano_usd_per_hour, price.source.as_str()), (4_100_000_000, "our contract"));
}
