//! The dead-letter topic as a whole: listing it, finding one letter, sending letters back.
//!
//! Invariants: memory is bounded by the letters asked for and by the receipts, never by the topic; a record goes
//! back once however many roles wrote a letter for it; a record and its receipt are one transaction.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::{self, Write as _},
    str::FromStr,
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Log, LogError, Millis, NewRecord, NextOffset, Offset, TopicPartition,
    dead_letter::{Entry, Letter, NotRedriven, Place},
    range::{Range, RangeReader, whole_topic},
};

const POLL_BYTES: usize = 4 << 20;
/// A transaction of records sent back is cut at so many of them.
const MAX_RECORDS: usize = 500;
/// And at so many bytes.
const MAX_BYTES: usize = 4 << 20;

/// A letter's place in the topic: `OFFSET` (partition 0) or `PARTITION/OFFSET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Partition of the dead-letter topic.
    pub partition: u32,
    /// Offset there.
    pub offset: u64,
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (partition, offset) = text.split_once('/').unwrap_or(("0", text));
        match (partition.parse(), offset.parse()) {
            (Ok(partition), Ok(offset)) => Ok(Self { partition, offset }),
            _ => Err("expected OFFSET or PARTITION/OFFSET, as `infertrace dlq list` prints it".to_owned()),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

impl Name {
    fn of(place: &Place) -> Self {
        Self { partition: place.0.partition, offset: place.1.0 }
    }
}

/// What a listing found.
#[derive(Debug, Default)]
pub struct Shelf {
    /// The latest letters without their bytes, oldest first, and how many bytes each has.
    pub letters: Vec<(Letter, usize)>,
    /// All letters that were asked for, listed or not.
    pub total: u64,
    /// Records that are neither letters nor receipts.
    pub foreign: u64,
    receipts: BTreeMap<Name, Millis>,
}

impl Shelf {
    /// When the letter was sent back, if it was.
    #[must_use]
    pub fn redriven_at(&self, letter: &Letter) -> Option<Millis> {
        self.receipts.get(&Name::of(&letter.place)).copied()
    }

    /// Letters that were sent back.
    #[must_use]
    pub fn redriven(&self) -> usize {
        self.receipts.len()
    }
}

/// Hands every entry of the topic to `each`, partition by partition.
async fn visit(log: &dyn Log, topic: &str, mut each: impl FnMut(Entry)) -> Result<(), LogError> {
    for range in whole_topic(log, topic).await? {
        let mut reader = RangeReader::open(log, &[range], 2 * POLL_BYTES).await?;
        while let Some(records) = reader.next(POLL_BYTES).await? {
            for record in &records {
                each(Entry::of(record));
            }
        }
    }
    Ok(())
}

/// The latest `limit` letters, by the time at which they were written; only those from `origin` where one is given.
///
/// # Errors
/// When the log cannot be read.
pub async fn list(log: &dyn Log, topic: &str, origin: Option<&str>, limit: usize) -> Result<Shelf, LogError> {
    let mut shelf = Shelf::default();
    let mut latest: BTreeMap<u32, VecDeque<(Letter, usize)>> = BTreeMap::new();
    visit(log, topic, |entry| match entry {
        Entry::Letter(mut letter) => {
            if origin.is_some_and(|origin| *letter.origin.0.topic != *origin) {
                return;
            }
            shelf.total += 1;
            let bytes = letter.payload.take().map_or(0, |payload| payload.len());
            let letters = latest.entry(letter.place.0.partition).or_default();
            letters.push_back((*letter, bytes));
            if letters.len() > limit {
                letters.pop_front();
            }
        }
        Entry::Receipt { of, at } => {
            shelf.receipts.insert(Name::of(&of), at);
        }
        Entry::Foreign => shelf.foreign += 1,
    })
    .await?;
    let mut letters: Vec<_> = latest.into_values().flatten().collect();
    letters.sort_by_key(|(letter, _)| (letter.timestamp, Name::of(&letter.place)));
    shelf.letters = letters.split_off(letters.len().saturating_sub(limit));
    Ok(shelf)
}

/// The letter of that name.
///
/// # Errors
/// When the log cannot be read.
pub async fn find(log: &dyn Log, topic: &str, name: Name) -> Result<Option<Letter>, LogError> {
    if name.partition >= log.partitions(topic).await? {
        return Ok(None);
    }
    let at = TopicPartition::new(topic, name.partition);
    let marks = log.watermarks(&at).await?;
    if !(marks.low.0..marks.high.0).contains(&name.offset) {
        return Ok(None);
    }
    let range = Range { at, from: NextOffset(name.offset), end: Offset(name.offset).next() };
    let mut reader = RangeReader::open(log, &[range], POLL_BYTES).await?;
    while let Some(records) = reader.next(POLL_BYTES).await? {
        for record in &records {
            if let Entry::Letter(letter) = Entry::of(record) {
                return Ok(Some(*letter));
            }
        }
    }
    Ok(None)
}

/// Which letters to send back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// These, even if they were sent back before.
    Named(Vec<Name>),
    /// Every one that was not sent back yet.
    All,
    /// Of those, the ones from this topic.
    From(String),
}

