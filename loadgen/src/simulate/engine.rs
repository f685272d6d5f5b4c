//! One serving engine on one GPU: a queue, continuous batching with prefill and decode, a KV cache.
//!
//! Knows no spans and no clock but the times it is given. Invariants: a sequence is in `waiting` or `running`,
//! never both; only sequences that hold their prompt's blocks run; a preempted one computes its prompt again.

use std::collections::VecDeque;

use super::{fleet::Deployment, kv::KvCache};

/// A request inside the engine, and what it went through.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) request: u64,
    pub(crate) blocks: Vec<u64>,
    pub(crate) prompt_tokens: u32,
    pub(crate) target_tokens: u32,
    pub(crate) enqueued_ns: i64,
    pub(crate) queue_depth: u32,
    pub(crate) scheduled_ns: i64,
    pub(crate) cached_tokens: u32,
    pub(crate) kv_usage: f64,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) first_token_ns: i64,
    pub(crate) last_token_ns: i64,
    pub(crate) generated: u32,
    pub(crate) itl_micros: Vec<u32>,
    pub(crate) batch_sizes: Vec<u32>,
    pub(crate) preempted_ns: Vec<i64>,
    prefill_left: u32,
    private_blocks: u64,
}

/// One prefill step's share of a prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub(crate) to_ns: i64,
    pub(crate) tokens: u32,
}

impl Sequence {
    pub(crate) fn new(request: u64, blocks: Vec<u64>, prompt_tokens: u32, target_tokens: u32) -> Self {
        Self {
            request,
            blocks,
            prompt_tokens,
            target_tokens: target_tokens.max(1),
            enqueued_ns: 0,
            queue_depth: 0,
            scheduled_ns: 0,
            cached_tokens: 0,
            kv_usage: 0.0,
            chunks: Vec::new(),
            first_token_ns: 0,
            last_token_ns: 0,
            generated: 0,
            itl_micros: Vec::new(),
            batch_sizes: Vec::new(),
            preempted_ns: Vec::new(),
            prefill_left: 0,
            private_blocks: 0,
        }
    }

    pub(crate) fn mean_batch(&self) -> u32 {
        let sum: u64 = self.batch_sizes.iter().map(|size| u64::from(*size)).sum();
        (sum as f64 / self.batch_sizes.len().max(1) as f64).round() as u32
    }
}

/// What faults do to an engine now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions {
    pub(crate) slowdown: f64,
    pub(crate) gap_ns: i64,
    pub(crate) max_seqs: usize,
    pub(crate) cache_works: bool,
    pub(crate) clock_ratio: f64,
}

/// The engine; see the module's words.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) waiting: VecDeque<Sequence>,
    pub(crate) running: Vec<Sequence>,
    pub(crate) cache: KvCache,
    pub(crate) preemptions: u64,
    pub(crate) busy_ns: i64,
    /// Batch fill, weighed by busy time: what the GPU's power follows.
    pub(crate) work_ns: f64,
    block_tokens: u32,
    /// Prefill tokens of each running sequence in the step under way.
    plan: Vec<u32>,
    pub(crate) stepping: bool,
}

impl Engine {
    pub(crate) fn new(deployment: &Deployment, block_tokens: u32) -> Self {
        Self {
            waiting: VecDeque::new(),
            running: Vec::new(),
            cache: KvCache::new(deployment.kv_tokens / u64::from(block_tokens)),
            preemptions: 0,
            busy_ns: 0,
            work_ns: 0.0,
            block_tokens,
            plan: Vec::new(),
            stepping: false,
        }
    }

    pub(crate) fn enqueue(&mut self, mut sequence: Sequence, now_ns: i64) {
        sequence.enqueued_ns = now_ns;
        sequence.queue_depth = self.waiting.len() as u32;
        self.waiting.push_back(sequence);
    }

