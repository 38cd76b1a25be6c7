//! The simulated world: one hub, a few machines, a technician, and all faults.

mod judge;

use crate::disks::{HubDisk, Life, MachineDisk, UserError};
use crate::machine::{Boot, Computer};
use crate::network::{Network, Traffic, Weather};
use crate::story::Story;
use crate::technician::{Given, Technician};
use fernwart_agent::executor::{self, Machine};
use fernwart_agent::home::Home;
use fernwart_agent::uplink::{self, Uplink};
use fernwart_client::StaffHome;
use fernwart_hub::{Environment, Hub, HubHome, Ports};
use fernwart_protocol::clock::Clock;
use fernwart_protocol::document::{Action, UnixMs};
use fernwart_protocol::id::BootId;
use fernwart_protocol::link::{Dialer, Peers};
use fernwart_tests::World;
use fernwart_tests::endure::first_script;
use fernwart_tests::swarm::{Chance, Disk, Member, Swarm};
use fernwart_tests::test_script::Script;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Machines of a world.
pub(crate) const MACHINES: usize = 6;

/// Orders of a world.
pub(crate) const ORDERS: usize = 250;

/// Faults end after this, whatever the technician still has to do.
const FAULTS: Duration = Duration::from_secs(3600);

/// After the last fault all runs must end within this: the longest order, one more offer of its outcome,
/// and the hub's own periodic check.
const CALM: Duration = Duration::from_secs(600 + 300 + 120);

/// A temporary folder in memory, where there is one.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("fernwart-simulation").tempdir_in(place).expect("a folder")
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let name = entry.file_name();
        if path.is_dir() {
            copy_folder(&path, &target);
        } else if !name.to_string_lossy().starts_with("facts.sqlite") && !name.to_string_lossy().ends_with("-shm") {
            std::fs::copy(&path, &target).expect("copied");
        }
    }
}

/// What all worlds begin with: a real shop whose machines have joined over real
/// sockets. Made once.
pub(crate) struct Beginning {
    world: World,
    members: Vec<Member>,
    script: Action,
    now: UnixMs,
    _folder: tempfile::TempDir,
}

impl Beginning {
    pub(crate) fn make() -> Self {
        let mut world = World::new();
        world.approve(&Script::new("mend", "true\n"));
        let words = ["Swarm", "--machines", &MACHINES.to_string(), "--for", "1h", "--admit-automatically"];
        let invitation = world.invitation(&words).parse().expect("an invitation");
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let swarm = runtime.block_on(Swarm::join(folder.path(), world.address, &invitation, MACHINES));
        let mut members = swarm.into_members();
        // They join in any order, with random ids; the hub lists them by name.
        members.sort_by(|one, other| one.name().cmp(other.name()));
        assert_eq!(world.hub.stop(), Some(0), "{}", world.hub.log());
        let catalogue = StaffHome::open(&world.shop().join("staff")).and_then(|home| home.catalogue());
        let catalogue = catalogue.expect("a catalogue");
        Self { world, members, script: first_script(&catalogue), now: fernwart_agent::now(), _folder: folder }
    }
}

/// Results of one world.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) seed: u64,
    /// A hash of all events.
    pub(crate) hash: u64,
    pub(crate) orders: usize,
    pub(crate) acknowledged: usize,
    pub(crate) effects: usize,
    pub(crate) settled: usize,
    /// Machines whose records were written anew in this program's format.
    pub(crate) confirmed: usize,
    pub(crate) cancels: u64,
    pub(crate) hub_deaths: u64,
    pub(crate) machine_deaths: u64,
    pub(crate) traffic: Traffic,
    /// Virtual milliseconds.
    pub(crate) took: u64,
    /// Violations of the invariants.
    pub(crate) wrongs: Vec<String>,
    pub(crate) lines: Vec<String>,
}

/// A machine's state in the world.
struct Place {
    ip: IpAddr,
    disk: Disk,
    home: Home,
    boot: Boot,
    user_error: UserError,
    deadly: UserError,
    on: Option<(Life, JoinHandle<()>, JoinHandle<()>)>,
    back_at: Option<Instant>,
}

struct Stage<'a> {
    beginning: &'a Beginning,
    folder: tempfile::TempDir,
    network: Network,
    clock: Clock,
    chance: Chance,
    story: Story,
    places: Vec<Place>,
    hub_folder: PathBuf,
    hub_life: Option<(Life, Hub)>,
    hub_failures: UserError,
    hub_back_at: Option<Instant>,
    deaths: mpsc::UnboundedSender<usize>,
    hub_deaths: u64,
    machine_deaths: u64,
}

/// Plays the world of a seed.
pub(crate) fn play(beginning: &Beginning, seed: u64) -> Played {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(Stage::set(beginning, seed))
}

fn ip_of(machine: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(machine).expect("few") + 1).into()
}

