//! What one target still has to get: a bounded queue with retries, a time budget and a circuit breaker. Pure: time is
//! an argument, a duration since any fixed point.
//!
//! Invariants: of one insight, a revision is sent only when the earlier ones are delivered or given up; of different
//! insights, one that fails does not hold up another while the target answers at all. When failures follow each
//! other the circuit opens: one entry is tried after each pause, until one gets through. An entry leaves the queue in one of five
//! ways: delivered, refused for good, past its budget, held back, or purged with its partition.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::backoff::Backoff;

/// Names an entry; ascending in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number(u64);

/// Bounds of one queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Entries at most.
    pub(super) entries: usize,
    /// Time from arrival after which an entry is given up.
    pub(super) budget: Duration,
    /// Failures in a row that open the circuit.
    pub(super) circuit_failures: u32,
}

#[derive(Debug)]
struct Entry<J> {
    number: Number,
    insight: Arc<str>,
    partition: u32,
    arrived: Duration,
    due: Duration,
    failures: u32,
    job: J,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<J> {
    /// Send this one and report how it went.
    Send(Number, J),
    /// This one's time is over; it has left the queue.
    Expired(J),
    /// Nothing until then, or until something arrives.
    Wait(Option<Duration>),
}

/// The queue of one target.
#[derive(Debug)]
pub(super) struct Outbox<J> {
    limits: Limits,
    backoff: Backoff,
    entries: VecDeque<Entry<J>>,
    next: u64,
    /// Failures in a row, over all entries.
    failures: u32,
    /// While set, nothing is sent before.
    open_until: Option<Duration>,
}

impl<J: Clone> Outbox<J> {
    pub(super) fn new(limits: Limits, backoff: Backoff) -> Self {
        Self { limits, backoff, entries: VecDeque::new(), next: 0, failures: 0, open_until: None }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether failures have opened the circuit.
    pub(super) const fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// Takes a job in; gives it back when the queue is full.
    pub(super) fn offer(
        &mut self,
        now: Duration,
        partition: u32,
        insight: Arc<str>,
        job: J,
    ) -> Result<(), J> {
        if self.entries.len() >= self.limits.entries {
            return Err(job);
        }
        let number = Number(self.next);
        self.next += 1;
        self.entries.push_back(Entry {
            number,
            insight,
            partition,
            arrived: now,
            due: now,
            failures: 0,
            job,
        });
        Ok(())
    }

    /// What to do at `now`, when nothing is under way.
    pub(super) fn step(&mut self, now: Duration) -> Step<J> {
        if let Some(job) = self.expire(now) {
            return Step::Expired(job);
        }
        if let Some(until) = self.open_until {
            if now < until {
                return Step::Wait(self.entries.front().map(|first| until.min(self.end_of(first)).max(now)));
            }
            // The one that failed least, so that one bad entry does not hold the circuit open.
            let probe = self.firsts().min_by_key(|entry| entry.failures);
            return probe.map_or(Step::Wait(None), |entry| Step::Send(entry.number, entry.job.clone()));
        }
        let mut wake = self.entries.front().map(|first| self.end_of(first));
        for entry in self.firsts() {
            if entry.due <= now {
                return Step::Send(entry.number, entry.job.clone());
            }
            wake = wake.map(|wake| wake.min(entry.due));
        }
        Step::Wait(wake.map(|wake| wake.max(now)))
    }

    /// The earliest entry of each insight.
    fn firsts(&self) -> impl Iterator<Item = &Entry<J>> {
        let mut waiting = HashSet::new();
        self.entries.iter().filter(move |entry| waiting.insert(&entry.insight))
    }

    fn end_of(&self, entry: &Entry<J>) -> Duration {
        entry.arrived + self.limits.budget
    }

    /// The first entry whose budget is used up. One that was never tried gets its try, unless the target is down.
    fn expire(&mut self, now: Duration) -> Option<J> {
        let tried = |entry: &Entry<J>| entry.failures > 0 || self.open_until.is_some();
        let index = self.entries.iter().position(|entry| now >= self.end_of(entry) && tried(entry))?;
        self.entries.remove(index).map(|entry| entry.job)
    }

    /// Takes an entry out that is not to be sent.
    pub(super) fn remove(&mut self, number: Number) -> Option<J> {
        let index = self.entries.binary_search_by_key(&number, |entry| entry.number).ok()?;
        self.entries.remove(index).map(|entry| entry.job)
    }

    /// The target took it, or refused it for good: either way it answers, so the circuit closes.
    ///
    /// `None` when the entry was purged meanwhile.
    pub(super) fn settled(&mut self, now: Duration, number: Number) -> Option<J> {
        self.answered(now);
        self.remove(number)
    }

    /// The target works: whatever waits because of its failures may go.
    pub(super) fn answered(&mut self, now: Duration) {
        self.failures = 0;
        if self.open_until.take().is_some() {
            for entry in &mut self.entries {
                entry.due = entry.due.min(now);
            }
        }
    }

    /// The request failed; the entry is tried again later, not before `after` if the target said so.
    pub(super) fn failed(&mut self, now: Duration, number: Number, after: Option<Duration>) {
        let after = after.unwrap_or_default().min(self.backoff.longest());
        if let Ok(index) = self.entries.binary_search_by_key(&number, |entry| entry.number) {
            let failures = self.entries[index].failures.saturating_add(1);
            let pause = self.backoff.pause(failures);
            self.entries[index].failures = failures;
            self.entries[index].due = now + pause.max(after);
        }
        self.unanswered(now, after);
    }

    /// The target does not work, whatever it was asked.
    pub(super) fn unanswered(&mut self, now: Duration, after: Duration) {
        self.failures = self.failures.saturating_add(1);
        if let Some(beyond) = (self.failures + 1).checked_sub(self.limits.circuit_failures)
            && beyond > 0
        {
            self.open_until = Some(now + self.backoff.pause(beyond).max(after));
        }
    }

    /// Drops what came from a partition that another member has now.
    pub(super) fn purge(&mut self, partition: u32) {
        self.entries.retain(|entry| entry.partition != partition);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn outbox(entries: usize) -> Outbox<u32> {
        let limits = Limits { entries, budget: 60 * SECOND, circuit_failures: 3 };
        Outbox::new(limits, Backoff::new(SECOND, 8 * SECOND, 1))
    }

    fn send(outbox: &mut Outbox<u32>, now: Duration) -> (Number, u32) {
        match outbox.step(now) {
            Step::Send(number, job) => (number, job),
            other => panic!("{other:?} at {now:?}"),
        }
    }

    /// Scenario: two revisions of insight a, one of b; the first request fails, then the target takes everything.
    /// Guarantee: b passes while a waits; the later revision of a never passes the earlier.
    #[test]
    fn one_insight_keeps_its_order_and_holds_up_no_other() {
        let mut outbox = outbox(10);
        for (insight, job) in [("a", 1), ("a", 2), ("b", 3)] {
            outbox.offer(Duration::ZERO, 0, insight.into(), job).expect("room");
        }
        let (first, job) = send(&mut outbox, Duration::ZERO);
        assert_eq!(job, 1);
        outbox.failed(Duration::ZERO, first, None);
        let (third, job) = send(&mut outbox, Duration::ZERO);
        assert_eq!(job, 3);
        assert_eq!(outbox.settled(Duration::ZERO, third), Some(3));
        let Step::Wait(Some(due)) = outbox.step(Duration::ZERO) else { panic!("a waits") };
        assert!(due >= SECOND / 2 && due <= SECOND, "{due:?}");
        for expected in [1, 2] {
            let (number, job) = send(&mut outbox, due);
            assert_eq!(job, expected);
            outbox.settled(due, number);
        }
        assert_eq!(outbox.step(due), Step::Wait(None));
    }

    /// Scenario: the target is down while ten insights wait, comes up after 20 s.
    /// Guarantee: after three failures one entry is tried after each pause, so that few requests are made; when one
    /// gets through, all others go at once.
    #[test]
    fn an_open_circuit_tries_one_at_a_time() {
        let mut outbox = outbox(10);
        for job in 0..10 {
            outbox.offer(Duration::ZERO, 0, job.to_string().into(), job).expect("room");
        }
        let (mut now, mut requests) = (Duration::ZERO, 0);
        while now < 20 * SECOND {
            match outbox.step(now) {
                Step::Send(number, _) => {
                    requests += 1;
                    outbox.failed(now, number, None);
                }
                Step::Wait(Some(until)) => now = until,
                other => panic!("{other:?}"),
            }
        }
        assert!(outbox.is_open());
        assert!((5..=12).contains(&requests), "{requests} requests in 20 s");
        let (number, _) = send(&mut outbox, now);
        outbox.settled(now, number);
        assert!(!outbox.is_open());
        for _ in 0..9 {
            let (number, _) = send(&mut outbox, now);
            outbox.settled(now, number);
        }
        assert_eq!(outbox.len(), 0);
    }

    /// Scenario: one insight that the target always fails on, alone until the circuit opens; then another arrives.
    /// Guarantee: the other is tried next, and closes the circuit.
    #[test]
    fn one_bad_insight_does_not_keep_the_circuit_open() {
        let mut outbox = outbox(10);
        outbox.offer(Duration::ZERO, 0, "bad".into(), 1).expect("room");
        let mut now = Duration::ZERO;
        while !outbox.is_open() {
            match outbox.step(now) {
                Step::Send(number, _) => outbox.failed(now, number, None),
                Step::Wait(Some(until)) => now = until,
                other => panic!("{other:?}"),
            }
        }
        outbox.offer(now, 0, "good".into(), 2).expect("room");
        let Step::Wait(Some(until)) = outbox.step(now) else { panic!("the circuit is open") };
        let (number, job) = send(&mut outbox, until);
        assert_eq!(job, 2);
        outbox.settled(until, number);
        assert!(!outbox.is_open());
    }

    /// Scenario: a target that never answers; a target that is only slow. Guarantee: every entry of the first is given
    /// up at its budget, even those that were never tried; of the second none before its first try.
    #[test]
    fn budgets_end_what_a_dead_target_waits_for() {
        let mut dead = outbox(10);
        for job in 0..5 {
            dead.offer(Duration::ZERO, 0, job.to_string().into(), job).expect("room");
        }
        let (mut now, mut expired) = (Duration::ZERO, Vec::new());
        loop {
            match dead.step(now) {
                Step::Send(number, _) => dead.failed(now, number, None),
                Step::Expired(job) => {
                    assert_eq!(now, 60 * SECOND);
                    expired.push(job);
                }
                Step::Wait(Some(until)) => now = until,
                Step::Wait(None) => break,
            }
        }
        expired.sort_unstable();
        assert_eq!(expired, [0, 1, 2, 3, 4]);
        let mut slow = outbox(10);
        slow.offer(Duration::ZERO, 0, "a".into(), 1).expect("room");
        assert_eq!(send(&mut slow, 100 * SECOND).1, 1);
    }

    /// Scenario: a full queue; a partition that moves away while one of its entries is under way.
    /// Guarantee: what does not fit is given back; the purged entry's outcome changes nothing.
    #[test]
    fn full_and_purged() {
        let mut outbox = outbox(2);
        outbox.offer(Duration::ZERO, 0, "a".into(), 1).expect("room");
        outbox.offer(Duration::ZERO, 1, "b".into(), 2).expect("room");
        assert_eq!(outbox.offer(Duration::ZERO, 0, "c".into(), 3), Err(3));
        let (number, _) = send(&mut outbox, Duration::ZERO);
        outbox.purge(0);
        assert_eq!(outbox.settled(Duration::ZERO, number), None);
        assert_eq!(send(&mut outbox, Duration::ZERO).1, 2);
    }

    /// Scenario: the target asks for 5 s (`Retry-After`), then for an hour. Guarantee: it is left alone that long, but
    /// never longer than the longest pause.
    #[test]
    fn the_target_may_ask_for_a_pause() {
        let mut outbox = outbox(2);
        outbox.offer(Duration::ZERO, 0, "a".into(), 1).expect("room");
        let (number, _) = send(&mut outbox, Duration::ZERO);
        outbox.failed(Duration::ZERO, number, Some(5 * SECOND));
        assert_eq!(outbox.step(Duration::ZERO), Step::Wait(Some(5 * SECOND)));
        let (number, _) = send(&mut outbox, 5 * SECOND);
        outbox.failed(5 * SECOND, number, Some(3_600 * SECOND));
        assert_eq!(outbox.step(5 * SECOND), Step::Wait(Some(13 * SECOND)));
    }

    proptest! {
        /// Scenario: any outcomes of any requests at any times. Guarantee: every entry leaves once; revisions of one
        /// insight are settled in order; a wait always ends later than now.
        #[test]
        fn everything_leaves_once_and_in_order(
            insights in prop::collection::vec(0u8..4, 1..30),
            outcomes in prop::collection::vec(any::<bool>(), 1..200),
        ) {
            let mut outbox = outbox(100);
            for (job, insight) in (0..).zip(&insights) {
                outbox.offer(Duration::ZERO, 0, insight.to_string().into(), job).expect("room");
            }
            let (mut now, mut settled, mut expired) = (Duration::ZERO, Vec::new(), Vec::new());
            let mut outcomes = outcomes.into_iter().cycle();
            loop {
                match outbox.step(now) {
                    Step::Send(number, job) if outcomes.next() == Some(true) => {
                        prop_assert_eq!(outbox.settled(now, number), Some(job));
                        settled.push(job);
                    }
                    Step::Send(number, _) => outbox.failed(now, number, None),
                    Step::Expired(job) => expired.push(job),
                    Step::Wait(Some(until)) => {
                        prop_assert!(until > now);
                        now = until;
                    }
                    Step::Wait(None) => break,
                }
            }
            let mut left: Vec<u32> = settled.iter().chain(&expired).copied().collect();
            left.sort_unstable();
            prop_assert_eq!(left, (0..insights.len() as u32).collect::<Vec<_>>());
            for insight in 0..4 {
                let of_one: Vec<u32> =
                    settled.iter().copied().filter(|&job| insights[job as usize] == insight).collect();
                prop_assert!(of_one.is_sorted(), "{of_one:?}");
            }
        }
    }
}
