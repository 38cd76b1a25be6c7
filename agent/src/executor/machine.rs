//! What the executor cannot do by itself: tell the time, wait, look, act, and
//! speak to whoever sits at the computer.
//!
//! The executor decides; a [`Machine`] is where its decisions have effects. The
//! daemon has [`ThisMachine`]; tests and benchmarks have simulated ones.

use super::state::Moment;
use super::{Event, clocks};
use crate::action::cage;
use crate::action::script::{ScriptError, Task};
use crate::collect::{self, Looked, Surroundings};
use crate::home::{Enrollment, Home};
use crate::identity;
use crate::owner::notice::Notice;
use crate::owner::words::Words;
use fernwart_protocol::diagnosis::Language;
use fernwart_protocol::document::{SectionName, UnixMs};
use fernwart_protocol::id::{BootId, PublicKey, RunId};
use fernwart_protocol::script::{Cage, Kept, Manifest, RunReport, Stopped};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::warn;

/// The computer, as the executor needs it. What takes time comes back as an
/// [`Event`].
pub trait Machine: Send {
    /// What time it is, by all clocks.
    fn moment(&self) -> Moment;

    /// What time it is, by the wall clock.
    fn now(&self) -> UnixMs;

    /// What can hold a script within its limits here.
    fn cage(&self, manifest: &Manifest) -> Option<Cage>;

    /// Ends whatever a run has left behind when the agent stopped.
    fn end(&self, run: &RunId);

    /// Has this happen later.
    fn later(&self, then: Duration, event: Event);

    /// Looks, and says [`Event::Looked`].
    fn look(&self, look: Look);

    /// Runs a script, and says [`Event::Output`] and in the end [`Event::ScriptEnded`].
    fn act(&self, act: Act);

    /// Shows something to whoever sits there.
    fn show(&self, notice: DesktopNotice);

    /// What is wrong with the files that say who this machine is, held against what the
    /// agent started with: its enrollment, evidence key and sealing key. Nothing where
    /// all is as it was, or there are no such files.
    fn changed_files(&self, _: &Enrollment, _: (PublicKey, PublicKey)) -> Option<String> {
        None
    }

    /// How long a new program must have been linked before it is confirmed. A
    /// technician who updates a machine sees within minutes whether it reconnects.
    fn confirm_after(&self) -> Duration {
        Duration::from_secs(3600)
    }
}

/// Something to look at now.
#[derive(Debug)]
pub struct Look {
    /// The run.
    pub run: RunId,
    /// What to look at; all if none is named.
    pub sections: Vec<SectionName>,
    /// What the state store and the link know.
    pub surroundings: Surroundings,
    /// When it begins.
    pub started_at: UnixMs,
}

/// A script to be run now.
#[derive(Debug)]
pub struct Act {
    /// The run.
    pub run: RunId,
    pub(super) task: Task,
    pub(super) surroundings: Surroundings,
    /// Set to end it.
    pub(super) cancelled: Arc<AtomicBool>,
}

impl Act {
    /// Whether it is to be ended.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// What there is to tell of a script that did its work, or was taken back at
    /// it, and wrote nothing: for machines that are only simulated.
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

/// A notice, and for whom.
#[derive(Debug)]
pub struct DesktopNotice {
    pub(super) shop: String,
    pub(super) notice: Notice,
    pub(super) accounts: Vec<String>,
    pub(super) language: Language,
}

/// The computer on which this program runs.
pub(super) struct ThisMachine {
    boot: BootId,
    home: Home,
    events: mpsc::Sender<Event>,
    runtime: tokio::runtime::Handle,
}

impl ThisMachine {
    /// Must be made on a tokio runtime.
    pub(super) fn new(home: Home, events: mpsc::Sender<Event>) -> Self {
        Self { boot: clocks::boot_id(), home, events, runtime: tokio::runtime::Handle::current() }
    }
}

impl Machine for ThisMachine {
    fn moment(&self) -> Moment {
        clocks::moment(self.boot)
    }

    fn now(&self) -> UnixMs {
        crate::now()
    }

    fn cage(&self, manifest: &Manifest) -> Option<Cage> {
        cage::for_script(manifest, &self.home.real_path())
    }

    fn changed_files(&self, enrollment: &Enrollment, keys: (PublicKey, PublicKey)) -> Option<String> {
        identity::unchanged(&self.home, enrollment, keys).err()
    }

    fn end(&self, run: &RunId) {
        cage::end(&run.to_string());
    }

    fn later(&self, then: Duration, event: Event) {
        let events = self.events.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(then).await;
            // Fails only once the executor has stopped.
            let _ = events.send(event).await;
        });
    }

    fn look(&self, look: Look) {
        let Look { run, sections, surroundings, started_at } = look;
        let events = self.events.clone();
        let looking = move || {
            let Looked { report, past } = collect::look(&sections, &surroundings);
            let looked = Event::Looked(run, report.pack().ok(), started_at, past.map(Box::new));
            // Fails only once the executor has stopped.
            let _ = events.blocking_send(looked);
        };
        if let Err(error) = std::thread::Builder::new().name("look".into()).stack_size(512 * 1024).spawn(looking) {
            warn!(%error, "no thread to look with");
            let report = collect::unable(&error.to_string()).pack().ok();
            self.later(Duration::ZERO, Event::Looked(run, report, started_at, None));
        }
    }

    fn act(&self, act: Act) {
        let (run, events) = (act.run, self.events.clone());
        let acting = move || super::script_runs::perform(&act, &events);
        if let Err(error) = std::thread::Builder::new().name("act".into()).stack_size(512 * 1024).spawn(acting) {
            self.later(Duration::ZERO, Event::ScriptEnded(run, Err(ScriptError::Io(error))));
        }
    }

    fn show(&self, said: DesktopNotice) {
        let DesktopNotice { shop, notice, accounts, language } = said;
        self.runtime
            .spawn_blocking(move || crate::owner::notice::show(&shop, &notice, &accounts, &Words::new(language)));
    }
}