/// What became of the letters.
#[derive(Debug, Default)]
pub struct Redriven {
    /// Records that went back, or would.
    pub redriven: u64,
    /// Letters whose record was among them already: several roles could not read it.
    pub same_record: u64,
    /// Letters that were sent back before.
    pub before: u64,
    /// Named letters that are not there.
    pub missing: u64,
    /// Letters that cannot go back, and why.
    pub refused: Vec<(String, NotRedriven)>,
}

/// Sends records back to the partitions they came from, each with its receipts, in transactions.
///
/// `transactional_id` is shared by everybody who does this, so that a second one fences the first.
///
/// # Errors
/// When the log refuses; what was counted as sent back by then is durable, and a second run goes on with the rest.
pub async fn redrive(
    log: &dyn Log,
    topic: &str,
    which: &Which,
    transactional_id: &str,
    now: Millis,
    dry_run: bool,
) -> Result<Redriven, LogError> {
    let mut counts = Redriven::default();
    let chosen = choose(log, topic, which, &mut counts).await?;
    let mut transactions = if dry_run { None } else { Some(log.transactions(transactional_id).await?) };
    // A delivery's letters for two targets are of one record and differ in its headers.
    let mut seen: BTreeSet<(Place, Vec<(String, Bytes)>)> = BTreeSet::new();
    let mut outputs: Vec<NewRecord> = Vec::new();
    let (mut records, mut bytes) = (0, 0);
    let mut partitions: BTreeMap<Arc<str>, u32> = BTreeMap::new();
    for name in chosen {
        let Some(letter) = find(log, topic, name).await? else {
            counts.missing += 1;
            continue;
        };
        let origin = &letter.origin.0;
        let of_topic = match partitions.get(&origin.topic) {
            Some(known) => *known,
            None => *partitions
                .entry(Arc::clone(&origin.topic))
                .or_insert(partitions_of(log, &origin.topic).await?),
        };
        let redriven = if origin.partition < of_topic {
            letter.redrive(now)
        } else {
            // One letter of a place that is not there would fail the transaction of all.
            Err(NotRedriven::NoOrigin(origin.clone()))
        };
        let [record, receipt] = match redriven {
            Ok(pair) => pair,
            Err(reason) => {
                counts.refused.push((letter.name(), reason));
                continue;
            }
        };
        // A second role's letter for the same record: only its receipt.
        if seen.insert((letter.origin.clone(), letter.headers.clone())) {
            bytes += record.payload.as_ref().map_or(0, Bytes::len);
            records += 1;
            outputs.push(record);
        } else {
            counts.same_record += 1;
        }
        outputs.push(receipt);
        if outputs.len() >= MAX_RECORDS || bytes >= MAX_BYTES {
            if let Some(transactions) = &mut transactions {
                transactions.commit(std::mem::take(&mut outputs), None, &[]).await?;
            }
            outputs.clear();
            counts.redriven += std::mem::take(&mut records);
            bytes = 0;
        }
    }
    if let Some(transactions) = transactions.as_mut().filter(|_| !outputs.is_empty()) {
        transactions.commit(outputs, None, &[]).await?;
    }
    counts.redriven += records;
    Ok(counts)
}

/// Partitions of `topic`; none if there is no such topic.
async fn partitions_of(log: &dyn Log, topic: &str) -> Result<u32, LogError> {
    match log.partitions(topic).await {
        Err(LogError::UnknownTopicPartition(_)) => Ok(0),
        answer => answer,
    }
}

/// The names to send back, in order.
async fn choose(
    log: &dyn Log,
    topic: &str,
    which: &Which,
    counts: &mut Redriven,
) -> Result<BTreeSet<Name>, LogError> {
    let origin = match which {
        Which::Named(names) => return Ok(names.iter().copied().collect()),
        Which::All => None,
        Which::From(topic) => Some(topic.as_str()),
    };
    let mut chosen = BTreeSet::new();
    let mut receipts = BTreeSet::new();
    visit(log, topic, |entry| match entry {
        Entry::Letter(letter) if origin.is_none_or(|origin| *letter.origin.0.topic == *origin) => {
            chosen.insert(Name::of(&letter.place));
        }
        Entry::Receipt { of, .. } => {
            receipts.insert(Name::of(&of));
        }
        Entry::Letter(_) | Entry::Foreign => {}
    })
    .await?;
    let all = chosen.len();
    chosen.retain(|name| !receipts.contains(name));
    counts.before = (all - chosen.len()) as u64;
    Ok(chosen)
}

