//! Limits on what others can make a machine or a hub write down.

use super::evil_hub::{Answer, EvilHub};
use super::orders::refused;
use super::{attack, identity, incoming};
use fernwart_client::{ClientError, Session};
use fernwart_protocol::code::{Denial, Goodbye, Refusal};
use fernwart_protocol::document::Outcome;
use fernwart_protocol::id::MachineId;
use fernwart_protocol::link::Door;
use fernwart_protocol::staff::{JobHead, Request};
use fernwart_protocol::text::Text;
use fernwart_protocol::to_agent::Control;
use fernwart_tests::rogues::introduction;
use fernwart_tests::test_script::Script;
use fernwart_tests::{Machine, Process, World, program, run, wait_until};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

/// Journal lines per hour that others can cause.
const BUDGET: usize = 60;

fn lines(machine: &Machine, kind: &str) -> usize {
    machine.journal().iter().filter(|(is, _)| is == kind).count()
}

#[test]
fn refused_orders_write_at_most_sixty_journal_lines_an_hour() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    attack(async {
        let hub = EvilHub::take(&mut world, &machine).await;
        for _ in 0..4 * BUDGET {
            // Evil: each is signed by staff, but for another machine.
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
    let output = machine.owner(&["journal", "--export"]).exits(0);
    let file = world.path().join("journal.jsonl");
    std::fs::write(&file, &output.out).expect("written");
    world.technician(&["journal", "verify", &file.to_string_lossy()]).exits(0);
}

#[test]
fn endless_denials_do_not_fill_the_journal_and_still_take_effect() {
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
        machine.owner(&["--lang", "en", "questions"]).out.contains("jana from Nordlicht IT would like to")
    });
    let copy = world.path().join("agent");
    std::fs::copy(program("fernwart-agent"), &copy).expect("copied");
    let games = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "games", "--clear-groups"]).arg(&copy).arg("--home").arg(&machine.home);
        run(command.args(["--lang", "en"]).args(words).env_remove("LC_ALL"))
    };
    wait_until("its account can ask", || games(&["questions"]).code == 0);
    for _ in 0..BUDGET + 20 {
        games(&["deny", "repair"]).exits(0);
    }
    assert!(!asking.is_running(), "the first no has counted");
    assert_eq!(lines(&machine, "owner_said"), BUDGET);
    // A permission that the journal cannot record is refused.
    let output = games(&["allow", "repair", "--for", "1h"]);
    assert!(output.code != 0 && output.err.contains("said too often"), "{output:?}");
    // An administrator's decision is always recorded, and a denial takes effect without a line.
    machine.owner(&["allow", "repair", "--for", "1h"]).exits(0);
    assert_eq!(lines(&machine, "owner_said"), BUDGET + 1);
    games(&["pause"]).exits(0);
    let output = world.technician(&["diagnose", "kasse-1", "--section", "memory"]);
    assert!(output.code != 0 && (output.out + &output.err).contains("paused"), "a pause counts");
}

#[test]
fn repeated_links_and_empty_jobs_write_few_log_lines() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let other = world.add_machine("kasse-2");
    machine.agent.stop();
    let own = identity(&machine.home.join("tls.identity"));
    let linked = || world.hub.log().matches("a machine is linked").count();
    let before = linked();
    attack(async {
        for _ in 0..60 {
            // Proof: it is accepted at first, and may reconnect as often as it likes.
            let Ok(link) = incoming(&world, Door::Agent, own.chain.clone(), &own.key).await else { continue };
            let Ok((mut send, mut receive)) = link.open().await else { continue };
            let _ = send.send(&introduction()).await;
            let _ = tokio::time::timeout(Duration::from_millis(100), receive.expect::<Control>()).await;
            link.close(Goodbye::Done);
        }
    });
    let lines = linked() - before;
    assert!((10..=22).contains(&lines), "{lines} lines of 60 links");
    // A job without orders is denied.
    attack(async {
        let home = fernwart_client::StaffHome::open(&world.shop().join("staff")).expect("a home");
        let mut session = Session::open(home, Duration::from_secs(5)).await.expect("linked");
        let head = JobHead { action: Text::clipped("x"), reason: Text::clipped("x"), orders: 0, parallel: 0 };
        let denied = session.collect(&Request::Submit(head)).await;
        assert!(matches!(denied, Err(ClientError::Denied(Denial::NotUnderstood))), "{denied:?}");
        session.close().await;
    });
    assert_eq!(world.technician(&["job", "ls", "-o", "name"]).exits(0).out, "");
    assert!(world.hub.log().contains("a technician's request was denied"), "{}", world.hub.log());
    assert!(world.is_online(&other.name), "others do not notice");
}
