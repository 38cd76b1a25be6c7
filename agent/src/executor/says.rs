//! What the owner says at the terminal: yes, no, yes to all for a while, stop.

use super::Executor;
use super::gate::Clock;
use super::machine::Said;
use super::waits::{Wait, Why};
use crate::local::{self, Asked, Speaker};
use crate::notice::{Done, Notice};
use fernwart_certs::keyfile::{self, KeyFileError, Others};
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Outcome, UnixMs};
use fernwart_protocol::id::RunId;
use fernwart_protocol::text::chain;
use fernwart_protocol::to_hub::{Delivered, Note};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;
use tracing::warn;

/// The owner's standing word. Kept in a file: a pause outlives a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Says {
    /// Repairs are allowed until then.
    #[serde(default)]
    pub(super) allows_until: UnixMs,
    /// Nothing is answered until then.
    #[serde(default)]
    pub(super) paused_until: UnixMs,
    /// Only the administrator ends this pause.
    #[serde(default)]
    pub(super) paused_by_administrator: bool,
}

/// An account that is asked, and is no administrator, allows no longer than this.
const ALLOWS_MS: UnixMs = 8 * 3600 * 1000;

/// Why a yes does not count that is not written down.
const TOO_OFTEN: &str = "said too often within an hour; the administrator can still say it";

impl Says {
    const STOPPED: Self = Self { allows_until: 0, paused_until: UnixMs::MAX, paused_by_administrator: true };

    /// Whether nothing is answered now. A clock that is worth nothing ends no pause, but
    /// for one that was over before the newest signed time.
    pub(super) fn paused(&self, clock: Clock, floor: UnixMs) -> bool {
        self.paused_until > clock.own().unwrap_or(floor)
    }

    /// Reads it. What is there and cannot be read, or may be others' word, was meant to
    /// stop: paused.
    pub(super) fn read(path: &Path) -> Self {
        match keyfile::read_checked(path, Others::Read, keyfile::SETTINGS) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or(Self::STOPPED),
            Err(error) if error.is_missing() => Self::default(),
            Err(_) => Self::STOPPED,
        }
    }

    fn write(&self, path: &Path) -> Result<(), KeyFileError> {
        keyfile::replace(path, serde_json::to_string(self).unwrap_or_default().as_bytes())
    }

    /// What it becomes by a word; nothing where whoever says it may not.
    fn after(self, word: local::Word, whole: bool, now: UnixMs, is_paused: bool) -> Option<Self> {
        let until = |span: Option<u64>| {
            span.map_or(UnixMs::MAX, |ms| now.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
        };
        let allows = |span: u64| {
            let until = until(Some(span));
            if whole { until } else { until.min(now.saturating_add(ALLOWS_MS)).max(self.allows_until) }
        };
        Some(match word {
            local::Word::Allow(_, Some(span)) | local::Word::AllowAll(span) => {
                Self { allows_until: allows(span), ..self }
            }
            local::Word::Allow(_, None) | local::Word::Deny(_) | local::Word::TrustClock => self,
            local::Word::DenyAll => Self { allows_until: 0, ..self },
            local::Word::Pause(span) => Self {
                allows_until: 0,
                // Nobody shortens the administrator's.
                paused_until: match is_paused && self.paused_by_administrator && !whole {
                    true => self.paused_until.max(until(span)),
                    false => until(span),
                },
                paused_by_administrator: whole || (is_paused && self.paused_by_administrator),
            },
            local::Word::Resume if is_paused && self.paused_by_administrator && !whole => return None,
            local::Word::Resume => Self { paused_until: 0, paused_by_administrator: false, ..self },
        })
    }
}

impl Executor {
    /// All that the owner is asked now.
    pub(super) fn asked(&self) -> Vec<Asked> {
        let mut all: Vec<Asked> = self
            .waits
            .values()
            .filter_map(|wait| match wait.why {
                Why::Owner(number, until) => {
                    let (title, explain) = self.manifest_of(&wait.order.action).map(|m| (m.title, m.explain)).unzip();
                    Some(Asked {
                        number,
                        until,
                        staff: wait.staff.clone(),
                        reason: wait.order.reason.clone(),
                        action: wait.order.action.clone(),
                        title,
                        explain,
                        shop: self.catalogue.shop.name.clone(),
                    })
                }
                Why::Content(..) | Why::Window(_) | Why::Turn | Why::StateStore(..) => None,
            })
            .collect();
        all.sort_by_key(|asked| asked.number);
        all
    }

