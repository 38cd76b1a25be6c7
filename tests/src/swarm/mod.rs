//! Thousands of machines in one process: the agent's own uplink, gate, journal and delivery of outcomes
//! over real QUIC with real certificates. Only the facts they report are simulated, and their state store
//! is in memory.
//!
//! They join by one invitation for many, share a few UDP sockets, and can be
//! switched off and on. Needs a tokio runtime.

mod chance;
mod disk;
mod facts;
mod machine;

pub use chance::Chance;
pub use disk::Disk;
pub use facts::Facts;
pub use machine::{Effects, Simulated};

use fernwart_agent::enroll::{self, Accepted, Keys};
use fernwart_agent::executor::policy::TRUSTED;
use fernwart_agent::executor::state::{StateError, StateStore, Tables};
use fernwart_agent::executor::{self, Executor};
use fernwart_agent::home::{Enrollment, Home};
use fernwart_agent::machine::HomeFiles;
use fernwart_agent::uplink::{self, Uplink};
use fernwart_certs::catalogue::Trusted;
use fernwart_certs::identity::{SealingKey, SigningKey, TlsIdentity};
use fernwart_certs::invitation::Invitation;
use fernwart_protocol::clock::Clock;
use fernwart_protocol::id::{MachineId, PublicKey};
use fernwart_protocol::link::Dialer;
use fernwart_protocol::text::Text;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// UDP sockets of a swarm: one carries a few hundred links.
const SOCKETS: usize = 16;

/// Machines that join at once.
const JOINING: usize = 32;

/// Many machines.
pub struct Swarm {
    members: Vec<Member>,
    sockets: Vec<Dialer>,
    around: Around,
}

/// What all machines of a swarm have in common.
#[derive(Clone)]
struct Around {
    /// A folder with the owner's rules and scripts; the same for all.
    home: Home,
    facts: Arc<Facts>,
    links: Arc<Links>,
    effects: Effects,
    seed: u64,
}

/// Counts of machines that are linked, and that have reconnected.
#[derive(Default)]
struct Links {
    linked: AtomicUsize,
    /// How often [`Swarm::begin_return`] was called.
    returns: AtomicU64,
    back: AtomicUsize,
}

/// One machine: what it keeps when it is switched off.
pub struct Member {
    name: Text<255>,
    enrollment: Enrollment,
    evidence: Arc<SigningKey>,
    sealing: Arc<SealingKey>,
    identity: TlsIdentity,
    disk: Disk,
    life: Option<Life>,
}

/// A machine that is switched on.
struct Life {
    stop: CancellationToken,
    uplink: JoinHandle<()>,
    executor: JoinHandle<()>,
    presence: Arc<Presence>,
}

/// Whether one machine is linked, and the last return in which it was counted.
#[derive(Default)]
struct Presence {
    linked: AtomicBool,
    came_back: AtomicU64,
    links: Arc<Links>,
}

