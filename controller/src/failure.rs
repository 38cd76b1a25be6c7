//! Failures of commands: what, why, what now, and a code.

use crate::codes;
use crate::escaping::json_text;
use fernwart_certs::approve::SignError;
use fernwart_certs::catalogue::CatalogueError;
use fernwart_certs::keyfile::KeyFileError;
use fernwart_client::target::BadTarget;
use fernwart_client::{ClientError, ClientHomeError};
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::diagnosis::State;
use fernwart_protocol::link::{DialError, FrameError, LinkError};
pub use fernwart_protocol::text::chain;
use fernwart_protocol::text::escaped_lines;
use serde_json::json;
use std::borrow::Cow;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::ExitCode;

/// Exit codes, as scripts know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// The command ran, and found something bad.
    Bad,
    /// Usage; nothing was sent.
    Usage,
    /// Refused.
    Refused,
    /// No answer in time.
    NoAnswer,
    /// Fernwart itself failed.
    Failed,
    /// Stopped with Ctrl-C.
    Stopped,
    /// The exit code of a Nagios plugin.
    Plugin(State),
}

impl Exit {
    /// The number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Bad => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::NoAnswer => 4,
            Self::Failed => 5,
            Self::Stopped => 130,
            Self::Plugin(state) => state.plugin_code(),
        }
    }
}

impl Exit {
    /// Combines two: the first that applies of refused, no answer, failed, bad.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let order = [Self::Refused, Self::NoAnswer, Self::Failed, Self::Bad];
        order.into_iter().find(|exit| *exit == self || *exit == other).unwrap_or(self)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    what: String,
    now: Option<String>,
    code: Cow<'static, str>,
    /// How the program ends.
    pub exit: Exit,
}

impl Failure {
    /// A failure with its code.
    pub fn new(exit: Exit, code: impl Into<Cow<'static, str>>, what: impl Into<String>) -> Self {
        Self { what: what.into(), now: None, code: code.into(), exit }
    }

    /// Whether it is of this code.
    pub(crate) fn is(&self, code: &str) -> bool {
        self.code == code
    }

    /// Says what to do now.
    #[must_use]
    pub fn now(mut self, now: impl Into<String>) -> Self {
        self.now = Some(now.into());
        self
    }

    /// Whether a retry may work soon: the hub is down or shutting down.
    pub(crate) fn may_pass(&self) -> bool {
        self.exit == Exit::NoAnswer || self.code == Denial::ShuttingDown.code()
    }

    /// On one line.
    pub(crate) fn in_short(&self) -> String {
        format!("{} [{}]", self.what, self.code)
    }

    /// Writes it to standard error, as JSON if the command writes JSON.
    pub fn print(&self) {
        if is_json_wanted(std::env::args_os()) {
            let error = json!({"v": 1, "type": "error", "code": self.code, "message": self.what, "now": self.now,
                "exit": self.exit.number()});
            note!("{}", json_text(&error));
            return;
        }
        let (what, now) = (escaped_lines(&self.what), self.now.as_deref().map(escaped_lines));
        note!("error: {what}     [{}]", self.code);
        match &now {
            Some(now) => note!("  now: {now}      why: fernwart help {}", self.code),
            None => note!("  why: fernwart help {}", self.code),
        }
    }
}

/// Whether the command line asks for JSON. It checks the raw arguments, since they may be
/// unparsable.
fn is_json_wanted(typed: impl Iterator<Item = OsString>) -> bool {
    let typed: Vec<String> = typed.map(|word| word.to_string_lossy().into_owned()).collect();
    let is_json = |word: &str| word == "json" || word == "jsonl";
    let joined = |word: &String| {
        let rest = word.strip_prefix("--output=").or_else(|| word.strip_prefix("-o"));
        rest.is_some_and(|rest| is_json(rest.strip_prefix('=').unwrap_or(rest)))
    };
    let apart =
        |two: &[String]| matches!(two, [option, how] if (option == "-o" || option == "--output") && is_json(how));
    typed.iter().any(joined) || typed.windows(2).any(apart)
}

