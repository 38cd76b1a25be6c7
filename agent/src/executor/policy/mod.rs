//! The owner's policy: `policy.toml`. Only the machine's owner can loosen it, on the machine.
//!
//! An unknown key or an unreadable file allows nothing but diagnosis, and not even that where it
//! may be forbidden; the status shows that.
//! Pure: the caller reads the file.

mod window;

use fernwart_certs::sha256;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{ActionKind, UnixMs};
use fernwart_protocol::id::Digest;
use fernwart_protocol::script::BundleName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
pub use window::Window;

/// The policy for customers who want to be asked each time.
pub const ASK: &str = include_str!("ask.toml");
/// Approved repairs between two and four at night.
pub const NIGHTLY: &str = include_str!("nightly.toml");
/// Approved repairs at any time; the owner is notified afterwards.
pub const TRUSTED: &str = include_str!("trusted.toml");

/// How one kind of action is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Never.
    Never,
    /// At once; the owner is notified.
    Notify,
    /// After the owner has consented.
    Ask,
    /// In a window of time.
    Window,
    /// At once.
    Allow,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    look: Look,
    act: Act,
    /// Rules for single scripts, in place of `act.mode`.
    #[serde(default)]
    script: BTreeMap<BundleName, ForScript>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ForScript {
    mode: Mode,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Look {
    mode: Mode,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Act {
    mode: Mode,
    #[serde(default)]
    windows: Vec<Window>,
    /// The only scripts that may act; all approved ones if absent.
    scripts: Option<Vec<BundleName>>,
    /// Maximum number of acts a day; unlimited if absent.
    changes_per_day: Option<u32>,
    /// Accounts that are asked on their desktops and may answer without being administrator. Only
    /// the administrator may if absent.
    #[serde(default)]
    asked: Vec<String>,
}

/// Why a policy file is not in force.
#[derive(Debug, thiserror::Error)]
pub enum BadPolicy {
    /// It does not have the format of a policy file.
    #[error("reading the policy")]
    Toml(#[source] toml::de::Error),
    /// `look.mode` cannot be `ask` or `window`.
    #[error("look.mode must be never, notify or allow")]
    LookMode,
    /// A window that opens and closes at the same time: it could mean never or always.
    #[error("a window is open from {0} to {0}; for the whole day write from = \"00:00\", to = \"24:00\"")]
    EmptyWindow(String),
    /// An empty list of days: it could mean never or always.
    #[error("a window is open on no day: name some in days, or leave days out for every day")]
    NoDay,
    /// The mode is `window`, but there are no windows.
    #[error("the mode is window, but there is no act.windows")]
    NoWindow,
}

/// What the owner has decided beside the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// Every order is refused.
    pub paused: bool,
    /// Consent to this run, or to all repairs for a while.
    pub yes: Option<Yes>,
    /// Acts that have begun in the last 24 hours.
    pub changes: u32,
}

/// What the owner has consented to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Yes {
    /// To this run.
    ToThis,
    /// To all repairs, for a while.
    ToAll,
}

/// Why the policy does not permit an action now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum No {
    /// It refuses.
    Refused(Refusal),
    /// The owner has to be asked.
    Ask,
    /// A window of the owner's opens then.
    Later(UnixMs),
}

/// The owner's rules in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    rules: Option<File>,
    /// How looking is handled where the file cannot be read.
    look_without_rules: Mode,
    /// SHA-256 of the file.
    pub hash: Digest,
}

/// The rule that permits an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule(pub &'static str);

impl Rule {
    /// Whether the owner is notified of the run.
    pub fn notifies(self) -> bool {
        self.0.ends_with("= notify")
    }
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// When it is not one; [`Policy::unreadable`] is then in force.
    pub fn from_toml(text: &str) -> Result<Self, BadPolicy> {
        let file: File = toml::from_str(text).map_err(BadPolicy::Toml)?;
        if matches!(file.look.mode, Mode::Ask | Mode::Window) {
            return Err(BadPolicy::LookMode);
        }
        let modes = file.script.values().map(|script| script.mode).chain([file.act.mode]);
        if modes.into_iter().any(|mode| mode == Mode::Window) && file.act.windows.is_empty() {
            return Err(BadPolicy::NoWindow);
        }
        if let Some(at) = file.act.windows.iter().find_map(Window::empty_at) {
            return Err(BadPolicy::EmptyWindow(at));
        }
        if file.act.windows.iter().any(Window::is_on_no_day) {
            return Err(BadPolicy::NoDay);
        }
        Ok(Self { rules: Some(file), look_without_rules: Mode::Allow, hash: sha256(text.as_bytes()) })
    }