impl Presence {
    fn set(&self, linked: bool) {
        if self.linked.swap(linked, Ordering::AcqRel) == linked {
            return;
        }
        if !linked {
            self.links.linked.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        self.links.linked.fetch_add(1, Ordering::AcqRel);
        let returns = self.links.returns.load(Ordering::Acquire);
        if self.came_back.swap(returns, Ordering::AcqRel) != returns {
            self.links.back.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Swarm {
    /// Joins `count` machines through the enrollment door. They share the folder.
    ///
    /// # Panics
    /// When the hub does not accept one.
    pub async fn join(folder: &std::path::Path, hub: SocketAddr, invitation: &Invitation, count: usize) -> Self {
        let home = Home::at(folder);
        home.create().expect("a folder");
        std::fs::write(home.policy(), TRUSTED).expect("written");
        let around = Around {
            home,
            facts: Arc::new(Facts::record()),
            links: Arc::default(),
            effects: Effects::default(),
            seed: 1,
        };
        let sockets = (0..SOCKETS).map(|_| Dialer::for_many(hub).expect("a socket")).collect();
        let mut swarm = Self { members: Vec::with_capacity(count), sockets, around };
        let invitation = Arc::new(invitation.clone());
        let mut joining = JoinSet::new();
        let mut trusted: Option<Trusted> = None;
        let mut begun = 0;
        while swarm.members.len() < count {
            while joining.len() < JOINING && begun < count {
                let invitation = invitation.clone();
                begun += 1;
                let name = Text::clipped(&format!("swarm-{begun}"));
                joining.spawn(async move {
                    let keys = Keys::generate().expect("keys");
                    let accepted = enroll::incoming(&keys, &invitation, name.clone()).await.expect("taken in");
                    (name, keys, accepted)
                });
            }
            let (name, keys, accepted) = joining.join_next().await.expect("one").expect("joined");
            if trusted.is_none() {
                // All receive the same catalogue, so it is verified once.
                trusted = Some(enroll::believe(&invitation, &accepted.files).await.expect("approved").0);
            }
            swarm.members.push(Member::new(name, keys, accepted, trusted.as_ref().expect("just believed")));
        }
        swarm
    }

    /// Switches all machines off and returns them.
    pub fn into_members(mut self) -> Vec<Member> {
        (0..self.members.len()).for_each(|index| self.switch_off(index));
        std::mem::take(&mut self.members)
    }

    /// How many machines there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many are linked now.
    pub fn linked(&self) -> usize {
        self.around.links.linked.load(Ordering::Acquire)
    }

    /// Starts counting the machines that reconnect.
    pub fn begin_return(&self) {
        self.around.links.returns.fetch_add(1, Ordering::AcqRel);
        self.around.links.back.store(0, Ordering::Release);
    }

    /// Waits until `count` machines have reconnected; returns how long it took.
    ///
    /// # Panics
    /// When they have not within `timeout`.
    pub async fn wait_back(&self, count: usize, timeout: Duration) -> Duration {
        let begun = Instant::now();
        let back = || self.around.links.back.load(Ordering::Acquire);
        while back() < count {
            assert!(begun.elapsed() < timeout, "{} of {count} back within {timeout:?}", back());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }

    /// Average size of a packed report, in bytes.
    pub fn report_bytes(&self) -> usize {
        self.around.facts.packed_bytes()
    }

    /// How often each script has begun on any of them.
    pub fn effects(&self) -> Effects {
        self.around.effects.clone()
    }

    /// The TLS identity of one machine.
    pub fn identity(&self, index: usize) -> &TlsIdentity {
        self.members[index].identity()
    }

    /// The ids of all machines.
    pub fn machines(&self) -> impl Iterator<Item = MachineId> + '_ {
        self.members.iter().map(|member| member.enrollment.machine)
    }

    /// Switches on all machines that are off, with at most `at_once` concurrent handshakes. Returns how
    /// long it took until all were linked.
    ///
    /// # Panics
    /// When they are not within `timeout`.
    pub async fn switch_on(&mut self, at_once: usize, timeout: Duration) -> Duration {
        let begun = Instant::now();
        let mut on = self.members.iter().filter(|member| member.life.is_some()).count();
        for (index, member) in self.members.iter_mut().enumerate() {
            if member.life.is_some() {
                continue;
            }
            let socket = self.sockets[index % self.sockets.len()].clone();
            member.switch_on(index, &self.around, socket);
            on += 1;
            while on.saturating_sub(self.around.links.linked.load(Ordering::Acquire)) > at_once {
                assert!(
                    begun.elapsed() < timeout,
                    "{} of {on} linked",
                    self.around.links.linked.load(Ordering::Acquire)
                );
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        self.wait_linked(on, timeout.saturating_sub(begun.elapsed())).await;
        begun.elapsed()
    }

    /// Waits until `count` machines are linked; returns how long it took.
    ///
    /// # Panics
    /// When they are not within `timeout`.
    pub async fn wait_linked(&self, count: usize, timeout: Duration) -> Duration {
        let begun = Instant::now();
        while self.linked() < count {
            assert!(begun.elapsed() < timeout, "{} of {count} linked within {timeout:?}", self.linked());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }

    /// Cuts the power of one machine. Its state store stays.
    pub fn switch_off(&mut self, index: usize) {
        if let Some(life) = self.members[index].life.take() {
            life.uplink.abort();
            life.executor.abort();
            life.presence.set(false);
        }
    }

    /// Stops all machines cleanly.
    pub async fn stop(&mut self) {
        for member in &mut self.members {
            if let Some(life) = member.life.take() {
                life.stop.cancel();
                let _ = life.uplink.await;
                life.executor.abort();
            }
        }
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.switch_off(index);
        }
    }
}

impl Member {
    fn new(name: Text<255>, keys: Keys, accepted: Accepted, trusted: &Trusted) -> Self {
        let Keys { evidence, sealing, mut identity } = keys;
        let Accepted { enrollment, chain, .. } = accepted;
        identity.chain = chain;
        let disk = Disk::default();
        let mut store = StateStore::over(Box::new(disk.clone()) as Box<dyn Tables>).expect("empty books");
        enroll::begin(&mut store, &enrollment, trusted).expect("begun");
        Self { name, enrollment, evidence: Arc::new(evidence), sealing: Arc::new(sealing), identity, disk, life: None }
    }

    /// The name it joined under.
    pub fn name(&self) -> &str {
        self.name.as_raw()
    }

    /// Which machine it is.
    pub fn machine(&self) -> MachineId {
        self.enrollment.machine
    }

    /// Its TLS key and certificate.
    pub fn identity(&self) -> &TlsIdentity {
        &self.identity
    }

    /// The public half of what it signs with.
    pub fn evidence(&self) -> PublicKey {
        self.evidence.public()
    }

    /// Its disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// What its executor needs to start, with this folder and these tables.
    ///
    /// # Errors
    /// When the state store there cannot be read.
    pub fn parts(&self, home: Home, tables: Box<dyn Tables>) -> Result<executor::Parts, StateError> {
        Ok(executor::Parts {
            files: Box::new(HomeFiles(home)),
            enrollment: self.enrollment.clone(),
            evidence: self.evidence.clone(),
            sealing: self.sealing.clone(),
            store: StateStore::over(tables)?,
        })
    }

    fn switch_on(&mut self, index: usize, around: &Around, socket: Dialer) {
        let parts = self.parts(around.home.clone(), Box::new(self.disk.clone())).expect("books");
        let presence = Arc::new(Presence { links: around.links.clone(), ..Presence::default() });
        let effects = around.effects.clone();
        let (facts, seed) = (around.facts.clone(), around.seed.wrapping_add(index as u64));
        let seen = presence.clone();
        let watch = move |executor: &Executor| seen.set(executor.is_linked());
        let machine = |events| Box::new(Simulated::new(events, facts, seed, effects)) as Box<dyn executor::Machine>;
        let (handle, words, task) = executor::start_simulated(parts, machine, watch).expect("an executor");
        let stop = CancellationToken::new();
        let uplink = Uplink::new(uplink::Parts {
            machine: self.enrollment.machine,
            identity: self.identity.clone(),
            identity_file: None,
            executor: handle,
            from_executor: words,
            dialer: Some(socket),
            stop: stop.clone(),
            clock: Clock::System,
            seed: None,
        });
        self.life = Some(Life { stop, uplink: tokio::spawn(uplink.run()), executor: task, presence });
    }
}
