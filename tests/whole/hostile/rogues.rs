//! Misbehaving peers: each is closed with its reason and counted, or slowed down; all at once they disturb
//! nobody.

use super::{attack, identity, memory_kib, others_are_undisturbed, target};
use fernwart_protocol::code::Goodbye;
use fernwart_protocol::codec;
use fernwart_protocol::event::Until;
use fernwart_protocol::limits::{EMPTY_STREAMS, PENALTY};
use fernwart_protocol::link::Door;
use fernwart_protocol::staff::Request;
use fernwart_protocol::version::Hello;
use fernwart_tests::rogues::{Rogue, dial, frame};
use fernwart_tests::{World, wait_within};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longer than the hub waits for a frame.
const TIMEOUT: Duration = Duration::from_secs(16);

/// The code with which each is closed; `None` if it is only slowed down.
fn deserved(rogue: Rogue) -> Option<Goodbye> {
    match rogue {
        Rogue::Silent | Rogue::SlowSender | Rogue::SlowReader | Rogue::NeverReads => Some(Goodbye::TooSlow),
        Rogue::Resets | Rogue::GiantFrame => Some(Goodbye::Misbehaved),
        Rogue::Flood | Rogue::Chatter => None,
    }
}

#[test]
fn each_rogue_is_closed_or_throttled_and_honest_machines_are_undisturbed() {
    let world = World::new();
    let honest = world.add_machine("kasse-1");
    let rogues: Vec<_> = Rogue::ALL
        .iter()
        .map(|rogue| {
            let mut machine = world.add_machine(rogue.name());
            machine.agent.stop();
            (*rogue, identity(&machine.home.join("tls.identity")))
        })
        .collect();
    let before = memory_kib(world.hub.pid());
    let begun = Instant::now();
    let (ends, most) = attack(async {
        let hub = target(&world);
        let mut attacks = tokio::task::JoinSet::new();
        for (rogue, identity) in rogues {
            attacks.spawn(async move {
                let times = Arc::new(AtomicU64::new(0));
                let code = rogue.attack(hub, &identity, TIMEOUT, &times).await;
                (rogue, code, times.load(Ordering::Relaxed))
            });
        }
        let mut most = before;
        while attacks.len() > 2 && begun.elapsed() < TIMEOUT {
            others_are_undisturbed(&world, &honest.name);
            most = most.max(memory_kib(world.hub.pid()));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        (attacks.join_all().await, most)
    });
    for (rogue, code, times) in ends {
        println!("{}: {times} times, closed with {code:?}", rogue.name());
        assert!(times > 0, "{} has not even begun", rogue.name());
        assert_eq!(code, deserved(rogue).map(|why| u64::from(why.number())), "{}", rogue.name());
    }
    let closed = |reason: &str| {
        world.metric(&format!("fernwart_links_ended_total{{door=\"agent\",by=\"hub\",reason=\"{reason}\"}}"))
    };
    assert_eq!((closed("too_slow"), closed("misbehaved")), (Some(4.0), Some(2.0)));
    assert!(world.metric("fernwart_asks_paced_total{door=\"agent\"}") > Some(0.0), "floods are slowed down");
    println!("the hub grew by {} KiB", most - before);
    assert!(most - before < 32 * 1024, "{} KiB more", most - before);
    others_are_undisturbed(&world, &honest.name);
}

#[test]
fn a_misbehaving_machine_is_penalised_without_delaying_others() {
    let (world, honest, mut machine) = World::with_one_linked_and_one_stopped();
    let rogue = identity(&machine.home.join("tls.identity"));
    let again = || async {
        let times = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        (Rogue::GiantFrame.attack(target(&world), &rogue, TIMEOUT, &times).await, begun.elapsed())
    };
    let code = |why: Goodbye| Some(u64::from(why.number()));
    attack(async {
        assert_eq!(again().await.0, code(Goodbye::Misbehaved));
        let (output, took) = again().await;
        assert_eq!(output, code(Goodbye::Overloaded));
        assert!(took > PENALTY / 2, "{took:?}");
        others_are_undisturbed(&world, &honest.name);
    });
    // The honest agent returns.
    machine.restart();
    wait_within(PENALTY + Duration::from_secs(10), "it is served", || world.is_online("kasse-2"));
}

#[test]
fn a_technician_who_abandons_replies_keeps_the_link() {
    let world = World::new();
    let staff = identity(&world.shop().join("staff/staff.identity"));
    let hello = frame(&codec::encode(&Hello::new(&[])).expect("encoded"));
    let ask = frame(&codec::encode(&Request::Events(Until::Now)).expect("encoded"));
    attack(async {
        let (_endpoint, link) = dial(target(&world), Some(&staff), Door::Staff, 64 * 1024).await;
        for _ in 0..3 * EMPTY_STREAMS {
            let (mut send, mut receive) = link.open_bi().await.expect("a stream");
            send.write_all(&[&hello[..], &ask[..]].concat()).await.expect("sent");
            send.finish().expect("ended");
            let mut some = [0; 4];
            receive.read_exact(&mut some).await.expect("an answer begins");
            receive.stop(7u32.into()).expect("left");
        }
        let closed = tokio::time::timeout(Duration::from_millis(300), link.closed()).await;
        assert!(closed.is_err(), "{closed:?}");
    });
}
