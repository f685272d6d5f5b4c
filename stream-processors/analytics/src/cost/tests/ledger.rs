//! A device's window divided among its requests.

use super::*;

const WINDOW: u32 = WINDOW_MS as u32;

fn rate(nano_usd_per_hour: u64) -> Rate {
    Rate { nano_usd_per_hour, share: Share::ALL, is_exact: true }
}

fn claim(request: u32, gpu_micros: u64, kind: CostKind) -> Claim<u32> {
    Claim { request, gpu_micros, kind }
}

/// Scenario: two requests on a device that is busy for 4 of 10 seconds. Guarantee: shares, charges and idle cost as
/// by hand.
#[test]
fn a_window_is_divided() {
    let mut ledger = DeviceLedger::new(AUTUMN, WINDOW);
    ledger.claim(claim(1, 1_000_000, CostKind::Measured));
    ledger.claim(claim(2, 2_000_000, CostKind::Estimated));
    ledger.claim(claim(1, 1_000_000, CostKind::Measured));
    let settled = ledger.settle(&rate(3_600_000_000));
    // 3.60 USD an hour: a thousandth of a dollar a second.
    assert_eq!(settled.window_nano_usd, 10_000_000);
    assert_eq!((settled.idle_micros, settled.idle_nano_usd), (6_000_000, 6_000_000));
    assert!(!settled.is_scaled);
    let charges: Vec<(u32, u64, CostKind)> =
        settled.charges.iter().map(|charge| (charge.request, charge.nano_usd, charge.kind)).collect();
    assert_eq!(charges, [(1, 2_000_000, CostKind::Measured), (2, 2_000_000, CostKind::Estimated)]);
    assert_eq!(rate(3_600_000_000).idle_nano_usd(AUTUMN, WINDOW, 4_000_000), 6_000_000);
}

/// Scenario: claims of 30 seconds in a window of 10. Guarantee: scaled to the window, marked as estimates, nothing idle.
#[test]
fn too_much_is_scaled() {
    let mut ledger = DeviceLedger::new(AUTUMN, WINDOW);
    for request in 0..3 {
        ledger.claim(claim(request, 10_000_000, CostKind::Measured));
    }
    let settled = ledger.settle(&rate(6_880_000_000));
    assert!(settled.is_scaled);
    assert_eq!(settled.idle_nano_usd, 0);
    assert!(settled.charges.iter().all(|charge| charge.kind == CostKind::Estimated));
    let micros: Vec<u64> = settled.charges.iter().map(|charge| charge.gpu_micros).collect();
    assert_eq!(micros, [3_333_334, 3_333_333, 3_333_333]);
}

/// Scenario: steps of a batching engine: each takes some time and has some requests in it. Guarantee: the requests' shares
/// of the steps add up to the engine's busy time, within the rounding of one microsecond a request.
#[test]
fn a_shared_step_is_charged_once() {
    let pricer = pricer(Defaults::default());
    let steps: Vec<(u64, Vec<usize>)> = (0..200u64)
        .map(|step| {
            (
                10_000 + step * 37 % 9_000,
                (0..12).filter(|request| (step + request) % 5 < 3).map(|request| request as usize).collect(),
            )
        })
        .collect();
    let busy: u64 = steps.iter().map(|(micros, _)| micros).sum();
    let charged: u64 = (0..12usize)
        .map(|request| {
            let own: Vec<StepShare> = steps
                .iter()
                .filter(|(_, batch)| batch.contains(&request))
                .map(|(micros, batch)| StepShare { micros: *micros, batch: batch.len() as u32 })
                .collect();
            pricer
                .request_cost(&RequestFacts { at_ms: AUTUMN, steps: &own, ..RequestFacts::default() })
                .gpu_micros
        })
        .sum();
    assert!(charged.abs_diff(busy) <= 12, "{charged} for {busy}");
}

