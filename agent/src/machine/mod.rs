//! This machine: where the executor's decisions have effects.

mod files;
mod script;

pub use files::HomeFiles;

use crate::action::script::ScriptError;
use crate::collect::{self, Looked};
use crate::executor::state::{Moment, StateStore};
use crate::executor::{self, Act, DesktopNotice, Event, ExecutorError, Handle, Look, Machine, Parts};
use crate::home::{Enrollment, Home};
use crate::identity;
use crate::message::ToUplink;
use crate::owner;
use crate::owner::words::Words;
use crate::platform::{cage, clock, facts, memory, notice};
use fernwart_certs::identity::{SealingKey, SigningKey, TlsIdentity};
use fernwart_certs::journal::Line;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::{BootId, MachineId, PublicKey, RunId};
use fernwart_protocol::script::{Cage, Manifest};
use fernwart_protocol::text::Text;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::warn;

/// The computer on which this program runs.
pub struct ThisMachine {
    boot: BootId,
    home: Home,
    events: mpsc::Sender<Event>,
    runtime: tokio::runtime::Handle,
}

/// Starts the executor of the machine whose folder this is.
///
/// # Errors
/// When keys, state store or catalogue cannot be used, or do not all belong to one machine.
pub fn start(
    home: &Home,
    enrollment: Enrollment,
    tls: &TlsIdentity,
) -> Result<(Handle, mpsc::Receiver<ToUplink>), ExecutorError> {
    let parts = Parts {
        evidence: SigningKey::read(&home.evidence_key()).map(Arc::new).map_err(ExecutorError::Key)?,
        sealing: SealingKey::read(&home.sealing_key()).map(Arc::new).map_err(ExecutorError::Key)?,
        store: StateStore::open(&home.store()).map_err(ExecutorError::StateStore)?,
        files: Box::new(HomeFiles(home.clone())),
        enrollment,
    };
    let Parts { evidence, sealing, store, .. } = &parts;
    let files = identity::Files { evidence, sealing, tls, store: Some(store) };
    identity::verify(home, &parts.enrollment, &files)
        .map_err(ExecutorError::StateStore)?
        .map_err(ExecutorError::Mixed)?;
    executor::start(parts, |events| Box::new(ThisMachine::new(home.clone(), events)))
}

/// The journal of an agent that is not running, with its signed end.
///
/// # Errors
/// When keys or state store cannot be used.
pub fn journal_at_rest(home: &Home, machine: MachineId) -> Result<Vec<Line>, ExecutorError> {
    let evidence = SigningKey::read(&home.evidence_key()).map_err(ExecutorError::Key)?;
    let store = StateStore::open(&home.store()).map_err(ExecutorError::StateStore)?;
    executor::journal_at_rest(machine, &store, &evidence)
}

impl ThisMachine {
    /// Must be made on a tokio runtime.
    fn new(home: Home, events: mpsc::Sender<Event>) -> Self {
        Self { boot: clock::boot_id(), home, events, runtime: tokio::runtime::Handle::current() }
    }
}

impl Machine for ThisMachine {
    fn moment(&self) -> Moment {
        Moment { now: crate::now(), since_boot_ms: clock::since_boot_ms(), boot: self.boot }
    }

    fn now(&self) -> UnixMs {
        crate::now()
    }

    fn os(&self) -> Text<64> {
        facts::os_in_a_word()
    }

    fn known_updates(&self) -> Option<String> {
        facts::known_updates()
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
        executor::send_later(&self.runtime, self.events.clone(), then, event);
    }

    fn look(&self, look: Look) {
        let Look { run, sections, surroundings, rules, started_at } = look;
        let (events, looked_by) = (self.events.clone(), rules.clone());
        let looking = move || {
            let Looked { report, past } = collect::look(facts::lens(&looked_by), &sections, &surroundings);
            memory::give_back();
            let looked = Event::Looked(run, report.pack().ok(), started_at, past.map(Box::new));
            // Fails only once the executor has stopped.
            let _ = events.blocking_send(looked);
        };
        if let Err(error) = std::thread::Builder::new().name("look".into()).stack_size(512 * 1024).spawn(looking) {
            warn!(%error, "no thread could be started for a diagnosis");
            let report = collect::unable(&rules, &error.to_string()).pack().ok();
            self.later(Duration::ZERO, Event::Looked(run, report, started_at, None));
        }
    }

    /// The agent's own folder is hidden from the script.
    fn act(&self, mut act: Act) {
        act.task.hide.push(self.home.real_path());
        let (run, events) = (act.run, self.events.clone());
        let acting = move || script::perform(act, &events);
        if let Err(error) = std::thread::Builder::new().name("act".into()).stack_size(512 * 1024).spawn(acting) {
            self.later(Duration::ZERO, Event::ScriptEnded(run, Err(ScriptError::Io(error))));
        }
    }

    fn show(&self, shown: DesktopNotice) {
        let DesktopNotice { shop, notice, accounts, language } = shown;
        self.runtime.spawn_blocking(move || {
            let (head, body) = owner::notice::in_words(&notice, &shop, &Words::new(language));
            notice::show(&head, &body, &accounts);
        });
    }
}