impl<'a> Stage<'a> {
    async fn set(beginning: &'a Beginning, seed: u64) -> Played {
        let story = Story::new();
        // Neighbouring seeds are neighbouring positions of one sequence, so branch first.
        let mut chance = Chance::new(seed).branch();
        let folder = folder();
        let hub_folder = folder.path().join("hub-0");
        copy_folder(&beginning.world.shop().join("hub"), &hub_folder);
        let (deaths, mut died) = mpsc::unbounded_channel();
        let places = (0..MACHINES).map(|index| {
            let home = Home::at(&folder.path().join(format!("machine-{index}")));
            home.create().expect("a folder");
            std::fs::write(home.policy(), executor::policy::TRUSTED).expect("written");
            Place {
                ip: ip_of(index),
                disk: beginning.members[index].disk().copy(),
                home,
                boot: Boot { id: BootId::from_bytes(chance.bytes()), at: Instant::now() },
                user_error: UserError::default(),
                deadly: UserError::default(),
                on: None,
                back_at: None,
            }
        });
        let places = places.collect();
        let mut stage = Self {
            beginning,
            network: Network::new(chance.branch(), story.clone()),
            clock: Clock::counted(beginning.now),
            story,
            places,
            hub_folder,
            hub_life: None,
            hub_failures: UserError::default(),
            hub_back_at: None,
            deaths,
            hub_deaths: 0,
            machine_deaths: 0,
            chance,
            folder,
        };
        stage.start_hub().await;
        (0..MACHINES).for_each(|index| stage.switch_on(index));
        let given = Arc::new(Mutex::new(Given::default()));
        let technician = Technician {
            home: beginning.world.shop().join("staff"),
            ip: Ipv4Addr::new(10, 0, 1, 1).into(),
            network: stage.network.clone(),
            clock: stage.clock,
            chance: stage.chance.branch(),
            story: stage.story.clone(),
            script: beginning.script.clone(),
            orders: ORDERS,
            given: given.clone(),
        };
        let mut working = tokio::spawn(technician.work());
        let over = Instant::now() + FAULTS;
        let mut done = false;
        while !done && Instant::now() < over {
            let next = Instant::now() + Duration::from_millis(stage.chance.between(200, 8_000));
            loop {
                tokio::select! {
                    biased;
                    Some(index) = died.recv() => stage.lost(index),
                    _ = &mut working => { done = true; break }
                    () = tokio::time::sleep_until(next) => break,
                }
            }
            stage.turn().await;
        }
        working.abort();
        stage.calm().await;
        let calm = tokio::time::sleep(CALM);
        tokio::pin!(calm);
        calm.await;
        stage.judge(seed, &given).await
    }

    fn hub_address(&self) -> SocketAddr {
        self.beginning.world.address
    }

