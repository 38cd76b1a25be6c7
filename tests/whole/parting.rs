//! The end of support for a machine: by a lead's signature or by its owner, and not by the hub alone.

use fernwart_tests::test_script::Script;
use fernwart_tests::{Machine, Process, World, run, staff_command, wait_until};
use std::process::Command;

fn store(world: &World, sql: &str) {
    run(Command::new("sqlite3").arg(world.shop().join("hub/store.sqlite")).arg(sql)).exits(0);
}

fn status(machine: &Machine) -> String {
    // While the agent starts, nobody else can read its records.
    machine.owner(&["--lang", "en", "status"]).out
}

fn kinds(machine: &Machine) -> Vec<String> {
    machine.journal().into_iter().map(|(kind, _)| kind).collect()
}

const PARTED: &str = "no; Nordlicht IT stopped looking after this computer on ";

#[test]
fn a_machine_retired_with_a_leads_signature_stops_permanently() {
    let world = World::new();
    let mut here = world.add_machine("kasse-1");
    let mut away = world.add_machine("kasse-2");
    away.agent.stop();
    wait_until("it is away", || !world.is_online("kasse-2"));
    for name in ["kasse-1", "kasse-2"] {
        world.technician(&["retire", name, &format!("--yes={name}")]).exits(0);
    }
    wait_until("it has it", || status(&here).contains(PARTED));
    assert!(here.agent.is_running(), "it goes on answering its owner");
    away.restart();
    wait_until("so has it once it is there", || status(&away).contains(PARTED));
    // Permanently: also after a restart, and the agent dials nobody.
    let linked = |machine: &Machine| machine.agent.log().matches("linked address").count();
    for machine in [&mut here, &mut away] {
        let before = linked(machine);
        machine.agent.stop();
        machine.restart();
        wait_until("it answers", || status(machine).contains(PARTED));
        assert!(kinds(machine).contains(&"retired".to_owned()));
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert_eq!(linked(machine), before, "nobody is dialled: {}", machine.agent.log());
        machine.agent.stop();
        assert!(status(machine).contains(PARTED), "nor does it need the agent to say so");
    }
    let german = here.owner(&["--lang", "de", "status"]).exits(0).out;
    assert!(german.contains("hat die Betreuung dieses Rechners am "), "{german}");
}

#[test]
fn an_unsigned_retirement_by_the_hub_stops_no_machine_permanently() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    // Evil: a stolen hub says that each machine is retired, without a signature.
    world.hub.stop();
    store(&world, "UPDATE machines SET standing = 'retired'");
    world.start_hub_again();
    wait_until("it is told", || status(&machine).contains("no longer looks after this computer"));
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
fn an_owner_who_leaves_keeps_the_journal() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    world.approve(&Script::new("mend", "echo mended\n"));
    world.technician(&["run", "mend", "kasse-1", "--reason", "test"]).exits(0);
    let alone = machine.owner(&["--lang", "de", "leave"]).exits(2);
    assert!(
        alone.out.contains("Nordlicht IT betreut diesen Rechner dann nicht mehr") && alone.err.contains("FW-OWN-26"),
        "{alone:?}"
    );
    assert!(world.is_online("kasse-1") && machine.home.join("evidence.key").exists(), "nothing was done");

    let left = machine.owner(&["--lang", "en", "leave", "--yes"]).exits(0).out;
    assert!(left.contains("This computer has left Nordlicht IT.\nThis was reported to Nordlicht IT.\n"), "{left}");
    wait_until("the agent has stopped", || !machine.agent.is_running());
    assert!(!world.technician(&["ls", "-o", "name"]).exits(0).out.contains("kasse-1"));
    let events = world.technician(&["events", "-o", "table"]).exits(0).out;
    assert!(events.contains("retired") && events.contains("its owner"), "{events}");
    for key in ["evidence.key", "sealing.key", "tls.identity", "agent.toml"] {
        assert!(!machine.home.join(key).exists(), "{key} is still there");
    }
    let record = left.lines().last().expect("a line").trim_start_matches("What was done here can be read in ");
    let text = std::fs::read_to_string(record).expect("the record");
    assert!(text.contains("run_started") && text.contains("\\\"left\\\""), "{text}");
    let verified = world.technician(&["journal", "verify", record]).exits(0);
    assert!(verified.out.contains("whole") || verified.err.contains("whole"), "{verified:?}");

    // It may enroll again like any other machine.
    let line = world.invitation(&["Bäckerei Meyer"]);
    machine.owner(&["enroll", &line, "--policy", "ask", "--no-service"]).exits(0);
    let again = machine.owner(&["--lang", "en", "leave", "--yes", "--purge"]).exits(0).out;
    assert!(
        again.contains("could not be reported") && again.contains("was deleted"),
        "the agent was not running: {again}"
    );
    assert!(!machine.home.exists());
    machine.owner(&["leave", "--yes"]).exits(2);
    // The error says what became of it, and suggests no other machine.
    let output = world.technician(&["diagnose", "kasse-1"]).exits(2);
    assert!(output.err.contains("kasse-1 is retired, or its owner has left"), "{}", output.err);
}

