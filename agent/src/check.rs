//! Is all well with the agent itself? For the customer, and for whoever helps.

use crate::executor::ExecutorError;
use crate::executor::books::{Books, BooksError};
use crate::home::{Enrollment, Home};
use crate::local::{self, Answer, Question};
use crate::status;
use crate::words::Words;
use fernwart_certs::identity::{SealingKey, SigningKey, TlsIdentity};
use fernwart_certs::keyfile::KeyFileError;
use fernwart_protocol::text::chain;

/// What was looked at, line by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The lines.
    pub text: String,
    /// Whether all is well.
    pub well: bool,
}

impl Checked {
    fn line(&mut self, words: &Words, id: &str, trouble: Option<String>) {
        let (word, more) = match &trouble {
            None => (words.say("check-well"), String::new()),
            Some(why) => (words.say("check-bad"), format!("\n          {why}")),
        };
        self.well &= trouble.is_none();
        self.text += &format!("{word:<9} {}{more}\n", words.say(id));
    }
}

/// Looks at keys, rules, the disk, the running agent, its link and its clock.
///
/// # Errors
/// When the running agent does not answer.
pub fn check(home: &Home, enrollment: &Enrollment, words: &Words) -> std::io::Result<Checked> {
    let mut checked = Checked { text: String::new(), well: true };
    checked.line(words, "check-keys", keys(home).err().map(|error| error.to_string()));
    let rules = status::policy(home).err().map(|error| chain(&error));
    checked.line(words, "check-rules", rules);
    let known = fernwart_certs::identity::machine_id;
    let own = SigningKey::read(&home.evidence_key()).is_ok_and(|key| known(&key.public()) == enrollment.machine);
    checked.line(words, "check-name", (!own).then(|| home.evidence_key().display().to_string()));
    checked.line(words, "check-disk", home.is_disk_full().then(|| words.say("check-disk-now")));
    match local::ask(&home.socket(), &Question::Status)? {
        Some(Answer::Status(status)) => {
            checked.line(words, "check-books", status.books);
            checked.line(words, "check-running", None);
            checked.line(words, "check-link", (!status.linked).then(|| words.say("status-unlinked")));
            checked.line(words, "check-clock", (!status.clock_plausible).then(|| words.say("check-clock-now")));
            let late = status.catalogue_until < crate::now();
            checked.line(words, "check-approvals", late.then(|| words.say("check-approvals-now")));
        }
        _ => {
            // A running agent has them open; nobody else may look then.
            checked.line(words, "check-books", books(home, words).err());
            checked.line(words, "check-running", Some(words.say("status-stopped")));
        }
    }
    Ok(checked)
}

fn books(home: &Home, words: &Words) -> Result<(), String> {
    match Books::open(&home.books()).and_then(|books| books.read_all()) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(ExecutorError::NoCatalogue.to_string()),
        // Nothing is wrong with them.
        Err(BooksError::Newer { .. }) => Err(words.say("trouble-newer-books")),
        Err(error) => Err(chain(&error)),
    }
}

fn keys(home: &Home) -> Result<(), KeyFileError> {
    SigningKey::read(&home.evidence_key())?;
    SealingKey::read(&home.sealing_key())?;
    TlsIdentity::read(&home.tls_identity()).map(drop)
}