    /// The policy in force when the file cannot be read: diagnosis only, and not even that where
    /// the text or `former`, the policy before it, forbids looking. A mistake loosens nothing.
    pub fn unreadable(text: &[u8], former: Option<&Self>) -> Self {
        let is_forbidden = former.is_some_and(|former| former.look() == Mode::Never) || forbids_looks(text);
        let look_without_rules = if is_forbidden { Mode::Never } else { Mode::Allow };
        Self { rules: None, look_without_rules, hash: sha256(text) }
    }

    /// Whether the file could be read.
    pub fn is_readable(&self) -> bool {
        self.rules.is_some()
    }

    /// How looking is handled.
    pub fn look(&self) -> Mode {
        self.rules.as_ref().map_or(self.look_without_rules, |file| file.look.mode)
    }

    /// How acting is handled.
    pub fn act(&self) -> Mode {
        self.rules.as_ref().map_or(Mode::Never, |file| file.act.mode)
    }

    /// Accounts that may answer beside the administrator.
    pub fn asked(&self) -> &[String] {
        self.rules.as_ref().map_or(&[], |file| &file.act.asked)
    }

    /// How long a question to the owner waits for an answer.
    pub const TIMEOUT_MS: UnixMs = 15 * 60 * 1000;

    /// The rule that permits an action of this kind now, or what prevents it. `now` is the
    /// machine's own time, if plausible: windows are judged by no other clock.
    ///
    /// # Errors
    /// The owner's refusal, or that the owner's answer or a window must be waited for.
    pub fn judge(
        &self,
        kind: ActionKind,
        script: Option<&BundleName>,
        owner: &Owner,
        now: Option<UnixMs>,
    ) -> Result<Rule, No> {
        let refused = |refusal| Err(No::Refused(refusal));
        if owner.paused {
            return refused(Refusal::Paused);
        }
        if kind == ActionKind::Look {
            // A script that the owner forbids by name is refused even as a dry run.
            let own = script.zip(self.rules.as_ref()).and_then(|(name, file)| file.script.get(name));
            return match self.look() {
                // Which scripts the owner forbids is not known.
                Mode::Allow if self.rules.is_none() && script.is_some() => refused(Refusal::PolicyUnreadable),
                _ if own.is_some_and(|own| own.mode == Mode::Never) => refused(Refusal::OwnerForbids),
                Mode::Allow => Ok(Rule("look.mode = allow")),
                Mode::Notify => Ok(Rule("look.mode = notify")),
                Mode::Never | Mode::Ask | Mode::Window => refused(Refusal::OwnerForbids),
            };
        }
        let Some(file) = &self.rules else { return refused(Refusal::PolicyUnreadable) };
        let own = script.and_then(|name| file.script.get(name));
        let mode = own.map_or(file.act.mode, |own| own.mode);
        if mode == Mode::Never {
            return refused(Refusal::OwnerForbids);
        }
        if let (Some(listed), Some(name), None) = (&file.act.scripts, script, own)
            && !listed.contains(name)
        {
            return refused(Refusal::NotListed);
        }
        if file.act.changes_per_day.is_some_and(|most| owner.changes >= most) {
            return refused(Refusal::TooManyChanges);
        }
        match (mode, owner.yes) {
            (_, Some(Yes::ToThis)) => Ok(Rule("the owner said yes to this")),
            (Mode::Ask | Mode::Window, Some(Yes::ToAll)) => Ok(Rule("the owner allows repairs for a while")),
            (Mode::Allow, _) => Ok(Rule(if own.is_some() { "script mode = allow" } else { "act.mode = allow" })),
            (Mode::Notify, _) => Ok(Rule(if own.is_some() { "script mode = notify" } else { "act.mode = notify" })),
            (Mode::Ask, None) => Err(No::Ask),
            (Mode::Window, None) => {
                let Some(now) = now else { return refused(Refusal::ClockImplausible) };
                match window::opens(&file.act.windows, now) {
                    Some(at) if at <= now => Ok(Rule("act.mode = window, and one is open")),
                    Some(at) => Err(No::Later(at)),
                    None => refused(Refusal::OwnerForbids),
                }
            }
            (Mode::Never, _) => refused(Refusal::OwnerForbids),
        }
    }
}

