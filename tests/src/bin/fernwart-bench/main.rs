//! Figures for the README: ours beside raw quinn, in one run, on one machine.
//!
//! `fernwart-bench idle` measures one agent at rest for a minute;
//! `fernwart-bench links [N]` a hub with N idle links; `fernwart-bench run [N]`
//! N runs of a script that does nothing, beside ssh. Each starts its own
//! processes on loopback and prints a table. Build with `--release` first.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::indexing_slicing, reason = "a benchmark may fail loudly")]

mod run;

use fernwart_certs::identity::{SealingKey, SigningKey, TlsKey};
use fernwart_certs::invitation::Invitation;
use fernwart_certs::issue::Authority;
use fernwart_certs::join::{prove_join, unsigned};
use fernwart_certs::peer::Name;
use fernwart_certs::tls::{self, Clock};
use fernwart_certs::{CertificateDer, sha256};
use fernwart_protocol::enroll::{Join, Reply, Request};
use fernwart_protocol::id::{BootId, Digest, MachineId};
use fernwart_protocol::link::{Dialer, Door, HUB_SERVER_NAME, Link, Receiver, Sender};
use fernwart_protocol::text::{Blob, Text};
use fernwart_protocol::to_agent::Control;
use fernwart_protocol::to_hub::{About, Ask};
use fernwart_protocol::version::Hello;
use fernwart_tests::{World, free_port, program, wait_until};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::JoinSet;

/// UDP sockets of a swarm: one carries a few hundred links.
const SOCKETS: usize = 16;

/// Handshakes under way at once in a swarm.
const AT_ONCE: usize = 32;

/// How long a process rests before it is measured, and how long it is watched.
const SETTLE: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run"] => run::run(50),
        ["run", n] => run::run(n.parse().expect("a number")),
        ["idle"] => idle(),
        ["links"] => links(2_000),
        ["links", n] => links(n.parse().expect("a number")),
        ["raw-server", port, folder] => raw_server(port.parse().expect("a port"), Path::new(folder)),
        ["raw-idle", port, folder] => raw_idle(port.parse().expect("a port"), Path::new(folder)),
        _ => println!("fernwart-bench idle | links [N] | run [N]"),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A field of a process's memory, KiB.
fn memory(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("readable");
    let line = text.lines().find(|line| line.starts_with(field)).expect("the field");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Processor time of all threads so far, from the scheduler's own count.
fn cpu(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    let nanos = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

// ---- raw quinn, with the same certificates and key exchange ----

fn raw_keys(folder: &Path) {
    let now = SystemTime::now();
    let ca_key = TlsKey::generate().expect("a key");
    let ca = Authority::create(&ca_key, now).expect("a CA");
    let authority = Authority::new(&ca_key, ca.clone()).expect("an authority");
    std::fs::write(folder.join("ca.der"), &ca).expect("written");
    for (name, id) in [("server", None), ("client", Some(MachineId::from_bytes([1; 16])))] {
        let key = TlsKey::generate().expect("a key");
        key.create(&folder.join(format!("{name}.key"))).expect("written");
        let chain = match id {
            None => authority.issue_hub(key.spki(), now),
            Some(id) => authority.issue_member(Name::Machine(id), key.spki(), now),
        };
        std::fs::write(folder.join(format!("{name}.der")), &chain.expect("issued")[0]).expect("written");
    }
}

fn raw_pair(folder: &Path, name: &str) -> (Vec<CertificateDer<'static>>, TlsKey) {
    let read = |file: &str| CertificateDer::from(std::fs::read(folder.join(file)).expect("read"));
    let key = TlsKey::read(&folder.join(format!("{name}.key"))).expect("a key");
    (vec![read(&format!("{name}.der")), read("ca.der")], key)
}

/// The smallest parameters that were measured to save memory.
fn raw_transport(client: bool) -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_idle_timeout(Some(Duration::from_secs(90).try_into().expect("short")))
        .keep_alive_interval(client.then(|| Duration::from_secs(20)))
        .stream_receive_window(65_536u32.into())
        .receive_window(262_144u32.into())
        .send_window(262_144)
        .max_concurrent_bidi_streams(8u32.into())
        .max_concurrent_uni_streams(2u32.into())
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(None)
        .crypto_buffer_size(16_384);
    Arc::new(transport)
}

fn raw_client(folder: &Path) -> quinn::ClientConfig {
    let (chain, key) = raw_pair(folder, "client");
    let pin = sha256(&chain[1]);
    let mut tls = tls::member(vec![pin], Clock::MustBeRight, chain, &key).expect("TLS");
    tls.alpn_protocols = vec![Door::Agent.alpn().to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("QUIC")));
    config.transport_config(raw_transport(true));
    config
}

