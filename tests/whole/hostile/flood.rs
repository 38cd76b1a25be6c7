//! Exhaustion: thousands of half handshakes, more streams than allowed, data that nobody reads.

use super::{attack, incoming, memory_kib, others_are_undisturbed, target};
use fernwart_certs::identity::{TlsIdentity, TlsKey};
use fernwart_certs::issue::Authority;
use fernwart_certs::tls::{self, Clock};
use fernwart_protocol::limits::{
    AGENT_STREAMS, HANDSHAKE_TIMEOUT, HANDSHAKES, HANDSHAKES_BEFORE_RETRY, LINK_WINDOW_BYTES, STREAM_WINDOW_BYTES,
};
use fernwart_protocol::link::{Dialer, Door, Listener, RestartKeys};
use fernwart_tests::rogues::{Answer, Honesty, Teaser};
use fernwart_tests::{World, wait_within};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

#[test]
fn after_200_half_handshakes_the_hub_sends_retry_and_honest_machines_connect() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let teaser = Teaser::new(target(&world));
    let before = memory_kib(world.hub.pid());
    let begun = Instant::now();
    let (mut taken, mut retried) = (0, 0);
    while retried < 2_000 {
        match teaser.tease(Honesty::None) {
            Answer::Handshake => taken += 1,
            Answer::Retry => retried += 1,
            other => panic!("{other:?} after {taken} handshakes and {retried} retries"),
        }
    }
    println!("{taken} handshakes begun, {retried} sent back in {:?}", begun.elapsed());
    // Abandoned handshakes time out, and others take their slots.
    let rounds = 1 + begun.elapsed().as_secs() / HANDSHAKE_TIMEOUT.as_secs();
    let places = HANDSHAKES_BEFORE_RETRY * usize::try_from(rounds).expect("few");
    assert!((HANDSHAKES_BEFORE_RETRY - 20..=places).contains(&taken), "{taken} were let in at once");
    let grown = memory_kib(world.hub.pid()).saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB for {taken} half handshakes");
    // An honest machine answers the Retry by itself.
    machine.agent.kill_9();
    machine.restart();
    let back = wait_within(Duration::from_secs(5), "the machine is linked", || {
        machine.agent.log().matches("INFO linked").count() == 2
    });
    println!("linked within {back:?} of its start; the hub grew by {grown} KiB");
    others_are_undisturbed(&world, "kasse-1");
}

#[test]
fn above_the_handshake_limit_new_links_are_refused_and_open_links_stay() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let teaser = Teaser::new(target(&world));
    let begun = Instant::now();
    let (mut taken, mut lost) = (0, 0);
    loop {
        match teaser.tease(Honesty::ShowsItsAddress) {
            Answer::Handshake => taken += 1,
            Answer::Refused => break,
            // On a busy computer a datagram may be lost, but only a few times.
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
fn a_machine_cannot_open_more_streams_than_its_limit() {
    let (world, machine, greedy) = World::with_one_linked_and_one_stopped();
    let identity = TlsIdentity::read(&greedy.home.join("tls.identity")).expect("an identity");
    attack(async {
        let link = incoming(&world, Door::Agent, identity.chain.clone(), &identity.key).await.expect("let in");
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
fn unread_data_is_bounded_by_flow_control_at_the_sender() {
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
            let link = listener.accept().await.expect("a connection").finish().await.expect("a link");
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
        // Until no more bytes are accepted.
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
