//! Which files to merge. Pure.
//!
//! Files of one partition and event date whose ranges follow one another are merged until they reach the target. Half of
//! it is final, so that a span is written again only as often as its file doubles: a file larger than the others
//! together waits until they have grown. Invariant: no live file of the partition and date lies between two of a group.

use std::collections::{BTreeMap, BTreeSet};

use infertrace_schemas::lake::{EventDate, live::LiveFile};

use super::Config;

/// Why files are written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// They are small.
    Small,
    /// Spans in them were deleted, or outlived their retention.
    Forget,
}

/// Files to merge into one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group<'a> {
    pub(crate) files: Vec<&'a LiveFile>,
    pub(crate) reason: Reason,
}

/// The groups that are due, oldest date first. `ends` says up to which offset a partition is known without a gap,
/// `unfit` which files cannot be read, `must` which are to be written again whatever their size.
pub(crate) fn groups<'a>(
    files: impl Iterator<Item = &'a LiveFile>,
    ends: &BTreeMap<u32, u64>,
    unfit: &BTreeSet<String>,
    config: &Config,
    must: impl Fn(&LiveFile) -> bool,
) -> Vec<Group<'a>> {
    let mut places: BTreeMap<(EventDate, u32), Vec<&LiveFile>> = BTreeMap::new();
    for file in files.filter(|file| ends.get(&file.partition).is_some_and(|end| file.next <= *end)) {
        places.entry((file.data.date, file.partition)).or_default().push(file);
    }
    let mut groups = Vec::new();
    for mut files in places.into_values() {
        files.sort_by_key(|file| file.start);
        let mut taken = BTreeSet::new();
        for run in runs(&files, unfit, config.target_bytes) {
            if let Some(merged) = pick(run, config) {
                taken.extend(merged.iter().map(|file| file.start));
                groups.push(Group { files: merged.to_vec(), reason: Reason::Small });
            }
        }
        let alone = files
            .into_iter()
            .filter(|file| !taken.contains(&file.start) && !unfit.contains(&file.data.path) && must(file));
        groups.extend(alone.map(|file| Group { files: vec![file], reason: Reason::Forget }));
    }
    groups
}

/// Neighbours that fit into one file together; large files and unfit ones stand between them.
fn runs<'f, 'a>(
    files: &'f [&'a LiveFile],
    unfit: &BTreeSet<String>,
    target_bytes: u64,
) -> Vec<&'f [&'a LiveFile]> {
    let mut runs = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (index, file) in files.iter().enumerate() {
        let is_barrier = file.data.bytes >= target_bytes / 2 || unfit.contains(&file.data.path);
        if is_barrier || bytes + file.data.bytes > target_bytes {
            runs.push(&files[first..index]);
            (first, bytes) = (index, 0);
        }
        if is_barrier {
            first = index + 1;
        } else {
            bytes += file.data.bytes;
        }
    }
    runs.push(&files[first..]);
    runs
}

/// What of a run is worth a merge now.
fn pick<'f, 'a>(run: &'f [&'a LiveFile], config: &Config) -> Option<&'f [&'a LiveFile]> {
    if run.len() < 2 {
        return None;
    }
    let total: u64 = run.iter().map(|file| file.data.bytes).sum();
    if total >= config.target_bytes / 2 {
        return Some(run);
    }
    if run.len() < config.min_files {
        return None;
    }
    let (largest, bytes) =
        run.iter().map(|file| file.data.bytes).enumerate().max_by_key(|(_, bytes)| *bytes)?;
    if bytes <= total - bytes {
        return Some(run);
    }
    pick(&run[largest + 1..], config).or_else(|| pick(&run[..largest], config))
}

#[cfg(test)]
mod tests {
    use infertrace_schemas::lake::{DataFile, DataFileName, Id16};
    use proptest::prelude::*;

    use super::*;

    fn file(start: u64, bytes: u64) -> LiveFile {
        let name = DataFileName { date: EventDate(20_000), partition: 1, start, merged: None };
        LiveFile {
            partition: 1,
            start,
            next: start + 1,
            deletions: 0,
            kept: Vec::new(),
            data: DataFile {
                path: name.path(),
                date: name.date,
                rows: 1,
                bytes,
                footer_bytes: 0,
                min_start_ns: 0,
                max_start_ns: 0,
                min_trace_id: Id16::default(),
                max_trace_id: Id16::default(),
                services: None,
                models: None,
                tenants: None,
            },
        }
    }

    fn starts(files: &[LiveFile], config: &Config, must: impl Fn(&LiveFile) -> bool) -> Vec<Vec<u64>> {
        let ends = BTreeMap::from([(1, 1_000_000)]);
        groups(files.iter(), &ends, &BTreeSet::new(), config, must)
            .into_iter()
            .map(|group| group.files.iter().map(|file| file.start).collect())
            .collect()
    }

    fn config() -> Config {
        Config { target_bytes: 1_000, min_files: 4, ..Config::default() }
    }

    /// Scenario: few small files; enough of them; enough bytes; a large one among small ones. Guarantee: only what is worth
    /// it is merged, and neighbours only.
    #[test]
    fn what_is_worth_a_merge() {
        let files = |sizes: &[u64]| -> Vec<LiveFile> {
            sizes.iter().enumerate().map(|(at, bytes)| file(at as u64, *bytes)).collect()
        };
        let none = Vec::<Vec<u64>>::new();
        let of = |sizes: &[u64]| starts(&files(sizes), &config(), |_| false);
        assert_eq!(of(&[10, 10, 10]), none);
        assert_eq!(of(&[10, 10, 10, 10]), [[0, 1, 2, 3]]);
        assert_eq!(of(&[400, 400]), [[0, 1]]);
        assert_eq!(of(&[300, 10, 10, 10, 10]), [[1, 2, 3, 4]]);
        assert_eq!(of(&[10, 10, 600, 10, 10]), none);
        assert_eq!(of(&[450, 450, 450, 450]), [[0, 1], [2, 3]]);
        assert_eq!(starts(&files(&[10, 900, 10]), &config(), |file| file.start > 0), [[1], [2]]);
    }

    proptest! {
        /// Scenario: small files come one after the other and what is due is merged each time. Guarantee: every file stays
        /// within the target, no small ones pile up, and no byte is written again more often than its file can double.
        #[test]
        fn writes_again_stay_few(sizes in proptest::collection::vec(1u64..40, 1..400)) {
            let config = config();
            let mut files: Vec<(LiveFile, u32)> = Vec::new();
            for (next, bytes) in (0..).zip(sizes) {
                files.push((file(next, bytes), 0));
                loop {
                    let live: Vec<LiveFile> = files.iter().map(|(file, _)| file.clone()).collect();
                    let Some(group) = starts(&live, &config, |_| false).into_iter().next() else { break };
                    let at = files.iter().position(|(file, _)| file.start == group[0]).expect("is there");
                    let merged: Vec<_> = files.drain(at..at + group.len()).collect();
                    let bytes = merged.iter().map(|(file, _)| file.data.bytes).sum();
                    prop_assert!(bytes <= config.target_bytes);
                    let times = merged.iter().map(|(_, times)| times + 1).max().expect("not empty");
                    let mut whole = file(group[0], bytes);
                    whole.next = merged.last().expect("not empty").0.next;
                    files.insert(at, (whole, times));
                }
            }
            prop_assert!(files.iter().all(|(_, times)| *times <= 12));
            let small = files.iter().filter(|(file, _)| file.data.bytes < config.target_bytes / 2).count();
            let large = files.len() - small;
            prop_assert!(small <= 40 + 12 * large, "{small} small files beside {large}");
        }
    }
}
