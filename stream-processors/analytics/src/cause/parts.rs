//! The excess of the mean latency of a request over its baseline, by part.

use crate::{baseline::Metric, detect::Look};

/// Seconds a request above normal; no part is negative.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Parts {
    pub(crate) queue: f64,
    pub(crate) prefill: f64,
    /// Because tokens come slower.
    pub(crate) decode: f64,
    /// Because there are more tokens.
    pub(crate) length: f64,
    /// Outside of the engine.
    pub(crate) upstream: f64,
    /// Normal latency.
    pub(crate) normal: f64,
}

impl Parts {
    pub(crate) fn of(look: &Look<'_>) -> Self {
        let recent = &look.recent;
        let above = |metric, now: Option<f64>| Some(now? - look.normal(metric)?);
        let positive = |excess: Option<f64>| excess.unwrap_or(0.0).max(0.0);
        let queue = positive(above(Metric::QueueMean, recent.queue.get()));
        let mut prefill = positive(above(Metric::PrefillMean, recent.prefill.get()));
        let mut decode = positive(above(Metric::DecodeMean, recent.decode.get()));
        let latency = positive(above(Metric::LatencyMean, recent.duration.get()));
        if recent.prefill.count == 0 && recent.decode.count == 0 && recent.queue.count == 0 {
            // Nothing tells the parts apart: one part of work.
            decode = latency;
        } else if recent.prefill.count == 0 && recent.decode.count == 0 {
            prefill = (latency - queue).max(0.0);
        }
        let length = (|| {
            let more = above(Metric::OutputTokens, recent.output_each())?;
            Some((more * look.normal(Metric::TpotMean)?).clamp(0.0, decode))
        })()
        .unwrap_or(0.0);
        let upstream = positive(above(Metric::Upstream, look.now(Metric::Upstream)));
        let normal = look.normal(Metric::LatencyMean).unwrap_or(0.0);
        // Below a tenth of normal it is the usual up and down.
        let upstream = if upstream < 0.1 * normal { 0.0 } else { upstream };
        let slower = tokens_are_slower(look);
        Self {
            queue,
            prefill,
            decode: if slower { decode - length } else { 0.0 },
            length: if slower { length } else { 0.0 },
            upstream,
            normal,
        }
    }

    pub(crate) fn excess(&self) -> f64 {
        self.queue + self.prefill + self.decode + self.length + self.upstream
    }
}

/// Decode time varies with the lengths of answers, whose tail is heavy: only slower tokens, or clearly more of them,
/// are an excess.
fn tokens_are_slower(look: &Look<'_>) -> bool {
    let above = |metric, z: f64| look.shift(metric).is_some_and(|shift| shift.z >= z);
    above(Metric::TpotMean, 2.0) || above(Metric::OutputTokens, 4.0) || look.recent.tpot.count == 0
}
