//! The effects the executor needs: clocks, timers, looks, scripts, desktop notices.
//!
//! The executor decides; a [`Machine`] carries it out. The daemon uses [`ThisMachine`]; tests and
//! benchmarks use simulated ones.

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

    /// Runs a script; sends [`Event::Output`], and [`Event::ScriptEnded`] at the end.
    fn act(&self, act: Act);

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

/// A look to be run now.
#[derive(Debug)]
pub struct Look {
    /// The run.
    pub run: RunId,
    /// The sections to look at; empty means all.
    pub sections: Vec<SectionName>,
    /// Facts known to the state store and the link.
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
            warn!(%error, "no thread could be started for a diagnosis");
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

    fn show(&self, shown: DesktopNotice) {
        let DesktopNotice { shop, notice, accounts, language } = shown;
        self.runtime
            .spawn_blocking(move || crate::owner::notice::show(&shop, &notice, &accounts, &Words::new(language)));
    }
}
