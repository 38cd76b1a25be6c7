//! The queue of machines whose newest report is to be indexed.

use fernwart_protocol::id::MachineId;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Maximum number of reports per transaction.
const AT_ONCE: usize = 64;

/// Indexing starts when no report has arrived for this long.
const LULL: Duration = Duration::from_millis(250);

/// Indexing starts after this long even if reports keep arriving.
const BEHIND: Duration = Duration::from_secs(30);

/// Machines whose newest report is to be indexed, each with a sequence number: the lowest has
/// waited longest.
#[derive(Default)]
pub(crate) struct IndexQueue {
    waiting: HashMap<MachineId, u64>,
    in_progress: HashMap<MachineId, u64>,
    last: u64,
    /// When the first of the waiting reports arrived, and the last.
    came: Option<(Instant, Instant)>,
    /// Number of queries that wait for indexing.
    awaited: usize,
    /// Number of indexing attempts that failed for some reports.
    failed: u64,
}

/// The state of the queue when a query was asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Awaited {
    last: u64,
    failed: u64,
}

impl IndexQueue {
    /// Adds a machine. Returns true if the queue was empty.
    pub(crate) fn add(&mut self, machine: MachineId) -> bool {
        let now = Instant::now();
        let first = self.came.map_or(now, |(first, _)| first);
        self.came = Some((first, now));
        self.last += 1;
        self.waiting.entry(machine).or_insert(self.last);
        self.waiting.len() == 1
    }

    /// How long indexing can wait; `None` if nothing is queued.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let (first, last) = self.came.filter(|_| !self.waiting.is_empty())?;
        let until = if self.awaited > 0 { first } else { (last + LULL).min(first + BEHIND) };
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Takes the machines that have waited longest.
    pub(crate) fn take(&mut self) -> Vec<MachineId> {
        let mut all: Vec<(u64, MachineId)> = self.waiting.iter().map(|(machine, at)| (*at, *machine)).collect();
        if all.len() > AT_ONCE {
            all.select_nth_unstable(AT_ONCE);
            all.truncate(AT_ONCE);
        }
        for (_, machine) in &all {
            self.waiting.remove(machine);
        }
        if self.waiting.is_empty() {
            self.came = None;
        }
        self.in_progress = all.iter().map(|(at, machine)| (*machine, *at)).collect();
        all.into_iter().map(|(_, machine)| machine).collect()
    }

    /// Marks the taken machines as done.
    pub(crate) fn settle(&mut self) {
        self.in_progress.clear();
    }

    /// Returns machines that could not be indexed to their old places.
    pub(crate) fn put_back(&mut self, machines: Vec<MachineId>) {
        self.failed += u64::from(!machines.is_empty());
        for machine in machines {
            let Some(number) = self.in_progress.remove(&machine) else { continue };
            let waits = self.waiting.entry(machine).or_insert(number);
            *waits = number.min(*waits);
            let now = Instant::now();
            self.came = Some(self.came.unwrap_or((now, now)));
        }
    }

    /// Registers a query that waits for all reports queued now.
    pub(crate) fn ask(&mut self) -> Awaited {
        self.awaited += 1;
        Awaited { last: self.last, failed: self.failed }
    }

    /// Unregisters a query.
    pub(crate) fn leave(&mut self) {
        self.awaited -= 1;
    }

    /// Whether all reports are indexed that were queued when this query was asked.
    pub(crate) fn is_past(&self, awaited: Awaited) -> bool {
        self.waiting.values().chain(self.in_progress.values()).all(|waits| *waits > awaited.last)
    }

    /// Whether an attempt has failed since this query was asked, even one that began before.
    pub(crate) fn has_failed(&self, awaited: Awaited) -> bool {
        self.failed > awaited.failed
    }

    /// How many are not indexed yet.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.in_progress.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(number: u8) -> MachineId {
        MachineId::from_bytes([number; 16])
    }

    #[tokio::test(start_paused = true)]
    async fn reports_are_indexed_in_a_lull_for_a_query_or_after_a_maximum_wait() {
        let mut index_queue = IndexQueue::default();
        assert_eq!(index_queue.wait(), None);
        assert!(index_queue.add(machine(1)) && !index_queue.add(machine(2)));
        assert_eq!(index_queue.wait(), Some(LULL));
        tokio::time::advance(LULL).await;
        assert_eq!(index_queue.wait(), Some(Duration::ZERO), "nobody has told for a while");
        // Reports keep arriving.
        while index_queue.came.is_some_and(|(first, _)| first.elapsed() < BEHIND) {
            index_queue.add(machine(2));
            assert_eq!(index_queue.wait().filter(|wait| *wait > LULL), None);
            tokio::time::advance(LULL / 2).await;
        }
        assert_eq!(index_queue.wait(), Some(Duration::ZERO), "long enough");
        assert_eq!(index_queue.take().len(), 2);
        index_queue.add(machine(3));
        assert_eq!(index_queue.wait(), Some(LULL), "that begins anew");
        index_queue.ask();
        assert_eq!(index_queue.wait(), Some(Duration::ZERO), "somebody asks");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_waiting_reports_come_first_and_failed_ones_keep_their_place() {
        let mut index_queue = IndexQueue::default();
        let all = u8::try_from(AT_ONCE).expect("few") + 6;
        for number in 0..all {
            index_queue.add(machine(number));
        }
        let awaited = index_queue.ask();
        let mut first = index_queue.take();
        first.sort_unstable();
        assert_eq!(first, (0..all - 6).map(machine).collect::<Vec<_>>());
        index_queue.put_back(vec![machine(0)]);
        index_queue.add(machine(0));
        index_queue.settle();
        assert_eq!(index_queue.take().len(), 7);
        assert!(!index_queue.is_past(awaited), "a question waits for what has failed, too");
        index_queue.settle();
        assert!(index_queue.is_past(awaited) && index_queue.wait().is_none());
    }
}
