//! Where it is not clear what the owner meant, or what time it is.

use fernwart_tests::test_script::Script;
use fernwart_tests::{CommandOutput, Machine, Process, World, wait_until};
use std::path::{Path, PathBuf};

const ALLOWED: &str = "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n";
const ASKED: &str = "[look]\nmode = \"allow\"\n[act]\nmode = \"ask\"\n";

fn policy(machine: &Machine, text: &str) {
    std::fs::write(machine.home.join("policy.toml"), text).expect("written");
}

fn mend(world: &World) -> CommandOutput {
    world.technician(&["run", "mend", "kasse-1", "--reason", "x"])
}

#[test]
fn a_script_that_reads_with_a_network_is_an_act_to_the_owner() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    policy(&machine, ASKED);
    world.approve_all(&[
        Script::new("reads", "echo read\n").privilege("read"),
        // Evil: what listens on this computer may be told to act.
        Script::new("calls", "echo called\n").privilege("read").with("network = true"),
    ]);
    let said = world.technician(&["run", "reads", "kasse-1", "--reason", "x"]).exits(0);
    assert!(said.out.contains("read"), "{said:?}");
    let mut command = world.command(&["run", "calls", "kasse-1", "--reason", "x", "--timeout", "60s"]);
    let mut asking = Process::start(&mut command, &world.path().join("asking.log"));
    wait_until("the owner is asked", || {
        machine.owner(&["--lang", "en", "questions"]).out.contains("jana from Nordlicht IT would like to")
    });
    machine.owner(&["deny", "repair"]).exits(0);
    wait_until("it is over", || !asking.is_running());
    let began = |(kind, body): &&(String, serde_json::Value)| {
        kind == "run_started" && body["action"]["script"]["bundle"] == "calls"
    };
    assert_eq!(machine.journal().iter().filter(began).count(), 0);
}

#[test]
fn a_window_of_no_length_is_no_rule_and_nothing_is_repaired_by_it() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    world.approve(&Script::new("mend", "echo mended\n"));
    let window = |from: &str, to: &str| {
        policy(
            &machine,
            &format!(
                "[look]\nmode = \"allow\"\n[act]\nmode = \"window\"\n[[act.windows]]\nfrom = {from:?}\nto = {to:?}\n"
            ),
        );
    };
    // Proof: one that is open all day.
    window("00:00", "24:00");
    machine.owner(&["policy", "check"]).exits(0);
    mend(&world).exits(0);
    for same in ["02:00", "00:00"] {
        window(same, same);
        let said = machine.owner(&["--lang", "en", "policy", "check"]).exits(1);
        assert!((said.out + &said.err).contains(same), "the window is named");
        assert_ne!(mend(&world).code, 0);
    }
}

/// Sets the clock of an agent that goes on.
fn set(clock: &Path, offset: &str) {
    let new = clock.with_extension("new");
    std::fs::write(&new, offset).expect("written");
    std::fs::rename(&new, clock).expect("renamed");
}

/// Lets the agent live by a clock that can be set; its file.
fn with_own_clock(world: &World, machine: &mut Machine) -> Option<PathBuf> {
    let clock = world.path().join("clock");
    set(&clock, "+0");
    machine.agent.stop();
    if !machine.restart_with_clock_in(&clock) {
        return None;
    }
    wait_until("it is linked", || world.is_online("kasse-1"));
    Some(clock)
}

#[test]
fn a_clock_that_is_set_under_a_standing_link_is_noticed_at_the_next_order() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    policy(&machine, ALLOWED);
    world.approve(&Script::new("mend", "echo mended\n"));
    let Some(clock) = with_own_clock(&world, &mut machine) else { return };
    let links = || machine.agent.log().matches("INFO linked").count();
    let before = links();
    mend(&world).exits(0);
    for offset in ["+6m", "-10m"] {
        set(&clock, offset);
        let said = mend(&world);
        assert!(said.code != 0 && (said.out + &said.err).contains("FW-GATE-14"), "{offset}: no act");
        let said = world.technician(&["diagnose", "kasse-1", "--section", "time", "-o", "jsonl"]);
        let report = &said.json_lines()[0]["report"];
        let findings = report["findings"].as_array().expect("answered");
        assert!(findings.iter().any(|finding| finding["id"] == "time.off"), "{offset}: {report}");
        let said = machine.owner(&["--lang", "en", "check"]).exits(1);
        assert!(said.out.contains("NOT OK    this computer's clock"), "{offset}: {}", said.out);
    }
    set(&clock, "+0");
    mend(&world).exits(0);
    assert_eq!(links(), before, "all on one link");
}

#[test]
fn a_pause_is_not_ended_by_a_clock_that_jumps() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    policy(&machine, ALLOWED);
    let Some(clock) = with_own_clock(&world, &mut machine) else { return };
    let look = || world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
    assert!(matches!(look().code, 0 | 1), "proof: it is answered");
    machine.owner(&["pause", "1h"]).exits(0);
    for offset in ["+0", "+2h", "+400d"] {
        set(&clock, offset);
        let said = look();
        assert!(said.code > 1 && (said.out + &said.err).contains("paused"), "{offset}");
    }
    set(&clock, "+0");
    machine.owner(&["resume"]).exits(0);
    assert!(matches!(look().code, 0 | 1));
    // One that begins while the clock lags behind all that was signed.
    set(&clock, "-400d");
    assert!(matches!(look().code, 0 | 1), "a look is answered whatever the clock says");
    machine.owner(&["pause", "1h"]).exits(0);
    let said = look();
    assert!(said.code > 1 && (said.out + &said.err).contains("paused"));
}