    pub(crate) fn load(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    /// Begins a step; returns when it ends, or `None` when there is nothing to do.
    pub(crate) fn start_step(
        &mut self,
        deployment: &Deployment,
        now: i64,
        conditions: Conditions,
    ) -> Option<i64> {
        self.admit(now, conditions);
        if self.running.is_empty() {
            self.stepping = false;
            return None;
        }
        let decoding = self.running.iter().filter(|s| s.prefill_left == 0).count();
        let mut budget = deployment.max_batched_tokens.saturating_sub(decoding as u32);
        let (mut prefill_tokens, mut context) = (0u32, 0u64);
        self.plan.clear();
        for sequence in &self.running {
            let chunk = sequence.prefill_left.min(budget);
            budget -= chunk;
            prefill_tokens += chunk;
            self.plan.push(chunk);
            if sequence.prefill_left == 0 {
                context += u64::from(sequence.prompt_tokens + sequence.generated);
            }
        }
        let nanos = deployment.step_base_ns
            + decoding as f64 * deployment.step_per_seq_ns
            + context as f64 * deployment.step_per_kv_token_ns
            + f64::from(prefill_tokens) / deployment.prefill_tokens_per_s * 1e9;
        let nanos = (nanos * conditions.slowdown) as i64;
        let fill = self.running.len() as f64 / deployment.max_num_seqs as f64;
        let intensity = fill.max(f64::from(prefill_tokens) / f64::from(deployment.max_batched_tokens));
        self.busy_ns += nanos;
        self.work_ns += nanos as f64 * intensity.min(1.0);
        self.stepping = true;
        Some(now + nanos + conditions.gap_ns)
    }

    fn admit(&mut self, now: i64, conditions: Conditions) {
        while self.running.len() < conditions.max_seqs {
            let Some(next) = self.waiting.front() else { return };
            let matching = if conditions.cache_works { self.cache.matching(&next.blocks) } else { 0 };
            if !self.cache.take(&next.blocks) {
                return;
            }
            let Some(mut sequence) = self.waiting.pop_front() else { return };
            self.cache.queried_blocks += sequence.blocks.len() as u64;
            self.cache.hit_blocks += matching as u64;
            // The last token is always computed: its output is the first new token.
            let again = sequence.prompt_tokens + sequence.generated;
            let cached = (matching as u32 * self.block_tokens).min(sequence.prompt_tokens - 1);
            sequence.prefill_left = again - cached;
            if sequence.scheduled_ns == 0 {
                sequence.scheduled_ns = now;
                sequence.cached_tokens = cached;
                sequence.kv_usage = self.cache.usage();
            }
            self.running.push(sequence);
        }
    }

    /// Ends the step at `now`; returns the sequences that are done.
    pub(crate) fn finish_step(&mut self, deployment: &Deployment, now: i64) -> Vec<Sequence> {
        let batch = self.running.len() as u32;
        let mut preempt = 0;
        for (sequence, &tokens) in self.running.iter_mut().zip(&self.plan) {
            if sequence.prefill_left > 0 {
                sequence.prefill_left -= tokens;
                if tokens > 0 && sequence.generated == 0 {
                    sequence.chunks.push(Chunk { to_ns: now, tokens });
                }
                if sequence.prefill_left > 0 {
                    continue;
                }
            }
            if sequence.generated == 0 {
                sequence.first_token_ns = now;
            }
            let since = if sequence.generated == 0 { sequence.enqueued_ns } else { sequence.last_token_ns };
            sequence.itl_micros.push(((now - since) / 1_000) as u32);
            sequence.batch_sizes.push(batch);
            sequence.last_token_ns = now;
            sequence.generated += 1;
            if deployment.generates && sequence.generated % self.block_tokens == 1 {
                if self.cache.grow() {
                    sequence.private_blocks += 1;
                } else {
                    preempt += 1;
                }
            }
        }
        let mut done = Vec::new();
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &self.running[index];
            let ends = sequence.generated > 0
                && (sequence.generated >= sequence.target_tokens || !deployment.generates)
                && sequence.prefill_left == 0;
            if ends {
                let sequence = self.running.remove(index);
                self.let_go(&sequence);
                done.push(sequence);
            } else {
                index += 1;
            }
        }
        for _ in 0..preempt {
            self.preempt_last(now);
        }
        done
    }