/// Whether a text that is no policy may forbid looking: it does not say in its own section that
/// looking is allowed, and it mentions `look` or `never`.
fn forbids_looks(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text).to_lowercase();
    let lines = || text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let is_allowed = |text: &str| (text.contains("allow") || text.contains("notify")) && !text.contains("never");
    let says = |word: &str| lines().any(|line| line.contains(word));
    if let Ok(table) = toml::from_str::<toml::Table>(&text) {
        let mode = table.get("look").and_then(|look| look.get("mode")?.as_str());
        return match mode {
            Some(mode) => !matches!(mode, "allow" | "notify"),
            None => table.contains_key("look") || says("never"),
        };
    }
    // The lines from the one that names it to the next section's.
    let section: String = lines()
        .skip_while(|line| !line.contains("look"))
        .enumerate()
        .take_while(|(nth, line)| *nth == 0 || !line.trim_start().starts_with('['))
        .flat_map(|(_, line)| [line, "\n"])
        .collect();
    if section.is_empty() { says("never") } else { !is_allowed(&section) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mon 23 Nov 2026 14:00 UTC.
    const NOW: UnixMs = 1_795_442_400_000;

    fn judge(policy: &Policy, kind: ActionKind, owner: Owner) -> Result<Rule, No> {
        policy.judge(kind, None, &owner, Some(NOW))
    }

    #[test]
    fn the_three_included_policies_can_be_read() {
        for (text, act) in [(ASK, Mode::Ask), (NIGHTLY, Mode::Window), (TRUSTED, Mode::Notify)] {
            let policy = Policy::from_toml(text).expect("a policy");
            assert_eq!((policy.look(), policy.act()), (Mode::Allow, act));
            assert!(policy.is_readable() && policy.asked().is_empty());
        }
        let asked = Policy::from_toml(&ASK.replace("[act]", "[act]\nasked = [\"meyer\", \"jana\"]")).expect("a policy");
        assert_eq!(asked.asked(), ["meyer", "jana"]);
        assert_eq!(Policy::TIMEOUT_MS, 900_000, "a quarter of an hour");
    }

    #[test]
    fn a_policy_with_an_unknown_key_allows_nothing_but_diagnosis() {
        let text = format!("{TRUSTED}\nsurprise = true\n");
        assert!(Policy::from_toml(&text).is_err());
        let policy = Policy::unreadable(text.as_bytes(), None);
        assert_eq!((policy.is_readable(), policy.asked()), (false, &[][..]));
        let reads: BundleName = "read-only".parse().expect("a name");
        let script = policy.judge(ActionKind::Look, Some(&reads), &Owner::default(), Some(NOW));
        assert_eq!(script, Err(No::Refused(Refusal::PolicyUnreadable)), "the owner may have forbidden it by name");
        assert!(judge(&policy, ActionKind::Look, Owner::default()).is_ok());
        assert_eq!(judge(&policy, ActionKind::Act, Owner::default()), Err(No::Refused(Refusal::PolicyUnreadable)));
    }

    #[test]
    fn a_mistake_in_a_policy_that_forbids_diagnosis_does_not_allow_it() {
        let forbidding = [
            "[look]\nmode = \"never\"\n[act]\nmode = \"nevr\"\n",
            "[look]\nmode = \"nevr\"\n[act]\nmode = \"never\"\n",
            "look = { mode = \"never\" }\n",
            "look.mode = \"never\"\nact.mode = ",
            "[look]\nmode = \"never\n[act]\nmode = \"ask\"",
            "[look]\nmode = 7\n",
            "[ look ]\nmode = 'never'\n[act\n",
            "look = \"never\"\n",
            "[[look]]\nmode = \"never\"\n",
            "[look]\nmod = \"never\"\n[act]\nmode = \"ask\"\n",
            "[Lok]\nmode = \"never\"\n",
            "[look]\nmode = \"Never\"\n[act\n",
            "[look]\nmode = \"nevr\"\n[act\n",
            "[look]\n",
        ];
        let look = |policy: &Policy| judge(policy, ActionKind::Look, Owner::default());
        for text in forbidding {
            assert!(Policy::from_toml(text).is_err(), "{text}");
            let policy = Policy::unreadable(text.as_bytes(), None);
            assert_eq!(look(&policy), Err(No::Refused(Refusal::OwnerForbids)), "{text}");
        }
        let allowing = [
            "[look]\nmode = \"allow\"\n[act]\nmode = \"nevr\"\n",
            "[look]\nmode = \"allow\n[act]\nmode = \"never\"\n",
            "# look: never\n[look]\nmode = \"notify\"\n",
            "[look]\nmode = \"Notify\"\nsurprise = 1\n[act]\nmode = \"never\"\n",
            "surprise = 1\n",
            "",
            "\u{fffd}",
        ];
        for text in allowing {
            assert!(look(&Policy::unreadable(text.as_bytes(), None)).is_ok(), "{text}");
        }
        // A file that has become unreadable is no permission either.
        let former = Policy::from_toml("[look]\nmode = \"never\"\n[act]\nmode = \"never\"\n").expect("a policy");
        let gone = Policy::unreadable(b"", Some(&former));
        assert!(look(&gone).is_err() && look(&Policy::unreadable(b"", Some(&gone))).is_err());
    }

    #[test]
    fn the_owner_can_forbid_diagnosis_too() {
        let policy = Policy::from_toml("[look]\nmode = \"never\"\n[act]\nmode = \"never\"\n").expect("a policy");
        let forbidden = Err(No::Refused(Refusal::OwnerForbids));
        assert_eq!(judge(&policy, ActionKind::Look, Owner::default()), forbidden);
        // No consent overrides `never`.
        let yes = Owner { yes: Some(Yes::ToAll), ..Owner::default() };
        assert_eq!(judge(&policy, ActionKind::Act, yes), forbidden);
        let paused = Owner { paused: true, ..Owner::default() };
        let trusted = Policy::from_toml(TRUSTED).expect("a policy");
        assert!(judge(&trusted, ActionKind::Act, Owner::default()).expect("permitted").notifies());
        assert!(!judge(&trusted, ActionKind::Look, Owner::default()).expect("permitted").notifies());
        for kind in [ActionKind::Look, ActionKind::Act] {
            assert_eq!(judge(&trusted, kind, paused), Err(No::Refused(Refusal::Paused)));
        }
    }

    #[test]
    fn look_mode_ask_and_window_mode_without_windows_are_rejected() {
        assert!(Policy::from_toml("[look]\nmode = \"ask\"\n[act]\nmode = \"never\"\n").is_err());
        assert!(Policy::from_toml("[look]\nmode = \"allow\"\n[act]\nmode = \"window\"\n").is_err());
    }

    #[test]
    fn an_empty_window_is_rejected_and_a_whole_day_window_is_open_all_day() {
        let with = |windows: &str| {
            Policy::from_toml(&format!("[look]\nmode = \"allow\"\n[act]\nmode = \"window\"\nwindows = [{windows}]\n"))
        };
        for empty in ["02:00", "00:00", "23:59"] {
            let error = with(&format!("{{ from = \"{empty}\", to = \"{empty}\" }}")).expect_err("refused").to_string();
            assert!(error.contains(empty) && error.contains("24:00"), "{error}");
        }
        let never = with("{ from = \"02:00\", to = \"04:00\", days = [] }");
        assert!(matches!(never, Err(BadPolicy::NoDay)), "{never:?}");
        let policy = with("{ from = \"00:00\", to = \"24:00\" }").expect("a policy");
        for hour in 0..24 {
            let now = Some(NOW + hour * 3_600_000);
            assert!(policy.judge(ActionKind::Act, None, &Owner::default(), now).is_ok(), "{hour}");
        }
    }

    #[test]
    fn every_policy_mode_by_kind_of_action_and_owner_consent() {
        use Mode::{Allow, Ask, Never, Notify, Window};
        let file = |look: &str, act: &str, own: &str| {
            let own = if own.is_empty() { String::new() } else { format!("[script.mend]\nmode = \"{own}\"\n") };
            let windows = "windows = [{ from = \"13:00\", to = \"14:00\", zone = \"UTC\" }]";
            let text = format!("[look]\nmode = \"{look}\"\n[act]\nmode = \"{act}\"\n{windows}\n{own}");
            Policy::from_toml(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
        };
        let word = |mode: Mode| match mode {
            Never => "never",
            Notify => "notify",
            Ask => "ask",
            Window => "window",
            Allow => "allow",
        };
        let name = "mend".parse().expect("a name");
        let yes = |yes| Owner { yes, ..Owner::default() };
        // Just before the window, in it, and as it closes: 12:59:59.999, 13:00, 13:59:59.999, 14:00.
        let hour = NOW - 3_600_000;
        let times = [(hour - 1, false), (hour, true), (NOW - 1, true), (NOW, false)];
        for act in [Never, Notify, Ask, Window, Allow] {
            for own in [None, Some(Never), Some(Notify), Some(Ask), Some(Window), Some(Allow)] {
                let policy = file("allow", word(act), own.map(word).unwrap_or_default());
                let judge = |kind, owner: &Owner, now| policy.judge(kind, Some(&name), owner, now);
                let looks = judge(ActionKind::Look, &Owner::default(), Some(NOW));
                assert_eq!(looks.is_ok(), own != Some(Never), "{act:?} {own:?}");
                for (now, open) in times {
                    let none = judge(ActionKind::Act, &yes(None), Some(now));
                    let all = judge(ActionKind::Act, &yes(Some(Yes::ToAll)), Some(now));
                    let this = judge(ActionKind::Act, &yes(Some(Yes::ToThis)), Some(now));
                    let forbidden = Err(No::Refused(Refusal::OwnerForbids));
                    match own.unwrap_or(act) {
                        Never => assert_eq!((none, all, this), (forbidden, forbidden, forbidden)),
                        Notify | Allow => assert!(none.is_ok() && all.is_ok() && this.is_ok()),
                        Ask => assert!(none == Err(No::Ask) && all.is_ok() && this.is_ok()),
                        Window => {
                            assert_eq!(none.is_ok(), open, "{now}");
                            assert!(open || matches!(none, Err(No::Later(at)) if at > now), "{none:?}");
                            assert!(all.is_ok() && this.is_ok());
                        }
                    }
                    let paused = Owner { paused: true, ..yes(Some(Yes::ToThis)) };
                    assert_eq!(judge(ActionKind::Act, &paused, Some(now)), Err(No::Refused(Refusal::Paused)));
                }
                // With an implausible clock no window is open; the gate refuses the rest.
                let blind = judge(ActionKind::Act, &yes(None), None);
                let implausible = Err(No::Refused(Refusal::ClockImplausible));
                assert_eq!(own.unwrap_or(act) == Window, blind == implausible, "{act:?} {own:?}");
            }
        }
        for look in [Never, Notify, Allow] {
            let policy = file(word(look), "allow", "allow");
            assert_eq!(judge(&policy, ActionKind::Look, Owner::default()).is_ok(), look != Never, "{look:?}");
            assert!(judge(&policy, ActionKind::Act, Owner::default()).is_ok());
        }
        // The last permitted act of a day, and one too many.
        let policy = Policy::from_toml("[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\nchanges_per_day = 3\n");
        let policy = policy.expect("a policy");
        let after = |changes| judge(&policy, ActionKind::Act, Owner { changes, ..Owner::default() });
        assert!(after(2).is_ok());
        assert_eq!(after(3), Err(No::Refused(Refusal::TooManyChanges)));
    }

    #[test]
    fn no_window_is_open_by_an_implausible_clock() {
        let text =
            "[look]\nmode = \"allow\"\n[act]\nmode = \"window\"\nwindows = [{ from = \"00:00\", to = \"23:59\" }]\n";
        let policy = Policy::from_toml(text).expect("a policy");
        let at = |now| policy.judge(ActionKind::Act, None, &Owner::default(), now);
        assert!(at(Some(NOW)).is_ok());
        assert_eq!(at(None), Err(No::Refused(Refusal::ClockImplausible)));
    }

    #[test]
    fn consent_answers_the_question_but_does_not_override_lists_and_limits() {
        let text = "[look]\nmode = \"allow\"\n[act]\nmode = \"ask\"\nscripts = [\"disk-free\"]\nchanges_per_day = 2\n\
                    [script.time-sync]\nmode = \"allow\"\n";
        let policy = Policy::from_toml(text).expect("a policy");
        let at = |script: &str, owner: Owner| {
            policy.judge(ActionKind::Act, Some(&script.parse().expect("a name")), &owner, Some(NOW))
        };
        assert_eq!(at("disk-free", Owner::default()), Err(No::Ask));
        let yes = Owner { yes: Some(Yes::ToThis), ..Owner::default() };
        assert!(at("disk-free", yes).is_ok());
        assert_eq!(at("format-c", yes), Err(No::Refused(Refusal::NotListed)));
        assert_eq!(at("time-sync", Owner::default()), Ok(Rule("script mode = allow")));
        let busy = Owner { changes: 2, ..yes };
        assert_eq!(at("disk-free", busy), Err(No::Refused(Refusal::TooManyChanges)));
    }
}
