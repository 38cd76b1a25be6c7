//! Whose newest report is to be indexed, and when.

use fernwart_protocol::id::MachineId;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Reports that are indexed in one transaction.
const AT_ONCE: usize = 64;

/// Reports are indexed when none has come for this long.
const LULL: Duration = Duration::from_millis(250);

/// Nothing waits longer for a lull.
const BEHIND: Duration = Duration::from_secs(30);

/// Machines whose newest report is to be indexed, each with a number: the lower,
/// the longer it waits.
#[derive(Default)]
pub(crate) struct IndexQueue {
    waiting: HashMap<MachineId, u64>,
    under_way: HashMap<MachineId, u64>,
    last: u64,
    /// When the longest waiting one, and the last one, came.
    came: Option<(Instant, Instant)>,
    /// Questions that wait for all this.
    awaited: usize,
    /// Tries that have failed for some.
    failed: u64,
}

/// When a question was asked: what is due by then, and what had failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Awaited {
    last: u64,
    failed: u64,
}

impl IndexQueue {
    /// True for the first that waits.
    pub(crate) fn add(&mut self, machine: MachineId) -> bool {
        let now = Instant::now();
        let first = self.came.map_or(now, |(first, _)| first);
        self.came = Some((first, now));
        self.last += 1;
        self.waiting.entry(machine).or_insert(self.last);
        self.waiting.len() == 1
    }

    /// How long indexing can wait; nothing where nothing is due.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let (first, last) = self.came.filter(|_| !self.waiting.is_empty())?;
        let until = if self.awaited > 0 { first } else { (last + LULL).min(first + BEHIND) };
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Those that have waited longest.
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
        self.under_way = all.iter().map(|(at, machine)| (*machine, *at)).collect();
        all.into_iter().map(|(_, machine)| machine).collect()
    }

    /// Nothing is under way any more.
    pub(crate) fn settle(&mut self) {
        self.under_way.clear();
    }

    /// What could not be indexed waits on, in its old place.
    pub(crate) fn put_back(&mut self, machines: Vec<MachineId>) {
        self.failed += u64::from(!machines.is_empty());
        for machine in machines {
            let Some(number) = self.under_way.remove(&machine) else { continue };
            let waits = self.waiting.entry(machine).or_insert(number);
            *waits = number.min(*waits);
            let now = Instant::now();
            self.came = Some(self.came.unwrap_or((now, now)));
        }
    }

    /// A question begins to wait for all that is due now.
    pub(crate) fn ask(&mut self) -> Awaited {
        self.awaited += 1;
        Awaited { last: self.last, failed: self.failed }
    }

    /// A question waits no longer.
    pub(crate) fn leave(&mut self) {
        self.awaited -= 1;
    }

    /// Whether all is indexed that was due when this was asked.
    pub(crate) fn is_past(&self, awaited: Awaited) -> bool {
        self.waiting.values().chain(self.under_way.values()).all(|waits| *waits > awaited.last)
    }

    /// Whether a try has failed since: it may have begun before, and the next question has its own.
    pub(crate) fn has_failed(&self, awaited: Awaited) -> bool {
        self.failed > awaited.failed
    }

    /// How many are not indexed yet.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.under_way.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(number: u8) -> MachineId {
        MachineId::from_bytes([number; 16])
    }

    #[tokio::test(start_paused = true)]
    async fn reports_are_indexed_in_a_lull_for_a_question_or_when_they_have_waited_long() {
        let mut index_queue = IndexQueue::default();
        assert_eq!(index_queue.wait(), None);
        assert!(index_queue.add(machine(1)) && !index_queue.add(machine(2)));
        assert_eq!(index_queue.wait(), Some(LULL));
        tokio::time::advance(LULL).await;
        assert_eq!(index_queue.wait(), Some(Duration::ZERO), "nobody has told for a while");
        // Somebody always tells.
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
    async fn the_longest_waiting_come_first_and_what_fails_keeps_its_place() {
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
