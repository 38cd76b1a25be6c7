//! The owner's commands, which come over the local socket: allow, deny, allow all for a while, pause.

use super::Executor;
use super::gate::Clock;
use super::machine::{DesktopNotice, Files};
use super::notice::{Done, Notice};
use super::pending::{PendingRun, WaitReason};
use crate::local::{self, Asked, Caller};
use fernwart_certs::keyfile::KeyFileError;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Outcome, UnixMs};
use fernwart_protocol::id::RunId;
use fernwart_protocol::text::chain;
use fernwart_protocol::to_hub::{Delivered, Note};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The owner's standing consent and pause. Kept in a file, so that a pause survives a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OwnerConsent {
    /// Repairs are allowed until then.
    #[serde(default)]
    pub(super) allows_until: UnixMs,
    /// Every order is refused until then.
    #[serde(default)]
    pub(super) paused_until: UnixMs,
    /// Only the administrator ends this pause.
    #[serde(default)]
    pub(super) paused_by_administrator: bool,
}

/// The longest consent that an account without administrator rights can give.
const ALLOWS_MS: UnixMs = 8 * 3600 * 1000;

/// Why a consent was rejected: its journal line exceeded the hourly limit.
const TOO_OFTEN: &str = "said too often within an hour; the administrator can still say it";

impl OwnerConsent {
    const STOPPED: Self = Self { allows_until: 0, paused_until: UnixMs::MAX, paused_by_administrator: true };

    /// Whether the owner's pause is in force. An implausible clock ends no pause, except one that
    /// ended before the newest signed time.
    pub(super) fn paused(&self, clock: Clock, floor: UnixMs) -> bool {
        self.paused_until > clock.own().unwrap_or(floor)
    }

    /// Reads the file. A file that exists but cannot be read, or that others may have written,
    /// counts as a pause.
    pub(super) fn read(files: &dyn Files) -> Self {
        match files.consent() {
            Ok(Some(text)) => serde_json::from_slice(&text).unwrap_or(Self::STOPPED),
            Ok(None) => Self::default(),
            Err(_) => Self::STOPPED,
        }
    }

    fn write(&self, files: &dyn Files) -> Result<(), KeyFileError> {
        files.keep_consent(serde_json::to_string(self).unwrap_or_default().as_bytes())
    }

