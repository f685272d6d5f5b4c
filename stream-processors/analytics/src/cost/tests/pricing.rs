//! Prices found, requests priced, history priced again.

use super::*;

const SUMMER: i64 = 1_782_864_000_000;

fn device<'a>(instance_type: &'a str, region: &'a str) -> DeviceFacts<'a> {
    DeviceFacts { instance_type, region, ..DeviceFacts::default() }
}

fn usd_per_hour(rate: Option<Rate>) -> Option<(f64, bool)> {
    rate.map(|rate| (rate.nano_usd_per_hour as f64 / 1e9, rate.is_exact))
}

/// Scenario: devices described well, badly and not at all. Guarantee: the right price, exact only where
/// instance type, region and date are those of an entry.
#[test]
fn prices_are_found() {
    let plain = pricer(Defaults::default());
    let find = |device: &DeviceFacts<'_>, at| usd_per_hour(plain.rate(device, at));
    assert_eq!(find(&device("p5.48xlarge", "us-east-1"), AUTUMN), Some((6.88, true)));
    assert_eq!(find(&device("P5.48XLARGE", "US-EAST-1"), AUTUMN), Some((6.88, true)));
    assert_eq!(find(&device("ND96isr_H100_v5", "eastus"), AUTUMN), Some((12.29, true)));
    assert_eq!(find(&device("Standard_ND96isr_H100_v5", "eastus"), AUTUMN), Some((12.29, true)));
    assert_eq!(
        find(&device("p5.48xlarge", "us-east-1"), SUMMER - 1),
        Some((6.88, false)),
        "before the first"
    );
    assert_eq!(find(&device("p5.48xlarge", "eu-west-1"), AUTUMN), Some((6.88, false)), "another region");
    assert_eq!(find(&device("p5.48xlarge", ""), AUTUMN), Some((6.88, false)), "no region");
    assert_eq!(find(&device("x9.metal", "us-east-1"), AUTUMN), None);
    assert_eq!(find(&DeviceFacts::default(), AUTUMN), None);

    let named = |gpu_name| DeviceFacts { gpu_name, region: "us-east-1", ..DeviceFacts::default() };
    assert_eq!(find(&named("NVIDIA H100 80GB HBM3"), AUTUMN), Some((6.88, false)));
    assert_eq!(find(&named("NVIDIA A100-SXM4-80GB"), AUTUMN), Some((3.43, false)));
    assert_eq!(find(&named("NVIDIA A100-SXM4-40GB"), AUTUMN), Some((2.74, false)));
    assert_eq!(find(&named("NVIDIA L40S"), AUTUMN), Some((1.861, false)));
    assert_eq!(find(&named("Tesla T4"), AUTUMN), Some((0.526, false)));
    assert_eq!(find(&named("Radeon"), AUTUMN), None);

    let told = pricer(Defaults { region: "us-east-1".into(), instance_type: "g6.xlarge".into() });
    let find = |device: &DeviceFacts<'_>| usd_per_hour(told.rate(device, AUTUMN));
    assert_eq!(find(&device("p5.48xlarge", "")), Some((6.88, true)), "the operator stated the region");
    assert_eq!(find(&DeviceFacts::default()), Some((0.805, true)), "and the instance type");
    assert_eq!(find(&DeviceFacts { gpu_name: "Radeon", ..DeviceFacts::default() }), None, "but not of that");
}

