//! Invalid frames: false lengths, truncated messages.

use super::others_are_undisturbed;
use fernwart_certs::identity::TlsIdentity;
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::codec;
use fernwart_protocol::document::Envelope;
use fernwart_protocol::id::{KeyId, Signature};
use fernwart_protocol::limits::{AGENT_STREAMS, FRAME_BYTES, REPORT_BYTES};
use fernwart_protocol::link::Door;
use fernwart_protocol::staff::Request;
use fernwart_protocol::text::Blob;
use fernwart_protocol::to_agent::Stored;
use fernwart_protocol::to_hub::{Ask, SignedOutcome};
use fernwart_protocol::version::Hello;
use fernwart_tests::rogues::{dial, frame};
use fernwart_tests::{World, wait_within};
use std::time::Duration;

async fn raw(world: &World, identity: Option<&TlsIdentity>, door: Door) -> (quinn::Endpoint, quinn::Connection) {
    dial(super::target(world), identity, door, 64 * 1024).await
}

/// The application's close code, once the hub has closed.
async fn close_code(connection: &quinn::Connection) -> Option<u64> {
    match tokio::time::timeout(Duration::from_secs(5), connection.closed()).await {
        Ok(quinn::ConnectionError::ApplicationClosed(close)) => Some(close.error_code.into_inner()),
        Ok(other) => panic!("{other}"),
        Err(_) => None,
    }
}

const MISBEHAVED: u64 = 1;

#[test]
fn an_invalid_frame_length_closes_only_the_senders_link() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let staff = TlsIdentity::read(&world.shop().join("staff/staff.identity")).expect("an identity");
    // A peer is penalised after a false length, so each length uses a machine of its own.
    let lies = [("kasse-2", 0), ("kasse-3", FRAME_BYTES as u32 + 1), ("kasse-4", u32::MAX)].map(|(name, length)| {
        let liar = world.add_machine(name);
        (length, TlsIdentity::read(&liar.home.join("tls.identity")).expect("an identity"))
    });
    super::attack(async {
        for (length, agent) in &lies {
            for (identity, door) in [(Some(&staff), Door::Staff), (Some(agent), Door::Agent), (None, Door::Enroll)] {
                let (_endpoint, connection) = raw(&world, identity, door).await;
                let (mut send, _receive) = connection.open_bi().await.expect("a stream");
                send.write_all(&length.to_be_bytes()).await.expect("sent");
                assert_eq!(close_code(&connection).await, Some(MISBEHAVED), "length {length} at {door:?}");
            }
        }
        // The enrollment door takes no frame over 8 KiB.
        let (_endpoint, connection) = raw(&world, None, Door::Enroll).await;
        let (mut send, _receive) = connection.open_bi().await.expect("a stream");
        send.write_all(&(8 * 1024u32 + 1).to_be_bytes()).await.expect("sent");
        assert_eq!(close_code(&connection).await, Some(MISBEHAVED));
    });
    others_are_undisturbed(&world, &machine.name);
}

/// A machine sends the largest frame on all its streams at once.
#[test]
fn concurrent_large_frames_are_queued_and_all_answered() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    machine.agent.stop();
    let own = super::identity(&machine.home.join("tls.identity"));
    super::attack(async {
        let link = super::incoming(&world, Door::Agent, own.chain.clone(), &own.key).await.expect("let in");
        let _words = super::speak(&link).await;
        let order = Envelope {
            key: KeyId::from_bytes([1; 16]),
            signature: Signature::from_bytes([1; 64]),
            bytes: Blob::default(),
        };
        let outcome = SignedOutcome {
            receipt: order.clone(),
            order,
            body: Blob::try_from(vec![7; REPORT_BYTES]).expect("short enough"),
        };
        // As many as a machine may open beside its control stream.
        let mut all = tokio::task::JoinSet::new();
        for _ in 1..AGENT_STREAMS {
            let (mut send, mut receive) = link.open().await.expect("a stream");
            let ask = Ask::Outcome(outcome.clone());
            all.spawn(async move {
                send.send(&ask).await.expect("sent");
                receive.expect::<Stored>().await.expect("an answer")
            });
        }
        let answers = tokio::time::timeout(Duration::from_secs(8), all.join_all()).await.expect("none stands still");
        let refused = |answer: &Stored| *answer == Stored::NotNow(Denial::NotUnderstood);
        assert!(answers.iter().all(refused), "it is nobody's signature: {answers:?}");
    });
}