/// A denial as a technician reads it.
pub(crate) fn denied(denial: Denial) -> Failure {
    let exit = match denial {
        Denial::StoreFull | Denial::StoreFailed | Denial::ShuttingDown => Exit::Failed,
        Denial::QuestionsBusy => Exit::NoAnswer,
        Denial::NoSuchMachine | Denial::NoSuchJob | Denial::NoSuchCustomer | Denial::NoSuchDraft => Exit::Usage,
        _ => Exit::Refused,
    };
    let failure = Failure::new(exit, denial.code(), format!("the hub says: {denial}"));
    match codes::advice(&denial.code()) {
        Some(now) => failure.now(now),
        None => failure,
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let text = chain(&error);
        match &error {
            ClientError::Denied(denial) => denied(*denial),
            ClientError::Home(home) => Self::from_home(home, text),
            ClientError::NothingPublished => Self::new(Exit::Refused, "FW-HUB-13", text)
                .now("approvers sign the first draft: fernwart catalogue sign --file FILE, then publish --file FILE; else bring catalogue.json back, or join again with a new invitation"),
            ClientError::NotAdmitted => Self::new(Exit::Refused, "FW-JOIN-12", text)
                .now("run fernwart join again once a lead has added you (fernwart staff add)"),
            ClientError::Dial {
                source: DialError::Link { source: LinkError::Closed(Goodbye::Revoked), .. }, ..
            }
            | ClientError::Link(LinkError::Closed(Goodbye::Revoked)) => {
                Self::new(Exit::Refused, "FW-CLI-06", "the hub no longer lets this key in")
                    .now("ask a lead: fernwart staff ls")
            }
            ClientError::Dial { source: DialError::Link { source: LinkError::Handshake(_) | LinkError::HandshakeHere(_), .. }, .. }
            | ClientError::Link(LinkError::Handshake(_) | LinkError::HandshakeHere(_)) => Self::new(
                Exit::Refused,
                "FW-CLI-07",
                format!("{text}: the hub is not the one this home trusts, or your certificate has run out or its CA has been replaced"),
            )
            .now("fernwart doctor; if a lead says that the hub's CA was replaced: move this staff home away and join again"),
            ClientError::Version(_) => {
                Self::new(Exit::Failed, "FW-HUB-02", text).now("update the older of the two programs")
            }
            ClientError::NoSealingKey(_) => Self::new(Exit::Refused, "FW-CLI-17", text)
                .now("link that machine once with a current agent, or run the script without secret parameters"),
            ClientError::Dial {
                source: DialError::Link { source: LinkError::Closed(Goodbye::Overloaded), .. }, ..
            }
            | ClientError::Link(LinkError::Closed(Goodbye::Overloaded)) => {
                Self::new(Exit::NoAnswer, "FW-CLI-05", "the hub is too busy to take another link")
                    .now("try again in a minute")
            }
            ClientError::WrongCertificate | ClientError::KeyTooLong => Self::new(Exit::Failed, "FW-JOIN-23", text),
            ClientError::DraftTooLong => Self::new(Exit::Failed, "FW-CLI-09", text)
                .now("propose fewer changes at once: fernwart catalogue propose"),
            ClientError::OlderHub { .. } => Self::new(Exit::Refused, "FW-CLI-19", text).now("update the hub"),
            ClientError::OlderAgent { .. } => {
                Self::new(Exit::Refused, "FW-CLI-17", text).now("update the agent on that machine")
            }
            ClientError::Frame(FrameError::Newer) => {
                Self::new(Exit::Failed, Denial::Incompatible.code(), text).now("update this program")
            }
            // A restored hub also looks like this until the next publication.
            ClientError::Catalogue(CatalogueError::Rollback { role: "targets", floor, .. } | CatalogueError::TwoFaces { role: "targets", version: floor }) => {
                Self::new(Exit::Refused, "FW-CAT-06", text).now(format!(
                    "if the hub was restored from a backup, an approver publishes anew (fernwart catalogue propose --above \
                     {floor}); else do not go on before somebody has found out why"
                ))
            }
            ClientError::Catalogue(_) => Self::new(Exit::Refused, "FW-CAT-06", text)
                .now("do not go on with this hub before somebody has found out why"),
            ClientError::FellBack { home, .. } => Self::new(Exit::Refused, "FW-CAT-19", text).now(format!(
                "update the hub; if that does not help, an approver: fernwart catalogue propose --above {home}"
            )),
            _ if error.is_no_answer() => Self::new(Exit::NoAnswer, "FW-CLI-05", text)
                .now("is it running (fernwart serve), and does UDP reach it? try: fernwart doctor"),
            _ => Self::new(Exit::Failed, "FW-CLI-09", text).now("fernwart doctor"),
        }
    }
}

