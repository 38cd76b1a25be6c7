//! A simulated computer with a virtual clock, on which scripts take some time.

use crate::disks::Life;
use crate::story::Story;
use fernwart_agent::executor::state::Moment;
use fernwart_agent::executor::{Act, DesktopNotice, Event, Look, Machine, send_later};
use fernwart_protocol::clock::Clock;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::{BootId, RunId};
use fernwart_protocol::script::{Cage, Manifest};
use fernwart_protocol::text::Text;
use fernwart_tests::swarm::Chance;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A computer's boot: its id and its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Boot {
    pub(crate) id: BootId,
    pub(crate) at: Instant,
}

/// The computer.
pub(crate) struct Computer {
    pub(crate) index: usize,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) clock: Clock,
    pub(crate) boot: Boot,
    pub(crate) life: Life,
    pub(crate) story: Story,
    pub(crate) chance: Mutex<Chance>,
}

impl Computer {
    fn below(&self, end: u64) -> u64 {
        self.chance.lock().expect("nobody panics here").below(end)
    }
}

impl Machine for Computer {
    fn moment(&self) -> Moment {
        let since_boot_ms = u64::try_from(self.boot.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        Moment { now: self.now(), since_boot_ms, boot: self.boot.id }
    }

    fn now(&self) -> UnixMs {
        self.clock.now()
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

    /// The report is always the same: the length of a real one would change from day to day, and with it
    /// the story of a seed.
    fn look(&self, look: Look) {
        let wait = Duration::from_millis(self.below(3_000));
        let report = (self.below(8) > 0).then(|| b"a report".to_vec());
        let (events, life) = (self.events.clone(), self.life.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if life.goes_on() {
                let _ = events.send(Event::Looked(look.run, report, look.started_at, None)).await;
            }
        });
    }

    fn act(&self, act: Act) {
        if !self.life.goes_on() {
            return;
        }
        self.story.effect(act.run, self.index);
        let steps = if self.below(4) == 0 { self.below(60) } else { self.below(4) };
        let (events, life, story) = (self.events.clone(), self.life.clone(), self.story.clone());
        tokio::spawn(async move {
            for _ in 0..steps {
                tokio::time::sleep(Duration::from_millis(500)).await;
                if !life.goes_on() || act.is_cancelled() {
                    break;
                }
            }
            if life.goes_on() {
                story.tell(&format!("{} ends, cancelled: {}", act.run, act.is_cancelled()));
                // The report contains no date: otherwise its packed length would depend on the day, and so
                // would the story of a seed.
                let _ = events.send(Event::ScriptEnded(act.run, Ok(Box::new(act.ends_well(0))))).await;
            }
        });
    }

    fn show(&self, _: DesktopNotice) {}

    /// Short enough to happen within a world's hour, among all its faults.
    fn confirm_after(&self) -> Duration {
        Duration::from_secs(60)
    }
}
