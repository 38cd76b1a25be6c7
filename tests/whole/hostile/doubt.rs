//! Ambiguous policies and unreliable clocks.

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
fn a_read_only_script_with_network_access_needs_the_owners_consent() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    policy(&machine, ASKED);
    world.approve_all(&[
        Script::new("reads", "echo read\n").privilege("read"),
        // Evil: with network access it could make a local service act.
        Script::new("calls", "echo called\n").privilege("read").with("network = true"),
    ]);
    let output = world.technician(&["run", "reads", "kasse-1", "--reason", "x"]).exits(0);
    assert!(output.out.contains("read"), "{output:?}");
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
fn a_window_of_zero_length_is_an_invalid_rule_and_permits_nothing() {
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
        let output = machine.owner(&["--lang", "en", "policy", "check"]).exits(1);
        assert!((output.out + &output.err).contains(same), "the window is named");
        assert_ne!(mend(&world).code, 0);
    }
}

/// Sets the clock of a running agent.
fn set(clock: &Path, offset: &str) {
    let new = clock.with_extension("new");
    std::fs::write(&new, offset).expect("written");
    std::fs::rename(&new, clock).expect("renamed");
}

/// Restarts the agent with an adjustable clock; returns the file with its offset.
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
fn a_clock_change_during_a_link_is_detected_at_the_next_order() {
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
        let output = mend(&world);
        assert!(output.code != 0 && (output.out + &output.err).contains("FW-GATE-14"), "{offset}: no act");
        let output = world.technician(&["diagnose", "kasse-1", "--section", "time", "-o", "jsonl"]);
        let report = &output.json_lines()[0]["report"];
        let findings = report["findings"].as_array().expect("answered");
        assert!(findings.iter().any(|finding| finding["id"] == "time.off"), "{offset}: {report}");
        let output = machine.owner(&["--lang", "en", "check"]).exits(1);
        assert!(output.out.contains("NOT OK    this computer's clock"), "{offset}: {}", output.out);
    }
    set(&clock, "+0");
    mend(&world).exits(0);
    assert_eq!(links(), before, "all on one link");
}

#[test]
fn a_clock_jump_does_not_end_a_pause() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    policy(&machine, ALLOWED);
    let Some(clock) = with_own_clock(&world, &mut machine) else { return };
    let look = || world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
    assert!(matches!(look().code, 0 | 1), "proof: it is answered");
    machine.owner(&["pause", "1h"]).exits(0);
    for offset in ["+0", "+2h", "+400d"] {
        set(&clock, offset);
        let output = look();
        assert!(output.code > 1 && (output.out + &output.err).contains("paused"), "{offset}");
    }
    set(&clock, "+0");
    machine.owner(&["resume"]).exits(0);
    assert!(matches!(look().code, 0 | 1));
    // A pause that begins while the clock is behind all signed times.
    set(&clock, "-400d");
    assert!(matches!(look().code, 0 | 1), "a look is answered whatever the clock says");
    machine.owner(&["pause", "1h"]).exits(0);
    let output = look();
    assert!(output.code > 1 && (output.out + &output.err).contains("paused"));
}
