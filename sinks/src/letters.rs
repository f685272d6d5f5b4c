//! Poison records on their way to the dead-letter topic.

use bytes::Bytes;
use infertrace_runtime::log::{
    Log, LogError, TopicPartition,
    dead_letter::{self, Reader},
};
use infertrace_schemas::topics;

use crate::{
    encode::PoisonRecord,
    metrics::Metrics,
    retry::{Retry, fault_of_log},
};

/// Appends the raw record with its origin to the dead-letter topic and waits until it is durable there.
pub(crate) async fn post(
    log: &dyn Log,
    retry: &Retry,
    metrics: &Metrics,
    reader: Reader,
    poison: &PoisonRecord,
) -> Result<(), LogError> {
    let record = &poison.record;
    let name = format!("{}@{}", record.from, record.offset.0);
    tracing::error!(record = name, reason = poison.reason, "poison record moved to the dead-letter topic");
    let mut letter =
        reader.letter(record, TopicPartition::new(topics::DLQ, 0), &poison.reason, record.timestamp);
    loop {
        let append = || async { log.append(letter.clone())?.await };
        match retry.run(metrics, "dlq", &name, fault_of_log, append).await {
            Ok(_) => return Ok(()),
            // It fitted without our headers, so half of it will fit with them.
            Err(LogError::TooLarge { .. })
                if letter.payload.as_ref().is_some_and(|bytes| bytes.len() > 1) =>
            {
                letter.payload = letter.payload.map(|bytes| bytes.slice(..bytes.len() / 2));
                letter.headers.push((dead_letter::TRUNCATED.to_owned(), Bytes::from_static(b"true")));
            }
            Err(error) => return Err(error),
        }
    }
}