#[test]
fn leaving_with_a_full_disk_fails_before_anything_is_changed() {
    let world = World::new();
    let Some(disk) = fernwart_tests::SmallDisk::mount(&world.path().join("kasse-1"), 24) else { return };
    let machine = world.add_machine("kasse-1");
    disk.fill();
    let output = machine.owner(&["--lang", "de", "leave", "--yes"]).exits(5);
    assert!(output.err.contains("FW-OWN-28") && output.err.contains("nichts wurde getan"), "{}", output.err);
    assert!(world.is_online("kasse-1") && machine.home.join("evidence.key").exists(), "it goes on as before");
    assert!(!machine.home.join("left.room").exists(), "nothing is held that was not needed");
    // With `--purge` no record has to be written.
    machine.owner(&["leave", "--yes", "--purge"]).exits(0);
    assert!(!machine.home.join("evidence.key").exists());
    drop(machine);
    drop(disk);
}

#[test]
fn an_owner_can_leave_while_the_hub_is_unreachable() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    std::fs::write(machine.home.join("notes.txt"), "somebody else's").expect("written");
    world.hub.stop();
    wait_until("it has noticed", || status(&machine).contains("still trying to connect"));
    let left = machine.owner(&["--lang", "de", "leave", "--yes", "--purge"]).exits(0).out;
    assert!(left.contains("konnte nicht benachrichtigt werden"), "{left}");
    let rest: Vec<_> =
        std::fs::read_dir(&machine.home).expect("a folder").flatten().map(|one| one.file_name()).collect();
    assert_eq!(rest, ["notes.txt"], "what is not the agent's stays");
}

#[test]
fn a_machine_that_was_away_accepts_a_retirement_by_a_new_lead() {
    let (world, mut machine) = World::with_one_away("kasse-1");
    // The machine's catalogue does not contain this lead.
    let ole = world.path().join("ole");
    let join = ["join", "--invitation", &world.invitation_for_staff(), "--name", "ole", "--no-wait"];
    let joined = run(&mut staff_command(&ole, &join)).exits(0).out;
    let key = joined.split_whitespace().last().expect("a key id");
    world.technician(&["staff", "add", "ole", "--key-id", key, "--role", "lead"]).exits(0);
    run(&mut staff_command(&ole, &["join"])).exits(0);
    run(&mut staff_command(&ole, &["retire", "kasse-1", "--yes=kasse-1"])).exits(0);
    // This lead is removed. Since the first signer may be gone, another lead can sign again.
    world.technician(&["staff", "rm", "ole", "--yes=ole"]).exits(0);
    let again = world.technician(&["retire", "kasse-1", "--yes=kasse-1"]).exits(0).err;
    assert!(again.contains("is retired already, and would be signed for again"), "{again}");
    machine.restart();
    wait_until("it fetches the catalogue, and believes it", || status(&machine).contains(PARTED));
    // An attempt to enroll it again explains what to do.
    let line = world.invitation(&["Bäckerei Meyer"]);
    let output = machine.owner(&["--lang", "en", "enroll", &line, "--policy", "ask", "--no-service"]).exits(3).err;
    assert!(output.contains("FW-JOIN-29") && output.contains("fernwart-agent leave"), "{output}");
    let check = machine.owner(&["--lang", "en", "check"]).exits(0).out;
    assert!(check.contains("the support has ended"), "{check}");
}

#[test]
fn retiring_a_machine_cancels_its_running_script_and_reports_it() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    world.approve(&Script::new("slow", "sleep 60\n"));
    let log = world.path().join("run.log");
    let mut running = Process::start(&mut world.command(&["run", "slow", "kasse-1", "--reason", "test"]), &log);
    let state = || world.technician(&["job", "show", "1", "-o", "jsonl"]).json_lines()[0]["state"].clone();
    wait_until("it runs", || running.log().contains("job 1") && state() == "running");
    world.technician(&["retire", "kasse-1", "--yes=kasse-1"]).exits(0);
    wait_until("who waits for it hears the end", || !running.is_running());
    let shown = world.technician(&["job", "show", "1"]).exits(0).out;
    assert!(shown.contains("settled") && shown.contains("cancelled"), "{shown}");
    wait_until("it has stopped for good", || status(&machine).contains(PARTED));
}
