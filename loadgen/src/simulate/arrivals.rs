//! Who asks for what, and when: recorded traces or a seeded synthetic day.
//!
//! Invariant: arrivals ascend in time, and are a function of (source, seed, pace).

use std::{fs, path::Path, str::FromStr};

use anyhow::{Context, ensure};
use infertrace_schemas::lake::EventDate;
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// A request as it arrives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Arrival {
    /// After the simulation's start.
    pub(crate) at_ns: i64,
    pub(crate) input_tokens: u32,
    pub(crate) output_tokens: u32,
    /// Ids of the prompt's KV blocks, from its beginning: equal prefixes have equal ids.
    pub(crate) blocks: Vec<u64>,
    pub(crate) session: u64,
}

/// A source of arrivals with its averages, which size the fleet.
pub(crate) struct Source {
    pub(crate) arrivals: Box<dyn Iterator<Item = Arrival> + Send>,
    pub(crate) block_tokens: u32,
    pub(crate) rps: f64,
    pub(crate) mean_input: f64,
    pub(crate) mean_output: f64,
}

#[derive(Clone, Debug)]
struct Recorded {
    at_s: f64,
    input: u32,
    output: u32,
    blocks: Option<Vec<u64>>,
}

const SYNTHETIC_BLOCK_TOKENS: u32 = 64;
const MOONCAKE_BLOCK_TOKENS: u32 = 512;
const SYNTHETIC_RPS: f64 = 8.0;
/// Longer prompts are cut: each fits in every engine's KV cache, so every request ends.
pub(crate) const MAX_PROMPT_TOKENS: u32 = 32_000;

/// Arrivals of Azure's CSV.
pub(crate) fn azure(path: &Path, rps: Option<f64>, speed: f64, seed: u64) -> anyhow::Result<Source> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut recorded = Vec::new();
    for (number, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
        let row = azure_row(line).with_context(|| format!("{} line {}", path.display(), number + 1))?;
        recorded.push(row);
    }
    replay(recorded, SYNTHETIC_BLOCK_TOKENS, rps, speed, seed)
}

fn azure_row(line: &str) -> anyhow::Result<Recorded> {
    let mut fields = line.split(',');
    let mut next = || fields.next().context("expected TIMESTAMP,ContextTokens,GeneratedTokens");
    let (date, time) = next()?.trim().split_once(' ').context("expected a date and a time")?;
    let date = EventDate::from_str(date).map_err(anyhow::Error::msg)?;
    let mut at_s = f64::from(date.0) * 86_400.0;
    for (part, seconds) in time.splitn(3, ':').zip([3_600.0, 60.0, 1.0]) {
        at_s += part.parse::<f64>().context("time")? * seconds;
    }
    Ok(Recorded { at_s, input: next()?.trim().parse()?, output: next()?.trim().parse()?, blocks: None })
}

/// Arrivals of Mooncake's JSONL.
pub(crate) fn mooncake(path: &Path, rps: Option<f64>, speed: f64, seed: u64) -> anyhow::Result<Source> {
    #[derive(serde::Deserialize)]
    struct Row {
        timestamp: f64,
        input_length: u32,
        output_length: u32,
        hash_ids: Vec<u64>,
    }
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut recorded = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row: Row =
            serde_json::from_str(line).with_context(|| format!("{} line {}", path.display(), number + 1))?;
        recorded.push(Recorded {
            at_s: row.timestamp / 1_000.0,
            input: row.input_length,
            output: row.output_length,
            blocks: Some(row.hash_ids),
        });
    }
    replay(recorded, MOONCAKE_BLOCK_TOKENS, rps, speed, seed)
}

