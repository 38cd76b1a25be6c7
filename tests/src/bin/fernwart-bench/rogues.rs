//! What honest machines notice of those that misbehave.
//!
//! A technician pings one machine after another, without a pause longer than a
//! few milliseconds, through a hub with two hundred linked; quiet times and
//! attacks take turns. The attackers are a process of their own at the lowest
//! priority: on another computer they would take nothing of this one's.

use crate::measure::{Paper, Takes, memory};
use crate::runtime;
use fernwart_certs::identity::TlsIdentity;
use fernwart_certs::invitation::Invitation;
use fernwart_client::{Session, StaffHome};
use fernwart_protocol::staff::{Reply, Request};
use fernwart_protocol::text::List;
use fernwart_tests::World;
use fernwart_tests::rogues::{Rogue, Target, Teaser};
use fernwart_tests::swarm::Swarm;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Honest machines.
const MACHINES: usize = 200;

/// Attacks of each kind, each beside a quiet time.
const TAKES: usize = 5;

/// Between two pings.
const PAUSE: Duration = Duration::from_millis(4);

/// A rogue that is not closed goes on for so long.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Beginnings of handshakes from addresses all over the loopback net, a second.
const SPOOFED: usize = 20_000;

/// Half handshakes a second, of those who show their address.
const HALF: u64 = 500;

const SPOOFER: &str = "spoofed-initials";
const TEASER: &str = "half-handshakes";

fn target(hub: &str) -> Target {
    let (address, pin) = hub.split_once('/').expect("ADDRESS/PIN");
    Target { address: address.parse().expect("an address"), pin: pin.parse().expect("a pin") }
}

/// The attacker's own process: it misbehaves until it is ended, and says once a
/// second how often.
pub(crate) fn misbehave(name: &str, hub: &str, identity: &Path) {
    let hub = target(hub);
    let times = Arc::new(AtomicU64::new(0));
    let told = times.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            println!("{}", told.load(Ordering::Relaxed));
        }
    });
    match name {
        SPOOFER => spoof(hub, &times),
        TEASER => tease(hub, &times),
        name => {
            let rogue = Rogue::named(name).expect("a rogue");
            let identity = TlsIdentity::read(identity).expect("an identity");
            runtime().block_on(async {
                loop {
                    rogue.attack(hub, &identity, PATIENCE, &times).await;
                }
            });
        }
    }
}

