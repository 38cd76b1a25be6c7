//! Counts of answers, and how a command ends by them.

use super::Exit;
use fernwart_client::Answer;
use fernwart_protocol::diagnosis::Severity;
use fernwart_protocol::id::JobId;
use serde_json::{Value, json};
use std::time::Duration;

/// Whose absence counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Require {
    /// Everybody's.
    All,
    /// Only of machines that are linked.
    Online,
    /// That of more than the rest of this share.
    Share(f64),
}

impl Require {
    /// Reads `all`, `online` or `95%`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "online" => Ok(Self::Online),
            share => {
                let number = share.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
                number
                    .filter(|n| (0.0..=100.0).contains(n))
                    .map(Self::Share)
                    .ok_or_else(|| "write all, online or 95%".into())
            }
        }
    }
}

/// Counts of a run of the command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    selected: usize,
    ok: usize,
    warn: usize,
    crit: usize,
    refused: usize,
    failed: usize,
    away: usize,
    silent: usize,
    queued: usize,
    /// Of those that answered, those that could not look at everything.
    incomplete: usize,
}

impl Tally {
    /// Nothing counted yet, of so many.
    pub(crate) fn of(selected: usize) -> Self {
        Self { selected, ..Self::default() }
    }

    /// A machine that gets its order later.
    pub(crate) fn queue(&mut self) {
        self.queued += 1;
    }

    /// One answer.
    pub(crate) fn add(&mut self, answer: &Answer) {
        let place = match answer {
            Answer::Report(report, _) => match report.summary.worst() {
                Some(Severity::Crit) => &mut self.crit,
                Some(Severity::Warn) => &mut self.warn,
                None if report.summary.checks == 0 => &mut self.failed,
                None => &mut self.ok,
            },
            Answer::Ran(report, _) if report.is_well() => &mut self.ok,
            Answer::Ran(..) => &mut self.crit,
            Answer::Refused(_) | Answer::OlderAgent(_) => &mut self.refused,
            Answer::Away => &mut self.away,
            Answer::Silent => &mut self.silent,
            Answer::Ended(_) | Answer::Denied(_) | Answer::Newer | Answer::Forged => &mut self.failed,
        };
        *place += 1;
        if let Answer::Report(report, _) = answer {
            self.incomplete += usize::from(report.summary.unanswered().next().is_some());
        }
    }

    /// Whether somebody has the order and has not answered in time.
    pub(crate) fn is_anybody_silent(&self) -> bool {
        self.silent > 0
    }

    fn answered(&self) -> usize {
        self.ok + self.warn + self.crit
    }

    /// Absences that count, and those that do not.
    pub(crate) fn absences(&self, require: Require) -> (usize, usize) {
        let all = self.away + self.silent;
        match require {
            Require::All => (all, 0),
            Require::Online => (self.silent, self.away),
            Require::Share(share) => {
                let enough = self.answered() as f64 * 100.0 >= share * self.selected as f64;
                if enough { (0, all) } else { (all, 0) }
            }
        }
    }

    /// How the command ends: the first that applies of refused, absent, failed, bad.
    pub(crate) fn exit(&self, require: Require, fail_on: Severity) -> Exit {
        let bad = match fail_on {
            Severity::Warn => self.warn + self.crit,
            Severity::Crit => self.crit,
        };
        let (absent, _) = self.absences(require);
        match self {
            Self { refused: 1.., .. } => Exit::Refused,
            _ if absent > 0 => Exit::NoAnswer,
            Self { failed: 1.., .. } => Exit::Failed,
            _ if bad > 0 => Exit::Bad,
            _ => Exit::Done,
        }
    }

    /// The last line of JSON lines.
    pub(crate) fn summary(&self, require: Require, job: Option<JobId>, took: Duration, exit: Exit) -> Value {
        let (no_answer, away) = self.absences(require);
        let mut summary = json!({
            "v": 1, "type": "summary", "selected": self.selected, "answered": self.answered(), "ok": self.ok,
            "warn": self.warn, "crit": self.crit, "refused": self.refused, "failed": self.failed,
            "no_answer": no_answer, "away": away, "incomplete": self.incomplete,
            "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "exit": exit.number(),
        });
        if let Some(fields) = summary.as_object_mut() {
            fields.extend(job.map(|job| ("job".to_owned(), job.0.into())));
            fields.extend((self.queued > 0).then(|| ("queued".to_owned(), self.queued.into())));
        }
        summary
    }

    /// As people read it: only what there is.
    pub(crate) fn in_words(&self, require: Require, took: Duration) -> String {
        let (no_answer, away) = self.absences(require);
        let part = |count: usize, what: &str| if count > 0 { format!(" · {what} {count}") } else { String::new() };
        format!(
            "selected {} · answered {}{}{}{}{}{}{} · {:.1} s",
            self.selected,
            self.answered(),
            part(self.incomplete, "incomplete"),
            part(self.refused, "refused"),
            part(self.failed, "failed"),
            part(no_answer, "no answer"),
            part(away, "away"),
            part(self.queued, "queued"),
            took.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_refused_absent_bad_decides_the_exit() {
        let tally = Tally { selected: 4, ok: 1, crit: 1, away: 1, refused: 1, ..Tally::default() };
        assert_eq!(tally.exit(Require::All, Severity::Crit), Exit::Refused);
        let tally = Tally { refused: 0, ok: 2, ..tally };
        assert_eq!(tally.exit(Require::All, Severity::Crit), Exit::NoAnswer);
        assert_eq!(tally.exit(Require::Online, Severity::Crit), Exit::Bad);
        assert_eq!(tally.exit(Require::Share(75.0), Severity::Crit), Exit::Bad);
        assert_eq!(tally.exit(Require::Share(76.0), Severity::Crit), Exit::NoAnswer);
        let tally = Tally { selected: 1, warn: 1, ..Tally::default() };
        assert_eq!(tally.exit(Require::All, Severity::Crit), Exit::Done);
        assert_eq!(tally.exit(Require::All, Severity::Warn), Exit::Bad);
    }

    #[test]
    fn away_machines_move_between_the_two_counts() {
        let tally = Tally { selected: 3, ok: 1, away: 1, silent: 1, ..Tally::default() };
        assert_eq!(tally.absences(Require::All), (2, 0));
        assert_eq!(tally.absences(Require::Online), (1, 1));
        assert_eq!(tally.absences(Require::Share(30.0)), (0, 2));
        assert_eq!(Require::parse("95%"), Ok(Require::Share(95.0)));
        assert!(Require::parse("some").is_err() && Require::parse("101%").is_err());
    }
}
