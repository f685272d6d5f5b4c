//! The table itself: for each column, its sources in the order in which they win.
//!
//! vLLM, SGLang and Triton name what engines measure; OpenTelemetry GenAI (old and new spellings),
//! OpenInference, OpenLLMetry and LiteLLM what clients and proxies see; LoongSuite what single tokens cost.

use super::{
    Convert::{
        self, Count, Flag, MebibytesToBytes, MillisToNanos, Number, Numbers, RatioToPercent, Reasons,
        SecondsToMillis, SecondsToNanos, Text,
    },
    Place, Row,
    Target::{self, *},
};

const fn row(source: &'static str, target: Target, convert: Convert) -> Row {
    Row { source, target, convert, place: Place::Anywhere }
}

const fn label(source: &'static str, target: Target, convert: Convert) -> Row {
    Row { source, target, convert, place: Place::Resource }
}

/// Source, target, conversion; within one target the first source that is present wins.
pub const ROWS: &[Row] = &[
    row("gen_ai.response.model", ModelName, Text),
    row("gen_ai.request.model", ModelName, Text),
    row("triton.model_name", ModelName, Text),
    row("llm.model_name", ModelName, Text),
    row("embedding.model_name", ModelName, Text),
    row("reranker.model_name", ModelName, Text),
    row("llm.response.model", ModelName, Text),
    row("llm.request.model", ModelName, Text),
    label("model_name", ModelName, Text),
    label("model.name", ModelName, Text),
    //
    row("triton.model_version", ModelVersion, Text),
    row("gen_ai.response.model_version", ModelVersion, Text),
    row("gen_ai.request.model_version", ModelVersion, Text),
    label("model_version", ModelVersion, Text),
    label("model.version", ModelVersion, Text),
    //
    row("gen_ai.provider.name", Provider, Text),
    row("gen_ai.system", Provider, Text),
    row("llm.provider", Provider, Text),
    row("llm.system", Provider, Text),
    row("llm.vendor", Provider, Text),
    //
    row("gen_ai.response.finish_reasons", FinishReason, Reasons),
    row("gen_ai.response.finish_reason", FinishReason, Reasons),
    row("llm.finish_reason", FinishReason, Reasons),
    row("llm.response.finish_reason", FinishReason, Reasons),
    row("llm.response.stop_reason", FinishReason, Reasons),
    row("gen_ai.completion.0.finish_reason", FinishReason, Reasons),
    //
    row("hw.id", GpuDeviceId, Text),
    row("gpu.uuid", GpuDeviceId, Text),
    row("gpu.device_id", GpuDeviceId, Text),
    row("nvidia.gpu.uuid", GpuDeviceId, Text),
    row("hw.name", GpuName, Text),
    row("gpu.name", GpuName, Text),
    row("hw.model", GpuName, Text),
    row("gpu.instance_type", GpuInstanceType, Text),
    row("host.type", GpuInstanceType, Text),
    row("gpu.mig_profile", GpuMigProfile, Text),
    row("gpu.index", GpuIndex, Count),
    row("hw.gpu.utilization", GpuUtilizationPercent, RatioToPercent),
    row("gpu.utilization_percent", GpuUtilizationPercent, Number),
    row("DCGM_FI_DEV_GPU_UTIL", GpuUtilizationPercent, Number),
    row("nv_gpu_utilization", GpuUtilizationPercent, RatioToPercent),
    row("hw.gpu.memory.usage", GpuMemoryUsedBytes, Count),
    row("gpu.memory_used_bytes", GpuMemoryUsedBytes, Count),
    row("DCGM_FI_DEV_FB_USED", GpuMemoryUsedBytes, MebibytesToBytes),
    row("nv_gpu_memory_used_bytes", GpuMemoryUsedBytes, Count),
    row("hw.gpu.memory.limit", GpuMemoryTotalBytes, Count),
    row("gpu.memory_total_bytes", GpuMemoryTotalBytes, Count),
    row("nv_gpu_memory_total_bytes", GpuMemoryTotalBytes, Count),
    row("hw.power", GpuPowerWatts, Number),
    row("gpu.power_watts", GpuPowerWatts, Number),
    row("DCGM_FI_DEV_POWER_USAGE", GpuPowerWatts, Number),
    row("nv_gpu_power_usage", GpuPowerWatts, Number),
    row("hw.temperature", GpuTemperatureCelsius, Number),
    row("gpu.temperature_celsius", GpuTemperatureCelsius, Number),
    row("DCGM_FI_DEV_GPU_TEMP", GpuTemperatureCelsius, Number),
    row("DCGM_FI_DEV_SM_CLOCK", GpuSmClockMhz, Count),
    row("DCGM_FI_DEV_MEM_CLOCK", GpuMemoryClockMhz, Count),
    row("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", GpuThrottleReasons, Count),
    //
    row("gen_ai.request.id", RequestId, Text),
    row("gen_ai.response.id", RequestId, Text),
    row("triton.request_id", RequestId, Text),
    row("llm.response.id", RequestId, Text),
    row("llm.request.id", RequestId, Text),
    row("rid", RequestId, Text),
    row("x_request_id", RequestId, Text),
    row("gen_ai.conversation.id", SessionId, Text),
    row("session.id", SessionId, Text),
    row("langfuse.session.id", SessionId, Text),
    row("traceloop.association.properties.session_id", SessionId, Text),
    //
    row("gen_ai.request.batch_size", BatchSize, Count),
    row("vllm:num_requests_running", BatchSize, Count),
    row("sglang:num_running_reqs", BatchSize, Count),
    row("gen_ai.request.max_batch_size", MaxBatchSize, Count),
    row("vllm:num_requests_waiting", QueueDepth, Count),
    row("sglang:num_queue_reqs", QueueDepth, Count),
    row("nv_inference_pending_request_count", QueueDepth, Count),
    row("vllm:num_preemptions", Preemptions, Count),
    //
    row("gen_ai.usage.input_tokens", InputTokens, Count),
    row("gen_ai.usage.prompt_tokens", InputTokens, Count),
    row("llm.token_count.prompt", InputTokens, Count),
    row("llm.usage.prompt_tokens", InputTokens, Count),
    row("gen_ai.usage.output_tokens", OutputTokens, Count),
    row("gen_ai.usage.completion_tokens", OutputTokens, Count),
    row("llm.token_count.completion", OutputTokens, Count),
    row("llm.usage.completion_tokens", OutputTokens, Count),
    row("gen_ai.usage.cache_read.input_tokens", CachedTokens, Count),
    row("gen_ai.usage.cache_read_input_tokens", CachedTokens, Count),
    row("gen_ai.usage.cached_tokens", CachedTokens, Count),
    row("llm.token_count.prompt_details.cache_read", CachedTokens, Count),
    row("llm.usage.cache_read_input_tokens", CachedTokens, Count),
    row("gen_ai.usage.reasoning.output_tokens", ReasoningTokens, Count),
    row("gen_ai.usage.reasoning_tokens", ReasoningTokens, Count),
    row("llm.token_count.completion_details.reasoning", ReasoningTokens, Count),
    row("llm.usage.reasoning_tokens", ReasoningTokens, Count),
    // Only where input or output is unknown; else their sum stands.
    row("gen_ai.usage.total_tokens", SequenceLength, Count),
    row("llm.token_count.total", SequenceLength, Count),
    row("llm.usage.total_tokens", SequenceLength, Count),
    //
    row("gen_ai.latency.time_to_first_token", TtftNs, SecondsToNanos),
    row("gen_ai.server.time_to_first_token", TtftNs, SecondsToNanos),
    row("gen_ai.response.time_to_first_token", TtftNs, SecondsToNanos),
    row("gen_ai.response.time_to_first_token_ms", TtftNs, MillisToNanos),
    row("gen_ai.server.time_per_output_token", TpotNs, SecondsToNanos),
    row("gen_ai.response.time_to_first_chunk", FirstChunkNs, SecondsToNanos),
    row("gen_ai.latency.e2e", E2eNs, SecondsToNanos),
    row("gen_ai.latency.time_in_queue", QueueWaitMs, SecondsToMillis),
    row("vllm:kv_cache_usage_perc", KvCacheUsageRatio, Number),
    row("sglang:token_usage", KvCacheUsageRatio, Number),
    row("sglang:cache_hit_rate", CacheHitRatio, Number),
    //
    row("gen_ai.request.stream", Streaming, Flag),
    row("gen_ai.request.streaming", Streaming, Flag),
    row("gen_ai.is_streaming", Streaming, Flag),
    row("llm.is_streaming", Streaming, Flag),
    row("llm.request.streaming", Streaming, Flag),
    row("litellm.request.streaming", Streaming, Flag),
    //
    row("gen_ai.response.per_token_time_to_generate", TokenTimes, Numbers),
    row("gen_ai.iteration.per_token_batch_size", TokenBatchSizes, Numbers),
];
