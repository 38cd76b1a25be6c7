//! What has happened, in order: a few counts, a hash of all of it, and the last
//! lines for whoever must find out why.

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
pub(crate) struct Story(Arc<Mutex<Told>>);

#[derive(Debug)]
struct Told {
    begun: Instant,
    /// Whether each line is printed as it is told.
    aloud: bool,
    hash: DefaultHasher,
    lines: VecDeque<String>,
    /// How often each run's script has begun.
    effects: BTreeMap<RunId, u32>,
}

impl Story {
    /// One that begins now.
    pub(crate) fn new() -> Self {
        let told = Told {
            begun: Instant::now(),
            aloud: std::env::var_os("FERNWART_ALOUD").is_some(),
            // Its keys are fixed: the same words are the same hash in every process.
            hash: DefaultHasher::new(),
            lines: VecDeque::new(),
            effects: BTreeMap::new(),
        };
        Self(Arc::new(Mutex::new(told)))
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().expect("nobody panics here")
    }

    /// Something has happened.
    pub(crate) fn tell(&self, what: &str) {
        let mut told = self.told();
        let at = told.begun.elapsed().as_millis();
        told.hash.write(&at.to_le_bytes());
        told.hash.write(what.as_bytes());
        if told.aloud {
            println!("{:>9}.{:03} {what}", at / 1000, at % 1000);
        }
        if told.lines.len() == LINES {
            told.lines.pop_front();
        }
        told.lines.push_back(format!("{:>9}.{:03} {what}", at / 1000, at % 1000));
    }

    /// A datagram is on its way: in the hash, in no line.
    pub(crate) fn datagram(&self, from: IpAddr, to: IpAddr, delay: u64) {
        let mut told = self.told();
        let at = told.begun.elapsed().as_millis();
        for ip in [from, to] {
            if let IpAddr::V4(ip) = ip {
                told.hash.write(&ip.octets());
            }
        }
        told.hash.write(&at.to_le_bytes());
        told.hash.write(&delay.to_le_bytes());
    }

    /// A script has begun.
    pub(crate) fn effect(&self, run: RunId, machine: usize) {
        self.tell(&format!("machine {machine} begins {run}"));
        *self.told().effects.entry(run).or_default() += 1;
    }

    /// How often each script has begun.
    pub(crate) fn effects(&self) -> BTreeMap<RunId, u32> {
        self.told().effects.clone()
    }

    /// One number for all that has happened.
    pub(crate) fn hash(&self) -> u64 {
        self.told().hash.finish()
    }

    /// The last lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.told().lines.iter().cloned().collect()
    }

    /// Milliseconds since it began.
    pub(crate) fn at(&self) -> u64 {
        u64::try_from(self.told().begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
