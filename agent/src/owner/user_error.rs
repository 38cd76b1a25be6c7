//! The errors a customer reads, in their language: what happened, what to do now, and a code. The
//! technical cause is added for their support.

use crate::enroll::EnrollError;
use crate::executor::state::StateError;
use crate::home::{Home, HomeError};
use crate::identity::NotOneMachine;
use crate::owner::words::Words;
use fernwart_certs::invitation::BadInvitation;
use fernwart_certs::keyfile::KeyFileError;
use fernwart_protocol::code::Denial;
use fernwart_protocol::text::chain;
use std::borrow::Cow;

/// An error for the customer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {cause}")]
pub struct UserError {
    id: &'static str,
    code: Cow<'static, str>,
    /// The exit code of the program.
    pub exit: u8,
    cause: String,
}

const USAGE: u8 = 2;
const REFUSED: u8 = 3;
const NO_ANSWER: u8 = 4;
const FAILED: u8 = 5;

impl UserError {
    const fn new(id: &'static str, code: &'static str, exit: u8, cause: String) -> Self {
        Self { id, code: Cow::Borrowed(code), exit, cause }
    }

    /// The hub denied the request.
    fn denied(id: &'static str, denial: Denial, exit: u8, cause: String) -> Self {
        Self { id, code: denial.code(), exit, cause }
    }

    /// No invitation was given.
    pub const fn no_invitation() -> Self {
        Self::new("no-invitation", "FW-JOIN-20", USAGE, String::new())
    }

    /// The invitation is for many machines and must not appear in a command line, where others
    /// can read it.
    pub const fn invitation_in_argv() -> Self {
        Self::new("invitation-in-argv", "FW-JOIN-22", USAGE, String::new())
    }

    /// The error as the customer reads it.
    pub fn of(error: &anyhow::Error) -> Self {
        if let Some(user_error) = error.downcast_ref::<Self>() {
            return user_error.clone();
        }
        let cause = format!("{error:#}");
        if let Some(file) =
            error.chain().find_map(|cause| cause.downcast_ref::<KeyFileError>()).filter(|file| file.system().is_none())
        {
            return Self::file(file);
        }
        if let Some(mixed) = error.chain().find_map(|cause| cause.downcast_ref::<NotOneMachine>()) {
            return Self::new("two-machines", "FW-OWN-25", FAILED, mixed.to_string());
        }
        let denied = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::PermissionDenied;
        if error.chain().filter_map(|cause| cause.downcast_ref()).any(denied) {
            return Self::no_rights(cause);
        }
        match error.chain().find_map(|cause| cause.downcast_ref()) {
            Some(StateError::Newer { .. }) => Self::new("newer-books", "FW-OWN-23", FAILED, cause),
            Some(StateError::Open(..) | StateError::Damaged(_)) => Self::new("books", "FW-OWN-22", FAILED, cause),
            _ => Self::new("other", "FW-OWN-21", FAILED, cause),
        }
    }

    /// A file that the agent relies on has wrong content or rights.
    fn file(error: &KeyFileError) -> Self {
        Self::new("file", "FW-OWN-24", FAILED, error.to_string())
    }

    /// This machine has joined for another customer than the invitation names.
    pub const fn joined_for_another(customer: String) -> Self {
        Self::new("joined-for-another", "FW-JOIN-27", USAGE, customer)
    }

    /// The state store is missing.
    pub fn no_store(home: &Home) -> Self {
        Self::new("books", "FW-OWN-22", FAILED, home.store().display().to_string())
    }

    /// The IT support has rejected or retired this machine, which keeps its records from that
    /// time.
    pub fn rejected_by_hub(home: &Home) -> Self {
        Self::new("turned-away", "FW-JOIN-29", REFUSED, home.path().display().to_string())
    }

    /// The command does not exist.
    pub const fn no_such_command(cause: String) -> Self {
        Self::new("no-such-command", "FW-CLI-01", USAGE, cause)
    }

    /// An argument is missing or invalid.
    pub const fn not_understood(cause: String) -> Self {
        Self::new("not-understood", "FW-CLI-01", USAGE, cause)
    }

    /// No policy was given, and there is no terminal to ask for one.
    pub const fn no_policy() -> Self {
        Self::new("no-policy", "FW-OWN-10", USAGE, String::new())
    }

    /// The policy that was given cannot be used.
    pub fn bad_policy(cause: &dyn std::error::Error) -> Self {
        Self::new("bad-policy", "FW-OWN-11", USAGE, chain(cause))
    }

    /// The argument is neither a predefined policy nor a file.
    pub fn no_such_policy(word: &str) -> Self {
        Self::new("bad-policy", "FW-OWN-11", USAGE, format!("{word}: there is no such file"))
    }

    /// The service of this computer runs for another folder, which has joined.
    pub fn service_taken(other: &std::path::Path) -> Self {
        Self::new("service-taken", "FW-JOIN-30", USAGE, other.display().to_string())
    }

    /// The agent is not running.
    pub const fn not_running() -> Self {
        Self::new("not-running", "FW-OWN-12", NO_ANSWER, String::new())
    }

    /// An agent is running here already.
    pub const fn running_already() -> Self {
        Self::new("running-already", "FW-OWN-20", USAGE, String::new())
    }

    /// There is no such open question.
    pub const fn no_such_question() -> Self {
        Self::new("no-such-question", "FW-OWN-13", USAGE, String::new())
    }

    /// There is no run with this number.
    pub const fn no_such_run() -> Self {
        Self::new("no-such-run", "FW-OWN-16", USAGE, String::new())
    }

