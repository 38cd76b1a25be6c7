//! Too much of everything: half handshakes by the thousand, more streams than
//! allowed, bytes that nobody asked for.

use super::{attack, knock, others_are_undisturbed, pin};
use bytes::BytesMut;
use fernwart_certs::identity::{TlsIdentity, TlsKey};
use fernwart_certs::issue::Authority;
use fernwart_certs::tls::{self, Clock};
use fernwart_protocol::limits::{
    AGENT_STREAMS, HANDSHAKE_TIMEOUT, HANDSHAKES, HANDSHAKES_BEFORE_RETRY, LINK_WINDOW_BYTES, STREAM_WINDOW_BYTES,
};
use fernwart_protocol::link::{Dialer, Door, HUB_SERVER_NAME, Listener, RestartKeys};
use fernwart_tests::{World, wait_within};
use quinn_proto::{ClientConfig, DatagramEvent, Endpoint, EndpointConfig};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// What a datagram from the hub is, by its first byte (RFC 9000, 17.2).
#[derive(Debug, PartialEq)]
enum Answer {
    /// The hub has begun a handshake: this cost it a key exchange.
    Handshake,
    /// The hub wants to see that the address is real; it keeps nothing.
    Retry,
    /// The hub will have no more.
    Refused,
    Nothing,
}

/// Somebody who begins handshakes and never ends one.
struct Teaser {
    hub: SocketAddr,
    config: ClientConfig,
}

impl Teaser {
    fn new(world: &World) -> Self {
        let mut tls = tls::newcomer(vec![pin(world)], Clock::MustBeRight).expect("TLS");
        tls.alpn_protocols = vec![Door::Enroll.alpn().to_vec()];
        let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("QUIC");
        Self { hub: world.address, config: ClientConfig::new(Arc::new(quic)) }
    }

    /// First words of a handshake. With `honest`, a wish to see the address is
    /// granted, and only then does the teaser fall silent.
    fn tease(&self, honest: bool) -> Answer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let (_, mut connection) =
            endpoint.connect(Instant::now(), self.config.clone(), self.hub, HUB_SERVER_NAME).expect("a connection");
        let mut first = Answer::Nothing;
        for _ in 0..=usize::from(honest) {
            let mut sent = Vec::new();
            let _ = connection.poll_transmit(Instant::now(), 1, &mut sent).expect("a first word");
            socket.send_to(&sent, self.hub).expect("sent");
            let mut heard = vec![0u8; 2048];
            // The rest of an earlier answer carries another connection's id.
            let (datagram, event) = loop {
                let Ok((length, _)) = socket.recv_from(&mut heard) else { return Answer::Nothing };
                let datagram = heard[..length].to_vec();
                let (now, mut reply) = (Instant::now(), Vec::new());
                let event = endpoint.handle(now, self.hub, None, None, BytesMut::from(&datagram[..]), &mut reply);
                if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                    break (datagram, event);
                }
            };
            connection.handle_event(event);
            let refused = connection.is_closed() || connection.is_drained();
            first = match datagram[0] & 0xf0 {
                _ if refused => Answer::Refused,
                0xf0 => Answer::Retry,
                _ => Answer::Handshake,
            };
            if first != Answer::Retry {
                return first;
            }
        }
        first
    }
}

fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

#[test]
fn past_two_hundred_half_handshakes_strangers_must_show_their_address_and_honest_machines_get_in() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let teaser = Teaser::new(&world);
    let before = memory_kib(world.hub.pid());
    let begun = Instant::now();
    let (mut taken, mut retried) = (0, 0);
    while retried < 2_000 {
        match teaser.tease(false) {
            Answer::Handshake => taken += 1,
            Answer::Retry => retried += 1,
            other => panic!("{other:?} after {taken} handshakes and {retried} retries"),
        }
    }
    println!("{taken} handshakes begun, {retried} sent back in {:?}", begun.elapsed());
    // Those that fell silent are dropped after their time, and others take their places.
    let rounds = 1 + begun.elapsed().as_secs() / HANDSHAKE_TIMEOUT.as_secs();
    let places = HANDSHAKES_BEFORE_RETRY * usize::try_from(rounds).expect("few");
    assert!((HANDSHAKES_BEFORE_RETRY - 20..=places).contains(&taken), "{taken} were let in at once");
    let grown = memory_kib(world.hub.pid()).saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB for {taken} half handshakes");
    // An honest machine shows its address by itself.
    machine.agent.kill_9();
    machine.restart();
    let back = wait_within(Duration::from_secs(5), "the machine is linked", || {
        machine.agent.log().matches("INFO linked").count() == 2
    });
    println!("linked within {back:?} of its start; the hub grew by {grown} KiB");
    others_are_undisturbed(&world, "kasse-1");
}