/// Scenario: a price that changes twice. Guarantee: each holds from midnight of its day until the next.
#[test]
fn prices_hold_from_their_day() {
    let entry = |day: &str, price: &str| {
        format!(
            "[[gpu]]\nprovider = \"own\"\nregion = \"\"\ninstance_type = \"rack\"\ngpu = \"H100\"\ngpus = 1\n\
             per_gpu_hour = {price}\nvalid_from = {day}\nsource = \"us\"\n"
        )
    };
    let text = entry("2026-09-01", "1.5") + &entry("2026-07-01", "3") + &entry("2026-08-01", "2");
    let pricer = Pricer::new(PriceTable::parse("a", &text).expect("valid"), Defaults::default());
    let day = 86_400_000;
    let find = |at| usd_per_hour(pricer.rate(&device("rack", "anywhere"), at));
    assert_eq!(find(SUMMER - 1), Some((3.0, false)));
    assert_eq!(find(SUMMER), Some((3.0, true)));
    assert_eq!(find(SUMMER + 31 * day - 1), Some((3.0, true)));
    assert_eq!(find(SUMMER + 31 * day), Some((2.0, true)));
    assert_eq!(find(SUMMER + 62 * day), Some((1.5, true)));
}

/// Scenario: ten seconds on an H100 alone, in a batch of 8 by its mean, with every step recorded, on a seventh of it,
/// on two of them. Guarantee: GPU time and cost as by hand, measured only where the steps are recorded.
#[test]
fn gpu_time_is_priced() {
    let pricer = pricer(Defaults::default());
    let facts = RequestFacts {
        at_ms: AUTUMN,
        model: "llama",
        device: device("p5.48xlarge", "us-east-1"),
        prefill_micros: Some(1_000_000),
        decode_micros: Some(9_000_000),
        ..RequestFacts::default()
    };
    let cost = |facts: &RequestFacts<'_>| {
        let cost = pricer.request_cost(facts);
        (cost.nano_usd, cost.gpu_micros, cost.kind, cost.basis)
    };
    // 6.88 USD ÷ 3,600 s × 10 s
    assert_eq!(cost(&facts), (19_111_111, 10_000_000, CostKind::Estimated, Basis::Gpu));
    let shared = RequestFacts { batch_milli: Some(8_000), ..facts };
    assert_eq!(cost(&shared), (2_388_889, 1_250_000, CostKind::Estimated, Basis::Gpu));
    let steps = [StepShare { micros: 1_000_000, batch: 1 }, StepShare { micros: 9_000_000, batch: 9 }];
    let recorded = RequestFacts { steps: &steps, ..shared };
    assert_eq!(cost(&recorded), (3_822_222, 2_000_000, CostKind::Measured, Basis::Gpu));
    let two = RequestFacts { devices: 2, ..recorded };
    assert_eq!(cost(&two).1, 4_000_000);
    let part = RequestFacts { device: DeviceFacts { mig_profile: "1g.10gb", ..facts.device }, ..facts };
    assert_eq!(cost(&part).0, 2_730_159);
    let elsewhere = RequestFacts { device: device("p5.48xlarge", "mars"), ..recorded };
    assert_eq!(cost(&elsewhere).2, CostKind::Estimated);
    let unknown = RequestFacts { device: DeviceFacts::default(), ..recorded };
    assert_eq!(cost(&unknown), (0, 2_000_000, CostKind::Estimated, Basis::Unknown));
    let idle = RequestFacts { prefill_micros: None, decode_micros: None, ..facts };
    assert_eq!(cost(&idle), (0, 0, CostKind::Estimated, Basis::Unknown));
}

const TOKENS: &str = r#"
[[tokens]]
provider = "acme"
model = "big*"
input = 2.0
cached_input = 0.5
output = 8.0
valid_from = 2026-07-01
source = "price list"
[[tokens]]
provider = "acme"
model = "big-mini*"
input = 0.0375
output = 0.3
valid_from = 2026-07-01
source = "price list"
"#;

