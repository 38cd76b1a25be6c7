//! All events of a world in order: a few counts, a hash of all of them, and the last lines for debugging.

use fernwart_protocol::id::RunId;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::time::Instant;

/// Lines that are kept.
const LINES: usize = 4_000;

/// The story. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Story(Arc<Mutex<Reported>>);

#[derive(Debug)]
struct Reported {
    begun: Instant,
    /// Whether each line is printed as it is recorded.
    aloud: bool,
    hash: DefaultHasher,
    lines: VecDeque<String>,
    /// How often each run's script has begun.
    effects: BTreeMap<RunId, u32>,
}

impl Story {
    /// One that begins now.
    pub(crate) fn new() -> Self {
        let reported = Reported {
            begun: Instant::now(),
            aloud: std::env::var_os("FERNWART_ALOUD").is_some(),
            // Its keys are fixed: the same events give the same hash in every process.
            hash: DefaultHasher::new(),
            lines: VecDeque::new(),
            effects: BTreeMap::new(),
        };
        Self(Arc::new(Mutex::new(reported)))
    }

    fn reported(&self) -> MutexGuard<'_, Reported> {
        self.0.lock().expect("nobody panics here")
    }

    /// Records an event.
    pub(crate) fn tell(&self, what: &str) {
        let mut reported = self.reported();
        let at = reported.begun.elapsed().as_millis();
        reported.hash.write(&at.to_le_bytes());
        reported.hash.write(what.as_bytes());
        if reported.aloud {
            println!("{:>9}.{:03} {what}", at / 1000, at % 1000);
        }
        if reported.lines.len() == LINES {
            reported.lines.pop_front();
        }
        reported.lines.push_back(format!("{:>9}.{:03} {what}", at / 1000, at % 1000));
    }

    /// Records a datagram: in the hash, but not as a line.
    pub(crate) fn datagram(&self, from: IpAddr, to: IpAddr, delay: u64) {
        let mut reported = self.reported();
        let at = reported.begun.elapsed().as_millis();
        for ip in [from, to] {
            if let IpAddr::V4(ip) = ip {
                reported.hash.write(&ip.octets());
            }
        }
        reported.hash.write(&at.to_le_bytes());
        reported.hash.write(&delay.to_le_bytes());
    }

    /// Records that a script has begun.
    pub(crate) fn effect(&self, run: RunId, machine: usize) {
        self.tell(&format!("machine {machine} begins {run}"));
        *self.reported().effects.entry(run).or_default() += 1;
    }

    /// How often each script has begun.
    pub(crate) fn effects(&self) -> BTreeMap<RunId, u32> {
        self.reported().effects.clone()
    }

    /// A hash of all events.
    pub(crate) fn hash(&self) -> u64 {
        self.reported().hash.finish()
    }

    /// The last lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.reported().lines.iter().cloned().collect()
    }

    /// Milliseconds since it began.
    pub(crate) fn at(&self) -> u64 {
        u64::try_from(self.reported().begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