/// A letter for a person to read: what is known, the record's headers, its bytes as hex and text.
#[must_use]
pub fn dump(letter: &Letter, max_bytes: usize) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name:<14}{value}");
    };
    line("letter", &letter.name());
    line("role", &letter.role);
    line("error", &letter.error);
    line("expected", &letter.codec);
    line("origin", &format!("{}/{}", letter.origin.0, letter.origin.1.0));
    line("written", &format!("{} ms", letter.timestamp.0));
    if let Some(at) = letter.origin_timestamp {
        line("record time", &format!("{} ms", at.0));
    }
    if let Some(from) = &letter.redriven_from {
        line("sent back from", &format!(" {from}, and failed again"));
    }
    if letter.truncated {
        line("cut", "yes: the record was larger than the dead-letter topic takes");
    }
    if let Some(key) = &letter.key {
        line("key", &printable(key));
    }
    for (name, value) in &letter.headers {
        line("header", &format!("{name} = {}", printable(value)));
    }
    let Some(payload) = &letter.payload else {
        line("bytes", "none: the record has no value");
        return out;
    };
    line("bytes", &payload.len().to_string());
    let shown = &payload[..payload.len().min(max_bytes)];
    for (index, row) in shown.chunks(16).enumerate() {
        let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(out, "{:08x}  {:<47}  {}", index * 16, hex.join(" "), printable(row));
    }
    if shown.len() < payload.len() {
        let _ = writeln!(out, "… {} more bytes", payload.len() - shown.len());
    }
    out
}