    async fn start_hub(&mut self) {
        self.hub_back_at = None;
        loop {
            let life = Life::new();
            let disk = HubDisk {
                chance: Mutex::new(self.chance.branch()),
                life: life.clone(),
                user_error: self.hub_failures.clone(),
            };
            let environment = Environment {
                clock: self.clock,
                datagrams: Some(self.network.at(self.hub_address().ip(), self.chance.bytes())),
                disk: Some(Arc::new(disk)),
            };
            let ports = Ports { listen: Some(self.hub_address()), metrics: None };
            let started = Hub::start_on(environment, HubHome::at(&self.hub_folder), ports).await;
            match started {
                Ok(hub) => {
                    self.story.tell("the hub is up");
                    self.hub_life = Some((life, hub));
                    return;
                }
                Err(error) => {
                    self.story.tell(&format!("the hub does not start: {error}"));
                    self.network.unplug(self.hub_address().ip());
                    life.end();
                    // Remains of this attempt may still hold its folder.
                    self.move_hub();
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    /// Copies the hub's disk as it is now, as after a kill, and uses the copy from here on.
    fn move_hub(&mut self) {
        let next = self.folder.path().join(format!("hub-{}-{}", self.story.at(), self.chance.number()));
        copy_folder(&self.hub_folder, &next);
        if self.chance.per_mille(500) {
            // An interrupted write.
            let log = next.join("store.sqlite-wal");
            if let Ok(mut file) = std::fs::File::options().append(true).open(log) {
                let bytes: [u8; 300] = self.chance.bytes();
                std::io::Write::write_all(&mut file, &bytes).expect("written");
            }
        }
        self.hub_folder = next;
    }

    fn kill_hub(&mut self) {
        let Some((life, hub)) = self.hub_life.take() else { return };
        self.story.tell("the hub dies");
        self.hub_deaths += 1;
        life.end();
        drop(hub);
        self.network.unplug(self.hub_address().ip());
        self.move_hub();
        self.hub_back_at = Some(Instant::now() + Duration::from_millis(self.chance.between(50, 20_000)));
    }

    fn switch_on(&mut self, index: usize) {
        let member = &self.beginning.members[index];
        let place = &mut self.places[index];
        place.back_at = None;
        let life = Life::new();
        let (deaths, network, ip, story) = (self.deaths.clone(), self.network.clone(), place.ip, self.story.clone());
        let death = Box::new(move || {
            story.tell(&format!("machine {index} dies at a write"));
            network.unplug(ip);
            let _ = deaths.send(index);
        });
        let tables = MachineDisk {
            disk: place.disk.clone(),
            chance: self.chance.branch(),
            reads: Mutex::new(self.chance.branch()),
            life: life.clone(),
            user_error: place.user_error.clone(),
            deadly: place.deadly.clone(),
            death,
        };
        let (clock, boot, story) = (self.clock, place.boot, self.story.clone());
        let (alive, chance) = (life.clone(), Mutex::new(self.chance.branch()));
        let machine = move |events| {
            Box::new(Computer { index, events, clock, boot, life: alive, story, chance }) as Box<dyn Machine>
        };
        let parts = member.parts(place.home.clone(), Box::new(tables)).ok();
        let started = parts.and_then(|parts| executor::start_simulated(parts, machine, |_| {}).ok());
        let Some((handle, words, executor)) = started else {
            // The disk fails at the start; the agent is started again later.
            self.story.tell(&format!("machine {index} does not start"));
            life.end();
            place.back_at = Some(Instant::now() + Duration::from_millis(1000));
            return;
        };
        let datagrams = self.network.at(place.ip, self.chance.bytes());
        let dialer = Dialer::over(datagrams, (place.ip, 0).into(), Peers::Few).expect("a socket");
        let uplink = Uplink::new(uplink::Parts {
            machine: member.machine(),
            identity: member.identity().clone(),
            identity_file: None,
            executor: handle,
            from_executor: words,
            dialer: Some(dialer),
            stop: CancellationToken::new(),
            clock: self.clock,
            seed: Some(self.chance.number()),
        });
        self.story.tell(&format!("machine {index} is on"));
        place.on = Some((life, tokio::spawn(uplink.run()), executor));
    }

    /// A machine is dead: its processes are gone, its disk stays.
    fn lost(&mut self, index: usize) {
        let place = &mut self.places[index];
        let Some((life, uplink, executor)) = place.on.take() else { return };
        self.machine_deaths += 1;
        life.end();
        uplink.abort();
        executor.abort();
        self.network.unplug(place.ip);
        place.back_at = Some(Instant::now() + Duration::from_millis(self.chance.between(20, 30_000)));
    }

    fn kill_machine(&mut self, index: usize) {
        let power = self.chance.per_mille(500);
        self.story.tell(&format!("machine {index} dies, power: {power}"));
        self.lost(index);
        if power {
            self.places[index].boot = Boot { id: BootId::from_bytes(self.chance.bytes()), at: Instant::now() };
        }
    }

    /// Lets one random event happen.
    async fn turn(&mut self) {
        let now = Instant::now();
        if self.hub_back_at.is_some_and(|at| at <= now) {
            self.start_hub().await;
        }
        for index in 0..MACHINES {
            if self.places[index].back_at.is_some_and(|at| at <= now) {
                self.switch_on(index);
            }
        }
        let one = self.chance.below(MACHINES as u64) as usize;
        match self.chance.below(24) {
            0 => self.kill_hub(),
            1 | 2 => self.kill_machine(one),
            3 | 4 => self.network.cut(ip_of(one)),
            5 => self.network.cut(self.hub_address().ip()),
            6..=8 => self.network.mend_all(),
            9 | 10 => self.network.set(Weather::some(&mut self.chance)),
            11 => self.network.set(Weather::FAIR),
            12 => self.hub_failures.set(self.chance.below(400)),
            13 | 14 => self.hub_failures.set(0),
            15 => self.places[one].user_error.set(self.chance.below(500)),
            16 | 17 => self.places[one].user_error.set(0),
            18 => self.places[one].deadly.set(self.chance.below(200)),
            19 | 20 => self.places[one].deadly.set(0),
            _ => {}
        }
    }

    /// Ends all faults, and starts the hub and the machines that are down.
    async fn calm(&mut self) {
        self.story.tell("from here on nothing goes wrong");
        self.network.set(Weather::FAIR);
        self.network.mend_all();
        self.hub_failures.set(0);
        for place in &self.places {
            place.user_error.set(0);
            place.deadly.set(0);
        }
        if self.hub_life.is_none() {
            self.start_hub().await;
        }
        for index in 0..MACHINES {
            // The death of a machine that died just now has not been handled yet.
            if self.places[index].on.as_ref().is_some_and(|(life, ..)| !life.goes_on()) {
                self.lost(index);
            }
            if self.places[index].on.is_none() {
                self.switch_on(index);
            }
        }
    }
}
