//! Limits the journal's size and age.
//!
//! Dropped first, oldest first, are entries about looks and entries that others caused; if that
//! is not enough, the oldest of all. A new entry, covered by the hash chain, names what was
//! dropped, so that the rest still verifies. The entry about joining and the newest entries are
//! always kept: a hub may ask for one of those.

use super::transaction::Transaction;
use super::{DROPPED_TO, StateError, Table};
use fernwart_certs::journal::{DROPPED, Dropped, Entry, entry_hash, kept_hash};
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::Digest;
use fernwart_protocol::limits::{JOURNAL_BYTES, JOURNAL_LOOKS};
use serde_json::Value;
use std::collections::HashSet;

/// The number of newest entries that are always kept.
const NEWEST: u64 = 256;

/// Maximum number of entries examined at once: the long journal of an older version is trimmed in
/// several steps.
const AT_ONCE: usize = 32_768;

/// Minimum number of entries to drop for their age: the entry that records the drop takes room,
/// too.
const WORTH: usize = 64;

/// Kinds kept longest, for the owner's sake. Acts are recognised by their action instead.
const OWNERS: [&str; 5] = ["joined", "owner_said", "locked", "retired", "left"];

/// What matters here of one entry.
struct Known {
    seq: u64,
    at: UnixMs,
    hash: Digest,
    bytes: u64,
    kind: String,
    /// Kept as long as there is room.
    is_owners: bool,
}

impl Transaction<'_> {
    /// Trims the journal if that is due. Returns the number of dropped entries.
    ///
    /// # Errors
    /// When the disk does not take it, or the journal is damaged.
    pub(super) fn bound_journal(&mut self) -> Result<u64, StateError> {
        let (bytes, now) = (self.journal_bytes()?, self.now());
        let oldest = self.oldest_entries()?;
        let too_many = if bytes > JOURNAL_BYTES { bytes - JOURNAL_BYTES / 4 * 3 } else { 0 };
        let old = now.saturating_sub(i64::try_from(JOURNAL_LOOKS.as_millis()).unwrap_or(i64::MAX));
        // If there are more entries than were examined, later ones may be about looks.
        let is_all = oldest.len() < AT_ONCE;
        let gone = chosen(&oldest, too_many, old, is_all);
        let Some(through) = gone.iter().max().copied().filter(|_| too_many > 0 || gone.len() >= WORTH) else {
            return Ok(0);
        };
        // The newest drop entry alone counts, so it must cover earlier drops, too.
        let before: Option<(u64, Digest)> = self.marked(DROPPED_TO)?;
        let (through, mut head) = match before {
            Some((before, head)) if before >= through => (before, Some(head)),
            _ => (through, None),
        };
        let is_covered = head.is_some();
        let mut kept = Vec::new();
        for entry in oldest.iter().take_while(|entry| entry.seq <= through) {
            if !is_covered {
                head = Some(entry.hash);
            }
            if gone.contains(&entry.seq) {
                self.drop_entry(entry.seq, entry.bytes);
            } else {
                kept.push(entry.hash);
            }
        }
        let count = through - kept.len() as u64;
        let head = head.ok_or(StateError::Damaged("journal"))?;
        self.mark(DROPPED_TO, &(through, head))?;
        self.line(DROPPED, &Dropped { through, head, kept: kept_hash(kept.into_iter()), count })?;
        Ok(gone.len() as u64)
    }

    /// The oldest entries, up to the newest that must be kept.
    fn oldest_entries(&self) -> Result<Vec<Known>, StateError> {
        let last = self.state.head.seq.saturating_sub(NEWEST);
        let mut known: Vec<Known> = Vec::new();
        self.each_up_to(Table::Journal, last, AT_ONCE, |seq, line| {
            let damaged = |_| StateError::Damaged("journal");
            let line = std::str::from_utf8(line).map_err(|_| StateError::Damaged("journal"))?;
            let entry: Entry = serde_json::from_str(line).map_err(damaged)?;
            let is_owners = OWNERS.contains(&entry.kind.as_raw());
            let kind = entry.kind.as_raw().to_owned();
            known.push(Known { seq, at: entry.at, hash: entry_hash(line), bytes: line.len() as u64, kind, is_owners });
            Ok(())
        })?;
        let (mut acts, mut next) = (HashSet::new(), known.iter_mut().peekable());
        self.each_up_to(Table::Bodies, last, AT_ONCE, |seq, body| {
            while next.next_if(|entry| entry.seq < seq).is_some() {}
            let Some(entry) = next.next_if(|entry| entry.seq == seq) else { return Ok(()) };
            entry.bytes += body.len() as u64;
            let about: Value = serde_json::from_slice(body).unwrap_or_default();
            let run = about.get("run").and_then(Value::as_str).unwrap_or_default();
            if is_act(&entry.kind, &about) {
                acts.insert(run.to_owned());
            }
            entry.is_owners |= acts.contains(run);
            Ok(())
        })?;
        Ok(known)
    }
}

