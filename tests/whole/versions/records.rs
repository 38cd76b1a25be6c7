//! Records of other versions on disk: older ones are read and converted, newer ones are refused with an
//! explanation, and going back one version works.

use fernwart_agent::executor::state::{Format, Moment, Phase, StateStore};
use fernwart_protocol::id::BootId;
use fernwart_tests::test_script::Script;
use fernwart_tests::{Machine, World, agent_command, run, wait_until};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::Path;

const RUNS: TableDefinition<'static, [u8; 16], &'static [u8]> = TableDefinition::new("runs");
const MARKS: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("marks");

/// The stored format number of an agent's store.
fn mark(store: &Path) -> Option<Vec<u8>> {
    let database = Database::open(store).expect("opened");
    let read = database.begin_read().expect("read");
    let table = read.open_table(MARKS).expect("marks");
    table.get("format").expect("read").map(|mark| mark.value().to_vec())
}

/// All rows of the store's tables of runs and marks.
fn rows(store: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let database = Database::open(store).expect("opened");
    let read = database.begin_read().expect("read");
    let runs = read.open_table(RUNS).expect("runs");
    let runs = runs.iter().expect("read").map(|row| row.expect("read"));
    let runs: Vec<_> = runs.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).collect();
    let marks = read.open_table(MARKS).expect("marks");
    let marks = marks.iter().expect("read").map(|row| row.expect("read"));
    let marks = marks.map(|(key, value)| (key.value().as_bytes().to_vec(), value.value().to_vec()));
    runs.into_iter().chain(marks).collect()
}

fn set_mark(store: &Path, mark: &[u8]) {
    let database = Database::open(store).expect("opened");
    let write = database.begin_write().expect("written");
    write.open_table(MARKS).expect("marks").insert("format", mark).expect("written");
    write.commit().expect("committed");
}

/// Inserts a run with a fixed id into the store, or removes it.
fn set_run(store: &Path, record: Option<&[u8]>) {
    let database = Database::open(store).expect("opened");
    let write = database.begin_write().expect("written");
    let mut runs = write.open_table(RUNS).expect("runs");
    match record {
        Some(record) => runs.insert([7; 16], record).map(drop).expect("written"),
        None => runs.remove([7; 16]).map(drop).expect("written"),
    }
    drop(runs);
    write.commit().expect("committed");
}

fn moment() -> Moment {
    Moment { now: fernwart_agent::now(), since_boot_ms: 1, boot: BootId::from_bytes([1; 16]) }
}

/// Confirms the upgrade of a machine's program, as an hour online would.
fn confirm(machine: &mut Machine) {
    machine.agent.kill_9();
    let mut store = StateStore::open(&Machine::store(&machine.home)).expect("opened");
    store.confirm(moment()).expect("written");
    assert_eq!(store.format(), Format::NEWEST);
}

#[test]
fn an_agent_writes_the_old_store_format_until_its_upgrade_is_confirmed() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    world.approve(&Script::new("mend", "echo mended\n"));
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    let mend = || world.technician(&["run", "mend", "kasse-1", "--reason", "a test"]).exits(0);
    mend();
    let path = Machine::store(&machine.home);
    assert_eq!(machine.agent.stop(), Some(0));
    assert_eq!(mark(&path), None, "format 1");
    let before = StateStore::open(&path).expect("opened").runs_in(Phase::Acknowledged).expect("read");
    assert_eq!(before.len(), 1);

    // Confirmed: another format, the same records, and the agent works on.
    confirm(&mut machine);
    assert_eq!(mark(&path), Some(vec![2, 0]));
    let store = StateStore::open(&path).expect("opened");
    assert_eq!(store.runs_in(Phase::Acknowledged).expect("read"), before);
    assert!(store.trusted().expect("read").is_some() && store.time_floor() > 0);
    drop(store);
    machine.restart();
    wait_until("it is back", || world.is_online("kasse-1"));
    mend();
    assert_eq!(machine.agent.stop(), Some(0));
    let store = StateStore::open(&path).expect("opened");
    assert_eq!(store.runs_in(Phase::Acknowledged).expect("read").len(), 2);
    assert_eq!(store.format(), Format::NEWEST);
}

