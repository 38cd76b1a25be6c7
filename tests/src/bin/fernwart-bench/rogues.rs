//! Measures how misbehaving peers affect honest machines.
//!
//! A technician pings one machine after another, a few milliseconds apart, through a hub with two hundred
//! linked machines. Quiet seconds and seconds under attack alternate. The attacker is a separate process at
//! the lowest priority, since on another computer it would take no processor time from this one; it is
//! suspended in quiet seconds. One row has no attacker: its differences are noise.

use crate::measure::{Paper, Takes, memory};
use crate::runtime;
use fernwart_certs::identity::TlsIdentity;
use fernwart_certs::invitation::Invitation;
use fernwart_client::{Session, StaffHome};
use fernwart_protocol::staff::{Reply, Request};
use fernwart_protocol::text::List;
use fernwart_tests::rogues::{Rogue, Target, Teaser};
use fernwart_tests::swarm::Swarm;
use fernwart_tests::{World, wait_within};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Honest machines.
const MACHINES: usize = 200;

/// How long each turn is.
const TURN: Duration = Duration::from_secs(1);

/// Between two pings.
const PAUSE: Duration = Duration::from_millis(4);

/// Maximum duration of one attack that is not closed.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Initials per second, from addresses all over the loopback net.
const SPOOFED: usize = 20_000;

/// Half handshakes per second, from a real address.
const HALF: usize = 500;

/// Does nothing.
const NOBODY: &str = "nobody";
const SPOOFER: &str = "spoofed-initials";
const TEASER: &str = "half-handshakes";

fn target(hub: &str) -> Target {
    let (address, pin) = hub.split_once('/').expect("ADDRESS/PIN");
    Target { address: address.parse().expect("an address"), pin: pin.parse().expect("a pin") }
}

/// The attacker's process: misbehaves until it is killed, and prints its count of actions every 100 ms.
pub(crate) fn misbehave(name: &str, hub: &str, identity: &Path) {
    let hub = target(hub);
    let times = Arc::new(AtomicU64::new(0));
    let reported = times.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(100));
            println!("{}", reported.load(Ordering::Relaxed));
        }
    });
    match name {
        NOBODY => loop {
            times.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(TIMEOUT);
        },
        SPOOFER => spoof(hub, &times),
        TEASER => tease(hub, &times),
        name => {
            let rogue = Rogue::named(name).expect("a rogue");
            let identity = TlsIdentity::read(identity).expect("an identity");
            runtime().block_on(async {
                loop {
                    rogue.attack(hub, &identity, TIMEOUT, &times).await;
                }
            });
        }
    }
}

/// Paces a loop to a rate per second; turns missed while the process was suspended are not made up for.
struct Beat {
    each: Duration,
    next: Instant,
}

impl Beat {
    fn new(per_second: usize) -> Self {
        Self { each: Duration::from_secs_f64(1.0 / per_second as f64), next: Instant::now() }
    }

    fn wait(&mut self) {
        let now = Instant::now();
        if now > self.next + Duration::from_millis(100) {
            self.next = now;
        }
        std::thread::sleep(self.next.saturating_duration_since(now));
        self.next += self.each;
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
    let mut beat = Beat::new(SPOOFED / 20);
    for nth in 0.. {
        if nth % 20 == 0 {
            beat.wait();
        }
        let _ = places[nth % places.len()].send_to(&words[nth % words.len()], hub.address);
        times.fetch_add(1, Ordering::Relaxed);
    }
}

fn tease(hub: Target, times: &AtomicU64) {
    let teaser = Teaser::new(hub);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut beat = Beat::new(HALF);
    loop {
        beat.wait();
        let _ = socket.send_to(&teaser.first_word(), hub.address);
        times.fetch_add(1, Ordering::Relaxed);
    }
}

/// The quantile `part` of the times, milliseconds.
fn quantile(times: &mut [f64], part: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let place = (times.len() as f64 * part) as usize;
    times.get(place.min(times.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

async fn ping_for(session: &mut Session, machines: &[fernwart_protocol::id::MachineId], time: Duration) -> Vec<f64> {
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
    times
}

struct Attack {
    child: Child,
    /// Its count of actions.
    times: Arc<AtomicU64>,
}

impl Attack {
    /// Starts the attack, and suspends it once it is under way.
    fn begin(name: &str, hub: &str, identity: &Path) -> Self {
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(std::env::current_exe().expect("this program"));
        command.args(["rogue", name, hub]).arg(identity).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let times = Arc::new(AtomicU64::new(0));
        let (reported, out) = (times.clone(), child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                reported.store(line.parse().expect("a number"), Ordering::Relaxed);
            }
        });
        let attack = Self { child, times };
        wait_within(Duration::from_secs(60), "the attack is under way", || attack.times.load(Ordering::Relaxed) > 0);
        attack.signal(Signal::STOP);
        attack
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signalled");
    }

    fn end(mut self) -> u64 {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.times.load(Ordering::Relaxed)
    }
}

/// Prints how each kind of rogue, or only one kind, affects others; each for `seconds` in quiet and under
/// attack.
pub(crate) fn rogues(seconds: u64, only: Option<&str>, paper: &Paper) {
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
    runtime.block_on(ping_for(&mut session, &machines, Duration::from_secs(5)));

    paper.rogues(&format!("{MACHINES} honest machines, {seconds} s in quiet and under attack"));
    let kinds = Rogue::ALL.iter().map(|rogue| rogue.name()).zip(identities.iter().map(|path| path.as_path()));
    let nothing = Path::new("/dev/null");
    for (name, identity) in kinds.chain([TEASER, SPOOFER, NOBODY].map(|name| (name, nothing))) {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let pid = world.hub.pid();
        let (before, mut most) = (memory(pid, "Pss:"), 0);
        let attack = Attack::begin(name, &hub, identity);
        let (mut quiet, mut loud) = (Vec::new(), Vec::new());
        for _ in 0..seconds {
            quiet.extend(runtime.block_on(ping_for(&mut session, &machines, TURN)));
            attack.signal(Signal::CONT);
            loud.extend(runtime.block_on(ping_for(&mut session, &machines, TURN)));
            most = most.max(memory(pid, "Pss:"));
            attack.signal(Signal::STOP);
        }
        let times = attack.end();
        let quantiles = |times: &mut Vec<f64>| [quantile(times, 0.5), quantile(times, 0.99)];
        paper.rogue(name, times, quantiles(&mut quiet), quantiles(&mut loud), most.saturating_sub(before));
    }
    for reason in ["too_slow", "misbehaved"] {
        let name = format!("fernwart_links_ended_total{{door=\"agent\",by=\"hub\",reason=\"{reason}\"}}");
        paper.alone(&format!("links closed: {reason}"), "", &Takes(vec![world.metric(&name).unwrap_or_default()]));
    }
    let paced = world.metric("fernwart_asks_paced_total{door=\"agent\"}").expect("counted");
    paper.alone("asks that had to wait", "", &Takes(vec![paced]));
    let sent_back = world.metric("fernwart_handshakes_sent_back_total").expect("counted");
    paper.alone("handshakes that had to show their address", "", &Takes(vec![sent_back]));
    runtime.block_on(swarm.stop());
}
