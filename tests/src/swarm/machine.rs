//! A simulated computer: it uses this computer's clock and reports recorded facts, and its scripts end at
//! once.

use super::facts::Facts;
use fernwart_agent::executor::state::Moment;
use fernwart_agent::executor::{Act, DesktopNotice, Event, Look, Machine, send_later};
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::{BootId, RunId};
use fernwart_protocol::script::{Cage, Manifest};
use fernwart_protocol::text::Text;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// The computer.
pub struct Simulated {
    events: mpsc::Sender<Event>,
    facts: Arc<Facts>,
    seed: u64,
    looks: AtomicU64,
    effects: Effects,
}

/// How often each script has begun. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Effects(Arc<Mutex<HashMap<RunId, u32>>>);

impl Effects {
    fn add(&self, run: RunId) {
        *self.0.lock().expect("nobody panics here").entry(run).or_default() += 1;
    }

    /// All of them.
    pub fn counted(&self) -> HashMap<RunId, u32> {
        self.0.lock().expect("nobody panics here").clone()
    }
}

impl Simulated {
    /// One that sees these facts, varied by its seed.
    pub fn new(events: mpsc::Sender<Event>, facts: Arc<Facts>, seed: u64, effects: Effects) -> Self {
        Self { events, facts, seed, looks: AtomicU64::new(0), effects }
    }

    fn say(&self, event: Event) {
        let events = self.events.clone();
        tokio::spawn(async move {
            // Fails only once the machine is switched off.
            let _ = events.send(event).await;
        });
    }
}

impl Machine for Simulated {
    fn moment(&self) -> Moment {
        let now = self.now();
        Moment { now, since_boot_ms: u64::try_from(now).unwrap_or_default(), boot: BootId::from_bytes([7; 16]) }
    }

    fn now(&self) -> UnixMs {
        fernwart_agent::now()
    }

    fn os(&self) -> Text<64> {
        Text::clipped("Simulated 1")
    }

    fn cage(&self, _: &Manifest) -> Option<Cage> {
        Some(Cage::Namespaces)
    }

    fn end(&self, _: &RunId) {}

    fn later(&self, then: Duration, event: Event) {
        send_later(&tokio::runtime::Handle::current(), self.events.clone(), then, event);
    }

    fn look(&self, look: Look) {
        let nth = self.looks.fetch_add(1, Ordering::Relaxed);
        let report = self.facts.report(self.seed.wrapping_add(nth << 32), &look.sections);
        self.say(Event::Looked(look.run, Some(report), look.started_at, None));
    }

    fn act(&self, act: Act) {
        self.effects.add(act.run);
        let report = act.ends_well(self.now());
        self.say(Event::ScriptEnded(act.run, Ok(Box::new(report))));
    }

    fn show(&self, _: DesktopNotice) {}
}