/// Plays a recording again and again, faster or slower.
fn replay(
    mut recorded: Vec<Recorded>,
    block_tokens: u32,
    rps: Option<f64>,
    speed: f64,
    seed: u64,
) -> anyhow::Result<Source> {
    ensure!(recorded.len() > 1, "a recording has at least two requests");
    recorded.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    let first = recorded[0].at_s;
    recorded.iter_mut().for_each(|row| row.at_s -= first);
    let count = recorded.len() as f64;
    let own_rps = count / recorded[recorded.len() - 1].at_s.max(1e-3);
    let speed = rps.map_or(speed, |rps| rps / own_rps);
    ensure!(speed > 0.0, "--speed and --rps are above 0");
    let mean_input = recorded.iter().map(|row| f64::from(row.input)).sum::<f64>() / count;
    let mean_output = recorded.iter().map(|row| f64::from(row.output)).sum::<f64>() / count;
    let length = recorded[recorded.len() - 1].at_s + 1.0 / own_rps;
    let mut random = SmallRng::seed_from_u64(seed ^ 0x5eed);
    let rows = recorded.len();
    let arrivals = (0..).map(move |index: usize| {
        let (round, row) = (index / rows, &recorded[index % rows]);
        let input_tokens = row.input.clamp(1, MAX_PROMPT_TOKENS);
        let wanted = input_tokens.div_ceil(block_tokens) as usize;
        let blocks = match &row.blocks {
            Some(blocks) => blocks[..wanted.min(blocks.len())].to_vec(),
            // No prompts in the recording: a system prompt of one of a few applications, then unique text.
            None => prompt_blocks(random.random_range(0..6), 4, random.random(), wanted),
        };
        Arrival {
            at_ns: ((row.at_s + round as f64 * length) / speed * 1e9) as i64,
            input_tokens,
            output_tokens: row.output.clamp(1, 4_000),
            blocks,
            session: random.random(),
        }
    });
    let arrivals = Box::new(arrivals);
    Ok(Source { arrivals, block_tokens, rps: own_rps * speed, mean_input, mean_output })
}

fn prompt_blocks(application: u64, shared: usize, unique: u64, count: usize) -> Vec<u64> {
    (0..count as u64)
        .map(|index| {
            let owner = if (index as usize) < shared { application } else { unique | 1 << 63 };
            owner.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index.wrapping_mul(0xff51_afd7_ed55_8ccd))
        })
        .collect()
}

/// A conversation that may go on.
#[derive(Clone, Debug)]
struct Conversation {
    id: u64,
    application: u64,
    tokens: u32,
}

/// A Poisson process with a daily wave and bursts; heavy-tailed lengths; conversations that share prefixes.
pub(crate) fn synthetic(rps: Option<f64>, seed: u64) -> anyhow::Result<Source> {
    let rps = rps.unwrap_or(SYNTHETIC_RPS);
    ensure!(rps > 0.0, "--rps is above 0");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut at_s = 0.0;
    let mut burst_until = 0.0;
    let mut conversations: Vec<Conversation> = Vec::new();
    let arrivals = std::iter::repeat_with(move || {
        let wave = 1.0 + 0.35 * (at_s / 900.0 * std::f64::consts::TAU).sin();
        let bursting = at_s < burst_until;
        at_s += exponential(&mut random) / (rps * wave * if bursting { 2.2 } else { 0.89 });
        if !bursting && random.random_bool((0.012 / rps).min(1.0)) {
            burst_until = at_s + 2.0 + 6.0 * exponential(&mut random);
        }
        let fresh = lognormal(&mut random, 320.0, 1.0).clamp(8.0, 12_000.0) as u32;
        let slot = random.random_range(0..conversations.len().max(1));
        let conversation = if !conversations.is_empty() && random.random_bool(0.55) {
            conversations[slot].tokens = (conversations[slot].tokens + fresh).min(16_000);
            conversations[slot].clone()
        } else {
            let application = random.random_range(0..6);
            let started = Conversation { id: random.random(), application, tokens: 512 + fresh };
            if conversations.len() < 400 {
                conversations.push(started.clone());
            } else {
                conversations[slot] = started.clone();
            }
            started
        };
        let input_tokens = conversation.tokens;
        let wanted = input_tokens.div_ceil(SYNTHETIC_BLOCK_TOKENS) as usize;
        Arrival {
            at_ns: (at_s * 1e9) as i64,
            input_tokens,
            output_tokens: lognormal(&mut random, 110.0, 0.9).clamp(1.0, 1_500.0) as u32,
            blocks: prompt_blocks(conversation.application, 8, conversation.id, wanted),
            session: conversation.id,
        }
    });
    let block_tokens = SYNTHETIC_BLOCK_TOKENS;
    Ok(Source { arrivals: Box::new(arrivals), block_tokens, rps, mean_input: 1_700.0, mean_output: 160.0 })
}