    /// The consent after this command; none if the account may not give it.
    fn after(self, command: local::OwnerCommand, is_admin: bool, now: UnixMs, is_paused: bool) -> Option<Self> {
        let until = |span: Option<u64>| {
            span.map_or(UnixMs::MAX, |ms| now.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
        };
        let allows = |span: u64| {
            let until = until(Some(span));
            if is_admin { until } else { until.min(now.saturating_add(ALLOWS_MS)).max(self.allows_until) }
        };
        Some(match command {
            local::OwnerCommand::Allow(_, Some(span)) | local::OwnerCommand::AllowAll(span) => {
                Self { allows_until: allows(span), ..self }
            }
            local::OwnerCommand::Allow(_, None) | local::OwnerCommand::Deny(_) | local::OwnerCommand::TrustClock => {
                self
            }
            local::OwnerCommand::DenyAll => Self { allows_until: 0, ..self },
            local::OwnerCommand::Pause(span) => Self {
                allows_until: 0,
                // Only the administrator can shorten the administrator's pause.
                paused_until: match is_paused && self.paused_by_administrator && !is_admin {
                    true => self.paused_until.max(until(span)),
                    false => until(span),
                },
                paused_by_administrator: is_admin || (is_paused && self.paused_by_administrator),
            },
            local::OwnerCommand::Resume if is_paused && self.paused_by_administrator && !is_admin => return None,
            local::OwnerCommand::Resume => Self { paused_until: 0, paused_by_administrator: false, ..self },
        })
    }
}

impl Executor {
    /// All open questions to the owner.
    pub(super) fn asked(&self) -> Vec<Asked> {
        let mut all: Vec<Asked> = self
            .pending
            .values()
            .filter_map(|wait| match wait.why {
                WaitReason::Owner(number, until) => {
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
                WaitReason::Content(..) | WaitReason::Window(_) | WaitReason::Slot | WaitReason::StateStore(..) => None,
            })
            .collect();
        all.sort_by_key(|asked| asked.number);
        all
    }

    /// The run that the question of this number was about, if it has not begun. Includes runs
    /// that were allowed and now wait for something else.
    fn asked_about(&self, number: u32) -> Option<RunId> {
        self.pending.iter().find(|(_, wait)| wait.number == Some(number)).map(|(run, _)| *run)
    }

    fn question(&self, number: u32) -> Option<RunId> {
        let asks = |why: &WaitReason| matches!(why, WaitReason::Owner(asked, _) if *asked == number);
        self.pending.iter().find(|(_, wait)| asks(&wait.why)).map(|(run, _)| *run)
    }

    /// Ends what the owner's no or pause is about, before that is written.
    fn stop_at_once(&mut self, command: local::OwnerCommand, run: Option<RunId>) {
        use local::OwnerCommand;
        match (command, run) {
            (OwnerCommand::Deny(_), Some(run)) => self.refuse_waiting(run, Refusal::OwnerDeclined),
            (OwnerCommand::Pause(_), _) => {
                for run in self.pending.keys().copied().collect::<Vec<_>>() {
                    self.refuse_waiting(run, Refusal::Paused);
                }
                self.cancel_acting(None);
                while let Some((run, _)) = self.to_look.pop_front() {
                    self.end_unbegun(run, Outcome::Refused, Some(Refusal::Paused));
                }
            }
            _ => {
                let asks = |wait: &PendingRun| wait.yes || matches!(wait.why, WaitReason::Owner(..));
                let asked: Vec<RunId> =
                    self.pending.iter().filter(|(_, wait)| asks(wait)).map(|(run, _)| *run).collect();
                for run in asked {
                    self.refuse_waiting(run, Refusal::OwnerDeclined);
                }
            }
        }
    }

    /// Handles an owner's command. A consent is in the state store before it counts; a refusal
    /// counts at once, even if the disk fails.
    pub(super) fn handle_owner_command(&mut self, command: local::OwnerCommand, by: &Caller) -> local::Answer {
        use local::OwnerCommand;
        let now = self.now();
        let run = match command {
            OwnerCommand::Allow(number, _) => self.question(number),
            OwnerCommand::Deny(number) => self.asked_about(number),
            OwnerCommand::AllowAll(_)
            | OwnerCommand::DenyAll
            | OwnerCommand::Pause(_)
            | OwnerCommand::Resume
            | OwnerCommand::TrustClock => None,
        };
        if let (OwnerCommand::Allow(..) | OwnerCommand::Deny(_), None) = (command, run) {
            return local::Answer::NoSuchQuestion;
        }
        let is_paused = self.consent.paused(self.clock(), self.floor());
        // With an implausible clock the pause counts from the signed time floor, else it could
        // end at once.
        let begins = self.clock().own().unwrap_or(now.max(self.floor()));
        let Some(consent) = self.consent.after(command, by.is_admin, begins, is_paused) else {
            return local::Answer::NotYours;
        };
        let stops = matches!(command, OwnerCommand::Deny(_) | OwnerCommand::DenyAll | OwnerCommand::Pause(_));
        if stops {
            self.consent = consent;
            self.stop_at_once(command, run);
        }
        let body = json!({"by": by.account, "word": command, "run": run});
        // The administrator's commands are always written. Those of other accounts are limited,
        // since they could be repeated a thousand times.
        let noted = match by.is_admin {
            true => self.note("owner_said", &body).map(|()| true),
            false => self.note_of_others("owner_said", &body),
        };
        let noted = match noted {
            Ok(false) if !stops => Err(TOO_OFTEN.to_owned()),
            noted => noted.map(drop).map_err(|error| chain(&error)),
        };
        // A refusal takes effect even if it cannot be stored; a consent only if it is stored
        // completely.
        let kept = if noted.is_ok() || stops { consent.write(self.files.as_ref()) } else { Ok(()) };
        if let Err(why) = noted.and(kept.map_err(|error| chain(&error))) {
            return if stops { local::Answer::NotKept(why) } else { local::Answer::Failed(why) };
        }
        if command == OwnerCommand::TrustClock {
            let moment = self.machine.moment();
            if let Err(error) = self.store.write(moment, |tx| tx.trust_clock(now)) {
                return local::Answer::Failed(chain(&error));
            }
        }
        self.consent = consent;
        if let (OwnerCommand::Allow(..), Some(wait)) = (command, run.and_then(|run| self.pending.get_mut(&run))) {
            wait.yes = true;
        }
        let all = || self.asked().iter().filter_map(|asked| self.question(asked.number)).collect::<Vec<_>>();
        let allowed = match command {
            OwnerCommand::Allow(_, Some(_)) | OwnerCommand::AllowAll(_) => all(),
            OwnerCommand::Allow(_, None) => run.into_iter().collect(),
            _ => Vec::new(),
        };
        for run in allowed {
            self.send_to_watchers(run, Delivered::Note(Note::Allowed(by.account.clone(), now)));
            self.reconsider(run);
        }
        local::Answer::Done
    }

    /// Notifies the user at this computer of a question.
    pub(super) fn notify_owner(&self) {
        let Some(asked) = self.asked().into_iter().next_back() else { return };
        self.notice(Notice::Asks(asked));
    }

    /// Notifies the user at this computer of a finished run.
    pub(super) fn notify_owner_of(&self, done: Done) {
        self.notice(Notice::Did(done));
    }

    fn notice(&self, notice: Notice) {
        let shop = self.catalogue.shop.name.to_string();
        let accounts = self.policy().asked().to_vec();
        self.machine.show(DesktopNotice { shop, notice, accounts, language: self.enrollment.language });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use crate::machine::HomeFiles;
    use local::OwnerCommand;

    const NOW: UnixMs = 1_795_442_400_000;
    const HOUR: UnixMs = 3_600_000;

    impl OwnerConsent {
        fn commanded(self, command: OwnerCommand, is_admin: bool) -> Option<Self> {
            self.after(command, is_admin, NOW, self.paused(Clock::Plausible(NOW), 0))
        }

        fn paused_at(&self, now: UnixMs) -> bool {
            self.paused(Clock::Plausible(now), 0)
        }
    }

    #[test]
    fn an_implausible_clock_ends_no_pause() {
        let paused = OwnerConsent::default().commanded(OwnerCommand::Pause(Some(3_600_000)), true).expect("allowed");
        assert!(paused.paused_at(NOW + HOUR - 1) && !paused.paused_at(NOW + HOUR));
        let wrong = Clock::Implausible { hub: NOW + 10 * HOUR };
        assert!(paused.paused(wrong, NOW));
        // Newer signed times show that it is over.
        assert!(!paused.paused(wrong, NOW + HOUR));
        assert!(!OwnerConsent::default().paused(wrong, 0));
    }

    #[test]
    fn a_pause_ends_consent_and_only_the_administrator_ends_their_own() {
        let allows = OwnerConsent::default().commanded(OwnerCommand::AllowAll(7_200_000), true).expect("allowed");
        assert_eq!(allows.allows_until, NOW + 2 * HOUR);
        let paused = allows.commanded(OwnerCommand::Pause(None), true).expect("allowed");
        assert!(paused.paused_at(NOW + 1000 * HOUR) && paused.allows_until == 0);
        assert_eq!(paused.commanded(OwnerCommand::Resume, false), None);
        // Another account's pause does not shorten it either.
        let again = paused.commanded(OwnerCommand::Pause(Some(1)), false).expect("allowed");
        assert!(again.paused_at(NOW + HOUR) && again.commanded(OwnerCommand::Resume, false).is_none());
        assert!(!paused.commanded(OwnerCommand::Resume, true).expect("allowed").paused_at(NOW));
        let own = OwnerConsent::default().commanded(OwnerCommand::Pause(Some(60_000)), false).expect("allowed");
        assert!(!own.commanded(OwnerCommand::Resume, false).expect("allowed").paused_at(NOW));
    }

    #[test]
    fn an_account_that_is_no_administrator_can_allow_eight_hours_at_most() {
        let allows = OwnerConsent::default().commanded(OwnerCommand::AllowAll(u64::MAX), false).expect("allowed");
        assert_eq!(allows.allows_until, NOW + ALLOWS_MS);
        let is_admin = OwnerConsent::default().commanded(OwnerCommand::AllowAll(u64::MAX), true).expect("allowed");
        assert_eq!(is_admin.allows_until, UnixMs::MAX);
        // It does not shorten the administrator's longer consent.
        assert_eq!(is_admin.commanded(OwnerCommand::AllowAll(1), false).expect("allowed").allows_until, UnixMs::MAX);
        assert_eq!(is_admin.commanded(OwnerCommand::DenyAll, false).expect("allowed").allows_until, 0);
    }

    /// What remains, from now on: allowed until, paused until, whether paused by the
    /// administrator. None: the command is refused.
    type Left = Option<(UnixMs, UnixMs, bool)>;

    /// Name, consent before, command; result for an asked account, result for the
    /// administrator.
    type Case = (&'static str, OwnerConsent, OwnerCommand, Left, Left);

    /// Every owner's command before, during and after a pause.
    fn cases() -> [Case; 16] {
        const EVER: UnixMs = UnixMs::MAX - NOW;
        let open = OwnerConsent { allows_until: NOW + 10 * HOUR, ..OwnerConsent::default() };
        let own = OwnerConsent { paused_until: NOW + HOUR, ..OwnerConsent::default() };
        let admins = OwnerConsent { paused_by_administrator: true, ..own };
        // A pause that has just ended is no longer in force.
        let ended = OwnerConsent { paused_until: NOW, ..admins };
        let hours = |hours: u64| Some(hours * 3_600_000);
        [
            (
                "allow",
                OwnerConsent::default(),
                OwnerCommand::AllowAll(3_600_000),
                Some((HOUR, -NOW, false)),
                Some((HOUR, -NOW, false)),
            ),
            (
                "8 h",
                OwnerConsent::default(),
                OwnerCommand::AllowAll(28_800_000),
                Some((8 * HOUR, -NOW, false)),
                Some((8 * HOUR, -NOW, false)),
            ),
            (
                "8 h and a bit",
                OwnerConsent::default(),
                OwnerCommand::AllowAll(28_800_001),
                Some((8 * HOUR, -NOW, false)),
                Some((8 * HOUR + 1, -NOW, false)),
            ),
            (
                "shorter",
                open,
                OwnerCommand::AllowAll(3_600_000),
                Some((10 * HOUR, -NOW, false)),
                Some((HOUR, -NOW, false)),
            ),
            (
                "yes to one, and all",
                open,
                OwnerCommand::Allow(3, hours(2)),
                Some((10 * HOUR, -NOW, false)),
                Some((2 * HOUR, -NOW, false)),
            ),
            (
                "yes to one",
                open,
                OwnerCommand::Allow(3, None),
                Some((10 * HOUR, -NOW, false)),
                Some((10 * HOUR, -NOW, false)),
            ),
            ("no to one", open, OwnerCommand::Deny(3), Some((10 * HOUR, -NOW, false)), Some((10 * HOUR, -NOW, false))),
            ("no to all", open, OwnerCommand::DenyAll, Some((-NOW, -NOW, false)), Some((-NOW, -NOW, false))),
            ("pause", open, OwnerCommand::Pause(hours(2)), Some((-NOW, 2 * HOUR, false)), Some((-NOW, 2 * HOUR, true))),
            ("pause for ever", open, OwnerCommand::Pause(None), Some((-NOW, EVER, false)), Some((-NOW, EVER, true))),
            ("shorter pause", own, OwnerCommand::Pause(Some(1)), Some((-NOW, 1, false)), Some((-NOW, 1, true))),
            (
                "shorter than the administrator's",
                admins,
                OwnerCommand::Pause(Some(1)),
                Some((-NOW, HOUR, true)),
                Some((-NOW, 1, true)),
            ),
            (
                "longer than the administrator's",
                admins,
                OwnerCommand::Pause(hours(2)),
                Some((-NOW, 2 * HOUR, true)),
                Some((-NOW, 2 * HOUR, true)),
            ),
            ("resume", own, OwnerCommand::Resume, Some((-NOW, -NOW, false)), Some((-NOW, -NOW, false))),
            ("resume the administrator's", admins, OwnerCommand::Resume, None, Some((-NOW, -NOW, false))),
            ("resume after its end", ended, OwnerCommand::Resume, Some((-NOW, -NOW, false)), Some((-NOW, -NOW, false))),
        ]
    }

    #[test]
    fn every_owner_command_by_each_account_before_during_and_after_a_pause() {
        for (what, before, command, asked, is_admin) in cases() {
            for (by_admin, wanted) in [(false, asked), (true, is_admin)] {
                let after = before.commanded(command, by_admin);
                let left = after.map(|s| (s.allows_until - NOW, s.paused_until - NOW, s.paused_by_administrator));
                assert_eq!(left, wanted, "{what}, by the administrator: {by_admin}");
            }
        }
    }

    #[test]
    fn an_unreadable_consent_file_counts_as_a_pause() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::at(folder.path());
        let files = HomeFiles(home.clone());
        assert_eq!(OwnerConsent::read(&files), OwnerConsent::default());
        std::fs::write(home.consent(), "{").expect("written");
        assert!(OwnerConsent::read(&files).paused_at(NOW));
        let consent = OwnerConsent { allows_until: 7, ..OwnerConsent::default() };
        consent.write(&files).expect("written");
        assert_eq!(OwnerConsent::read(&files), consent);
        std::fs::remove_file(home.consent()).expect("removed");
        std::fs::create_dir(home.consent()).expect("made");
        assert!(OwnerConsent::read(&files).paused_at(NOW), "a folder in its place");
    }
}
