//! Checks whether the agent itself works properly, for the customer and their support.

use crate::executor::ExecutorError;
use crate::executor::state::{StateError, StateStore};
use crate::home::{Enrollment, Home};
use crate::identity;
use crate::local::{self, Answer, Question};
use crate::owner::status::{self, PolicyError};
use crate::owner::words::Words;
use fernwart_certs::identity::{SealingKey, SigningKey, TlsIdentity};
use fernwart_certs::keyfile::KeyFileError;
use fernwart_protocol::text::chain;

/// The result of all checks, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The lines.
    pub text: String,
    /// Whether all is well.
    pub well: bool,
}

impl Checked {
    fn line(&mut self, words: &Words, id: &str, user_error: Option<String>) {
        let (word, more) = match &user_error {
            None => (words.say("check-well"), String::new()),
            Some(why) => (words.say("check-bad"), format!("\n          {why}")),
        };
        self.well &= user_error.is_none();
        self.text += &format!("{word:<9} {}{more}\n", words.say(id));
    }
}

/// Checks keys, policy, disk, the running agent, its link and its clock.
///
/// # Errors
/// When the running agent does not answer.
pub fn check(home: &Home, enrollment: &Enrollment, words: &Words) -> std::io::Result<Checked> {
    let mut checked = Checked { text: String::new(), well: true };
    checked.line(words, "check-keys", keys(home).err().map(|error| words.file(&error)));
    let rules = status::policy(home).err().map(|error| match error {
        PolicyError::File(error) => words.file(&error),
        PolicyError::Rules(error) => chain(&error),
    });
    checked.line(words, "check-rules", rules);
    checked.line(words, "check-disk", home.is_disk_full().then(|| words.say("check-disk-now")));
    match local::ask(&home.socket(), &Question::Status)? {
        Some(Answer::Status(status)) => {
            // The running agent holds its records and has checked that they belong to this
            // machine.
            checked.line(words, "check-name", mixed(home, enrollment, None).or(status.changed_files));
            checked.line(words, "check-books", status.store);
            checked.line(words, "check-running", None);
            match status.parted {
                Some(_) => checked.line(words, "check-parted", None),
                None => checked.line(words, "check-link", (!status.linked).then(|| words.say("status-unlinked"))),
            }
            checked.line(words, "check-clock", (!status.clock_plausible).then(|| words.say("check-clock-now")));
            let late = status.catalogue_until < crate::now();
            checked.line(words, "check-approvals", late.then(|| words.say("check-approvals-now")));
        }
        _ => {
            // While an agent is running, only it can open the records.
            let opened = StateStore::open(&home.store());
            checked.line(words, "check-name", mixed(home, enrollment, opened.as_ref().ok()));
            checked.line(words, "check-books", store(opened, words).err());
            checked.line(words, "check-running", Some(crate::owner::status::stopped(home, words)));
        }
    }
    Ok(checked)
}

/// The files that do not belong to this machine, as text.
fn mixed(home: &Home, enrollment: &Enrollment, store: Option<&StateStore>) -> Option<String> {
    // An unreadable key has a line of its own.
    let (evidence, sealing, tls) = keys(home).ok()?;
    let files = identity::Files { evidence: &evidence, sealing: &sealing, tls: &tls, store };
    match identity::verify(home, enrollment, &files) {
        Ok(Err(foreign)) => Some(foreign.to_string()),
        // Unreadable records have a line of their own, too.
        Ok(Ok(())) | Err(_) => None,
    }
}

fn store(opened: Result<StateStore, StateError>, words: &Words) -> Result<(), String> {
    match opened.and_then(|store| store.read_all()) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(ExecutorError::NoCatalogue.to_string()),
        // The records are not damaged.
        Err(StateError::Newer { .. }) => Err(words.say("trouble-newer-books")),
        Err(error) => Err(chain(&error)),
    }
}

fn keys(home: &Home) -> Result<(SigningKey, SealingKey, TlsIdentity), KeyFileError> {
    let evidence = SigningKey::read(&home.evidence_key())?;
    Ok((evidence, SealingKey::read(&home.sealing_key())?, TlsIdentity::read(&home.tls_identity())?))
}
