//! Simulated worlds in virtual time: the hub's and the agents' own code over real QUIC, on a simulated
//! network, disks and clocks, where everything dies at random. The same seed gives the same world.
//!
//! Nothing may be done twice, no outcome may be lost, nothing may be stuck once
//! faults have stopped. `FERNWART_SEEDS=from..to` plays more than the tests do
//! by themselves.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod disks;
mod machine;
mod network;
mod story;
mod technician;
mod world;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use world::{Beginning, Played, play};

/// Worlds that every run of the tests plays.
const SEEDS: Range<u64> = 1..61;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("FERNWART_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").expect("from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// Prints what went wrong in a world, and how to replay it.
fn explain(played: &Played) {
    println!("seed {}: {}", played.seed, played.wrongs.join("\n  "));
    for line in &played.lines {
        let about = |wrong: &String| wrong.split_whitespace().nth(1).is_some_and(|run| line.contains(run));
        if played.wrongs.iter().any(about) || !line.contains("machine") {
            println!("{line}");
        }
    }
    println!("see it again: FERNWART_SEEDS={}..{} tests/simulate", played.seed, played.seed + 1);
}

#[test]
fn runs_are_never_lost_repeated_or_stuck_when_hub_and_machines_die() {
    if std::env::var_os("FERNWART_LOG").is_some() {
        tracing_subscriber::fmt().with_writer(std::io::stdout).with_ansi(false).without_time().init();
    }
    let beginning = Beginning::make();
    let seeds = seeds();
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new((0u64, [0u64; 11]));
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    let played = play(&beginning, seed);
                    let counts = [
                        played.orders as u64,
                        played.acknowledged as u64,
                        played.effects as u64,
                        played.settled as u64,
                        played.cancels,
                        played.hub_deaths,
                        played.machine_deaths,
                        played.traffic.sent,
                        played.traffic.lost,
                        played.took / 1000,
                        played.confirmed as u64,
                    ];
                    let mut total = total.lock().expect("nobody panics here");
                    total.0 += 1;
                    for (sum, count) in total.1.iter_mut().zip(counts) {
                        *sum += count;
                    }
                    if std::env::var_os("FERNWART_ALOUD").is_some() {
                        println!("seed {seed}: {:016x}", played.hash);
                    }
                    if total.0.is_multiple_of(100) {
                        println!("{} worlds, {} orders", total.0, total.1[0]);
                    }
                    drop(total);
                    if !played.wrongs.is_empty() {
                        explain(&played);
                        wrong.lock().expect("nobody panics here").push(played.seed);
                    }
                }
            });
        }
    });
    let (worlds, counts) = total.into_inner().expect("nobody panics here");
    let words = [
        "orders signed",
        "acknowledged by the hub",
        "scripts begun",
        "outcomes kept",
        "taken back",
        "deaths of the hub",
        "deaths of machines",
        "datagrams",
        "lost",
        "seconds of virtual time",
        "stores written anew in the new format",
    ];
    println!("seeds {seeds:?}: {worlds} worlds");
    for (word, count) in words.iter().zip(counts) {
        println!("{count:>12} {word}");
    }
    // A world in which nothing works has no violations either, so check that enough happened.
    let [signed, acknowledged, begun, kept, taken_back, hubs, machines, sent, lost, _, confirmed] = counts;
    if worlds >= 20 {
        assert!(acknowledged > signed * 8 / 10 && begun > acknowledged / 2 && kept > acknowledged * 6 / 10);
        assert!(confirmed > worlds, "in the middle of all that");
        assert!(hubs > 3 * worlds && machines > 10 * worlds && taken_back > 10 * worlds && lost > sent / 50);
    }
    let wrong = wrong.into_inner().expect("nobody panics here");
    assert!(wrong.is_empty(), "worlds in which something was lost, done twice or stuck: {wrong:?}");
}

/// A replay is equal to the datagram and the millisecond. What cannot be seeded are the lengths of P-256
/// signatures and of one transport parameter of QUIC (RFC 9000, 18.1): when a handshake is repeated, they
/// sometimes decide what else fits into a datagram. That happened in one of two hundred worlds.
#[test]
fn the_same_seed_replays_the_same_events() {
    let beginning = Beginning::make();
    let first: Vec<u64> = (1..7).map(|seed| play(&beginning, seed).hash).collect();
    let again = (1..7).map(|seed| play(&beginning, seed).hash);
    let other: Vec<_> = first.iter().zip(again).filter(|(first, again)| **first != *again).collect();
    assert!(other.len() <= 1, "{other:?}");
    let different: std::collections::BTreeSet<_> = first.iter().collect();
    assert_eq!(different.len(), first.len(), "different seeds are different stories");
}