impl Failure {
    fn from_home(error: &ClientHomeError, text: String) -> Self {
        match error {
            ClientHomeError::Missing { .. } => Self::new(Exit::Usage, "FW-CLI-03", text).now(
                "fernwart init (to begin an organisation) or fernwart join --invitation FILE (to join one); or name it with --home",
            ),
            ClientHomeError::Key(error) => Self::from_file(error),
            ClientHomeError::Mixed(_) => Self::new(Exit::Refused, "FW-CLI-03", text)
                .now("bring back this home's own files; or move the home away and join again"),
            _ => Self::new(Exit::Failed, "FW-CLI-09", text),
        }
    }
}

impl Failure {
    /// The failure for a full disk.
    pub(crate) fn disk_full(text: String) -> Self {
        Self::new(Exit::Failed, "FW-CLI-10", text).now("free some space (df -h), then give the same command again")
    }

    /// The failure for one of the user's own files that cannot be read, written or trusted.
    pub(crate) fn from_file(error: &KeyFileError) -> Self {
        let text = chain(error);
        match error.system() {
            None => Self::new(Exit::Failed, "FW-CLI-04", text).now("look who has changed it, then put it right"),
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Self::disk_full(text),
            Some(ErrorKind::PermissionDenied) => {
                Self::new(Exit::Failed, "FW-CLI-10", text).now("run it as the user whose file it is, or see ls -l")
            }
            Some(_) => Self::new(Exit::Failed, "FW-CLI-10", text).now("look at the path in the message"),
        }
    }
}

impl From<ClientHomeError> for Failure {
    fn from(error: ClientHomeError) -> Self {
        Self::from_home(&error, chain(&error))
    }
}

impl From<BadTarget> for Failure {
    fn from(error: BadTarget) -> Self {
        let failure = Self::new(Exit::Usage, "FW-CLI-02", error.to_string());
        match error {
            BadTarget::NoMatch { meant: Some(meant), .. } => {
                failure.now(format!("did you mean {meant}?  all names: fernwart ls -o name"))
            }
            BadTarget::Nothing => failure.now("name machines, @groups, customer:NAME, or all"),
            _ => failure.now("all names: fernwart ls -o name"),
        }
    }
}

impl From<SignError> for Failure {
    fn from(error: SignError) -> Self {
        let now = match &error {
            SignError::NotAnApprover | SignError::OwnProposal | SignError::AlreadySigned => {
                "another approver must sign: fernwart catalogue sign --key DIR"
            }
            SignError::Lasts { .. } => "is this computer's clock right? If so: sign nothing, and propose it anew",
            _ => "sign nothing; ask its proposer to propose it anew",
        };
        Self::new(Exit::Refused, "FW-CAT-07", chain(&error)).now(now)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failed, "FW-CLI-09", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_json_if_the_command_line_asks_for_json() {
        let wanted = |line: &str| is_json_wanted(line.split(' ').map(OsString::from));
        for line in ["ls -o json", "ls -ojsonl", "ls --output json", "ls --output=jsonl", "ls -o=json x"] {
            assert!(wanted(line), "{line}");
        }
        for line in ["ls", "ls -o table", "ls json", "ls --output=csv", "run x -p o=json"] {
            assert!(!wanted(line), "{line}");
        }
    }
}
