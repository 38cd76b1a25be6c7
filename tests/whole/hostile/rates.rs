//! What others can make a machine write down, as often as they like.

use super::attack;
use super::evil_hub::{Answer, EvilHub};
use super::orders::refused;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::Outcome;
use fernwart_protocol::id::MachineId;
use fernwart_tests::shelf::Script;
use fernwart_tests::{Machine, Process, World, program, run, wait_until};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Lines an hour that others can cause.
const BUDGET: usize = 60;

fn lines(machine: &Machine, kind: &str) -> usize {
    machine.journal().iter().filter(|(is, _)| is == kind).count()
}

#[test]
fn orders_for_another_machine_cost_sixty_lines_an_hour_and_no_record_of_an_act() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    attack(async {
        let hub = EvilHub::take(&mut world, &machine).await;
        for _ in 0..4 * BUDGET {
            // Evil: staff has signed each of them, and none is for here.
            let order = hub.signed(|order| order.machine = MachineId::from_bytes([9; 16]));
            assert_eq!(refused(&hub.deliver(&order).await), Some(Refusal::WrongMachine));
        }
        assert_eq!(lines(&machine, "order_refused"), BUDGET);
        let before = lines(&machine, "run_started");
        for _ in 0..5 {
            let answer = hub.deliver(&hub.signed(|_| {})).await;
            assert!(matches!(answer, Answer::Outcome(receipt, _) if receipt.outcome == Outcome::Ok));
        }
        assert_eq!(lines(&machine, "run_started"), before + 5);
        hub.stop().await;
    });
    let said = machine.owner(&["journal", "--export"]).exits(0);
    let file = world.path().join("journal.jsonl");
    std::fs::write(&file, &said.out).expect("written");
    world.technician(&["journal", "verify", &file.to_string_lossy()]).exits(0);
}

#[test]
fn an_account_that_says_no_for_ever_fills_no_journal_and_its_no_still_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).expect("opened");
    let world = World::in_folder(folder);
    let machine = world.add_machine("kasse-1");
    let policy = "[look]\nmode = \"allow\"\n[act]\nmode = \"ask\"\nasked = [\"games\"]\n";
    std::fs::write(machine.home.join("policy.toml"), policy).expect("written");
    world.approve(&Script::new("mend", "echo mended\n"));
    let mut command = world.command(&["run", "mend", "kasse-1", "--reason", "x", "--timeout", "60s"]);
    let mut asking = Process::start(&mut command, &world.path().join("asking.log"));
    wait_until("the owner is asked", || {
        machine.owner(&["--lang", "en", "questions"]).out.contains("jana would like to")
    });
    let copy = world.path().join("agent");
    std::fs::copy(program("fernwart-agent"), &copy).expect("copied");
    let games = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "games", "--clear-groups"]).arg(&copy).arg("--home").arg(&machine.home);
        run(command.args(["--lang", "en"]).args(words).env_remove("LC_ALL"))
    };
    for _ in 0..BUDGET + 20 {
        games(&["deny", "repair"]).exits(0);
    }
    assert!(!asking.is_running(), "the first no has counted");
    assert_eq!(lines(&machine, "owner_said"), BUDGET);
    // A yes that nobody could read of afterwards is none.
    let said = games(&["allow", "repair", "--for", "1h"]);
    assert!(said.code != 0 && said.err.contains("said too often"), "{said:?}");
    // The administrator's word always stands there, and a no needs no line to count.
    machine.owner(&["allow", "repair", "--for", "1h"]).exits(0);
    assert_eq!(lines(&machine, "owner_said"), BUDGET + 1);
    games(&["pause"]).exits(0);
    let said = world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
    assert!(said.code != 0 && (said.out + &said.err).contains("paused"), "a pause counts");
}
