//! What a customer reads when something did not work: what, why, what now, and
//! a code, in their language. The technical cause stands beneath, for whoever
//! helps them.

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

/// Something did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {cause}")]
pub struct UserError {
    id: &'static str,
    code: Cow<'static, str>,
    /// How the program ends.
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

    /// What the hub says.
    fn denied(id: &'static str, denial: Denial, exit: u8, cause: String) -> Self {
        Self { id, code: denial.code(), exit, cause }
    }

    /// No invitation was given.
    pub const fn no_invitation() -> Self {
        Self::new("no-invitation", "FW-JOIN-20", USAGE, String::new())
    }

    /// The invitation lets in many and must not be read by others.
    pub const fn invitation_in_argv() -> Self {
        Self::new("invitation-in-argv", "FW-JOIN-22", USAGE, String::new())
    }

    /// What went wrong, as its owner reads it.
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

    /// A file that decides something is not as it must be.
    fn file(error: &KeyFileError) -> Self {
        Self::new("file", "FW-OWN-24", FAILED, error.to_string())
    }

    /// It has joined for somebody else than an invitation names.
    pub const fn joined_for_another(customer: String) -> Self {
        Self::new("joined-for-another", "FW-JOIN-27", USAGE, customer)
    }

    /// Its records have gone.
    pub fn no_store(home: &Home) -> Self {
        Self::new("books", "FW-OWN-22", FAILED, home.store().display().to_string())
    }

    /// Its IT support has parted with it, and it keeps what it has of that time.
    pub fn turned_away(home: &Home) -> Self {
        Self::new("turned-away", "FW-JOIN-29", REFUSED, home.path().display().to_string())
    }

    /// What was typed is no command.
    pub const fn no_such_command(cause: String) -> Self {
        Self::new("no-such-command", "FW-CLI-01", USAGE, cause)
    }

    /// Something is missing in what was typed, or does not fit.
    pub const fn not_understood(cause: String) -> Self {
        Self::new("not-understood", "FW-CLI-01", USAGE, cause)
    }

    /// Nobody can be asked for the policy.
    pub const fn no_policy() -> Self {
        Self::new("no-policy", "FW-OWN-10", USAGE, String::new())
    }

    /// The policy that was given cannot be used.
    pub fn bad_policy(cause: &dyn std::error::Error) -> Self {
        Self::new("bad-policy", "FW-OWN-11", USAGE, chain(cause))
    }

    /// That is neither a policy's word nor a file.
    pub fn no_such_policy(word: &str) -> Self {
        Self::new("bad-policy", "FW-OWN-11", USAGE, format!("{word}: there is no such file"))
    }

    /// The service of this computer looks after another folder, which has joined.
    pub fn service_taken(other: &std::path::Path) -> Self {
        Self::new("service-taken", "FW-JOIN-30", USAGE, other.display().to_string())
    }

    /// The agent is not running, so nobody answers.
    pub const fn not_running() -> Self {
        Self::new("not-running", "FW-OWN-12", NO_ANSWER, String::new())
    }

    /// An agent is running here already.
    pub const fn running_already() -> Self {
        Self::new("running-already", "FW-OWN-20", USAGE, String::new())
    }

    /// There is no such question, or not any more.
    pub const fn no_such_question() -> Self {
        Self::new("no-such-question", "FW-OWN-13", USAGE, String::new())
    }

    /// There is no run of this number.
    pub const fn no_such_run() -> Self {
        Self::new("no-such-run", "FW-OWN-16", USAGE, String::new())
    }

    /// All repairs are allowed only for a while.
    pub const fn how_long() -> Self {
        Self::new("how-long", "FW-OWN-14", USAGE, String::new())
    }

    /// The agent could not keep what it was told.
    pub const fn not_written(cause: String) -> Self {
        Self::new("not-written", "FW-OWN-15", FAILED, cause)
    }

    /// The account may not look into the agent's folder.
    fn no_rights(cause: String) -> Self {
        // An administrator is not told to become one.
        match rustix::process::geteuid().is_root() {
            true => Self::new("folder", "FW-CLI-10", FAILED, cause),
            false => Self::new("no-rights", "FW-OWN-29", FAILED, cause),
        }
    }

    /// Whether only rights are missing; nothing is wrong then.
    pub fn lacks_rights(&self) -> bool {
        self.id == "no-rights"
    }

    /// There is no room for the record that stays.
    pub const fn no_room(cause: String) -> Self {
        Self::new("no-room", "FW-OWN-28", FAILED, cause)
    }

    /// The agent is there and does not answer.
    pub const fn silent() -> Self {
        Self::new("silent", "FW-OWN-19", NO_ANSWER, String::new())
    }

    /// It holds, but a restart forgets it.
    pub const fn not_kept(cause: String) -> Self {
        Self::new("not-kept", "FW-OWN-17", FAILED, cause)
    }

    /// Only the administrator may say that.
    pub const fn not_yours() -> Self {
        Self::new("not-yours", "FW-OWN-18", REFUSED, String::new())
    }

    /// What cannot be undone was not confirmed.
    pub const fn unconfirmed() -> Self {
        Self::new("unconfirmed", "FW-OWN-26", USAGE, String::new())
    }

    /// A file cannot be read.
    pub fn unreadable(path: &std::path::Path, cause: &std::io::Error) -> Self {
        Self::new("unreadable", "FW-CLI-10", USAGE, format!("{}: {cause}", path.display()))
    }

    /// The same, or that the disk is full, where that keeps the folder from
    /// being used.
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
            HomeError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Self::no_rights(chain(&error))
            }
            HomeError::File(file) if file.system() == Some(std::io::ErrorKind::PermissionDenied) => {
                Self::no_rights(chain(&error))
            }
            HomeError::Io { .. } | HomeError::File(_) => Self::new("folder", "FW-CLI-10", FAILED, chain(&error)),
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
            // No word about this computer.
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