    /// The youngest sequence goes back to the head of the queue and will compute everything again.
    fn preempt_last(&mut self, now: i64) {
        if self.running.len() < 2 {
            return;
        }
        let Some(mut sequence) = self.running.pop() else { return };
        self.let_go(&sequence);
        sequence.private_blocks = 0;
        sequence.preempted_ns.push(now);
        self.preemptions += 1;
        self.waiting.push_front(sequence);
    }

    fn let_go(&mut self, sequence: &Sequence) {
        self.cache.release(&sequence.blocks);
        self.cache.shrink(sequence.private_blocks);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fleet::FLEET, *};

    const FINE: Conditions =
        Conditions { slowdown: 1.0, gap_ns: 0, max_seqs: 64, cache_works: true, clock_ratio: 1.0 };

    fn run(engine: &mut Engine, deployment: &Deployment, conditions: Conditions) -> Vec<Sequence> {
        let (mut now, mut done) = (1, Vec::new());
        while let Some(end) = engine.start_step(deployment, now, conditions) {
            done.extend(engine.finish_step(deployment, end));
            now = end;
        }
        done
    }

    /// Scenario: the same prompt twice, one after the other. Guarantee: the second hits the cache and has its first
    /// token sooner; both have every token; times ascend.
    #[test]
    fn a_cached_prefix_makes_the_first_token_sooner() {
        let mut engine = Engine::new(&FLEET[0], 64);
        let blocks: Vec<u64> = (0..40).collect();
        let mut ttft = Vec::new();
        for request in 0..2 {
            engine.enqueue(Sequence::new(request, blocks.clone(), 2_560, 20), 1);
            let done = run(&mut engine, &FLEET[0], FINE);
            assert_eq!((done.len(), done[0].generated, done[0].itl_micros.len()), (1, 20, 20));
            assert!(done[0].scheduled_ns <= done[0].first_token_ns);
            assert!(done[0].first_token_ns < done[0].last_token_ns);
            ttft.push((done[0].first_token_ns, done[0].cached_tokens));
        }
        assert_eq!((ttft[0].1, ttft[1].1), (0, 2_559));
        assert!(ttft[1].0 * 3 < ttft[0].0, "{ttft:?}");
    }

    /// Scenario: 40 requests into a cache for few of them. Guarantee: all end with all their tokens, some were
    /// preempted, and nothing is held afterwards.
    #[test]
    fn a_full_cache_preempts_and_loses_nothing() {
        let small = Deployment { kv_tokens: 6_000, ..FLEET[0] };
        let mut engine = Engine::new(&small, 64);
        for request in 0..40u64 {
            let blocks = (0..5).map(|block| request * 100 + block).collect();
            engine.enqueue(Sequence::new(request, blocks, 300, 400), 1);
        }
        let done = run(&mut engine, &small, FINE);
        assert_eq!(done.len(), 40);
        assert!(done.iter().all(|sequence| sequence.generated >= 400));
        assert!(engine.preemptions > 0);
        assert!(engine.cache.usage() < 1e-9, "{}", engine.cache.usage());
    }

    /// Scenario: a limit of four sequences. Guarantee: batches stay small and requests queue longer.
    #[test]
    fn small_batches_queue() {
        let wait = |max_seqs| {
            let mut engine = Engine::new(&FLEET[0], 64);
            (0..32).for_each(|request| engine.enqueue(Sequence::new(request, vec![request], 64, 50), 1));
            let done = run(&mut engine, &FLEET[0], Conditions { max_seqs, ..FINE });
            let worst = done.iter().map(|s| s.scheduled_ns).max().unwrap();
            (done.iter().map(Sequence::mean_batch).max().unwrap(), worst)
        };
        let (small, small_wait) = wait(4);
        let (large, large_wait) = wait(64);
        assert!(small <= 4 && large > 16 && small_wait > 5 * large_wait);
    }
}
