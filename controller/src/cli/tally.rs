//! Counts answers, and derives the exit code.

use super::Exit;
use fernwart_client::Answer;
use fernwart_protocol::diagnosis::State;
use fernwart_protocol::id::JobId;
use serde_json::{Value, json};
use std::time::Duration;

/// Which missing answers count as failures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Require {
    who: Who,
    /// Whether an incomplete answer counts as missing.
    complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Who {
    /// Those of all machines.
    All,
    /// Only those of linked machines.
    Online,
    /// Those beyond what this share of answers permits.
    Share(f64),
}

impl Require {
    /// Every missing answer counts; incomplete ones do not.
    pub(crate) const ALL: Self = Self { who: Who::All, complete: false };

    /// Reads `all`, `online` or `95%`, and `complete` alone or beside one of them.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "write all, online or 95%, with complete or without: all,complete".to_owned();
        let (mut who, mut complete) = (None, false);
        for word in text.split(',').map(str::trim) {
            let share = |share: &str| {
                let number = share.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
                number.filter(|n| (0.0..=100.0).contains(n)).map(Who::Share).ok_or_else(wrong)
            };
            let new = match word {
                "complete" if !complete => {
                    complete = true;
                    continue;
                }
                "all" => Who::All,
                "online" => Who::Online,
                other => share(other)?,
            };
            if who.replace(new).is_some() {
                return Err(wrong());
            }
        }
        Ok(Self { who: who.unwrap_or(Who::All), complete })
    }
}

/// From which state on the exit code is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FailOn {
    /// A warning, anything unknown, anything critical.
    Warn,
    /// Anything unknown, anything critical.
    Unknown,
    /// Anything critical, and what could be and is not known.
    Crit,
}

/// Counts of a run of the command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    selected: usize,
    ok: usize,
    warn: usize,
    unknown: usize,
    crit: usize,
    refused: usize,
    failed: usize,
    away: usize,
    silent: usize,
    queued: usize,
    /// Machines whose answer is incomplete.
    incomplete: usize,
    /// Machines that are not known to be critical but could be, because a check has no result.
    maybe_crit: usize,
    /// Notes of all machines.
    notes: usize,
}

impl Tally {
    /// An empty tally of this many machines.
    pub(crate) fn of(selected: usize) -> Self {
        Self { selected, ..Self::default() }
    }

    /// Counts a held order.
    pub(crate) fn queue(&mut self) {
        self.queued += 1;
    }

    /// Counts an answer.
    pub(crate) fn add(&mut self, answer: &Answer) {
        let counter = match answer {
            Answer::Report(report, _) if report.summary.is_nothing_known() => &mut self.failed,
            Answer::Report(report, _) => match report.summary.state() {
                State::Crit => &mut self.crit,
                State::Unknown => &mut self.unknown,
                State::Warn => &mut self.warn,
                State::Ok => &mut self.ok,
            },
            Answer::Ran(report, _) if report.is_well() => &mut self.ok,
            Answer::Ran(..) => &mut self.crit,
            Answer::Refused(..) | Answer::OlderAgent(_) => &mut self.refused,
            Answer::Away => &mut self.away,
            Answer::Silent => &mut self.silent,
            Answer::Closed(..) | Answer::Denied(_) | Answer::Newer | Answer::Forged => &mut self.failed,
        };
        *counter += 1;
        if let Answer::Report(report, _) = answer
            && !report.summary.is_nothing_known()
        {
            let summary = &report.summary;
            self.incomplete += usize::from(!summary.is_finished());
            self.maybe_crit += usize::from(summary.could_be_critical() && summary.state() != State::Crit);
            self.notes += summary.notes.len();
        }
    }

    /// Whether a machine has the order and did not answer in time.
    pub(crate) fn is_anybody_silent(&self) -> bool {
        self.silent > 0
    }

    fn answered(&self) -> usize {
        self.ok + self.warn + self.unknown + self.crit
    }

    /// The missing answers that count. Incomplete answers are counted separately.
    fn absences(&self, require: Require) -> usize {
        let all = self.away + self.silent;
        match require.who {
            Who::All => all,
            Who::Online => self.silent,
            Who::Share(share) => {
                let lacking = if require.complete { self.incomplete } else { 0 };
                let enough = (self.answered() - lacking) as f64 * 100.0 >= share * self.selected as f64;
                if enough { 0 } else { all }
            }
        }
    }