fn printable(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| if (0x20..0x7f).contains(&byte) { byte as char } else { '.' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{
        Record, TopicSpec,
        dead_letter::Reader,
        embedded::{Config, EmbeddedLog},
    };

    async fn log_with_letters(dir: &std::path::Path) -> Arc<EmbeddedLog> {
        let log = EmbeddedLog::open(Config { dir: dir.to_owned(), preallocate: false, ..Config::default() })
            .expect("opens");
        let spec = |name: &str, partitions| TopicSpec {
            name: name.into(),
            partitions,
            retention: None,
            compacted: false,
            replication: 1,
        };
        log.create_topics(&[spec("spans", 2), spec("gpu", 1), spec("dlq", 2)]).await.expect("created");
        let poison = |topic: &str, offset: u64| Record {
            from: TopicPartition::new(topic, 0),
            offset: Offset(offset),
            timestamp: Millis(1),
            key: None,
            payload: Some(Bytes::from(format!("poison {offset}"))),
            headers: Vec::new(),
        };
        let reader = |role| Reader { role, codec: "c", codec_version: "1" };
        let letters = [
            reader("processor").letter(&poison("spans", 5), TopicPartition::new("dlq", 0), "bad", Millis(10)),
            reader("sink").letter(&poison("spans", 5), TopicPartition::new("dlq", 1), "bad", Millis(11)),
            reader("processor").letter(&poison("spans", 9), TopicPartition::new("dlq", 0), "bad", Millis(12)),
            reader("processor").letter(&poison("gpu", 3), TopicPartition::new("dlq", 0), "bad", Millis(13)),
        ];
        for letter in letters {
            log.append(letter).expect("taken").await.expect("durable");
        }
        log
    }

    async fn payloads(log: &EmbeddedLog, topic: &str) -> Vec<String> {
        let ranges = whole_topic(log, topic).await.expect("there");
        let mut reader = RangeReader::open(log, &ranges, 1 << 20).await.expect("opens");
        let mut found = Vec::new();
        while let Some(records) = reader.next(1 << 20).await.expect("reads") {
            found.extend(records.iter().map(|record| {
                String::from_utf8_lossy(record.payload.as_deref().unwrap_or_default()).into_owned()
            }));
        }
        found.sort();
        found
    }

    /// Scenario: four letters, two of one record; a listing with a limit; a dry run; those of one topic sent back;
    /// all sent back; all once more; one by name.
    /// Guarantee: the latest are listed; each record goes back once, to its topic; receipts show it and a second
    /// run of everything sends nothing; a name sends again on purpose.
    #[tokio::test]
    async fn records_go_back_once_and_the_list_shows_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = log_with_letters(dir.path()).await;
        let log = log.as_ref();
        let shelf = list(log, "dlq", None, 2).await.expect("lists");
        let offsets: Vec<_> = shelf.letters.iter().map(|(letter, _)| letter.origin.1.0).collect();
        assert_eq!((offsets, shelf.total, shelf.redriven()), (vec![9, 3], 4, 0));
        assert_eq!(shelf.letters[1].1, "poison 3".len());

        let send = |which, dry_run| async move {
            redrive(log, "dlq", &which, "redrive", Millis(99), dry_run).await.expect("redrives")
        };
        let dry = send(Which::All, true).await;
        assert_eq!((dry.redriven, dry.same_record), (3, 1));
        assert!(payloads(log, "spans").await.is_empty());
        let gpu = send(Which::From("gpu".into()), false).await;
        assert_eq!((gpu.redriven, gpu.before), (1, 0));
        let all = send(Which::All, false).await;
        assert_eq!((all.redriven, all.same_record, all.before), (2, 1, 1));
        let again = send(Which::All, false).await;
        assert_eq!((again.redriven, again.same_record, again.before), (0, 0, 4));
        assert_eq!(payloads(log, "spans").await, ["poison 5", "poison 9"]);
        assert_eq!(payloads(log, "gpu").await, ["poison 3"]);
        let shelf = list(log, "dlq", None, 10).await.expect("lists");
        assert_eq!((shelf.total, shelf.redriven(), shelf.foreign), (4, 4, 0));
        assert!(shelf.letters.iter().all(|(letter, _)| shelf.redriven_at(letter) == Some(Millis(99))));

        let named =
            send(Which::Named(vec!["1/0".parse().expect("a name"), "0/77".parse().expect("a name")]), false);
        let named = named.await;
        assert_eq!((named.redriven, named.missing), (1, 1));
        assert_eq!(payloads(log, "spans").await.len(), 3);
    }

    /// Scenario: among the letters noise without headers, letters whose headers are noise, and letters that name a topic
    /// and a partition that are not there; they are listed, and all are sent back.
    /// Guarantee: noise is counted and named no letter; a letter that leads nowhere is refused by its place, and every
    /// other one goes back.
    #[tokio::test]
    async fn mangled_letters_hold_up_no_other() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = log_with_letters(dir.path()).await;
        let mangled = |headers: &[(&str, &'static [u8])]| NewRecord {
            to: TopicPartition::new("dlq", 0),
            key: Some(Bytes::from_static(b"\xff")),
            payload: Some(Bytes::from_static(b"\xff\x00noise")),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Bytes::from_static(value)))
                .collect(),
            timestamp: Millis(14),
        };
        let origin = |topic, partition| {
            mangled(&[
                ("infertrace.origin.topic", topic),
                ("infertrace.origin.partition", partition),
                ("infertrace.origin.offset", b"1"),
                ("infertrace.error", b"\xff\xfe"),
            ])
        };
        let records = [
            mangled(&[]),
            origin(b"\xff\xfe", b"0"),
            origin(b"spans", b"-1"),
            mangled(&[("infertrace.receipt.of", b"\xff")]),
            origin(b"nowhere", b"0"),
            origin(b"spans", b"7"),
        ];
        for record in records {
            log.append(record).expect("taken").await.expect("durable");
        }
        let shelf = list(log.as_ref(), "dlq", None, 10).await.expect("lists");
        assert_eq!((shelf.total, shelf.foreign, shelf.letters.len()), (6, 4, 6));
        assert!(find(log.as_ref(), "dlq", "0/3".parse().expect("a name")).await.expect("reads").is_none());
        let sent =
            redrive(log.as_ref(), "dlq", &Which::All, "redrive", Millis(99), false).await.expect("redrives");
        assert_eq!((sent.redriven, sent.same_record), (3, 1));
        let places = [TopicPartition::new("nowhere", 0), TopicPartition::new("spans", 7)];
        let refused: Vec<_> = sent.refused.into_iter().map(|(_, reason)| reason).collect();
        assert_eq!(refused, places.map(NotRedriven::NoOrigin));
        assert_eq!(payloads(&log, "spans").await, ["poison 5", "poison 9"]);
        assert_eq!(payloads(&log, "gpu").await, ["poison 3"]);
    }

    /// Scenario: one letter shown with fewer bytes than it has. Guarantee: what is known, hex and text, and what is left out.
    #[tokio::test]
    async fn a_letter_is_shown_for_people() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = log_with_letters(dir.path()).await;
        let letter =
            find(log.as_ref(), "dlq", "0".parse().expect("a name")).await.expect("reads").expect("there");
        let text = dump(&letter, 4);
        assert!(text.contains("origin        spans/0/5"), "{text}");
        assert!(text.contains("00000000  70 6f 69 73"), "{text}");
        assert!(text.contains("… 4 more bytes"), "{text}");
        assert!("a/b".parse::<Name>().is_err());
        assert!(find(log.as_ref(), "dlq", "7/0".parse().expect("a name")).await.expect("reads").is_none());
    }
}