fn raw_server(port: u16, folder: &Path) {
    runtime().block_on(async {
        let (chain, key) = raw_pair(folder, "server");
        let tls = tls::hub(chain.clone(), &key, &chain[1..2]).expect("TLS");
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).expect("QUIC")));
        config.transport_config(raw_transport(false));
        let endpoint = quinn::Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], port))).expect("the port");
        let mut kept = Vec::new();
        while let Some(incoming) = endpoint.accept().await {
            if let Ok(connection) = incoming.await {
                kept.push(connection);
            }
        }
    });
}

fn raw_idle(port: u16, folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let linked = endpoint.connect_with(raw_client(folder), address, HUB_SERVER_NAME).expect("dialled").await;
        let connection = linked.expect("linked");
        while connection.accept_bi().await.is_ok() {}
    });
}

struct Raw {
    server: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Raw {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        raw_keys(folder.path());
        let port = free_port();
        let server = raw_process("raw-server", port, folder.path());
        // Bound once nobody else can bind it.
        wait_until("the raw server listens", || UdpSocket::bind(("127.0.0.1", port)).is_err());
        Self { server, port, folder }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn raw_process(what: &str, port: u16, folder: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args([what, &port.to_string()]).arg(folder).stdin(Stdio::null()).spawn().expect("started")
}

// ---- one agent at rest ----

fn idle() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let raw = Raw::start();
    let mut quinn = raw_process("raw-idle", raw.port, raw.folder.path());
    std::thread::sleep(SETTLE);
    let pids = [machine.agent.pid(), quinn.id()];
    let before = pids.map(cpu);
    std::thread::sleep(MINUTE);
    println!("one agent at rest, linked, over {} s", MINUTE.as_secs());
    println!("{:<22} {:>9} {:>9} {:>12}", "", "RSS KiB", "PSS KiB", "CPU ms/min");
    for ((name, pid), before) in ["fernwart-agent", "raw quinn client"].into_iter().zip(pids).zip(before) {
        let used = (cpu(pid) - before).as_secs_f64() * 1000.0;
        println!("{name:<22} {:>9} {:>9} {used:>12.2}", memory(pid, "Rss:"), memory(pid, "Pss:"));
    }
    let _ = world.technician(&["diagnose", "kasse-1"]);
    std::thread::sleep(SETTLE);
    let pid = pids[0];
    println!("{:<22} {:>9} {:>9}", "  after a diagnosis", memory(pid, "Rss:"), memory(pid, "Pss:"));
    for name in ["fernwart-agent", "fernwart"] {
        let bytes = std::fs::metadata(program(name)).expect("built").len();
        println!("{name:<22} {:>9.2} MB", bytes as f64 / 1e6);
    }
    let _ = quinn.kill();
    let _ = quinn.wait();
}

// ---- many idle links ----

fn links(n: usize) {
    println!("{n} idle links from one process, hub memory as PSS");
    println!("{:<22} {:>10} {:>12} {:>14}", "", "base KiB", "linked KiB", "KiB per link");
    let row = |name: &str, base: u64, linked: u64| {
        let each = (linked as f64 - base as f64) / n as f64;
        println!("{name:<22} {base:>10} {linked:>12} {each:>14.1}");
        each
    };
    let runtime = runtime();

    let raw = Raw::start();
    let pid = raw.server.id();
    std::thread::sleep(Duration::from_secs(1));
    let base = memory(pid, "Pss:");
    let held = runtime.block_on(raw_swarm(&raw, n));
    std::thread::sleep(SETTLE);
    let raw_each = row("raw quinn, tuned", base, memory(pid, "Pss:"));
    drop(held);
    drop(raw);

    let mut world = World::new();
    let line = world.invitation(&["Swarm", "--machines", &n.to_string(), "--admit-automatically"]);
    let invitation: Invitation = line.parse().expect("an invitation");
    let members = runtime.block_on(join_swarm(&world, &invitation, n));
    world.hub.kill_9();
    world.restart_hub();
    std::thread::sleep(Duration::from_secs(2));
    let pid = world.hub.pid();
    let base = memory(pid, "Pss:");
    let held = runtime.block_on(link_swarm(&world, members, invitation.ca));
    std::thread::sleep(SETTLE);
    let ours_each = row("fernwart serve", base, memory(pid, "Pss:"));
    let before = cpu(pid);
    std::thread::sleep(MINUTE);
    println!(
        "ratio {:.2}; the hub used {:.0} ms of CPU in an idle minute",
        ours_each / raw_each,
        (cpu(pid) - before).as_secs_f64() * 1000.0
    );
    drop(held);
}

async fn raw_swarm(raw: &Raw, n: usize) -> Vec<(quinn::Endpoint, quinn::Connection)> {
    let config = raw_client(raw.folder.path());
    let address = SocketAddr::from(([127, 0, 0, 1], raw.port));
    let endpoints: Vec<_> = (0..SOCKETS)
        .map(|_| quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket"))
        .collect();
    let mut tasks = JoinSet::new();
    let mut held = Vec::with_capacity(n);
    for index in 0..n {
        let (endpoint, config) = (endpoints[index % SOCKETS].clone(), config.clone());
        tasks.spawn(async move {
            let connection =
                endpoint.connect_with(config, address, HUB_SERVER_NAME).expect("dialled").await.expect("linked");
            (endpoint, connection)
        });
        if tasks.len() >= AT_ONCE {
            held.push(tasks.join_next().await.expect("one").expect("linked"));
        }
    }
    while let Some(done) = tasks.join_next().await {
        held.push(done.expect("linked"));
    }
    held
}

type Member = (TlsKey, Vec<CertificateDer<'static>>);

/// Joins honestly through the enrollment door.
async fn join_swarm(world: &World, invitation: &Invitation, n: usize) -> Vec<Member> {
    let invitation = Arc::new(invitation.clone());
    let address = world.address;
    let mut tasks = JoinSet::new();
    let mut members = Vec::with_capacity(n);
    for _ in 0..n {
        let invitation = invitation.clone();
        tasks.spawn(async move { join_one(address, &invitation).await });
        if tasks.len() >= AT_ONCE {
            members.push(tasks.join_next().await.expect("one").expect("joined"));
        }
    }
    while let Some(done) = tasks.join_next().await {
        members.push(done.expect("joined"));
    }
    members
}

async fn join_one(address: SocketAddr, invitation: &Invitation) -> Member {
    let (evidence, sealing) = (SigningKey::generate().expect("a key"), SealingKey::generate().expect("a key"));
    let key = TlsKey::generate().expect("a key");
    let tls = tls::newcomer(vec![invitation.ca], Clock::MustBeRight).expect("TLS");
    let dialer = Dialer::new(address).expect("a socket");
    let link = dialer.dial(address, Door::Enroll, tls, Duration::from_secs(10)).await.expect("linked");
    let join = Join {
        token: invitation.token,
        proof: Digest::from_bytes([0; 32]),
        tls_key: Blob::try_from(key.spki().to_vec()).expect("short"),
        evidence_key: evidence.public(),
        sealing_key: sealing.public(),
        signature: unsigned(),
        hostname: Text::clipped("swarm"),
        os: Text::clipped("swarm"),
    };
    let join = prove_join(join, &link.binding().expect("a binding"), &invitation.secret.proof_key(), &evidence);
    let (mut send, mut receive) = link.open().await.expect("a stream");
    send.send(&Request::Join(join)).await.expect("sent");
    send.finish();
    let Reply::Certificate(chain) = receive.expect().await.expect("a reply") else { panic!("not admitted") };
    link.close(fernwart_protocol::code::Goodbye::Done);
    dialer.settle().await;
    (key, chain.into_iter().map(|der| CertificateDer::from(der.into_bytes())).collect())
}

type Held = (Arc<Dialer>, Link, Sender, Receiver);

/// Links every member with hello, as an agent does.
async fn link_swarm(world: &World, members: Vec<Member>, ca: Digest) -> Vec<Held> {
    let address = world.address;
    let dialers: Vec<_> = (0..SOCKETS).map(|_| Arc::new(Dialer::new(address).expect("a socket"))).collect();
    let mut tasks = JoinSet::new();
    let mut held = Vec::with_capacity(members.len());
    for (index, (key, chain)) in members.into_iter().enumerate() {
        let dialer = dialers[index % SOCKETS].clone();
        tasks.spawn(async move {
            let tls = tls::member(vec![ca], Clock::MustBeRight, chain, &key).expect("TLS");
            let link = dialer.dial(address, Door::Agent, tls, Duration::from_secs(10)).await.expect("linked");
            let (mut send, mut receive) = link.open().await.expect("a stream");
            let about = About {
                boot: BootId::from_bytes([0; 16]),
                os: Text::clipped("swarm"),
                journal_seq: 0,
                journal_head: Digest::from_bytes([0; 32]),
                chain_seq: 0,
                chain_head: Digest::from_bytes([0; 32]),
            };
            send.send(&Ask::Control(Hello::new(&[]), about)).await.expect("sent");
            let word: Control = receive.expect().await.expect("a word");
            assert!(matches!(word, Control::Hello(_)), "{word:?}");
            (dialer, link, send, receive)
        });
        if tasks.len() >= AT_ONCE {
            held.push(tasks.join_next().await.expect("one").expect("linked"));
        }
    }
    while let Some(done) = tasks.join_next().await {
        held.push(done.expect("linked"));
    }
    held
}