    /// Whether incomplete answers count as missing, and there are too many of them.
    fn lacks(&self, require: Require) -> bool {
        let share_is_met = match require.who {
            Who::Share(share) => (self.answered() - self.incomplete) as f64 * 100.0 >= share * self.selected as f64,
            Who::All | Who::Online => false,
        };
        require.complete && self.incomplete > 0 && !share_is_met
    }

    /// The exit code: the first that applies of refused, absent, failed, bad.
    pub(crate) fn exit(&self, require: Require, fail_on: FailOn) -> Exit {
        let bad = match fail_on {
            FailOn::Warn => self.warn + self.unknown + self.crit,
            FailOn::Unknown => self.unknown + self.crit,
            FailOn::Crit => self.crit + self.maybe_crit,
        };
        match self {
            Self { refused: 1.., .. } => Exit::Refused,
            _ if self.absences(require) > 0 || self.lacks(require) => Exit::NoAnswer,
            Self { failed: 1.., .. } => Exit::Failed,
            _ if bad > 0 => Exit::Bad,
            _ => Exit::Done,
        }
    }

    /// The last line of JSON lines.
    pub(crate) fn summary(&self, job: Option<JobId>, took: Duration, exit: Exit) -> Value {
        let mut summary = json!({
            "v": 1, "type": "summary", "selected": self.selected, "answered": self.answered(), "ok": self.ok,
            "warn": self.warn, "unknown": self.unknown, "crit": self.crit, "refused": self.refused,
            "failed": self.failed, "no_answer": self.silent, "away": self.away, "incomplete": self.incomplete,
            "notes": self.notes, "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "exit": exit.number(),
        });
        if let Some(fields) = summary.as_object_mut() {
            fields.extend(job.map(|job| ("job".to_owned(), job.0.into())));
            fields.extend((self.queued > 0).then(|| ("queued".to_owned(), self.queued.into())));
        }
        summary
    }