#[test]
fn past_the_cap_handshakes_are_refused_and_links_that_are_open_stay() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let teaser = Teaser::new(&world);
    let begun = Instant::now();
    let (mut taken, mut lost) = (0, 0);
    loop {
        match teaser.tease(true) {
            Answer::Handshake => taken += 1,
            Answer::Refused => break,
            // A datagram was lost on a busy computer; not again and again.
            Answer::Nothing if lost < 3 => lost += 1,
            other => panic!("{other:?} after {taken}"),
        }
        assert!(taken <= HANDSHAKES && begun.elapsed() < 3 * HANDSHAKE_TIMEOUT, "{taken} were let in");
    }
    println!("{taken} half handshakes in {:?}, then no more", begun.elapsed());
    assert_eq!(machine.agent.log().matches("INFO linked").count(), 1, "the machine's link is untouched");
    wait_within(HANDSHAKE_TIMEOUT + Duration::from_secs(5), "there is room again", || {
        world.technician(&["ping", "kasse-1", "--timeout", "2s"]).code == 0
    });
    others_are_undisturbed(&world, "kasse-1");
}

#[test]
fn a_machine_has_its_streams_and_no_more() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let mut greedy = world.add_machine("kasse-2");
    greedy.agent.stop();
    let identity = TlsIdentity::read(&greedy.home.join("tls.identity")).expect("an identity");
    attack(async {
        let link = knock(&world, Door::Agent, identity.chain.clone(), &identity.key).await.expect("let in");
        let mut open = Vec::new();
        for number in 0..AGENT_STREAMS {
            let stream = tokio::time::timeout(Duration::from_secs(2), link.open()).await;
            open.push(stream.unwrap_or_else(|_| panic!("stream {number}")).expect("open"));
        }
        let one_more = tokio::time::timeout(Duration::from_millis(500), link.open()).await;
        assert!(one_more.is_err(), "the {AGENT_STREAMS} are all there is");
    });
    others_are_undisturbed(&world, &machine.name);
}

#[test]
fn what_nobody_reads_stays_with_its_sender() {
    let ca_key = TlsKey::generate().expect("a key");
    let ca = Authority::create(&ca_key, SystemTime::now()).expect("a CA");
    let authority = Authority::new(&ca_key, ca.clone()).expect("an authority");
    let key = TlsKey::generate().expect("a key");
    let chain = authority.issue_hub(key.spki(), SystemTime::now()).expect("issued");
    attack(async {
        let keys = RestartKeys { connection_ids: 7, reset: [7; 32] };
        let tls = tls::hub(chain, &key, std::slice::from_ref(&ca)).expect("TLS");
        let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), tls, &keys).expect("a port");
        let address = listener.local_addr().expect("an address");
        // A peer that takes the link and then reads nothing.
        let lazy = tokio::spawn(async move {
            let link = listener.accept().await.expect("a knock").finish().await.expect("a link");
            let mut streams = Vec::new();
            while let Ok(stream) = link.accept().await {
                streams.push(stream);
            }
        });
        let tls = tls::newcomer(vec![fernwart_certs::sha256(&ca)], Clock::MustBeRight).expect("TLS");
        let dialer = Dialer::new(address).expect("a socket");
        let link = dialer.dial(address, Door::Enroll, tls, Duration::from_secs(5)).await.expect("linked");
        let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let mut pushers = Vec::new();
        for _ in 0..AGENT_STREAMS {
            let (mut send, receive) = link.open().await.expect("a stream");
            let sent = sent.clone();
            pushers.push(tokio::spawn(async move {
                let _keep = receive;
                while send.send(&vec![0u8; 16 * 1024]).await.is_ok() {
                    sent.fetch_add(16 * 1024, std::sync::atomic::Ordering::SeqCst);
                }
            }));
        }
        // Until nothing moves any more.
        let mut before = usize::MAX;
        loop {
            let now = sent.load(std::sync::atomic::Ordering::SeqCst);
            if now == before {
                break;
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        let most = LINK_WINDOW_BYTES as usize + AGENT_STREAMS as usize * STREAM_WINDOW_BYTES as usize;
        println!("{before} bytes went out unread on {AGENT_STREAMS} streams");
        assert!(before > 0 && before <= most, "{before} of at most {most}");
        pushers.iter().for_each(tokio::task::JoinHandle::abort);
        lazy.abort();
    });
}
