//! Attacks on a running world. Each test first shows that its input is harmful, then that it was refused
//! and that nothing else has changed. `Evil:` marks the harmful input, `Proof:` a control that works.

mod catalogues;
mod clones;
mod doors;
mod doubt;
mod enrollment;
pub(crate) mod evil_hub;
mod files;
mod flood;
mod forged;
mod frames;
mod orders;
mod outsider;
mod rates;
mod restored;
mod rogues;
mod scripts;
mod stolen;

use fernwart_certs::identity::{TlsIdentity, TlsKey};
use fernwart_certs::issue::Authority;
use fernwart_certs::tls::{self, Clock};
use fernwart_certs::{CertificateDer, sha256};
use fernwart_protocol::code::Goodbye;
use fernwart_protocol::id::Digest;
use fernwart_protocol::link::{DialError, Dialer, Door, Link, LinkError, Receiver, Sender};
use fernwart_protocol::to_agent::Control;
use fernwart_tests::World;
use fernwart_tests::rogues::{Target, introduction};
use std::time::Duration;

/// A runtime for the attacker.
fn attack<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

/// The organisation's CA, read from the stolen home of the hub.
fn stolen_ca(world: &World) -> Authority {
    let home = world.shop().join("hub");
    Authority::read(&home.join("ca.key"), &home.join("ca.der")).expect("the CA")
}

fn pin(world: &World) -> Digest {
    sha256(&std::fs::read(world.shop().join("hub/ca.der")).expect("the CA"))
}

fn target(world: &World) -> Target {
    Target { address: world.address, pin: pin(world) }
}

/// Dials a door with the given certificate.
async fn incoming(
    world: &World,
    door: Door,
    chain: Vec<CertificateDer<'static>>,
    key: &TlsKey,
) -> Result<Link, LinkError> {
    let tls = if chain.is_empty() {
        tls::newcomer(vec![pin(world)], Clock::MustBeRight)
    } else {
        tls::member(vec![pin(world)], Clock::MustBeRight, chain, key)
    };
    dial_with(world, door, tls.expect("TLS")).await
}

async fn dial_with(world: &World, door: Door, tls: tls::ClientConfig) -> Result<Link, LinkError> {
    let dialer = Dialer::new(world.address).expect("a socket");
    match dialer.dial(world.address, door, tls, Duration::from_secs(5)).await {
        Ok(link) => Ok(link),
        Err(DialError::Link { source, .. }) => Err(source),
        Err(error) => panic!("{error}"),
    }
}

fn closed(why: Goodbye) -> LinkError {
    LinkError::Closed(why)
}

fn identity(path: &std::path::Path) -> TlsIdentity {
    TlsIdentity::read(path).expect("an identity")
}

/// Opens the control stream and sends an agent's hello.
async fn say_hello(link: &Link) -> (Sender, Receiver) {
    let (mut send, receive) = link.open().await.expect("a stream");
    send.send(&introduction()).await.expect("sent");
    (send, receive)
}

/// The same, and waits for the hub's hello.
async fn speak(link: &Link) -> (Sender, Receiver) {
    let (send, mut receive) = say_hello(link).await;
    let word: Control = receive.expect().await.expect("hello");
    assert!(matches!(word, Control::Hello(_)));
    (send, receive)
}

fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// How a link ends, in the handshake or after it.
async fn end_of(link: Result<Link, LinkError>) -> LinkError {
    match link {
        Err(error) => error,
        Ok(link) => tokio::time::timeout(Duration::from_secs(5), link.closed()).await.expect("the hub closes the link"),
    }
}

/// Asserts that another machine is still served.
fn others_are_undisturbed(world: &World, name: &str) {
    assert!(world.is_online(name), "{name} is still linked");
    let pong = world.technician(&["ping", name, "-o", "jsonl"]).exits(0).json_lines();
    assert!(pong[0]["ms"].is_number(), "{pong:?}");
}
