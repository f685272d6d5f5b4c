//! What could not be delivered, for the dead-letter topic.
//!
//! A letter says which target it was for ([`TARGET`]). Sent back (`infertrace dlq redrive`), the record keeps that
//! header, and then only this target gets it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use infertrace_runtime::log::{
    Log, LogError, Millis, NewRecord, Record, TopicPartition,
    dead_letter::{Reader, cut},
};
use infertrace_schemas::{avro::Insight, topics};
use tokio_util::sync::CancellationToken;

/// Header with the name of the target that an insight is for; without it, it is for all.
pub const TARGET: &str = "infertrace.delivery.target";
const INSIGHT_ID: &str = "infertrace.insight.id";
const INSIGHT_REVISION: &str = "infertrace.insight.revision";

const READER: Reader = Reader { role: "delivery", codec: "infertrace.Insight", codec_version: "1" };
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The target that `record` was sent back for, if any.
pub(super) fn target_of(record: &Record) -> Option<String> {
    let (_, name) = record.headers.iter().find(|(name, _)| name == TARGET)?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// `record` as a dead letter, for `target` if it could be read at all.
pub(super) fn letter(
    record: &Record,
    target: Option<(&str, &Insight)>,
    error: &str,
    now: Millis,
) -> NewRecord {
    let mut record = record.clone();
    let ours = [INSIGHT_ID, INSIGHT_REVISION];
    record.headers.retain(|(name, _)| !ours.contains(&name.as_str()) && (target.is_none() || name != TARGET));
    let mut letter = READER.letter(&record, TopicPartition::new(topics::DLQ, 0), error, now);
    if let Some((name, insight)) = target {
        letter.headers.extend([
            (TARGET.to_owned(), Bytes::copy_from_slice(name.as_bytes())),
            (INSIGHT_ID.to_owned(), Bytes::copy_from_slice(insight.id.as_bytes())),
            (INSIGHT_REVISION.to_owned(), Bytes::from(insight.revision.to_string())),
        ]);
    }
    letter
}

/// Appends letters until the log has taken them; `false` when `stop` came first.
///
/// # Errors
/// When the log refuses for good.
pub(super) async fn put(
    log: &Arc<dyn Log>,
    mut letters: Vec<NewRecord>,
    stop: &CancellationToken,
) -> Result<bool, LogError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let sent: Vec<_> = letters.drain(..).map(|letter| (log.append(letter.clone()), letter)).collect();
        let mut failed = None;
        for (delivery, letter) in sent {
            let outcome = match delivery {
                Ok(delivery) => delivery.await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(_) => {}
                Err(LogError::TooLarge { .. }) if letter.payload.is_some() => letters.push(cut(letter)),
                // Whether it is there is not known: a second letter does less harm than none.
                Err(error) if error.is_retriable() || matches!(error, LogError::Ambiguous(_)) => {
                    failed = Some(error);
                    letters.push(letter);
                }
                Err(error) => return Err(error),
            }
        }
        if letters.is_empty() {
            return Ok(true);
        }
        let Some(error) = failed else { continue };
        tracing::warn!(%error, letters = letters.len(), ?pause, "the log takes no dead letters; trying again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Ok(false),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use infertrace_runtime::log::{Offset, dead_letter::Entry};

    use super::*;

    /// Scenario: an insight given up for one target is sent back, fails again, and is given up once more.
    /// Guarantee: the record sent back names that target; each letter has each header once, target, id and revision.
    #[test]
    fn a_letter_goes_back_to_its_target() {
        let insight = Insight { id: "i".into(), revision: 3, ..Insight::default() };
        let mut record = Record {
            from: TopicPartition::new(topics::INSIGHTS, 2),
            offset: Offset(5),
            timestamp: Millis(1),
            key: None,
            payload: Some(Bytes::from_static(b"avro")),
            headers: vec![("other".to_owned(), Bytes::new())],
        };
        assert_eq!(target_of(&record), None);
        for round in 0..2 {
            let new = letter(&record, Some(("oncall", &insight)), "answered 500", Millis(2));
            let stored = Record {
                from: new.to,
                offset: Offset(round),
                timestamp: new.timestamp,
                key: new.key,
                payload: new.payload,
                headers: new.headers,
            };
            for name in [TARGET, INSIGHT_ID, INSIGHT_REVISION, "other"] {
                assert_eq!(stored.headers.iter().filter(|(header, _)| header == name).count(), 1, "{name}");
            }
            let Entry::Letter(found) = Entry::of(&stored) else { panic!("a letter") };
            assert_eq!((found.role.as_str(), found.error.as_str()), ("delivery", "answered 500"));
            let [back, _] = found.redrive(Millis(3)).expect("goes back");
            assert_eq!(back.to, record.from);
            record.headers = back.headers;
            record.payload = back.payload;
            assert_eq!(target_of(&record).as_deref(), Some("oncall"));
        }
    }
}