#[test]
fn announced_frames_that_never_arrive_use_no_memory_and_are_closed() {
    const LINKS: usize = 60;
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let staff = TlsIdentity::read(&world.shop().join("staff/staff.identity")).expect("an identity");
    let before = super::memory_kib(world.hub.pid());
    super::attack(async {
        let mut links = Vec::new();
        for _ in 0..LINKS {
            let (endpoint, connection) = raw(&world, Some(&staff), Door::Staff).await;
            let mut streams = Vec::new();
            // Each stream announces the largest frame, sends five bytes of it, and waits. The hub allows a
            // technician's streams once it knows the key.
            while let Ok(Ok((mut send, receive))) =
                tokio::time::timeout(Duration::from_millis(100), connection.open_bi()).await
            {
                let mut begun = u32::try_from(FRAME_BYTES).expect("a length").to_be_bytes().to_vec();
                begun.extend([7; 5]);
                send.write_all(&begun).await.expect("sent");
                streams.push((send, receive));
            }
            assert!(streams.len() >= 8, "it may open many: {}", streams.len());
            links.push((endpoint, connection, streams));
        }
        let announced = links.iter().map(|(.., streams)| streams.len()).sum::<usize>() * FRAME_BYTES / 1024;
        assert!(announced > 400 * 1024, "{announced} KiB are announced");
        // Until each is closed; a link itself costs some 40 KiB, a stream a few.
        let all = links.iter().map(|(_, connection, _)| connection.closed());
        let mut all = std::pin::pin!(futures::future::join_all(all));
        let mut most = 0;
        while tokio::time::timeout(Duration::from_millis(50), &mut all).await.is_err() {
            most = most.max(super::memory_kib(world.hub.pid()).saturating_sub(before));
            assert!(most < 48 * 1024, "{most} KiB for {announced} that were announced");
        }
        for (_, connection, _) in &links {
            let ended = tokio::time::timeout(Duration::from_secs(20), connection.closed()).await.expect("closed");
            let quinn::ConnectionError::ApplicationClosed(close) = ended else { panic!("{ended}") };
            assert_eq!(close.error_code.into_inner(), u64::from(Goodbye::TooSlow.number()));
        }
    });
    others_are_undisturbed(&world, &machine.name);
    assert_eq!(world.technician(&["ls"]).code, 0, "the key's own programs are served");
    // The hub returns free memory to the system every half minute.
    let kept = || super::memory_kib(world.hub.pid()).saturating_sub(before);
    wait_within(Duration::from_secs(100), "memory is given back", || kept() < 8 * 1024);
}

#[test]
fn a_truncated_or_overlong_request_is_rejected() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let staff = TlsIdentity::read(&world.shop().join("staff/staff.identity")).expect("an identity");
    let hello = frame(&codec::encode(&Hello::new(&[])).expect("encoded"));
    let body = codec::encode(&Request::Facts(fernwart_protocol::id::MachineId::from_bytes([3; 16]))).expect("encoded");
    super::attack(async {
        // Cut in the stream: nothing comes back, and the link stays.
        let (_endpoint, connection) = raw(&world, Some(&staff), Door::Staff).await;
        let complete: Vec<u8> = hello.iter().copied().chain(frame(&body)).collect();
        for cut in 0..complete.len() {
            let (mut send, _receive) = connection.open_bi().await.expect("the link stays");
            send.write_all(&complete[..cut]).await.expect("sent");
            send.finish().expect("ended");
        }
        assert!(tokio::time::timeout(Duration::from_millis(200), connection.closed()).await.is_err());
        // Complete frames with a truncated or lengthened body are misbehaviour.
        for length in (0..body.len() + 2).filter(|length| *length != body.len() && *length != 0) {
            let (_endpoint, connection) = raw(&world, Some(&staff), Door::Staff).await;
            let mut evil = body.clone();
            evil.resize(length, 0);
            let (mut send, _receive) = connection.open_bi().await.expect("a stream");
            send.write_all(&hello).await.expect("sent");
            send.write_all(&frame(&evil)).await.expect("sent");
            assert_eq!(close_code(&connection).await, Some(MISBEHAVED), "length {length}");
        }
        // Proof that only the length was wrong: the complete request is answered.
        let (_endpoint, connection) = raw(&world, Some(&staff), Door::Staff).await;
        let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
        send.write_all(&complete).await.expect("sent");
        send.finish().expect("ended");
        let answer = receive.read_to_end(FRAME_BYTES).await.expect("an answer");
        assert!(answer.len() > 8, "{answer:?}");
    });
    others_are_undisturbed(&world, &machine.name);
}

#[test]
fn garbage_datagrams_disturb_no_link() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut byte = 7u8;
    for length in 0..1400usize {
        let garbage: Vec<u8> = (0..length)
            .map(|_| {
                byte = byte.wrapping_mul(167).wrapping_add(13);
                byte
            })
            .collect();
        let _ = socket.send_to(&garbage, world.address);
    }
    others_are_undisturbed(&world, &machine.name);
}

#[test]
fn a_peer_without_a_common_protocol_version_is_told_so() {
    use fernwart_protocol::code::Denial;
    use fernwart_protocol::staff::Reply;
    let world = World::new();
    let staff = TlsIdentity::read(&world.shop().join("staff/staff.identity")).expect("an identity");
    super::attack(async {
        let (_endpoint, connection) = raw(&world, Some(&staff), Door::Staff).await;
        let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
        let future = Hello { min: 98, current: 99, ..Hello::new(&[]) };
        send.write_all(&frame(&codec::encode(&future).expect("encoded"))).await.expect("sent");
        send.finish().expect("ended");
        let answer = receive.read_to_end(FRAME_BYTES).await.expect("an answer");
        let hello = u32::from_be_bytes(answer[..4].try_into().expect("four")) as usize;
        let reply: Reply = codec::decode(&answer[4 + hello + 4..]).expect("a reply");
        assert_eq!(reply, Reply::Denied(Denial::Incompatible));
        // This is no misbehaviour: the link stays.
        assert!(tokio::time::timeout(Duration::from_millis(200), connection.closed()).await.is_err());
    });
}