    /// The run that a question of this number was about, if it has not begun:
    /// also one that was answered yes and waits for something else since.
    fn asked_about(&self, number: u32) -> Option<RunId> {
        self.waits.iter().find(|(_, wait)| wait.number == Some(number)).map(|(run, _)| *run)
    }

    fn question(&self, number: u32) -> Option<RunId> {
        let asks = |why: &Why| matches!(why, Why::Owner(asked, _) if *asked == number);
        self.waits.iter().find(|(_, wait)| asks(&wait.why)).map(|(run, _)| *run)
    }

    /// What the owner wants. A yes is in the state store before it counts; a no
    /// counts at once, whatever the disk says to it.
    pub(super) fn handle_word(&mut self, word: local::Word, by: &Speaker) -> local::Answer {
        use local::Word;
        let now = self.now();
        let run = match word {
            Word::Allow(number, _) | Word::Deny(number) => {
                let run = if let Word::Deny(_) = word { self.asked_about(number) } else { self.question(number) };
                if run.is_none() {
                    return local::Answer::NoSuchQuestion;
                }
                run
            }
            Word::AllowAll(_) | Word::DenyAll | Word::Pause(_) | Word::Resume | Word::TrustClock => None,
        };
        let is_paused = self.says.paused(self.clock(), self.floor());
        // A pause by a clock that lags behind what was signed would be over as it begins.
        let begins = self.clock().own().unwrap_or(now.max(self.floor()));
        let Some(says) = self.says.after(word, by.whole, begins, is_paused) else { return local::Answer::NotYours };
        let stops = matches!(word, Word::Deny(_) | Word::DenyAll | Word::Pause(_));
        if stops {
            self.says = says;
            match (word, run) {
                (Word::Deny(_), Some(run)) => self.refuse_waiting(run, Refusal::OwnerDeclined),
                (Word::Pause(_), _) => {
                    for run in self.waits.keys().copied().collect::<Vec<_>>() {
                        self.refuse_waiting(run, Refusal::Paused);
                    }
                    self.cancel_acting(None);
                    while let Some((run, _)) = self.to_look.pop_front() {
                        self.end_unbegun(run, Outcome::Refused, Some(Refusal::Paused));
                    }
                }
                _ => {
                    let asks = |wait: &Wait| wait.yes || matches!(wait.why, Why::Owner(..));
                    let asked: Vec<RunId> =
                        self.waits.iter().filter(|(_, wait)| asks(wait)).map(|(run, _)| *run).collect();
                    for run in asked {
                        self.refuse_waiting(run, Refusal::OwnerDeclined);
                    }
                }
            }
        }
        let body = json!({"by": by.account, "word": word, "run": run});
        // The administrator's word always stands there; an account that is only asked may
        // say the same a thousand times.
        let noted = match by.whole {
            true => self.note("owner_said", &body).map(|()| true),
            false => self.note_of_others("owner_said", &body),
        };
        let noted = match noted {
            Ok(false) if !stops => Err(TOO_OFTEN.to_owned()),
            noted => noted.map(drop).map_err(|error| chain(&error)),
        };
        // A no is kept wherever it can be; a yes only where all of it can.
        let kept = if noted.is_ok() || stops { says.write(&self.home.says()) } else { Ok(()) };
        if let Err(why) = noted.and(kept.map_err(|error| chain(&error))) {
            return if stops { local::Answer::NotKept(why) } else { local::Answer::Failed(why) };
        }
        if word == Word::TrustClock {
            let moment = self.machine.moment();
            if let Err(error) = self.store.write(moment, |tx| tx.trust_clock(now)) {
                return local::Answer::Failed(chain(&error));
            }
        }
        self.says = says;
        if let (Word::Allow(..), Some(wait)) = (word, run.and_then(|run| self.waits.get_mut(&run))) {
            wait.yes = true;
        }
        let all = || self.asked().iter().filter_map(|asked| self.question(asked.number)).collect::<Vec<_>>();
        let allowed = match word {
            Word::Allow(_, Some(_)) | Word::AllowAll(_) => all(),
            Word::Allow(_, None) => run.into_iter().collect(),
            _ => Vec::new(),
        };
        for run in allowed {
            self.tell_watchers(run, Delivered::Told(Note::Allowed(by.account.clone(), now)));
            self.reconsider(run);
        }
        local::Answer::Done
    }