/// Whether an entry is about a run that may change something, or about which the owner was asked.
/// Refused orders do not count: others could displace real acts with them.
fn is_act(kind: &str, body: &Value) -> bool {
    match (kind, body.get("kind").and_then(Value::as_str)) {
        ("owner_asked", _) | ("run_started", Some("act")) => return true,
        ("run_started", None) => {}
        _ => return false,
    }
    // Older versions did not write the kind.
    let Some(script) = body.pointer("/action/script") else { return false };
    let only_reads = script.get("privilege").and_then(Value::as_str) == Some("read");
    !only_reads && script.get("dry_run").and_then(Value::as_bool) != Some(true)
}

/// Chooses the entries to drop: those older than `old` that are not the owner's, then as many
/// more as needed. The owner's only if nothing else is left. Never the first entry.
fn chosen(entries: &[Known], mut too_many: u64, old: UnixMs, is_all: bool) -> HashSet<u64> {
    let mut gone = HashSet::new();
    for is_owners in [false, true] {
        // If only the owner's entries were examined, nothing else can be reached.
        let is_all = is_all || (is_owners && gone.is_empty());
        for entry in entries.iter().filter(|entry| entry.seq > 1 && entry.is_owners == is_owners) {
            if (too_many > 0 && (is_all || !is_owners)) || (!is_owners && entry.at < old) {
                too_many = too_many.saturating_sub(entry.bytes);
                gone.insert(entry.seq);
            }
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::super::{EVERY_MS, Moment, StateStore};
    use super::*;
    use fernwart_certs::journal::{BadJournal, Head, Line, verify};
    use fernwart_certs::{envelope, identity};
    use fernwart_protocol::id::BootId;
    use fernwart_protocol::version::Version;
    use serde_json::json;
    use std::path::Path;

    fn moment(now: UnixMs) -> Moment {
        Moment { now, since_boot_ms: 1, boot: BootId::from_bytes([9; 16]) }
    }

    const MINUTE: UnixMs = 60_000;
    const HOUR: UnixMs = 60 * MINUTE;

    /// Trims until nothing more is dropped, each time a little later.
    fn bound_all(store: &mut StateStore, mut now: UnixMs) -> u64 {
        let mut all = 0;
        loop {
            let gone = store.bound(moment(now)).expect("bounded");
            if gone == 0 {
                return all;
            }
            (all, now) = (all + gone, now + 1);
        }
    }

    /// Writes the journal entries of one run.
    fn run(tx: &mut Transaction<'_>, number: u64, is_act: bool) -> Result<(), StateError> {
        let run = format!("{number:032x}");
        let action = match is_act {
            true => json!({"script": {"bundle": "mend", "version": 1, "sha256": "00".repeat(32), "parameters": {},
                "privilege": "root", "dry_run": false, "timeout_ms": 1}}),
            false => json!({"diagnose": {"sections": []}}),
        };
        let body = json!({"run": run, "staff": "jana", "reason": "r".repeat(40), "action": action});
        tx.line("run_started", &body)?;
        tx.line("run_finished", &json!({"run": run, "outcome": "ok"})).map(drop)
    }

    fn exported(store: &StateStore) -> Vec<String> {
        let key = identity::SigningKey::generate().expect("a key");
        let machine = identity::machine_id(&key.public());
        let head = store.head();
        let head = Head { machine, seq: head.seq, head: head.hash, at: 0 };
        let head = envelope::seal(&head, &key, Version::OLDEST).expect("sealed");
        let mut lines = store.journal(1, usize::MAX).expect("read");
        lines.push(Line::Head { v: 1, evidence_key: key.public(), head });
        lines.iter().map(|line| serde_json::to_string(line).expect("written")).collect()
    }

    fn kinds(store: &StateStore) -> (usize, usize) {
        let lines = store.journal(1, usize::MAX).expect("read");
        let acts = lines.iter().filter(|line| format!("{line:?}").contains("mend")).count();
        (lines.len(), acts)
    }

    /// A hundred thousand looks, a minute apart, and an act a day: the file stays small, every
    /// act remains, and the journal verifies.
    #[test]
    fn a_hundred_thousand_looks_neither_fill_the_disk_nor_displace_an_act() {
        const LOOKS: u64 = 100_000;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("books.redb");
        let mut store = StateStore::begin(&path).expect("begun");
        store.confirm(moment(0)).expect("confirmed");
        store.write(moment(0), |tx| tx.line("joined", &json!({"machine": "m"})).map(drop)).expect("written");
        let mut largest = 0;
        for hundred in 0..LOOKS / 100 {
            let now = MINUTE * UnixMs::try_from((hundred + 1) * 100).expect("small");
            store
                .write(moment(now), |tx| {
                    (0..100).try_for_each(|look| run(tx, hundred * 100 + look, false))?;
                    if hundred % 14 == 0 { run(tx, LOOKS + hundred, true) } else { Ok(()) }
                })
                .expect("written");
            store.bound(moment(now)).expect("bounded");
            largest = largest.max(length(&path));
        }
        assert!(largest < 3 * JOURNAL_BYTES, "{largest} bytes");
        let (entries, acts) = kinds(&store);
        assert_eq!(acts, 72, "an act a day, all of them");
        assert!(entries < 20_000, "{entries} entries");
        let lines = exported(&store);
        let verified = verify(lines.iter().map(String::as_str)).expect("it holds");
        assert_eq!(verified.entries + verified.dropped, store.head().seq);
        drop(store);
        let store = StateStore::open(&path).expect("reopened");
        assert_eq!(kinds(&store), (entries, acts));
    }

    fn length(path: &Path) -> u64 {
        std::fs::metadata(path).expect("there").len()
    }

    /// A journal that an older version wrote for years is trimmed step by step; the file shrinks
    /// at the next start.
    #[test]
    fn a_journal_that_is_already_too_long_shrinks() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("books.redb");
        let mut store = StateStore::begin(&path).expect("begun");
        store.confirm(moment(0)).expect("confirmed");
        store.write(moment(0), |tx| tx.line("joined", &json!({"machine": "m"})).map(drop)).expect("written");
        for hundreds in 0..500 {
            let filled =
                store.write(moment(1), |tx| (0..100).try_for_each(|look| run(tx, hundreds * 100 + look, false)));
            filled.expect("written");
        }
        let before = length(&path);
        bound_all(&mut store, 3 * HOUR);
        drop(store);
        let store = StateStore::open(&path).expect("reopened");
        let after = length(&path);
        assert!(after < 2 * JOURNAL_BYTES && after < before / 3, "{before} bytes, then {after}");
        verify(exported(&store).iter().map(String::as_str)).expect("it holds");
    }

    fn small() -> StateStore {
        let mut store = StateStore::over(Box::<super::super::Memory>::default()).expect("books");
        store.confirm(moment(0)).expect("confirmed");
        store.write(moment(1), |tx| tx.line("joined", &json!({})).map(drop)).expect("written");
        for number in 0..600 {
            let filled =
                store.write(moment(number), |tx| run(tx, u64::try_from(number).expect("small"), number % 100 == 3));
            filled.expect("written");
        }
        store
    }

    #[test]
    fn old_looks_are_dropped_and_any_other_missing_entry_is_detected() {
        let mut store = small();
        assert_eq!(store.bound(moment(700)).expect("bounded"), 0, "neither long nor old");
        let year = i64::try_from(JOURNAL_LOOKS.as_millis()).expect("fits");
        let gone = store.bound(moment(year + 2 * EVERY_MS)).expect("bounded");
        // Of 1201 entries the newest 256, the one of joining, and the two of each of five acts
        // stay.
        assert_eq!(gone, 1201 - 256 - 1 - 10);
        assert_eq!(store.bound(moment(year + 4 * EVERY_MS)).expect("bounded"), 0, "once is enough");
        let lines = exported(&store);
        let check = |lines: &[String]| verify(lines.iter().map(String::as_str));
        let verified = check(&lines).expect("it holds");
        assert_eq!((verified.entries, verified.dropped), (256 + 1 + 10 + 1, gone));
        for taken in [0, 3, 20, 100, lines.len() - 2] {
            let mut fewer = lines.clone();
            fewer.remove(taken);
            assert!(check(&fewer).is_err(), "without line {taken}");
        }
        let mut twice = lines.clone();
        twice.insert(3, lines[2].clone());
        assert!(matches!(check(&twice), Err(BadJournal::Gap { .. })));
        let mut reversed = lines;
        reversed.swap(2, 3);
        assert!(check(&reversed).is_err());
    }

    #[test]
    fn the_journal_verifies_after_a_second_drop_before_the_first() {
        let mut store = StateStore::over(Box::<super::super::Memory>::default()).expect("books");
        store.confirm(moment(0)).expect("confirmed");
        store.write(moment(1), |tx| tx.line("joined", &json!({})).map(drop)).expect("written");
        let acts = |store: &mut StateStore, numbers: std::ops::Range<u64>| {
            for number in numbers {
                store.write(moment(1), |tx| run(tx, number, true)).expect("written");
            }
        };
        acts(&mut store, 0..8_000);
        for number in 8_000..8_100 {
            store.write(moment(1), |tx| run(tx, number, false)).expect("written");
        }
        acts(&mut store, 8_100..8_250);
        let year = i64::try_from(JOURNAL_LOOKS.as_millis()).expect("fits");
        assert_eq!(store.bound(moment(year + 2 * EVERY_MS)).expect("bounded"), 200, "the looks, for their age");
        verify(exported(&store).iter().map(String::as_str)).expect("it holds");
        // Now the oldest acts are dropped, which are older than the dropped looks.
        while store.bound(moment(year + 3 * EVERY_MS)).expect("bounded") == 0 {
            let next = store.head().seq;
            store
                .write(moment(year), |tx| (0..100).try_for_each(|more| run(tx, next * 1000 + more, true)))
                .expect("written");
            store.bounds_not_before = UnixMs::MIN;
        }
        let verified = verify(exported(&store).iter().map(String::as_str)).expect("it holds");
        assert!(verified.dropped > 300, "{}", verified.dropped);
    }

    #[test]
    fn a_journal_entry_is_an_acts_by_its_kind_or_its_question_to_the_owner() {
        let body = |kind: Value, script: Value| json!({"run": "r", "kind": kind, "action": {"script": script}});
        let reads = json!({"privilege": "read", "dry_run": false});
        // A script that reads with a network is an act; a dry run of a repair is not.
        assert!(is_act("run_started", &body(json!("act"), reads.clone())));
        assert!(!is_act("run_started", &body(json!("look"), json!({"privilege": "repair", "dry_run": true}))));
        assert!(is_act("owner_asked", &json!({"run": "r"})) && !is_act("run_finished", &json!({"run": "r"})));
        // Entries of older versions are judged by their action; refusals never count.
        assert!(!is_act("run_started", &json!({"action": {"script": reads}})));
        let repairs = json!({"action": {"script": {"privilege": "repair"}}});
        assert!(is_act("run_started", &repairs) && !is_act("order_refused", &repairs));
    }

    #[test]
    fn acts_are_dropped_only_if_no_looks_can_be() {
        let entry = |seq: u64, is_owners| Known {
            seq,
            at: 9,
            hash: Digest::from_bytes([0; 32]),
            bytes: 10,
            kind: String::new(),
            is_owners,
        };
        let acts: Vec<Known> = (1..9).map(|seq| entry(seq, true)).collect();
        assert_eq!(chosen(&acts, 20, 0, false), HashSet::from([2, 3]));
        let both: Vec<Known> = (1..9).map(|seq| entry(seq, seq != 7)).collect();
        assert_eq!(chosen(&both, 20, 0, false), HashSet::from([7]), "more looks may follow");
        assert_eq!(chosen(&both, 20, 0, true), HashSet::from([7, 2]));
    }

    #[test]
    fn the_oldest_acts_are_dropped_if_acts_alone_are_too_many() {
        let mut store = StateStore::over(Box::<super::super::Memory>::default()).expect("books");
        store.confirm(moment(0)).expect("confirmed");
        store.write(moment(1), |tx| tx.line("joined", &json!({})).map(drop)).expect("written");
        for number in 0..12_000 {
            store.write(moment(2), |tx| run(tx, number, true)).expect("written");
        }
        bound_all(&mut store, 3 * HOUR);
        let lines = store.journal(1, usize::MAX).expect("read");
        let bytes: usize = lines.iter().map(|line| format!("{line:?}").len()).sum();
        assert!(bytes < 2 * usize::try_from(JOURNAL_BYTES).expect("fits"), "{bytes}");
        assert_eq!(lines[0].seq(), Some(1), "joining stays");
        assert!(format!("{:?}", lines[lines.len() - 3]).contains("run_started"));
        verify(exported(&store).iter().map(String::as_str)).expect("it holds");
    }
}