pub(crate) fn exponential(random: &mut SmallRng) -> f64 {
    -(1.0 - random.random::<f64>()).ln()
}

pub(crate) fn lognormal(random: &mut SmallRng, median: f64, sigma: f64) -> f64 {
    let radius = (2.0 * exponential(random)).sqrt();
    median * (sigma * radius * (random.random::<f64>() * std::f64::consts::TAU).cos()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: rows as in Azure's file, at three times its pace. Guarantee: times scale, tokens stay, the
    /// recording starts again after its end.
    #[test]
    fn a_recording_is_scaled_and_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("azure.csv");
        let rows = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 23:59:59.5000000,480,10\n\
                    2023-11-17 00:00:01.0000000,31,8\n2023-11-17 00:00:02.5000000,110,27\n";
        std::fs::write(&path, rows).unwrap();
        let source = azure(&path, None, 3.0, 1).unwrap();
        let got: Vec<_> =
            source.arrivals.take(4).map(|a| (a.at_ns, a.input_tokens, a.output_tokens)).collect();
        assert_eq!(got[..3], [(0, 480, 10), (500_000_000, 31, 8), (1_000_000_000, 110, 27)]);
        assert_eq!(got[3].1, 480);
        assert!(got[3].0 > got[2].0);
    }

    /// Scenario: a row of Mooncake's with a prompt of 100,000 tokens. Guarantee: it is cut to what every model's KV
    /// cache holds, blocks and all, beside the answer.
    #[test]
    fn a_huge_prompt_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mooncake.jsonl");
        let ids: Vec<u64> = (0..196).collect();
        let row = |at| {
            format!(
                "{{\"timestamp\": {at}, \"input_length\": 100000, \"output_length\": 5000, \"hash_ids\": {ids:?}}}"
            )
        };
        std::fs::write(&path, format!("{}\n{}\n", row(0), row(500))).unwrap();
        let source = mooncake(&path, None, 1.0, 1).unwrap();
        let block_tokens = u64::from(source.block_tokens);
        let arrival = source.arrivals.into_iter().next().unwrap();
        assert_eq!((arrival.input_tokens, arrival.blocks.len()), (MAX_PROMPT_TOKENS, 63));
        let needs = arrival.blocks.len() as u64 + u64::from(arrival.output_tokens).div_ceil(block_tokens) + 1;
        for deployment in super::super::fleet::FLEET {
            assert!(needs < deployment.kv_tokens / block_tokens, "{}", deployment.model);
        }
    }

    /// Scenario: 20 requests a second, synthetic. Guarantee: the rate is met within a tenth, times ascend, prefixes
    /// are shared, and the seed decides everything.
    #[test]
    fn synthetic_arrivals_keep_their_rate() {
        let take = |seed| synthetic(Some(20.0), seed).unwrap().arrivals.take(40_000).collect::<Vec<_>>();
        let arrivals = take(3);
        let rate = arrivals.len() as f64 / (arrivals[arrivals.len() - 1].at_ns as f64 * 1e-9);
        assert!((18.0..22.0).contains(&rate), "{rate}");
        assert!(arrivals.is_sorted_by_key(|arrival| arrival.at_ns));
        let first_blocks: hashbrown::HashSet<u64> = arrivals.iter().map(|a| a.blocks[0]).collect();
        assert_eq!(first_blocks.len(), 6);
        assert_eq!(arrivals[..100], take(3)[..100]);
        assert_ne!(arrivals[..100], take(4)[..100]);
    }
}
