//! The journal's bound: what goes when it has become too long or too old.
//!
//! Entries of looks go first, the oldest first, and what others have caused; then, where
//! that is not enough, the oldest of all. What goes is named in an entry of its own,
//! which the chain covers, so that what is left still verifies. Always kept are the line
//! about joining and the newest entries: a hub may ask for one of those.

use super::transaction::Transaction;
use super::{DROPPED_TO, StateError, Table};
use fernwart_certs::journal::{DROPPED, Dropped, Entry, entry_hash, kept_hash};
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::Digest;
use fernwart_protocol::limits::{JOURNAL_BYTES, JOURNAL_LOOKS};
use serde_json::Value;
use std::collections::HashSet;

/// The newest entries always stay.
const NEWEST: u64 = 256;

/// Entries that are looked through at once: a long journal of an older program goes in
/// several steps.
const AT_ONCE: usize = 32_768;

/// Fewer are not dropped for their age: the entry that tells of it is one, too.
const WORTH: usize = 64;

/// What the owner has a right to read for longest: acts are told apart by their action.
const OWNERS: [&str; 5] = ["joined", "owner_said", "locked", "retired", "left"];

/// One entry, as far as it matters here.
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
    /// Drops what the journal has too much, if that is due. How many entries.
    ///
    /// # Errors
    /// When the disk does not take it, or the journal is damaged.
    pub(super) fn bound_journal(&mut self) -> Result<u64, StateError> {
        let (bytes, now) = (self.journal_bytes()?, self.now());
        let oldest = self.oldest_entries()?;
        let too_many = if bytes > JOURNAL_BYTES { bytes - JOURNAL_BYTES / 4 * 3 } else { 0 };
        let old = now.saturating_sub(i64::try_from(JOURNAL_LOOKS.as_millis()).unwrap_or(i64::MAX));
        // Where there is more than was looked through, looks may be in what follows.
        let is_all = oldest.len() < AT_ONCE;
        let gone = chosen(&oldest, too_many, old, is_all);
        let Some(through) = gone.iter().max().copied().filter(|_| too_many > 0 || gone.len() >= WORTH) else {
            return Ok(0);
        };
        // An earlier drop stays covered: the newest entry of this kind is the one that counts.
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

    /// The oldest entries that may go, and those between them.
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

/// Whether a line is about a run that may change something, or one that its owner was
/// asked about. What was only refused is none: others could push out with that what is.
fn is_act(kind: &str, body: &Value) -> bool {
    match (kind, body.get("kind").and_then(Value::as_str)) {
        ("owner_asked", _) | ("run_started", Some("act")) => return true,
        ("run_started", None) => {}
        _ => return false,
    }
    // An older program has not written which it is.
    let Some(script) = body.pointer("/action/script") else { return false };
    let only_reads = script.get("privilege").and_then(Value::as_str) == Some("read");
    !only_reads && script.get("dry_run").and_then(Value::as_bool) != Some(true)
}

/// Which entries go: those older than that which are nobody's history, then as many as
/// it takes; of the owner's only where nothing else can go. Never the first.
fn chosen(entries: &[Known], mut too_many: u64, old: UnixMs, is_all: bool) -> HashSet<u64> {
    let mut gone = HashSet::new();
    for is_owners in [false, true] {
        // Where nothing else is in reach, what follows cannot be reached either.
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

    /// Bounds it until nothing more goes; later each time.
    fn bound_whole(store: &mut StateStore, mut now: UnixMs) -> u64 {
        let mut all = 0;
        loop {
            let gone = store.bound(moment(now)).expect("bounded");
            if gone == 0 {
                return all;
            }
            (all, now) = (all + gone, now + 1);
        }
    }

    /// Writes what a run leaves in the journal.
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

    /// A hundred thousand looks, a minute apart, and an act a day: the file stays small,
    /// every act is there, and what is left verifies.
    #[test]
    fn a_hundred_thousand_looks_fill_no_disk_and_push_no_act_out() {
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
        let whole = verify(lines.iter().map(String::as_str)).expect("it holds");
        assert_eq!(whole.entries + whole.dropped, store.head().seq);
        drop(store);
        let store = StateStore::open(&path).expect("reopened");
        assert_eq!(kinds(&store), (entries, acts));
    }

    fn length(path: &Path) -> u64 {
        std::fs::metadata(path).expect("there").len()
    }

    /// What an older program has written for years: bounded step by step, and the file is
    /// short again after the next start.
    #[test]
    fn a_journal_that_is_too_long_already_gives_its_room_back() {
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
        bound_whole(&mut store, 3 * HOUR);
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
    fn old_looks_go_by_time_and_whatever_is_taken_out_besides_shows() {
        let mut store = small();
        assert_eq!(store.bound(moment(700)).expect("bounded"), 0, "neither long nor old");
        let year = i64::try_from(JOURNAL_LOOKS.as_millis()).expect("fits");
        let gone = store.bound(moment(year + 2 * EVERY_MS)).expect("bounded");
        // 1201 entries, of which the newest 256 and one of joining stay, and five acts.
        assert_eq!(gone, 1201 - 256 - 1 - 10);
        assert_eq!(store.bound(moment(year + 4 * EVERY_MS)).expect("bounded"), 0, "once is enough");
        let lines = exported(&store);
        let check = |lines: &[String]| verify(lines.iter().map(String::as_str));
        let whole = check(&lines).expect("it holds");
        assert_eq!((whole.entries, whole.dropped), (256 + 1 + 10 + 1, gone));
        for taken in [0, 3, 20, 100, lines.len() - 2] {
            let mut fewer = lines.clone();
            fewer.remove(taken);
            assert!(check(&fewer).is_err(), "without line {taken}");
        }
        let mut twice = lines.clone();
        twice.insert(3, lines[2].clone());
        assert!(matches!(check(&twice), Err(BadJournal::Gap { .. })));
        let mut other_way = lines;
        other_way.swap(2, 3);
        assert!(check(&other_way).is_err());
    }

    #[test]
    fn an_earlier_drop_stays_covered_whatever_goes_next() {
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
        // Now the oldest acts, which stand before the looks that have gone.
        while store.bound(moment(year + 3 * EVERY_MS)).expect("bounded") == 0 {
            let next = store.head().seq;
            store
                .write(moment(year), |tx| (0..100).try_for_each(|more| run(tx, next * 1000 + more, true)))
                .expect("written");
            store.bounds_not_before = UnixMs::MIN;
        }
        let whole = verify(exported(&store).iter().map(String::as_str)).expect("it holds");
        assert!(whole.dropped > 300, "{}", whole.dropped);
    }

    #[test]
    fn an_act_is_what_the_gate_says_or_the_owner_was_asked_about() {
        let body = |kind: Value, script: Value| json!({"run": "r", "kind": kind, "action": {"script": script}});
        let reads = json!({"privilege": "read", "dry_run": false});
        // A script that reads with a network is an act, and a repair that only shows is none.
        assert!(is_act("run_started", &body(json!("act"), reads.clone())));
        assert!(!is_act("run_started", &body(json!("look"), json!({"privilege": "repair", "dry_run": true}))));
        assert!(is_act("owner_asked", &json!({"run": "r"})) && !is_act("run_finished", &json!({"run": "r"})));
        // What an older program has written is judged by its action, what was refused not at all.
        assert!(!is_act("run_started", &json!({"action": {"script": reads}})));
        let repairs = json!({"action": {"script": {"privilege": "repair"}}});
        assert!(is_act("run_started", &repairs) && !is_act("order_refused", &repairs));
    }

    #[test]
    fn where_only_acts_are_in_reach_they_go_and_else_looks_first() {
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
    fn where_acts_alone_are_too_many_the_oldest_of_them_go() {
        let mut store = StateStore::over(Box::<super::super::Memory>::default()).expect("books");
        store.confirm(moment(0)).expect("confirmed");
        store.write(moment(1), |tx| tx.line("joined", &json!({})).map(drop)).expect("written");
        for number in 0..12_000 {
            store.write(moment(2), |tx| run(tx, number, true)).expect("written");
        }
        bound_whole(&mut store, 3 * HOUR);
        let lines = store.journal(1, usize::MAX).expect("read");
        let bytes: usize = lines.iter().map(|line| format!("{line:?}").len()).sum();
        assert!(bytes < 2 * usize::try_from(JOURNAL_BYTES).expect("fits"), "{bytes}");
        assert_eq!(lines[0].seq(), Some(1), "joining stays");
        assert!(format!("{:?}", lines[lines.len() - 3]).contains("run_started"));
        verify(exported(&store).iter().map(String::as_str)).expect("it holds");
    }
}