/// Scenario: calls of a provider that charges by token. Guarantee: cached tokens at their price, halves of a billionth
/// rounded once, the longest pattern wins, an unknown model costs nothing that is known, a GPU decides where one is named.
#[test]
fn tokens_are_priced() {
    let pricer = Pricer::new(PriceTable::parse("a", TOKENS).expect("valid"), Defaults::default());
    let facts = RequestFacts {
        at_ms: AUTUMN,
        provider: "acme",
        model: "big-2026-05",
        input_tokens: Some(1_000),
        cached_tokens: Some(600),
        output_tokens: Some(100),
        decode_micros: Some(5),
        ..RequestFacts::default()
    };
    let cost = |facts: &RequestFacts<'_>| {
        let cost = pricer.request_cost(facts);
        (cost.nano_usd, cost.kind, cost.basis)
    };
    assert_eq!(cost(&facts), (400 * 2_000 + 600 * 500 + 100 * 8_000, CostKind::Measured, Basis::Tokens));
    let mini = RequestFacts { model: "BIG-mini", output_tokens: Some(1), ..facts };
    assert_eq!(cost(&mini), (37_500 + 300, CostKind::Measured, Basis::Tokens));
    let one = RequestFacts { input_tokens: Some(1), output_tokens: Some(0), ..mini };
    assert_eq!(cost(&one).0, 38, "37.5 is rounded up");
    let anonymous = RequestFacts { provider: "", ..facts };
    assert_eq!(cost(&anonymous).1, CostKind::Estimated);
    let uncounted = RequestFacts { output_tokens: None, ..facts };
    assert_eq!(cost(&uncounted).1, CostKind::Estimated);
    for other in [RequestFacts { model: "small", ..facts }, RequestFacts { provider: "other", ..facts }] {
        assert_eq!(cost(&other), (0, CostKind::Estimated, Basis::Unknown));
    }
    let cached_beyond = RequestFacts { cached_tokens: Some(u64::MAX), ..facts };
    assert_eq!(cost(&cached_beyond).0, 1_000 * 500 + 100 * 8_000);
}

proptest! {
    /// Scenario: any facts. Guarantee: no overflow and no panic, and a larger batch never costs more.
    #[test]
    fn any_facts_are_priced(prefill: Option<u64>, decode: Option<u64>, batch: Option<u64>, tokens: [Option<u64>; 3], at_ms: i64, mig in "[0-9a-zé.]{0,8}") {
        let pricer = pricer(Defaults::default());
        let facts = RequestFacts {
            at_ms,
            device: DeviceFacts { mig_profile: &mig, ..device("p5.48xlarge", "us-east-1") },
            prefill_micros: prefill,
            decode_micros: decode,
            batch_milli: batch,
            input_tokens: tokens[0],
            cached_tokens: tokens[1],
            output_tokens: tokens[2],
            ..RequestFacts::default()
        };
        let cost = pricer.request_cost(&facts);
        let twice = RequestFacts { batch_milli: Some(batch.unwrap_or(1_000).max(1_000).saturating_mul(2)), ..facts };
        prop_assert!(pricer.request_cost(&twice).nano_usd <= cost.nano_usd);
    }
}