#[test]
fn records_of_a_newer_agent_are_refused_and_left_unchanged() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    confirm(&mut machine);
    let store = Machine::store(&machine.home);
    set_mark(&store, &[3, 0]);
    let before = rows(&store);
    let refused = machine.owner(&["--lang", "en", "run"]).exits(5);
    assert!(refused.err.contains("FW-OWN-23") && refused.err.contains("newer version"), "{}", refused.err);
    assert!(refused.err.contains("Install the newer version again"), "{}", refused.err);
    let refused = machine.owner(&["--lang", "de", "run"]).exits(5);
    assert!(refused.err.contains("neuere Version"), "{}", refused.err);
    for words in [["--lang", "en", "journal"], ["--lang", "en", "check"]] {
        let output = machine.owner(&words);
        let output = output.out + &output.err;
        assert!(output.contains("format 3") || output.contains("NOT OK    the agent's records"), "{words:?}: {output}");
    }
    assert_eq!(rows(&store), before, "no record was changed");
    // One record of a newer format in a store whose mark this program knows.
    set_mark(&store, &[2, 0]);
    set_run(&store, Some(&[3, 0, 1]));
    assert!(machine.owner(&["--lang", "en", "run"]).exits(5).err.contains("FW-OWN-23"));
    let output = machine.owner(&["--lang", "en", "check"]).exits(1).out;
    assert!(output.contains("NOT OK    the agent's records\n          a newer version"), "{output}");
    set_run(&store, None);
    // The newer program is put back.
    machine.restart();
    wait_until("it is back", || world.is_online("kasse-1"));
}

#[test]
fn a_store_of_a_newer_hub_is_refused_with_an_explanation() {
    let mut world = World::new();
    world.hub.stop();
    let store = world.shop().join("hub/store.sqlite");
    let sql = |text: &str| {
        let done = std::process::Command::new("sqlite3").arg(&store).arg(text).status();
        assert!(done.expect("sqlite3").success());
    };
    sql("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of tomorrow', 1, x'00', 0)");
    let refused = world.technician(&["serve"]).exits(3);
    assert!(refused.err.contains("[FW-HUB-35]") && refused.err.contains("newer version"), "{}", refused.err);
    assert!(refused.err.contains("fernwart restore"), "{}", refused.err);
    sql("DELETE FROM _sqlx_migrations WHERE version = 9999");
    world.restart_hub();
}

#[test]
fn an_installation_of_version_0_2_0_continues_under_the_new_programs() {
    let Some(mut old) = World::unpacked() else { return };
    let at = old.offset();
    let at = at.as_str();
    let technician = |world: &World, words: &[&str]| world.technician_at(at, words);
    if !old.restart_hub_at(at) {
        return;
    }
    let rows = technician(&old, &["ls", "-o", "jsonl"]).exits(0).json_lines();
    assert_eq!(rows.iter().map(|row| row["state"].as_str().expect("a state")).collect::<Vec<_>>(), ["away", "away"]);
    let jobs = technician(&old, &["job", "ls", "-o", "jsonl"]).exits(0).json_lines();
    let job = |reason: &str| {
        let of = jobs.iter().find(|job| job["reason"] == reason).unwrap_or_else(|| panic!("{reason}: {jobs:?}"));
        of["job"].to_string()
    };
    let (cut_short, waiting) = (job("abgebrochen"), job("wartet"));
    let run_of = |world: &World, job: &str| {
        technician(world, &["job", "show", job, "-o", "jsonl"]).exits(0).json_lines().remove(0)
    };

    // One agent died while a script ran there, the other while its owner was asked.
    let one = old.machine_in("kasse-1", at);
    let two = old.machine_in("kasse-2", at);
    wait_until("both are back", || {
        let rows = technician(&old, &["ls", "-o", "jsonl"]).json_lines();
        rows.len() == 2 && rows.iter().all(|row| row["state"] == "online")
    });
    wait_until("what was cut short is told as such", || run_of(&old, &cut_short)["outcome"] == "interrupted");
    let owner = |words: &[&str]| {
        let mut command = agent_command(&two.home, words);
        fernwart_tests::at_another_time(&mut command, at);
        run(&mut command)
    };
    let asked = || {
        let text = owner(&["--lang", "en", "questions"]).out;
        text.split_whitespace().find_map(|word| word.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().ok())
    };
    wait_until("the owner is asked again", || asked().is_some());
    owner(&["allow", &asked().expect("asked").to_string()]).exits(0);
    wait_until("what had waited is done", || run_of(&old, &waiting)["outcome"] == "ok");

    let output = technician(&old, &["diagnose", "all", "--section", "memory", "-o", "jsonl"]);
    let lines = output.json_lines();
    assert_eq!(lines.last().expect("a summary")["answered"], 2, "{lines:?}");
    assert!(technician(&old, &["journal", "verify", "kasse-1"]).code <= 2);
    // Neither upgrade is confirmed yet, so the old programs could be put back.
    drop((one, two));
    for name in ["kasse-1", "kasse-2"] {
        assert_eq!(mark(&Machine::store(&old.path().join(name))), None);
    }
}
