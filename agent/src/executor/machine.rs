//! The effects the executor needs: clocks, timers, looks, scripts, desktop notices, and the
//! files it reads and writes beside its state store.
//!
//! The executor decides; a [`Machine`] carries it out. The daemon uses
//! [`ThisMachine`](crate::machine::ThisMachine); tests and benchmarks use simulated ones.

use super::Event;
use super::notice::Notice;
use super::state::Moment;
use crate::action::script::Task;
use crate::channel::Writer;
use crate::collect::Surroundings;
use crate::home::Enrollment;
use fernwart_certs::keyfile::KeyFileError;
use fernwart_protocol::diagnosis::{Language, Rules};
use fernwart_protocol::document::{SectionName, UnixMs};
use fernwart_protocol::id::{Digest, PublicKey, RunId};
use fernwart_protocol::script::{Cage, Kept, Manifest, RunReport, Stopped};
use fernwart_protocol::text::Text;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// The computer, as the executor needs it. Results of slow operations come back as an [`Event`].
pub trait Machine: Send {
    /// The time, by all clocks.
    fn moment(&self) -> Moment;

    /// The time, by the wall clock.
    fn now(&self) -> UnixMs;

    /// The cage available here for this script's limits.
    fn cage(&self, manifest: &Manifest) -> Option<Cage>;

    /// Kills the processes that a run left behind when the agent stopped.
    fn end(&self, run: &RunId);

    /// Sends this event after a delay.
    fn later(&self, then: Duration, event: Event);

    /// Starts a look; sends [`Event::Looked`] when it is done.
    fn look(&self, look: Look);

    /// Runs a script, which writes to its channel; sends [`Event::ScriptEnded`] at the end.
    fn act(&self, act: Act);

    /// The operating system in a word.
    fn os(&self) -> Text<64>;

    /// What the package manager answered last, if anything ([`Surroundings::known_updates`]).
    fn known_updates(&self) -> Option<String> {
        None
    }

    /// Shows a notice to the users who are logged in.
    fn show(&self, notice: DesktopNotice);

    /// What differs in the files that hold this machine's identity (enrollment, evidence key,
    /// sealing key) from what the agent started with. None if nothing differs, or there are no
    /// such files.
    fn changed_files(&self, _: &Enrollment, _: (PublicKey, PublicKey)) -> Option<String> {
        None
    }

    /// How long a new version must have been linked before it is confirmed. A technician who
    /// updates a machine sees within minutes whether it reconnects.
    fn confirm_after(&self) -> Duration {
        Duration::from_secs(3600)
    }
}

/// Sends an event after a delay, from a task of this runtime; for [`Machine::later`].
pub fn send_later(runtime: &tokio::runtime::Handle, events: mpsc::Sender<Event>, then: Duration, event: Event) {
    runtime.spawn(async move {
        tokio::time::sleep(then).await;
        // Fails only once the executor has stopped.
        let _ = events.send(event).await;
    });
}

/// The files that the executor uses beside its state store.
pub trait Files: Send {
    /// The text of the owner's policy as it is now.
    ///
    /// # Errors
    /// Why it cannot be read, or must not be believed.
    fn policy(&self) -> Result<String, KeyFileError>;

    /// The owner's consent and pause; none if none was ever given.
    ///
    /// # Errors
    /// Why it cannot be read, or must not be believed.
    fn consent(&self) -> Result<Option<Vec<u8>>, KeyFileError>;

    /// Replaces the owner's consent and pause, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    fn keep_consent(&self, text: &[u8]) -> Result<(), KeyFileError>;

    /// The blob stored under this hash, up to [`BLOB_BYTES`](fernwart_protocol::limits::BLOB_BYTES)
    /// and one byte. Its content is not checked.
    fn blob(&self, hash: &Digest) -> Option<Vec<u8>>;

    /// Stores a blob under its hash.
    ///
    /// # Errors
    /// When it cannot be written; nothing is left of it then.
    fn keep_blob(&self, hash: &Digest, bytes: &[u8]) -> io::Result<()>;

    /// Removes all blobs but these.
    fn keep_only_blobs(&self, needed: &HashSet<Digest>);
}

/// A look to be run now.
#[derive(Debug)]
pub struct Look {
    /// The run.
    pub run: RunId,
    /// The sections to look at; empty means all.
    pub sections: Vec<SectionName>,
    /// Facts known to the state store and the link.
    pub surroundings: Surroundings,
    /// The rules to judge by.
    pub rules: Arc<Rules>,
    /// When it begins.
    pub started_at: UnixMs,
}

/// A script to be run now.
#[derive(Debug)]
pub struct Act {
    /// The run.
    pub run: RunId,
    pub(crate) task: Task,
    pub(crate) surroundings: Surroundings,
    /// The rules to judge by, before and after it.
    pub(crate) rules: Arc<Rules>,
    /// Where its output goes while it runs.
    pub(crate) output: Writer,
    /// Set to end it.
    pub(crate) cancelled: Arc<AtomicBool>,
}

impl Act {
    /// Whether the script is to be stopped.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// The report of a script that succeeded, or was cancelled, and wrote no output: for
    /// simulated machines.
    pub fn ends_well(&self, now: UnixMs) -> RunReport {
        let stopped = self.is_cancelled().then_some(Stopped::Cancelled);
        RunReport {
            v: 1,
            bundle: self.task.manifest.name.clone(),
            version: self.task.manifest.version,
            dry_run: self.task.dry_run,
            cage: self.task.cage,
            exit: Some(0),
            well: true,
            means: None,
            signal: None,
            stopped,
            started_at: now,
            took_ms: 0,
            stdout: Kept::default(),
            stderr: Kept::default(),
            redacted: 0,
            unseen: Vec::new(),
            checked: !self.task.manifest.checks.is_empty(),
            before: Some(Vec::new()),
            after: Some(Vec::new()),
        }
    }
}

/// A notice, and the accounts it is shown to.
#[derive(Debug)]
pub struct DesktopNotice {
    pub(crate) shop: String,
    pub(crate) notice: Notice,
    pub(crate) accounts: Vec<String>,
    pub(crate) language: Language,
}
