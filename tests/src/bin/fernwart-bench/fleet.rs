//! Compares a hub with thousands of machines to raw quinn with as many links: memory, requests to all, and
//! reconnecting.
//!
//! The machines are a swarm: the agent's own code over real QUIC, with simulated facts and their state
//! store in memory. Everything runs on this computer, so times include hub, machines and technician.

use crate::measure::{Paper, Takes, children, cpu, memory, own_cpu};
use crate::raw::{self, Raw};
use crate::runtime;
use fernwart_certs::identity::{SigningKey, verify};
use fernwart_certs::invitation::Invitation;
use fernwart_tests::World;
use fernwart_tests::swarm::Swarm;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long a process rests before it is measured, and how long it is watched.
const SETTLE: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

/// Samples of each figure.
const TAKES: usize = 5;

/// Concurrent requests, and fewer for comparison.
const IN_FLIGHT: usize = 2_000;
const FEW: usize = 500;

/// Concurrent handshakes.
const AT_ONCE: usize = 32;

/// Which machines have little room and wait for a restart.
const QUESTION: &str = "SELECT f.machine, mount, free_pct FROM filesystems f JOIN system s USING (machine) \
                        WHERE free_pct < 10 AND restart_required";

/// Timeout until all are linked.
const TIMEOUT: Duration = Duration::from_secs(180);

/// A hub and machines that are linked to it.
struct Fleet {
    world: World,
    swarm: Swarm,
    _folder: tempfile::TempDir,
}

impl Fleet {
    /// Joins `n` machines and restarts the hub; none is linked yet.
    fn join(runtime: &tokio::runtime::Runtime, n: usize) -> Self {
        let mut world = World::new();
        let words = ["Swarm", "--machines", &n.to_string(), "--for", "8h", "--admit-automatically"];
        let invitation: Invitation = world.invitation(&words).parse().expect("an invitation");
        let folder = tempfile::tempdir().expect("a folder");
        let swarm = runtime.block_on(Swarm::join(folder.path(), world.address, &invitation, n));
        // A fresh process, so that the cost of joining is not counted as the cost of links.
        world.hub.kill_9();
        world.restart_hub();
        std::thread::sleep(Duration::from_secs(2));
        Self { world, swarm, _folder: folder }
    }

    /// Runs a technician's command; returns milliseconds.
    fn timed(&self, words: &[&str]) -> f64 {
        let mut command = self.world.command(words);
        let begun = Instant::now();
        let output = command.stdin(Stdio::null()).output().expect("started");
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        let err = String::from_utf8_lossy(&output.stderr);
        let summary = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
        assert!(output.status.code().is_some_and(|code| code < 2), "{words:?}: {:?} {err} {summary}", output.status);
        took
    }
}

/// Processor time of the seven Ed25519 operations for each order, on all cores at once: signatures by
/// technician, machine and hub, and verifications by machine, hub, technician and again the machine.
/// Microseconds.
fn signatures() -> Takes {
    const ROUNDS: u32 = 500;
    let key = SigningKey::generate().expect("a key");
    // As long as an order or a receipt.
    let document = [7u8; 600];
    let round = || {
        let signatures = [(); 3].map(|()| key.sign(&document));
        let mut all = signatures.iter().cycle().take(4);
        assert!(all.all(|signature| verify(&key.public(), &document, signature)));
    };
    let rounds = || {
        let before = own_cpu();
        (0..ROUNDS).for_each(|_| round());
        (own_cpu() - before).as_secs_f64() * 1e6 / f64::from(ROUNDS)
    };
    let take = || {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..cores()).map(|_| scope.spawn(rounds)).collect();
            let used = threads.into_iter().map(|thread| thread.join().expect("measured"));
            used.sum::<f64>() / cores() as f64
        })
    };
    Takes((0..TAKES).map(|_| take()).collect())
}

