//! GPU and engine readings as OTLP metrics, named as OpenTelemetry (`hw.gpu.*`) and vLLM name them.

use infertrace_schemas::wire::{put_bytes_field, put_fixed64_field, put_varint_field};

use super::{
    fleet::FLEET,
    span::{Attributes, put_attributes},
    story::server_name,
    world::Replica,
};
use crate::content::Attr;

/// The gRPC method that takes them.
pub(crate) const PATH: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

#[derive(Clone, Copy)]
enum Number {
    Double(f64),
    /// A cumulative, monotonic count.
    Total(u64),
}

/// An `ExportMetricsServiceRequest` with a reading of each replica; `from_ns` starts the cumulative series.
pub(crate) fn request(replicas: &[&Replica], block_tokens: u32, from_ns: i64, at_ns: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(replicas.len() * 1_500);
    for replica in replicas {
        put_bytes_field(&mut out, 1, &resource_metrics(replica, block_tokens, from_ns, at_ns));
    }
    out
}

/// A reading of one series: name, unit, number, and whether it is labelled by the GPU (else by the engine).
type Reading = (&'static str, &'static str, Number, bool);

/// What a replica's process says of itself, of its GPU and of its engine.
struct Readings {
    resource: Attributes,
    hardware: Attributes,
    labels: Attributes,
    all: [Reading; 14],
}

impl Readings {
    fn labels_of(&self, of_gpu: bool) -> &Attributes {
        if of_gpu { &self.hardware } else { &self.labels }
    }
}

fn readings(replica: &Replica, block_tokens: u32) -> Readings {
    use Number::{Double, Total};
    let spec = &FLEET[replica.deployment];
    let (device, engine) = (&replica.device, &replica.engine);
    let service = server_name(spec);
    let resource: Attributes = vec![
        ("service.name", Attr::Str(service.into())),
        ("service.instance.id", Attr::Str(format!("{service}-{}-{}", device.host, device.index))),
        ("host.name", Attr::Str(device.host.clone())),
        ("host.type", Attr::Str(spec.instance_type.into())),
        ("cloud.region", Attr::Str("us-east-1".into())),
        ("model_name", Attr::Str(spec.model.into())),
        ("gpu.simulated", Attr::Bool(true)),
    ];
    let hardware: Attributes = vec![
        ("hw.id", Attr::Str(device.id.clone())),
        ("hw.name", Attr::Str(spec.gpu.into())),
        ("hw.type", Attr::Str("gpu".into())),
        ("gpu.index", Attr::Int(i64::from(device.index))),
    ];
    let labels: Attributes =
        vec![("model_name", Attr::Str(spec.model.into())), ("engine", Attr::Str(replica.index.to_string()))];
    let memory = device.memory_used_bytes as f64;
    let tokens = |blocks: u64| blocks * u64::from(block_tokens);
    let all = [
        ("hw.gpu.utilization", "1", Double(device.utilization_percent / 100.0), true),
        ("hw.gpu.memory.usage", "By", Double(memory), true),
        ("hw.gpu.memory.limit", "By", Double(spec.memory_bytes as f64), true),
        ("hw.gpu.memory.utilization", "1", Double(memory / spec.memory_bytes as f64), true),
        ("hw.power", "W", Double(device.power_watts), true),
        ("hw.temperature", "Cel", Double(device.temperature_celsius), true),
        ("hw.gpu.clock.sm", "MHz", Double(f64::from(device.sm_clock_mhz)), true),
        ("hw.gpu.throttle_reasons", "1", Double(device.throttle_reasons as f64), true),
        ("vllm:num_requests_running", "1", Double(engine.running.len() as f64), false),
        ("vllm:num_requests_waiting", "1", Double(engine.waiting.len() as f64), false),
        ("vllm:kv_cache_usage_perc", "1", Double(device.kv_usage), false),
        ("vllm:prefix_cache_queries", "{token}", Total(tokens(engine.cache.queried_blocks)), false),
        ("vllm:prefix_cache_hits", "{token}", Total(tokens(engine.cache.hit_blocks)), false),
        ("vllm:num_preemptions", "1", Total(engine.preemptions), false),
    ];
    Readings { resource, hardware, labels, all }
}