    /// A consent to all repairs needs a duration.
    pub const fn how_long() -> Self {
        Self::new("how-long", "FW-OWN-14", USAGE, String::new())
    }

    /// The agent could not store the command.
    pub const fn not_written(cause: String) -> Self {
        Self::new("not-written", "FW-OWN-15", FAILED, cause)
    }

    /// The account may not read the agent's folder.
    fn no_rights(cause: String) -> Self {
        // Do not advise an administrator to become one.
        match rustix::process::geteuid().is_root() {
            true => Self::new("folder", "FW-CLI-10", FAILED, cause),
            false => Self::new("no-rights", "FW-OWN-29", FAILED, cause),
        }
    }

    /// Whether only the rights are missing, so that nothing else is wrong.
    pub fn lacks_rights(&self) -> bool {
        self.id == "no-rights"
    }

    /// There is no space for the records that are kept.
    pub const fn no_room(cause: String) -> Self {
        Self::new("no-room", "FW-OWN-28", FAILED, cause)
    }

    /// The agent is running but does not answer.
    pub const fn silent() -> Self {
        Self::new("silent", "FW-OWN-19", NO_ANSWER, String::new())
    }

    /// The command is in force, but a restart will lose it.
    pub const fn not_kept(cause: String) -> Self {
        Self::new("not-kept", "FW-OWN-17", FAILED, cause)
    }

    /// Only the administrator may give this command.
    pub const fn not_yours() -> Self {
        Self::new("not-yours", "FW-OWN-18", REFUSED, String::new())
    }

    /// A command that cannot be undone was not confirmed.
    pub const fn unconfirmed() -> Self {
        Self::new("unconfirmed", "FW-OWN-26", USAGE, String::new())
    }

    /// A file cannot be read.
    pub fn unreadable(path: &std::path::Path, cause: &std::io::Error) -> Self {
        Self::new("unreadable", "FW-CLI-10", USAGE, format!("{}: {cause}", path.display()))
    }

    /// The same error, or that the disk is full, if that is why the folder cannot be used.
    #[must_use]
    pub fn or_full(self, home: &Home) -> Self {
        if self.id == "folder" && home.is_disk_full() {
            return Self { id: "full", ..self };
        }
        self
    }

    /// In the customer's words.
    pub fn in_words(&self, words: &Words) -> String {
        let what = words.say(&format!("trouble-{}", self.id));
        let now = words.say(&format!("trouble-{}-now", self.id));
        let cause = if self.cause.is_empty() { String::new() } else { format!("\n  ({})", self.cause) };
        format!(
            "{}: {what}     [{}]\n  {}: {now}{cause}\n",
            words.say("error"),
            self.code,
            words.say("diagnose-advice")
        )
    }
}

impl From<BadInvitation> for UserError {
    fn from(error: BadInvitation) -> Self {
        Self::new("bad-invitation", "FW-JOIN-21", USAGE, error.to_string())
    }
}

impl From<HomeError> for UserError {
    fn from(error: HomeError) -> Self {
        match &error {
            HomeError::Held(_) => Self::new("being-set-up", "FW-JOIN-28", USAGE, chain(&error)),
            HomeError::NotEnrolled(_) => Self::new("not-enrolled", "FW-JOIN-24", USAGE, chain(&error)),
            HomeError::Enrollment { .. } => Self::new("settings", "FW-OWN-27", FAILED, chain(&error)),
            HomeError::File(file) if file.system().is_none() => Self::file(file),
            HomeError::Io(error) if error.system().kind() == std::io::ErrorKind::PermissionDenied => {
                Self::no_rights(chain(&error))
            }
            HomeError::File(file) if file.system() == Some(std::io::ErrorKind::PermissionDenied) => {
                Self::no_rights(chain(&error))
            }
            HomeError::Io(_) | HomeError::File(_) => Self::new("folder", "FW-CLI-10", FAILED, chain(&error)),
        }
    }
}

impl From<EnrollError> for UserError {
    fn from(error: EnrollError) -> Self {
        let cause = chain(&error);
        match error {
            EnrollError::NotForMachines => Self::new("for-staff", "FW-JOIN-06", USAGE, cause),
            EnrollError::JoinedForAnother(customer) => Self::joined_for_another(customer),
            EnrollError::Expired => Self::new("expired", "FW-JOIN-02", REFUSED, cause),
            // These denials are not about this computer.
            EnrollError::Denied(denial @ (Denial::StoreFull | Denial::StoreFailed | Denial::ShuttingDown)) => {
                Self::denied("not-now", denial, NO_ANSWER, cause)
            }
            EnrollError::Denied(denial) => {
                let id = match denial {
                    Denial::TokenExpired => "expired",
                    Denial::TokenSpent => "spent",
                    _ => "denied",
                };
                Self::denied(id, denial, REFUSED, cause)
            }
            EnrollError::Dial(_) | EnrollError::NoAddress(_) | EnrollError::Link(_) | EnrollError::Frame(_) => {
                Self::new("unreachable", "FW-JOIN-25", NO_ANSWER, cause)
            }
            EnrollError::Catalogue(_) | EnrollError::WrongCertificate => {
                Self::new("not-believed", "FW-JOIN-26", REFUSED, cause)
            }
            EnrollError::StateStore(StateError::Newer { .. }) => Self::new("newer-books", "FW-OWN-23", FAILED, cause),
            EnrollError::Keys(_) | EnrollError::Generate(_) | EnrollError::StateStore(_) | EnrollError::Tls(_) => {
                Self::new("folder", "FW-JOIN-23", FAILED, cause)
            }
        }
    }
}
