//! The end of the care for a machine: by a lead's signed word, by its owner's, and not by
//! the hub's alone.

use fernwart_tests::shelf::Script;
use fernwart_tests::{Machine, World, run, wait_until};
use std::process::Command;

fn store(world: &World, sql: &str) {
    run(Command::new("sqlite3").arg(world.shop().join("hub/store.sqlite")).arg(sql)).exits(0);
}

fn status(machine: &Machine) -> String {
    // Just while the agent starts, its records are nobody else's to read.
    machine.owner(&["--lang", "en", "status"]).out
}

fn kinds(machine: &Machine) -> Vec<String> {
    machine.journal().into_iter().map(|(kind, _)| kind).collect()
}

const ENDED: &str = "no; Nordlicht IT ended looking after this computer on ";

#[test]
fn a_retired_machine_stops_for_good_by_a_leads_signed_word() {
    let world = World::new();
    let mut here = world.add_machine("kasse-1");
    let mut away = world.add_machine("kasse-2");
    away.agent.stop();
    wait_until("it is away", || !world.is_online("kasse-2"));
    for name in ["kasse-1", "kasse-2"] {
        world.technician(&["retire", name, &format!("--yes={name}")]).exits(0);
    }
    wait_until("it has it", || status(&here).contains(ENDED));
    assert!(here.agent.is_running(), "it goes on answering its owner");
    away.restart();
    wait_until("so has it once it is there", || status(&away).contains(ENDED));
    // For good: also after a restart, and nobody is dialled any more.
    let linked = |machine: &Machine| machine.agent.log().matches("linked address").count();
    for machine in [&mut here, &mut away] {
        let before = linked(machine);
        machine.agent.stop();
        machine.restart();
        wait_until("it answers", || status(machine).contains(ENDED));
        assert!(kinds(machine).contains(&"retired".to_owned()));
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert_eq!(linked(machine), before, "nobody is dialled: {}", machine.agent.log());
        machine.agent.stop();
        assert!(status(machine).contains(ENDED), "nor does it need the agent to say so");
    }
    let german = here.owner(&["--lang", "de", "status"]).exits(0).out;
    assert!(german.contains("hat die Betreuung dieses Rechners am "), "{german}");
}

#[test]
fn a_hub_alone_silences_no_machine_for_good() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    // Evil: whoever has the hub says of each machine that it is retired. Nobody signed that.
    world.hub.stop();
    store(&world, "UPDATE machines SET standing = 'retired'");
    world.start_hub_again();
    wait_until("it is told", || status(&machine).contains("does not look after this computer any more"));
    assert!(!kinds(&machine).contains(&"retired".to_owned()));
    let log = machine.agent.log();
    let wait = log.lines().rev().find_map(|line| line.split("wait_ms=").nth(1)).expect("a wait");
    let wait: u64 = wait.split_whitespace().next().and_then(|ms| ms.parse().ok()).expect("a number");
    assert!(wait <= 24 * 3600 * 1000, "once a day at least: {log}");
    // The true hub is back, and so is the machine: nothing was destroyed.
    world.hub.stop();
    store(&world, "UPDATE machines SET standing = 'admitted'");
    world.start_hub_again();
    machine.agent.stop();
    machine.restart();
    wait_until("it is linked again", || world.is_online("kasse-1"));
}

#[test]
fn an_owner_leaves_and_keeps_the_record_of_what_was_done() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    world.approve(&Script::new("mend", "echo mended\n"));
    world.technician(&["run", "mend", "kasse-1", "--reason", "test"]).exits(0);
    let alone = machine.owner(&["--lang", "de", "leave"]).exits(2);
    assert!(alone.out.contains("Dieser Rechner verlässt Nordlicht IT") && alone.err.contains("FW-OWN-26"), "{alone:?}");
    assert!(world.is_online("kasse-1") && machine.home.join("evidence.key").exists(), "nothing was done");

    let left = machine.owner(&["--lang", "en", "leave", "--yes"]).exits(0).out;
    assert!(left.contains("This computer has left Nordlicht IT.\nNordlicht IT was told.\n"), "{left}");
    wait_until("the agent has stopped", || !machine.agent.is_running());
    assert!(!world.technician(&["ls", "-o", "name"]).exits(0).out.contains("kasse-1"));
    let events = world.technician(&["events", "-o", "table"]).exits(0).out;
    assert!(events.contains("retired") && events.contains("its owner"), "{events}");
    for key in ["evidence.key", "sealing.key", "tls.identity", "agent.toml"] {
        assert!(!machine.home.join(key).exists(), "{key} is still there");
    }
    let place = left.lines().last().expect("a line").trim_start_matches("What was done here can be read in ");
    let record = std::path::Path::new(place).join("journal.jsonl");
    let text = std::fs::read_to_string(&record).expect("the record");
    assert!(text.contains("run_started") && text.contains("\\\"left\\\""), "{text}");
    let verified = world.technician(&["journal", "verify", record.to_str().expect("text")]).exits(0);
    assert!(verified.out.contains("whole") || verified.err.contains("whole"), "{verified:?}");

    // It may come again, as any other.
    let line = world.invitation(&["Bäckerei Meyer"]);
    machine.owner(&["enroll", &line, "--policy", "ask", "--no-service"]).exits(0);
    let again = machine.owner(&["--lang", "en", "leave", "--yes", "--purge"]).exits(0).out;
    assert!(again.contains("could not be told") && again.contains("was deleted"), "the agent was not running: {again}");
    assert!(!machine.home.exists());
    machine.owner(&["leave", "--yes"]).exits(2);
}

#[test]
fn an_owner_leaves_though_the_hub_is_away() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    world.hub.stop();
    wait_until("it has noticed", || status(&machine).contains("tried again"));
    let left = machine.owner(&["--lang", "de", "leave", "--yes"]).exits(0).out;
    assert!(left.contains("konnte nicht benachrichtigt werden"), "{left}");
    assert!(!machine.home.join("evidence.key").exists());
}