/// The same readings as the record that the gateway makes of them: a `GpuSampleBatch`.
pub(crate) fn record(replicas: &[&Replica], block_tokens: u32, from_ns: i64, at_ns: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(replicas.len() * 2_000);
    for (origin, replica) in replicas.iter().enumerate() {
        let readings = readings(replica, block_tokens);
        for (name, unit, number, of_gpu) in readings.all {
            let mut sample = Vec::new();
            put_bytes_field(&mut sample, 1, name.as_bytes());
            put_bytes_field(&mut sample, 2, unit.as_bytes());
            put_varint_field(&mut sample, 3, at_ns as u64);
            if of_gpu {
                put_bytes_field(&mut sample, 5, replica.device.id.as_bytes());
            }
            put_attributes(&mut sample, 6, readings.labels_of(of_gpu));
            put_varint_field(&mut sample, 7, origin as u64);
            match number {
                Number::Double(value) => put_fixed64_field(&mut sample, 8, value.to_bits()),
                Number::Total(value) => {
                    put_varint_field(&mut sample, 4, from_ns as u64);
                    put_varint_field(&mut sample, 9, value);
                    put_varint_field(&mut sample, 11, 1); // monotonic
                    put_varint_field(&mut sample, 12, 2); // cumulative
                }
            }
            put_bytes_field(&mut out, 1, &sample);
        }
        let mut resource = Vec::new();
        put_attributes(&mut resource, 1, &readings.resource);
        let mut of_replica = Vec::new();
        put_bytes_field(&mut of_replica, 1, &resource);
        put_bytes_field(&mut out, 3, &of_replica);
    }
    out
}

fn resource_metrics(replica: &Replica, block_tokens: u32, from_ns: i64, at_ns: i64) -> Vec<u8> {
    let readings = readings(replica, block_tokens);
    let mut scope = Vec::new();
    put_bytes_field(&mut scope, 1, b"infertrace-loadgen");
    let mut scope_metrics = Vec::new();
    put_bytes_field(&mut scope_metrics, 1, &scope);
    for (name, unit, number, of_gpu) in readings.all {
        let attributes = readings.labels_of(of_gpu);
        put_bytes_field(&mut scope_metrics, 2, &metric(name, unit, number, attributes, from_ns, at_ns));
    }
    let mut resource = Vec::new();
    put_attributes(&mut resource, 1, &readings.resource);
    let mut out = Vec::new();
    put_bytes_field(&mut out, 1, &resource);
    put_bytes_field(&mut out, 2, &scope_metrics);
    out
}

fn metric(
    name: &str,
    unit: &str,
    number: Number,
    attributes: &Attributes,
    from_ns: i64,
    at_ns: i64,
) -> Vec<u8> {
    let mut point = Vec::new();
    if matches!(number, Number::Total(_)) {
        put_fixed64_field(&mut point, 2, from_ns as u64);
    }
    put_fixed64_field(&mut point, 3, at_ns as u64);
    match number {
        Number::Double(value) => put_fixed64_field(&mut point, 4, value.to_bits()),
        Number::Total(value) => put_fixed64_field(&mut point, 6, value),
    }
    put_attributes(&mut point, 7, attributes);
    let mut data = Vec::new();
    put_bytes_field(&mut data, 1, &point);
    let mut out = Vec::new();
    put_bytes_field(&mut out, 1, name.as_bytes());
    put_bytes_field(&mut out, 3, unit.as_bytes());
    match number {
        Number::Double(_) => put_bytes_field(&mut out, 5, &data),
        Number::Total(_) => {
            put_varint_field(&mut data, 2, 2); // cumulative
            put_varint_field(&mut data, 3, 1); // monotonic
            put_bytes_field(&mut out, 7, &data);
        }
    }
    out
}