/// Scenario: requests of three models at one table and at another, taken in one go and in two parts.
/// Guarantee: the same table changes nothing; the difference by model and in all is as by hand, however it was taken.
#[test]
fn history_is_priced_again() {
    let old = Pricer::new(
        PriceTable::parse("a", &format!("extend = true\n{TOKENS}")).expect("valid"),
        Defaults::default(),
    );
    let cheaper = format!("extend = true\n{}", TOKENS.replace("output = 8.0", "output = 4.0"))
        + "[[gpu]]\nprovider = \"aws\"\nregion = \"us-east-1\"\ninstance_type = \"p5.48xlarge\"\ngpu = \"H100\"\n\
           gpus = 8\nper_gpu_hour = 3.44\nvalid_from = 2026-07-01\nsource = \"contract\"\n";
    let new = Pricer::new(PriceTable::parse("b", &cheaper).expect("valid"), Defaults::default());
    let on_gpu = RequestFacts {
        at_ms: AUTUMN,
        device: device("p5.48xlarge", "us-east-1"),
        decode_micros: Some(7_200_000),
        batch_milli: Some(2_000),
        ..RequestFacts::default()
    };
    let by_token = RequestFacts {
        at_ms: AUTUMN,
        provider: "acme",
        model: "big",
        input_tokens: Some(10),
        output_tokens: Some(1_000),
        ..RequestFacts::default()
    };
    let nowhere =
        RequestFacts { device: DeviceFacts { gpu_name: "Radeon", ..DeviceFacts::default() }, ..on_gpu };
    let facts = [("llama", on_gpu), ("big", by_token), ("llama", on_gpu), ("own", nowhere)];
    let taken = |facts: &[(&str, RequestFacts<'_>)], old: &Pricer, new: &Pricer| {
        let mut diff = CostDiff::default();
        facts.iter().for_each(|(model, facts)| {
            diff.take(model, &old.request_cost(facts), &new.request_cost(facts));
        });
        diff
    };
    let same = taken(&facts, &old, &old);
    assert!(same.models().all(|(_, diff)| diff.changed == 0 && diff.before_nano_usd == diff.after_nano_usd));

    let diff = taken(&facts, &old, &new);
    assert_ne!(old.version(), new.version());
    let mut parts = taken(&facts[2..], &old, &new);
    parts.merge(&taken(&facts[..2], &old, &new));
    assert_eq!(parts, diff);
    let models: Vec<(&str, &ModelDiff)> = diff.models().collect();
    assert_eq!(models.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["big", "llama", "own"]);
    // 3.6 s of GPU time each: 6.88 USD and 3.44 USD an hour are 6.88 and 3.44 thousandths.
    let llama = models[1].1;
    assert_eq!((llama.requests, llama.changed, llama.unknown_after), (2, 2, 0));
    assert_eq!((llama.before_nano_usd, llama.after_nano_usd), (2 * 6_880_000, 2 * 3_440_000));
    assert_eq!((models[0].1.before_nano_usd, models[0].1.after_nano_usd), (8_020_000, 4_020_000));
    assert_eq!(
        (models[2].1.unknown_before, models[2].1.unknown_after, models[2].1.after_nano_usd),
        (1, 1, 0)
    );
    assert_eq!(diff.total().after_nano_usd, 2 * 3_440_000 + 4_020_000);
}

/// Scenario: traces whose client, proxy and engine report one request below each other, with and without a known cost, and
/// side by side. Guarantee: each piece of work counts once, by the report nearest to it; what is not known is counted.
#[test]
fn a_trace_counts_work_once() {
    let gpu = Cost { nano_usd: 5, gpu_micros: 7, kind: CostKind::Measured, basis: Basis::Gpu };
    let tokens = Cost { nano_usd: 3, gpu_micros: 0, kind: CostKind::Estimated, basis: Basis::Tokens };
    let unknown = Cost::default();
    let of = |spans: &[(u32, Option<Cost>)]| {
        trace_cost(spans).map(|cost| (cost.nano_usd, cost.basis(), cost.kind, cost.priced, cost.unpriced))
    };
    const ROOT: u32 = u32::MAX;
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[(ROOT, None), (0, Some(unknown))]), None);
    // The engine's report replaces those of its callers.
    let line = [(ROOT, None), (0, Some(tokens)), (1, Some(tokens)), (2, Some(gpu))];
    assert_eq!(of(&line), Some((5, "gpu", CostKind::Measured, 1, 0)));
    // An engine without a price leaves the call's; a call without a price takes nothing from its engine.
    assert_eq!(
        of(&[(ROOT, Some(tokens)), (0, Some(unknown))]),
        Some((3, "tokens", CostKind::Estimated, 1, 1))
    );
    assert_eq!(of(&[(ROOT, Some(unknown)), (0, Some(gpu))]), Some((5, "gpu", CostKind::Measured, 1, 0)));
    // Two calls, of which one reached an engine of ours.
    let fork = [(ROOT, None), (0, Some(tokens)), (1, Some(gpu)), (0, Some(tokens))];
    assert_eq!(of(&fork), Some((8, "mixed", CostKind::Estimated, 2, 0)));
}