    /// Tells whoever sits at this computer that there is a question.
    pub(super) fn notify_owner(&self) {
        let Some(asked) = self.asked().into_iter().next_back() else { return };
        self.notice(Notice::Asks(asked));
    }

    /// Tells whoever sits at this computer what was done there.
    pub(super) fn tell_owner(&self, done: Done) {
        self.notice(Notice::Did(done));
    }

    fn notice(&self, notice: Notice) {
        let shop = self.catalogue.shop.name.to_string();
        let accounts = self.policy().asked().to_vec();
        if let Err(error) = local::open_to(&self.home, &accounts) {
            warn!(%error, "those who are asked cannot reach the agent");
        }
        self.machine.show(Said { shop, notice, accounts, language: self.enrollment.language });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use local::Word;

    const NOW: UnixMs = 1_795_442_400_000;
    const HOUR: UnixMs = 3_600_000;

    impl Says {
        fn told(self, word: Word, whole: bool) -> Option<Self> {
            self.after(word, whole, NOW, self.paused(Clock::Plausible(NOW), 0))
        }

        fn paused_at(&self, now: UnixMs) -> bool {
            self.paused(Clock::Plausible(now), 0)
        }
    }

    #[test]
    fn no_pause_ends_by_a_clock_that_is_worth_nothing() {
        let paused = Says::default().told(Word::Pause(Some(3_600_000)), true).expect("said");
        assert!(paused.paused_at(NOW + HOUR - 1) && !paused.paused_at(NOW + HOUR));
        let wrong = Clock::Implausible { hub: NOW + 10 * HOUR };
        assert!(paused.paused(wrong, NOW));
        // Times that were signed since show that it is long over.
        assert!(!paused.paused(wrong, NOW + HOUR));
        assert!(!Says::default().paused(wrong, 0));
    }

    #[test]
    fn a_pause_ends_every_yes_and_an_administrators_is_ended_by_no_other() {
        let allows = Says::default().told(Word::AllowAll(7_200_000), true).expect("said");
        assert_eq!(allows.allows_until, NOW + 2 * HOUR);
        let paused = allows.told(Word::Pause(None), true).expect("said");
        assert!(paused.paused_at(NOW + 1000 * HOUR) && paused.allows_until == 0);
        assert_eq!(paused.told(Word::Resume, false), None);
        // Nor is it shortened by another pause.
        let again = paused.told(Word::Pause(Some(1)), false).expect("said");
        assert!(again.paused_at(NOW + HOUR) && again.told(Word::Resume, false).is_none());
        assert!(!paused.told(Word::Resume, true).expect("said").paused_at(NOW));
        let own = Says::default().told(Word::Pause(Some(60_000)), false).expect("said");
        assert!(!own.told(Word::Resume, false).expect("said").paused_at(NOW));
    }

    #[test]
    fn who_is_only_asked_allows_for_hours_at_most() {
        let allows = Says::default().told(Word::AllowAll(u64::MAX), false).expect("said");
        assert_eq!(allows.allows_until, NOW + ALLOWS_MS);
        let whole = Says::default().told(Word::AllowAll(u64::MAX), true).expect("said");
        assert_eq!(whole.allows_until, UnixMs::MAX);
        // The administrator's longer yes is not shortened by it.
        assert_eq!(whole.told(Word::AllowAll(1), false).expect("said").allows_until, UnixMs::MAX);
        assert_eq!(whole.told(Word::DenyAll, false).expect("said").allows_until, 0);
    }

    #[test]
    fn every_answer_by_each_speaker_before_during_and_after_a_pause() {
        /// What is left: until when allowed, until when stopped, whether by the
        /// administrator; from now on. Nothing: may not be said.
        type Left = Option<(UnixMs, UnixMs, bool)>;
        const EVER: UnixMs = UnixMs::MAX - NOW;
        let open = Says { allows_until: NOW + 10 * HOUR, ..Says::default() };
        let own = Says { paused_until: NOW + HOUR, ..Says::default() };
        let admins = Says { paused_by_administrator: true, ..own };
        // One that has just ended is none.
        let ended = Says { paused_until: NOW, ..admins };
        let hours = |hours: u64| Some(hours * 3_600_000);
        let cases: [(&str, Says, Word, Left, Left); 16] = [
            // what, before, word; by whom it is only asked, by the administrator
            ("allow", Says::default(), Word::AllowAll(3_600_000), Some((HOUR, -NOW, false)), Some((HOUR, -NOW, false))),
            (
                "8 h",
                Says::default(),
                Word::AllowAll(28_800_000),
                Some((8 * HOUR, -NOW, false)),
                Some((8 * HOUR, -NOW, false)),
            ),
            (
                "8 h and a bit",
                Says::default(),
                Word::AllowAll(28_800_001),
                Some((8 * HOUR, -NOW, false)),
                Some((8 * HOUR + 1, -NOW, false)),
            ),
            ("shorter", open, Word::AllowAll(3_600_000), Some((10 * HOUR, -NOW, false)), Some((HOUR, -NOW, false))),
            (
                "yes to one, and all",
                open,
                Word::Allow(3, hours(2)),
                Some((10 * HOUR, -NOW, false)),
                Some((2 * HOUR, -NOW, false)),
            ),
            ("yes to one", open, Word::Allow(3, None), Some((10 * HOUR, -NOW, false)), Some((10 * HOUR, -NOW, false))),
            ("no to one", open, Word::Deny(3), Some((10 * HOUR, -NOW, false)), Some((10 * HOUR, -NOW, false))),
            ("no to all", open, Word::DenyAll, Some((-NOW, -NOW, false)), Some((-NOW, -NOW, false))),
            ("pause", open, Word::Pause(hours(2)), Some((-NOW, 2 * HOUR, false)), Some((-NOW, 2 * HOUR, true))),
            ("pause for ever", open, Word::Pause(None), Some((-NOW, EVER, false)), Some((-NOW, EVER, true))),
            ("shorter pause", own, Word::Pause(Some(1)), Some((-NOW, 1, false)), Some((-NOW, 1, true))),
            (
                "shorter than the administrator's",
                admins,
                Word::Pause(Some(1)),
                Some((-NOW, HOUR, true)),
                Some((-NOW, 1, true)),
            ),
            (
                "longer than the administrator's",
                admins,
                Word::Pause(hours(2)),
                Some((-NOW, 2 * HOUR, true)),
                Some((-NOW, 2 * HOUR, true)),
            ),
            ("resume", own, Word::Resume, Some((-NOW, -NOW, false)), Some((-NOW, -NOW, false))),
            ("resume the administrator's", admins, Word::Resume, None, Some((-NOW, -NOW, false))),
            ("resume after its end", ended, Word::Resume, Some((-NOW, -NOW, false)), Some((-NOW, -NOW, false))),
        ];
        for (what, before, word, asked, whole) in cases {
            for (by_whole, wanted) in [(false, asked), (true, whole)] {
                let after = before.told(word, by_whole);
                let left = after.map(|s| (s.allows_until - NOW, s.paused_until - NOW, s.paused_by_administrator));
                assert_eq!(left, wanted, "{what}, by the administrator: {by_whole}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_stops() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("says.json");
        assert_eq!(Says::read(&path), Says::default());
        std::fs::write(&path, "{").expect("written");
        assert!(Says::read(&path).paused_at(NOW));
        let folder_instead = folder.path().join("folder");
        std::fs::create_dir(&folder_instead).expect("made");
        assert!(Says::read(&folder_instead).paused_at(NOW), "neither is a file that is there and fails");
        let said = Says { allows_until: 7, ..Says::default() };
        said.write(&path).expect("written");
        assert_eq!(Says::read(&path), said);
    }
}
