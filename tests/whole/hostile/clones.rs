//! A machine whose disk was copied: two computers with one identity.

use super::{attack, closed, end_of, identity, incoming, say_hello, speak};
use fernwart_protocol::code::Goodbye;
use fernwart_protocol::link::{Door, Link};
use fernwart_protocol::to_agent::Deliver;
use fernwart_tests::{Machine, Process, World, program, wait_until, wait_within};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn health(world: &World) -> String {
    let rows = world.technician(&["ls", "-o", "jsonl"]).exits(0).json_lines();
    rows[0]["health"].as_str().unwrap_or_default().to_owned()
}

fn copy_of(machine: &Machine, to: &Path) {
    std::fs::create_dir(to).expect("a folder");
    for file in std::fs::read_dir(&machine.home).expect("the home").flatten() {
        if file.file_type().is_ok_and(|kind| kind.is_file()) {
            std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
        }
    }
}

#[test]
fn two_computers_with_one_identity_are_quarantined_until_acknowledged() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    // Sudden restarts of the only computer are not mistaken for a clone.
    for _ in 0..3 {
        machine.agent.kill_9();
        machine.restart();
        wait_until("it is back", || world.technician(&["ping", "kasse-1", "--timeout", "1s"]).code == 0);
    }
    assert!(!health(&world).contains("two computers"), "{}", health(&world));

    machine.agent.stop();
    let copy = world.path().join("copy");
    copy_of(&machine, &copy);
    machine.restart();
    wait_until("the first is there", || world.is_online("kasse-1"));
    let mut command = Command::new(program("fernwart-agent"));
    let mut clone = Process::start(command.arg("--home").arg(&copy).arg("run"), &world.path().join("copy.log"));
    wait_within(Duration::from_secs(15), "both are found out", || health(&world).contains("two computers"));
    wait_until("neither is linked", || !world.is_online("kasse-1"));
    let output = world.technician(&["diagnose", "kasse-1", "--timeout", "2s"]).exits(4);
    assert!(output.out.contains("away") || output.err.contains("away"), "{output:?}");
    assert!(clone.is_running() && machine.agent.is_running(), "no one has fallen over it");
    let counted = world.hub.log().matches("two computers use one identity").count();
    assert_eq!(counted, 1, "told once, not at each try");

    // The copy is switched off, and a technician acknowledges the alarm.
    clone.stop();
    world.technician(&["acknowledge", "kasse-1"]).exits(0);
    wait_within(Duration::from_secs(20), "the first is back", || world.is_online("kasse-1"));
    assert!(!health(&world).contains("two computers"), "{}", health(&world));
}

#[test]
fn an_unresponsive_duplicate_link_does_not_quarantine_a_machine() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let own = identity(&machine.home.join("tls.identity"));
    attack(async {
        // As when a network delivers the first packets of an abandoned dial late.
        let late = incoming(&world, Door::Agent, own.chain.clone(), &own.key).await.expect("let in");
        let _words = speak(&late).await;
        assert_eq!(end_of(Ok(late)).await, closed(Goodbye::Overloaded));
    });
    assert!(!health(&world).contains("two computers"), "{}", health(&world));
    world.technician(&["ping", "kasse-1", "--timeout", "1s"]).exits(0);
    assert_eq!(machine.agent.log().matches("INFO linked").count(), 1, "its own link was left alone");
}

/// Answers echoes, as an agent does.
async fn answers(link: Link) {
    while let Ok((mut send, mut receive)) = link.accept().await {
        if let Ok(echo @ Deliver::Echo(_)) = receive.expect::<Deliver>().await {
            send.send(&echo).await.expect("sent");
            send.finish();
        }
    }
}

#[test]
fn a_link_opened_before_a_quarantine_is_refused_at_its_hello() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    machine.agent.stop();
    let stolen = identity(&machine.home.join("tls.identity"));
    attack(async {
        let incoming =
            || async { incoming(&world, Door::Agent, stolen.chain.clone(), &stolen.key).await.expect("let in") };
        let one = incoming().await;
        let _words = speak(&one).await;
        tokio::spawn(answers(one.clone()));
        // Evil: it is linked and sends no hello yet.
        let lurks = incoming().await;
        let other = incoming().await;
        let _others = speak(&other).await;
        tokio::spawn(answers(other.clone()));
        for link in [one, other] {
            assert_eq!(end_of(Ok(link)).await, closed(Goodbye::Quarantined));
        }
        assert!(!lurks.is_closed(), "nobody knows of it yet");
        let _late = say_hello(&lurks).await;
        assert_eq!(end_of(Ok(lurks)).await, closed(Goodbye::Quarantined));
    });
    assert!(health(&world).contains("two computers"), "{}", health(&world));
}