    /// The counts as text: always in the same order, without zeros.
    pub(crate) fn in_words(&self, took: Duration) -> String {
        let part = |count: usize, what: &str| if count > 0 { format!(" · {what} {count}") } else { String::new() };
        let parts = [
            (self.ok, "ok"),
            (self.warn, "warn"),
            (self.crit, "crit"),
            (self.unknown, "unknown"),
            (self.incomplete, "incomplete"),
            (self.refused, "refused"),
            (self.failed, "failed"),
            (self.silent, "no answer"),
            (self.away, "away"),
            (self.queued, "queued"),
        ];
        let parts: String = parts.into_iter().map(|(count, what)| part(count, what)).collect();
        format!("selected {} · answered {}{parts} · {:.1} s", self.selected, self.answered(), took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fernwart_client::Seen;
    use fernwart_protocol::code::Refusal;
    use fernwart_protocol::diagnosis::{Answer as Facts, Cause, Past, Reason, Report, Rules, Section, judge};
    use fernwart_protocol::document::{Outcome, Receipt, SectionName, Versions};
    use fernwart_protocol::id::{BootId, Digest, MachineId, RunId};
    use std::collections::BTreeMap;

    /// The result of one check of a machine.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Check {
        Ok,
        Warn,
        Crit,
        /// No result, from a check that could be critical.
        Lost,
        /// No result, from a check that can only warn.
        LostWarn,
        NotApplicable,
        Blind,
    }

    const RULES: &str = r#"
        [[rule]]
        id = "disk.free"
        section = "disks"
        level = [{ severity = "crit", when = [{ fact = "free", below = 5 }] }, { severity = "warn", when = [{ fact = "free", below = 12 }] }]
        cause = { en = "c", de = "c" }
        advice = { en = "a", de = "a" }
        [[rule]]
        id = "mild"
        section = "disks"
        level = [{ severity = "warn", when = [{ fact = "mild", is = true }] }]
        cause = { en = "c", de = "c" }
        advice = { en = "a", de = "a" }
        [[rule]]
        id = "steady"
        section = "disks"
        level = [{ severity = "crit", when = [{ fact = "steady", is = false }] }]
        cause = { en = "c", de = "c" }
        advice = { en = "a", de = "a" }
    "#;

    fn report(checks: &[Check]) -> Answer {
        let why = |reason| serde_json::to_value(Cause::from(reason)).expect("text");
        let mut facts = json!({"free": 50, "mild": false, "steady": true, "why": {}});
        for check in checks {
            match check {
                Check::Ok => {}
                Check::Warn => facts["free"] = json!(9),
                Check::Crit => facts["free"] = json!(2),
                Check::Lost => {
                    facts["steady"] = Value::Null;
                    facts["why"]["steady"] = why(Reason::TimedOut);
                }
                Check::LostWarn => {
                    facts["mild"] = Value::Null;
                    facts["why"]["mild"] = why(Reason::Hangs);
                }
                Check::NotApplicable => {
                    facts["mild"] = Value::Null;
                    facts["why"]["mild"] = why(Reason::Absent);
                }
                Check::Blind => {
                    facts["mild"] = Value::Null;
                    facts["why"]["mild"] = why(Reason::NotInstalled);
                }
            }
        }
        let section = Section { took_ms: 1, why: None, answer: Facts::Facts(facts) };
        let sections = BTreeMap::from([(SectionName::Disks, section)]);
        let rules = Rules::from_toml(RULES).expect("rules");
        let judged = judge(&rules, &sections, &[SectionName::Disks].into(), &Past::default(), 1);
        packed(&Report::new(1, 1, sections, judged))
    }

    fn packed(report: &Report) -> Answer {
        let (summary, json) =
            fernwart_protocol::diagnosis::Summary::unpack(&report.pack().expect("packed")).expect("read");
        Answer::Report(Box::new(Seen { summary, json }), Box::new(receipt()))
    }

    fn receipt() -> Receipt {
        let (id, hash) = ([1; 16], Digest::from_bytes([2; 32]));
        Receipt {
            run: RunId::from_bytes(id),
            machine: MachineId::from_bytes(id),
            order: hash,
            outcome: Outcome::Ok,
            refusal: None,
            body: hash,
            body_bytes: 0,
            permitted_by: None,
            policy: hash,
            catalogue: Versions::default(),
            journal_seq: 1,
            journal_head: hash,
            started_at: 1,
            finished_at: 2,
            boot: BootId::from_bytes(id),
        }
    }

    fn exit_of(answers: &[Answer], require: &str, fail_on: FailOn) -> u8 {
        let mut tally = Tally::of(answers.len());
        answers.iter().for_each(|answer| tally.add(answer));
        tally.exit(Require::parse(require).expect("a word"), fail_on).number()
    }

    #[test]
    fn every_combination_of_check_results_has_its_exit_code() {
        use Check::{Blind, Crit, Lost, LostWarn, NotApplicable, Ok, Warn};
        // One machine's checks; the exit code with --fail-on crit, unknown and warn; and with
        // --require complete.
        let table: &[(&[Check], u8, u8, u8, u8)] = &[
            (&[Ok], 0, 0, 0, 0),
            (&[Ok, NotApplicable], 0, 0, 0, 0),
            (&[Ok, Blind], 0, 0, 0, 0),
            (&[Warn], 0, 0, 1, 0),
            (&[Warn, Blind], 0, 0, 1, 0),
            (&[Warn, NotApplicable], 0, 0, 1, 0),
            (&[LostWarn], 0, 1, 1, 4),
            (&[Warn, LostWarn], 0, 1, 1, 4),
            (&[Lost], 1, 1, 1, 4),
            (&[Lost, LostWarn], 1, 1, 1, 4),
            (&[Warn, Lost], 1, 1, 1, 4),
            (&[Crit], 1, 1, 1, 1),
            (&[Crit, Blind], 1, 1, 1, 1),
            (&[Crit, NotApplicable], 1, 1, 1, 1),
            (&[Crit, LostWarn], 1, 1, 1, 4),
            (&[Crit, Lost], 1, 1, 1, 4),
        ];
        for (says, crit, unknown, warn, complete) in table {
            let answers = [report(says)];
            let exits = [FailOn::Crit, FailOn::Unknown, FailOn::Warn].map(|fail_on| exit_of(&answers, "all", fail_on));
            assert_eq!(exits, [*crit, *unknown, *warn], "{says:?}");
            assert_eq!(exit_of(&answers, "all,complete", FailOn::Crit), *complete, "{says:?} complete");
            // With another machine, the first that applies of 3, 4, 5, 1 decides.
            let beside = |other: Answer, require: &str| exit_of(&[report(says), other], require, FailOn::Crit);
            assert_eq!(beside(Answer::Refused(Refusal::UnknownStaff, None), "all"), 3, "{says:?} refused");
            assert_eq!(beside(Answer::Away, "all"), 4, "{says:?} away");
            assert_eq!(beside(Answer::Away, "online"), *crit, "{says:?} away, which does not count");
            assert_eq!(beside(Answer::Silent, "online"), 4, "{says:?} silent");
            assert_eq!(beside(Answer::Forged, "all"), 5, "{says:?} forged");
            assert_eq!(beside(Answer::Away, "50%"), *crit, "{says:?} half is enough");
            assert_eq!(beside(Answer::Away, "51%"), 4, "{says:?} half is not enough");
        }
    }

    #[test]
    fn a_machine_without_any_check_result_counts_as_failed() {
        let section =
            Section { took_ms: 1, why: Some(Reason::TimedOut.into()), answer: Facts::Unanswered("no".into()) };
        let sections = BTreeMap::from([(SectionName::Disks, section)]);
        let rules = Rules::from_toml(RULES).expect("rules");
        let judged = judge(&rules, &sections, &[SectionName::Disks].into(), &Past::default(), 1);
        assert_eq!((judged.checks, judged.unknown.len()), (0, 3));
        let answer = packed(&Report::new(1, 1, sections, judged));
        for fail_on in [FailOn::Crit, FailOn::Unknown, FailOn::Warn] {
            assert_eq!(exit_of(std::slice::from_ref(&answer), "all", fail_on), 5);
        }
    }

    #[test]
    fn a_summary_counts_each_machine_once_and_notes_separately() {
        use Check::{Blind, Crit, Lost, Ok, Warn};
        let answers =
            [report(&[Ok]), report(&[Ok, Blind]), report(&[Warn, Blind]), report(&[Lost]), report(&[Crit, Lost])];
        let mut tally = Tally::of(7);
        answers.iter().chain([&Answer::Away, &Answer::Silent]).for_each(|answer| tally.add(answer));
        let summary = tally.summary(None, Duration::from_millis(4200), Exit::NoAnswer);
        let number = |name: &str| summary[name].as_u64().expect("a number");
        let counts =
            ["selected", "answered", "ok", "warn", "unknown", "crit", "no_answer", "away", "incomplete", "notes"];
        assert_eq!(counts.map(number), [7, 5, 2, 1, 1, 1, 1, 1, 2, 2]);
        assert_eq!(
            tally.in_words(Duration::from_millis(4200)),
            "selected 7 · answered 5 · ok 2 · warn 1 · crit 1 · unknown 1 · incomplete 2 · no answer 1 · away 1 · 4.2 s"
        );
    }

    #[test]
    fn require_is_parsed_with_its_words_in_any_order() {
        for (text, who, complete) in [
            ("all", Who::All, false),
            ("complete", Who::All, true),
            ("online,complete", Who::Online, true),
            ("complete, 95%", Who::Share(95.0), true),
        ] {
            assert_eq!(Require::parse(text), Ok(Require { who, complete }), "{text}");
        }
        for bad in ["", "some", "101%", "all,online", "complete,complete", "all,"] {
            assert!(Require::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn require_decides_which_missing_answers_count() {
        let tally = Tally { selected: 3, ok: 1, away: 1, silent: 1, ..Tally::default() };
        let absences = |require: &str| tally.absences(Require::parse(require).expect("a word"));
        assert_eq!([absences("all"), absences("online"), absences("30%")], [2, 1, 0]);
        let counts = tally.summary(None, Duration::ZERO, Exit::NoAnswer);
        assert_eq!((&counts["away"], &counts["no_answer"]), (&json!(1), &json!(1)), "whatever is required");
    }
}