proptest! {
    /// Scenario: any requests on any devices at any prices over consecutive windows, with claims that fit or do not.
    /// Guarantee: all requests' costs plus idle cost equal device-hours × price: to the billionth of a dollar in each
    /// window, and within one billionth over all windows of a device; no request is charged for more than its claims.
    #[test]
    fn costs_and_idle_are_the_device_hours(
        devices in prop::collection::vec(
            (0u64..15_000_000_000, prop::collection::vec((0i64..600_000_000, 0i64..40_000_000, 1u64..64), 0..60)), 1..4),
        part in 1u32..=7,
    ) {
        const WINDOWS: i64 = 64;
        let start = AUTUMN - AUTUMN.rem_euclid(WINDOW_MS);
        for (price, requests) in devices {
            let rate = Rate { nano_usd_per_hour: price, share: Share::new(part, 7).expect("valid"), is_exact: true };
            let mut ledgers: Vec<DeviceLedger<u32>> =
                (0..WINDOWS).map(|index| DeviceLedger::new(start + index * WINDOW_MS, WINDOW)).collect();
            let mut claimed = vec![0u64; requests.len()];
            for (number, (offset, length, batch)) in requests.iter().enumerate() {
                let from = start * 1_000 + offset;
                let gpu_micros = *length as u64 / batch;
                claimed[number] = gpu_micros;
                for (window, micros) in split_claim(from, from + length, gpu_micros, WINDOW) {
                    let index = ((window - start) / WINDOW_MS) as usize;
                    ledgers[index].claim(claim(number as u32, micros, CostKind::Measured));
                }
            }
            let mut all = 0u128;
            let mut charged = vec![0u64; requests.len()];
            for ledger in &ledgers {
                let settled = ledger.settle(&rate);
                let sum: u64 = settled.charges.iter().map(|charge| charge.nano_usd).sum();
                prop_assert_eq!(sum + settled.idle_nano_usd, settled.window_nano_usd);
                let micros: u64 = settled.charges.iter().map(|charge| charge.gpu_micros).sum();
                prop_assert_eq!(micros + settled.idle_micros, u64::from(WINDOW) * 1_000);
                all += u128::from(settled.window_nano_usd);
                settled.charges.iter().for_each(|charge| charged[charge.request as usize] += charge.gpu_micros);
            }
            prop_assert!(charged.iter().zip(&claimed).all(|(charged, claimed)| charged <= claimed));
            let hours_times_price =
                u128::from(price) * u128::from(part) * (WINDOWS * WINDOW_MS) as u128 / (3_600_000 * 7);
            prop_assert!(all.abs_diff(hours_times_price) <= 1, "{} for {}", all, hours_times_price);
        }
    }

    /// Scenario: claims in two orders. Guarantee: the same settlement.
    #[test]
    fn order_does_not_matter(claims in prop::collection::vec((0u32..10, 0u64..3_000_000), 0..30)) {
        let settle = |claims: &mut dyn Iterator<Item = &(u32, u64)>| {
            let mut ledger = DeviceLedger::new(AUTUMN, WINDOW);
            claims.for_each(|(request, micros)| ledger.claim(claim(*request, *micros, CostKind::Measured)));
            ledger.settle(&rate(6_880_000_000))
        };
        prop_assert_eq!(settle(&mut claims.iter()), settle(&mut claims.iter().rev()));
    }

    /// Scenario: any request over any windows. Guarantee: the parts add up, lie in consecutive windows, and the first
    /// holds its start.
    #[test]
    fn a_split_loses_nothing(start in -1_000_000_000i64..4_000_000_000_000_000, length in 0i64..200_000_000, micros: u64) {
        let parts = split_claim(start, start + length, micros, WINDOW);
        prop_assert_eq!(parts.iter().map(|(_, part)| u128::from(*part)).sum::<u128>(), u128::from(micros));
        prop_assert!(parts[0].0 * 1_000 <= start && start < (parts[0].0 + WINDOW_MS) * 1_000);
        prop_assert!(parts.windows(2).all(|pair| pair[1].0 - pair[0].0 == WINDOW_MS));
    }
}