/// Prints the table of a fleet of `n`.
pub(crate) fn fleet(n: usize, paper: &Paper) {
    let runtime = runtime();
    let takes = || -> [Takes; 3] { Default::default() };
    let ([mut raw_memory, mut raw_link, mut raw_echo], [mut memory_each, mut link, mut ping]) = (takes(), takes());
    let [mut raw_bytes, mut empty, mut full] = takes();

    let signatures = signatures();
    let mut raw = Raw::start();
    let pid = raw.server.id();
    std::thread::sleep(Duration::from_secs(1));
    let base = memory(pid, "Pss:");
    let begun = Instant::now();
    let held = runtime.block_on(raw::swarm(&raw, n));
    raw_link.0.push(begun.elapsed().as_secs_f64() * 1000.0);
    let raw_linking = Takes(vec![cpu(pid).as_secs_f64() * 1e6 / n as f64]);
    std::thread::sleep(SETTLE);
    raw_memory.0.push((memory(pid, "Pss:") - base) as f64 / n as f64);
    let [mut raw_few, mut raw_all, mut few] = takes();
    for _ in 0..TAKES {
        raw_echo.0.push(raw.fan(IN_FLIGHT, 64, 64));
        raw_few.0.push(raw.fan(FEW, 64, 64));
        raw_all.0.push(raw.fan(n, 64, 64));
    }

    let mut ours = Fleet::join(&runtime, n);
    let pid = ours.world.hub.pid();
    let base = memory(pid, "Pss:");
    let now = || [cpu(pid), cpu(std::process::id())];
    let before = now();
    let on = runtime.block_on(ours.swarm.switch_on(AT_ONCE, TIMEOUT));
    link.0.push(on.as_secs_f64() * 1000.0);
    let linking = now().into_iter().zip(before).map(|(now, before)| (now - before).as_secs_f64() * 1e6 / n as f64);
    let linking: Vec<Takes> = linking.map(|used| Takes(vec![used])).collect();
    std::thread::sleep(SETTLE);
    memory_each.0.push((memory(pid, "Pss:") - base) as f64 / n as f64);
    let before = cpu(pid);
    std::thread::sleep(MINUTE);
    let minute = Takes(vec![(cpu(pid) - before).as_secs_f64() * 1000.0]);

    let mut used: [[Takes; 3]; 3] = Default::default();
    let take = |what: &[&str], into: &mut Takes, used: &mut [Takes; 3]| {
        let now = || [cpu(pid), cpu(std::process::id()), children()];
        let before = now();
        into.0.push(ours.timed(what));
        for ((used, now), before) in used.iter_mut().zip(now()).zip(before) {
            used.0.push((now - before).as_secs_f64() * 1e6 / n as f64);
        }
    };
    let (mut question, mut indexing, mut indexed) = (Takes::default(), Takes::default(), takes());
    for _ in 0..TAKES {
        take(&["ping", "all"], &mut ping, &mut used[0]);
    }
    for _ in 0..TAKES {
        let order = ["diagnose", "all", "--section", "power", "--timeout", "60s"];
        take(&order, &mut empty, &mut used[1]);
        few.0.push(ours.timed(&[&order[..], &["--parallel", &FEW.to_string()]].concat()));
    }
    for _ in 0..TAKES {
        take(&["diagnose", "all", "--timeout", "60s"], &mut full, &mut used[2]);
        // The first query waits until all reports are indexed, which is not done while they come in.
        take(&["query", QUESTION], &mut indexing, &mut indexed);
        question.0.push(ours.timed(&["query", QUESTION]));
    }
    let reply = ours.swarm.report_bytes();
    for _ in 0..TAKES {
        raw_bytes.0.push(raw.fan(IN_FLIGHT, 700, reply));
    }
    drop(held);

    paper.title(&format!("{n} machines; {} virtual cores for everything", cores()));
    paper.beside("memory of the hub per link (PSS)", "KiB", &raw_memory, &memory_each, 1.5);
    paper.beside("all linked, one after another", "ms", &raw_link, &link, 1.5);
    paper.beside("an echo to each (fernwart ping all)", "ms", &raw_echo, &ping, 1.5);
    paper.beside("an empty signed order each", "ms", &raw_echo, &empty, 4.0);
    paper.beside(&format!("the same, {FEW} at once instead of {IN_FLIGHT}"), "ms", &raw_few, &few, 4.0);
    // The lower bound: an echo and the signatures, and nothing else.
    let signed = signatures.median() * n as f64 / 1000.0 / cores() as f64;
    let least = Takes(raw_echo.0.iter().map(|echo| echo + signed).collect());
    paper.beside("an echo and the signatures of an order", "ms", &raw_echo, &least, 4.0);
    paper.beside(&format!("a report of {reply} bytes each (diagnose all)"), "ms", &raw_bytes, &full, 5.0);
    paper.alone("a question to all (fernwart query)", "ms", &question);
    paper.alone("the same right after all have told anew", "ms", &indexing);
    paper.alone("hub, processor time per report indexed", "us", &indexed[0]);
    paper.alone("raw quinn, an echo to each, all at once", "ms", &raw_all);
    paper.alone("the signatures of an order, processor time", "us", &signatures);
    paper.alone("raw server, processor time per link", "us", &raw_linking);
    paper.alone("hub without links (PSS)", "KiB", &Takes(vec![base as f64]));
    paper.alone("hub after all that (PSS)", "KiB", &Takes(vec![memory(pid, "Pss:") as f64]));
    paper.alone("hub, processor time of an idle minute", "ms", &minute);
    for (who, used) in ["hub", "machine"].into_iter().zip(&linking) {
        paper.alone(&format!("{who}, processor time per link"), "us", used);
    }
    for (what, used) in ["echo", "empty order", "report"].into_iter().zip(&used) {
        for (who, used) in ["hub", "machine", "technician"].into_iter().zip(used) {
            paper.alone(&format!("{who}, processor time per {what}"), "us", used);
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Prints how fast `n` machines reconnect after the hub was killed.
pub(crate) fn storm(n: usize, paper: &Paper) {
    let runtime = runtime();
    let mut fleet = Fleet::join(&runtime, n);
    runtime.block_on(fleet.swarm.switch_on(AT_ONCE, TIMEOUT));
    std::thread::sleep(SETTLE);
    let (mut most, mut all) = (Takes::default(), Takes::default());
    for _ in 0..3 {
        fleet.world.hub.kill_9();
        fleet.swarm.begin_return();
        let begun = Instant::now();
        fleet.world.restart_hub();
        runtime.block_on(async {
            fleet.swarm.wait_back(n * 99 / 100, TIMEOUT).await;
            most.0.push(begun.elapsed().as_secs_f64() * 1000.0);
            fleet.swarm.wait_back(n, TIMEOUT).await;
            all.0.push(begun.elapsed().as_secs_f64() * 1000.0);
        });
    }
    paper.title(&format!("{n} machines linked, hub killed and started; {} virtual cores", cores()));
    paper.alone("99 of 100 are back after", "ms", &most);
    paper.alone("all are back after", "ms", &all);
    paper.alone("hub, peak resident memory", "KiB", &Takes(vec![peak(fleet.world.hub.pid()) as f64]));
}

fn peak(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("readable");
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).expect("the field");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}