fn spoof(hub: Target, times: &AtomicU64) {
    let teaser = Teaser::new(hub);
    let words: Vec<Vec<u8>> = (0..SPOOFED).map(|_| teaser.first_word()).collect();
    let places: Vec<UdpSocket> = (0..500u32)
        .map(|place| {
            let [_, _, high, low] = (place * 131 + 257).to_be_bytes();
            UdpSocket::bind((Ipv4Addr::new(127, 7, high, low), 0)).expect("a loopback address")
        })
        .collect();
    let begun = Instant::now();
    for nth in 0.. {
        let due = Duration::from_secs_f64(nth as f64 / SPOOFED as f64);
        if nth % 20 == 0 {
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        let _ = places[nth % places.len()].send_to(&words[nth % words.len()], hub.address);
        times.fetch_add(1, Ordering::Relaxed);
    }
}

fn tease(hub: Target, times: &AtomicU64) {
    let teaser = Teaser::new(hub);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let begun = Instant::now();
    for nth in 0u64.. {
        std::thread::sleep(Duration::from_secs_f64(nth as f64 / HALF as f64).saturating_sub(begun.elapsed()));
        let _ = socket.send_to(&teaser.first_word(), hub.address);
        times.fetch_add(1, Ordering::Relaxed);
    }
}

/// Times of pings, milliseconds.
struct Pings(Vec<f64>);

impl Pings {
    fn quantile(&self, part: f64) -> f64 {
        let mut times = self.0.clone();
        times.sort_by(f64::total_cmp);
        let place = (times.len() as f64 * part) as usize;
        times.get(place.min(times.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }
}

async fn ping_for(session: &mut Session, machines: &[fernwart_protocol::id::MachineId], time: Duration) -> Pings {
    let mut times = Vec::new();
    let begun = Instant::now();
    for nth in 0.. {
        if begun.elapsed() >= time {
            break;
        }
        let one = List::try_from(vec![machines[nth % machines.len()]]).expect("one");
        let asked = Instant::now();
        let replies = session.collect(&Request::Ping(one, 5_000)).await.expect("answered");
        assert!(matches!(replies.as_slice(), [Reply::Pong(_, Some(_))]), "{replies:?}");
        times.push(asked.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(PAUSE).await;
    }
    Pings(times)
}

struct Attack(Child);

impl Attack {
    fn begin(name: &str, hub: &str, identity: &Path) -> Self {
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(std::env::current_exe().expect("this program"));
        command.args(["rogue", name, hub]).arg(identity).stdin(Stdio::null()).stdout(Stdio::piped());
        Self(command.spawn().expect("started"))
    }

    /// How often it has done what it does.
    fn end(mut self) -> u64 {
        let _ = self.0.kill();
        let output = self.0.wait_with_output().expect("ended").stdout;
        let text = String::from_utf8_lossy(&output);
        text.lines().last().and_then(|line| line.parse().ok()).unwrap_or_default()
    }
}

/// Prints what each kind of rogue costs others; each time takes `seconds`.
pub(crate) fn rogues(seconds: u64, paper: &Paper) {
    let runtime = runtime();
    let world = World::new();
    let count = MACHINES + Rogue::ALL.len();
    let words = ["Swarm", "--machines", &count.to_string(), "--for", "8h", "--admit-automatically"];
    let invitation: Invitation = world.invitation(&words).parse().expect("an invitation");
    let folder = tempfile::tempdir().expect("a folder");
    let mut swarm = runtime.block_on(Swarm::join(folder.path(), world.address, &invitation, count));
    runtime.block_on(swarm.switch_on(16, Duration::from_secs(60)));
    let mut identities = Vec::new();
    for place in 0..Rogue::ALL.len() {
        swarm.switch_off(place);
        let path = folder.path().join(format!("rogue-{place}"));
        swarm.identity(place).write(&path).expect("written");
        identities.push(path);
    }
    let machines: Vec<_> = swarm.machines().skip(Rogue::ALL.len()).collect();
    let pin = fernwart_certs::sha256(&std::fs::read(world.shop().join("hub/ca.der")).expect("the CA"));
    let hub = format!("{}/{pin}", world.address);
    let mut session = runtime.block_on(async {
        let home = StaffHome::open(&world.shop().join("staff")).expect("a home");
        Session::open(home, Duration::from_secs(5)).await.expect("linked")
    });
    let time = Duration::from_secs(seconds);
    runtime.block_on(ping_for(&mut session, &machines, time));

    paper.rogues(&format!("{MACHINES} honest machines, {TAKES} times {seconds} s each"));
    let kinds = Rogue::ALL.iter().map(|rogue| rogue.name()).zip(identities.iter().map(|path| path.as_path()));
    let nobody = Path::new("/dev/null");
    for (name, identity) in kinds.chain([(TEASER, nobody), (SPOOFER, nobody)]) {
        let takes = || -> [Takes; 2] { Default::default() };
        let ([mut quiet50, mut quiet99], [mut loud50, mut loud99]) = (takes(), takes());
        let (mut times, pid) = (0, world.hub.pid());
        let (before, mut most) = (memory(pid, "Pss:"), 0);
        for _ in 0..TAKES {
            let quiet = runtime.block_on(ping_for(&mut session, &machines, time));
            let attack = Attack::begin(name, &hub, identity);
            // Until it is under way: one has to prepare its datagrams first.
            std::thread::sleep(if name == SPOOFER { Duration::from_secs(8) } else { Duration::from_secs(1) });
            let loud = runtime.block_on(ping_for(&mut session, &machines, time));
            most = most.max(memory(pid, "Pss:"));
            times += attack.end();
            for (takes, value) in [
                (&mut quiet50, quiet.quantile(0.5)),
                (&mut quiet99, quiet.quantile(0.99)),
                (&mut loud50, loud.quantile(0.5)),
                (&mut loud99, loud.quantile(0.99)),
            ] {
                takes.0.push(value);
            }
        }
        paper.rogue(name, times / TAKES as u64, [&quiet50, &loud50], [&quiet99, &loud99], most.saturating_sub(before));
    }
    for reason in ["too_slow", "misbehaved"] {
        let name = format!("fernwart_links_ended_total{{door=\"agent\",by=\"hub\",reason=\"{reason}\"}}");
        paper.alone(&format!("links closed: {reason}"), "", &Takes(vec![world.metric(&name)]));
    }
    let paced = world.metric("fernwart_asks_paced_total{door=\"agent\"}");
    paper.alone("asks that had to wait", "", &Takes(vec![paced]));
    let sent_back = world.metric("fernwart_handshakes_sent_back_total");
    paper.alone("handshakes that had to show their address", "", &Takes(vec![sent_back]));
    runtime.block_on(swarm.stop());
}
