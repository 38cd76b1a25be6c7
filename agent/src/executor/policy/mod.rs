//! The owner's rules: `policy.toml`. Loosened only on the machine itself.
//!
//! An unknown key or an unreadable file allows nothing but diagnosis, and says
//! so. Pure: the text comes from the caller.

use fernwart_certs::sha256;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::ActionKind;
use fernwart_protocol::id::Digest;
use serde::{Deserialize, Serialize};

/// What a customer who is asked each time gets.
pub const ASK: &str = include_str!("ask.toml");
/// Approved repairs between two and four at night.
pub const NIGHTLY: &str = include_str!("nightly.toml");
/// Approved repairs at any time, told afterwards.
pub const TRUSTED: &str = include_str!("trusted.toml");

/// How one kind of action is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Never.
    Never,
    /// At once, and the owner is told.
    Notify,
    /// After the owner has said yes.
    Ask,
    /// In a window of time.
    Window,
    /// At once.
    Allow,
}

/// A window of time on the machine's own clock: every night from, to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// `02:00`.
    pub from: String,
    /// `04:00`.
    pub to: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    look: Look,
    act: Act,
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
}

/// Why a policy file is not in force.
#[derive(Debug, thiserror::Error)]
pub enum BadPolicy {
    /// It is not such a file.
    #[error("reading the policy")]
    Toml(#[source] toml::de::Error),
    /// Looking is never asked for or put off.
    #[error("look.mode must be never, notify or allow")]
    LookMode,
    /// `window` without windows.
    #[error("act.mode is window, but there is no act.windows")]
    NoWindow,
}

/// The owner's rules in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    rules: Option<(Mode, Act)>,
    /// SHA-256 of the file.
    pub hash: Digest,
}

/// The rule that permits an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule(pub &'static str);

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
        if file.act.mode == Mode::Window && file.act.windows.is_empty() {
            return Err(BadPolicy::NoWindow);
        }
        Ok(Self { rules: Some((file.look.mode, file.act)), hash: sha256(text.as_bytes()) })
    }

    /// What is in force when the file cannot be read: diagnosis only.
    pub fn unreadable(text: &[u8]) -> Self {
        Self { rules: None, hash: sha256(text) }
    }

    /// Whether the file could be read.
    pub fn is_readable(&self) -> bool {
        self.rules.is_some()
    }

    /// How looking is handled.
    pub fn look(&self) -> Mode {
        self.rules.as_ref().map_or(Mode::Allow, |(look, _)| *look)
    }

    /// How acting is handled.
    pub fn act(&self) -> Mode {
        self.rules.as_ref().map_or(Mode::Never, |(_, act)| act.mode)
    }

    /// What permits an action of this kind, or why none does. Nothing can yet
    /// wait for the owner or for a window, so those are a no.
    ///
    /// # Errors
    /// The refusal to send.
    pub fn judge(&self, kind: ActionKind) -> Result<Rule, Refusal> {
        match (kind, self.is_readable()) {
            (ActionKind::Look, _) => match self.look() {
                Mode::Allow => Ok(Rule("look.mode = allow")),
                Mode::Notify => Ok(Rule("look.mode = notify")),
                Mode::Never | Mode::Ask | Mode::Window => Err(Refusal::OwnerForbids),
            },
            (ActionKind::Act, false) => Err(Refusal::PolicyUnreadable),
            (ActionKind::Act, true) => match self.act() {
                Mode::Allow => Ok(Rule("act.mode = allow")),
                Mode::Notify => Ok(Rule("act.mode = notify")),
                Mode::Never => Err(Refusal::OwnerForbids),
                Mode::Ask | Mode::Window => Err(Refusal::OwnerSilent),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_ready_policies_can_be_read() {
        for (text, act) in [(ASK, Mode::Ask), (NIGHTLY, Mode::Window), (TRUSTED, Mode::Notify)] {
            let policy = Policy::from_toml(text).expect("a policy");
            assert_eq!((policy.look(), policy.act()), (Mode::Allow, act));
        }
    }

    #[test]
    fn an_unknown_key_leaves_nothing_but_diagnosis() {
        let text = format!("{TRUSTED}\nsurprise = true\n");
        assert!(Policy::from_toml(&text).is_err());
        let policy = Policy::unreadable(text.as_bytes());
        assert!(policy.judge(ActionKind::Look).is_ok());
        assert_eq!(policy.judge(ActionKind::Act), Err(Refusal::PolicyUnreadable));
    }

    #[test]
    fn the_owner_can_forbid_even_looking() {
        let policy = Policy::from_toml("[look]\nmode = \"never\"\n[act]\nmode = \"never\"\n").expect("a policy");
        assert_eq!(policy.judge(ActionKind::Look), Err(Refusal::OwnerForbids));
    }

    #[test]
    fn looking_cannot_be_put_off_and_a_window_must_exist() {
        assert!(Policy::from_toml("[look]\nmode = \"ask\"\n[act]\nmode = \"never\"\n").is_err());
        assert!(Policy::from_toml("[look]\nmode = \"allow\"\n[act]\nmode = \"window\"\n").is_err());
    }
}
