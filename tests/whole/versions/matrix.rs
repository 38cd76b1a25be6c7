//! Real programs of the last release against today's: `tests/old-versions`.
//!
//! ```text
//! {old, new} hub × {old, new} agent × {old, new} technician: join, diagnose, run, settle, restart
//! ```

use fernwart_agent::executor::state::{Format, Phase, StateStore};
use fernwart_tests::test_script::Script;
use fernwart_tests::{CommandOutput, Machine, Process, free_port, program, run, wait_until};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Which release a program is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    Old,
    New,
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Old { "old" } else { "new" })
    }
}

fn of(age: Age, name: &str) -> PathBuf {
    match age {
        Age::New => program(name),
        Age::Old => Path::new(&std::env::var_os("FERNWART_OLD").expect("run tests/old-versions")).join(name),
    }
}

/// A shop whose programs are of different releases.
struct Shop {
    folder: tempfile::TempDir,
    hub_age: Age,
    technician_age: Age,
    hub: Process,
}

impl Shop {
    fn begin(hub_age: Age, technician_age: Age) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = format!("127.0.0.1:{}", free_port());
        let words = ["init", "--shop", "Nordlicht IT", "--address", &address, "--listen", &address, "--name", "jana"];
        let mut init = Command::new(of(hub_age, "fernwart"));
        init.arg("--home").arg(folder.path().join("shop")).args(words).args(["--contact", "Jana Petersen"]);
        run(&mut init).exits(0);
        let hub = serve(folder.path(), hub_age);
        Self { folder, hub_age, technician_age, hub }
    }

    fn restart_hub(&mut self) {
        self.hub.kill_9();
        self.hub = serve(self.folder.path(), self.hub_age);
    }

    fn technician(&self, words: &[&str]) -> CommandOutput {
        let mut command = Command::new(of(self.technician_age, "fernwart"));
        command.arg("--home").arg(self.folder.path().join("shop")).args(words).env("TZ", "UTC");
        run(&mut command)
    }

    fn home(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn owner(&self, age: Age, name: &str, words: &[&str]) -> CommandOutput {
        let mut command = Command::new(of(age, "fernwart-agent"));
        command.arg("--home").arg(self.home(name)).args(["--lang", "en"]).args(words);
        run(&mut command)
    }

    fn agent(&self, age: Age, name: &str) -> Process {
        let mut command = Command::new(of(age, "fernwart-agent"));
        command.arg("--home").arg(self.home(name)).arg("run").env("LANG", "C.UTF-8");
        Process::start(&mut command, &self.home(name).with_extension("log"))
    }

    fn is_online(&self, name: &str) -> bool {
        let output = self.technician(&["ls", "-o", "jsonl"]);
        output.code == 0 && output.json_lines().iter().any(|row| row["name"] == name && row["state"] == "online")
    }

    fn join(&self, age: Age, name: &str) -> Process {
        let line = self.technician(&["invite", "--quiet", "Meyer"]).exits(0).out;
        self.owner(age, name, &["enroll", line.trim(), "--policy", "trusted", "--no-service"]).exits(0);
        let agent = self.agent(age, name);
        let waiting = self.technician(&["pending", "-o", "name"]).exits(0).out;
        self.technician(&["admit", waiting.lines().next().expect("one waits"), "--as", name]).exits(0);
        wait_until("it is linked", || self.is_online(name));
        agent
    }

    /// The scripts of these tests: one that is done at once, one that takes a while.
    fn approve(&self) {
        let scripts = [Script::new("mend", "echo mended\n"), Script::new("slow", "sleep 4\n")];
        for script in scripts {
            let folder = script.write(&self.folder.path().join("scripts"));
            let mut words = vec!["catalogue", "propose", folder.to_str().expect("text")];
            // The old program published at once, without a confirmation.
            words.extend((self.technician_age == Age::New).then_some("--yes"));
            self.technician(&words).exits(0);
        }
    }

    fn outcome(&self, job: &str) -> String {
        let runs = self.technician(&["job", "show", job, "-o", "jsonl"]).exits(0).json_lines();
        runs[0]["outcome"].as_str().unwrap_or_default().to_owned()
    }
}

fn serve(folder: &Path, age: Age) -> Process {
    let log = folder.join("hub.log");
    let before = std::fs::read_to_string(&log).unwrap_or_default().matches("hub is listening").count();
    let mut command = Command::new(of(age, "fernwart"));
    command.arg("--home").arg(folder.join("shop")).arg("serve");
    let mut hub = Process::start(&mut command, &log);
    wait_until("the hub listens", || hub.log().matches("hub is listening").count() > before || !hub.is_running());
    assert!(hub.is_running(), "the hub has not started: {}", hub.log());
    hub
}

fn each_of_three() -> impl Iterator<Item = (Age, Age, Age)> {
    let ages = [Age::Old, Age::New];
    ages.into_iter().flat_map(move |hub| {
        ages.into_iter().flat_map(move |agent| ages.into_iter().map(move |technician| (hub, agent, technician)))
    })
}

#[test]
#[ignore = "needs the programs of the last release: tests/old-versions"]
fn old_and_new_hubs_agents_and_technicians_work_together() {
    for (hub, agent, technician) in each_of_three() {
        let mut shop = Shop::begin(hub, technician);
        let mut process = shop.join(agent, "kasse-1");
        shop.approve();
        let output = shop.technician(&["diagnose", "kasse-1", "-o", "jsonl"]);
        let lines = output.json_lines();
        assert_eq!(lines.last().expect("a summary")["answered"], 1, "{lines:?}");
        let mend = ["run", "mend", "kasse-1", "--reason", "a test", "-o", "jsonl"];
        let output = shop.technician(&mend).exits(0);
        assert_eq!(output.json_lines()[0]["status"], "ok");

        // The hub dies while a script runs; the outcome still arrives.
        let waits = ["run", "slow", "kasse-1", "--reason", "a test", "--queue", "5m"];
        let mut slow = Command::new(of(technician, "fernwart"));
        slow.arg("--home").arg(shop.home("shop")).args(waits);
        let slow = Process::start(&mut slow, &shop.home("slow.log"));
        wait_until("it is under way", || {
            let jobs = shop.technician(&["job", "ls", "-o", "jsonl"]).json_lines();
            jobs.len() == 3 && {
                let runs = shop.technician(&["job", "show", "3", "-o", "jsonl"]).json_lines();
                runs[0]["state"] == "running"
            }
        });
        shop.restart_hub();
        wait_until("its outcome is settled", || shop.is_online("kasse-1") && shop.outcome("3") == "ok");
        drop(slow);

        // The agent dies, comes back, and knows what it has done.
        process.kill_9();
        process = shop.agent(agent, "kasse-1");
        wait_until("it is back", || shop.is_online("kasse-1"));
        shop.technician(&mend).exits(0);
        shop.technician(&["events", "-o", "jsonl"]).exits(0);
        shop.technician(&["facts", "kasse-1", "-o", "json"]).exits(0);
        shop.technician(&["doctor"]).exits(0);
        process.kill_9();
        let store = StateStore::open(&Machine::store(&shop.home("kasse-1"))).expect("opened");
        assert_eq!(store.runs_in(Phase::Acknowledged).expect("read").len(), 4, "all of them, once");
        println!("{hub} hub, {agent} agent, {technician} technician: well");
    }
}

#[test]
#[ignore = "needs the programs of the last release: tests/old-versions"]
fn an_agent_can_be_downgraded_only_until_its_upgrade_is_confirmed() {
    let shop = Shop::begin(Age::New, Age::New);
    let mut process = shop.join(Age::Old, "kasse-1");
    shop.approve();
    let mend = ["run", "mend", "kasse-1", "--reason", "a test"];
    for age in [Age::Old, Age::New, Age::Old, Age::New] {
        assert_eq!(process.stop(), Some(0));
        process = shop.agent(age, "kasse-1");
        wait_until("it is linked", || shop.is_online("kasse-1"));
        shop.technician(&mend).exits(0);
    }
    process.kill_9();
    let store = Machine::store(&shop.home("kasse-1"));
    let mut store = StateStore::open(&store).expect("opened");
    assert_eq!((store.format(), store.run_count().expect("read")), (Format::OLDEST, 4));
    let moment = fernwart_agent::executor::state::Moment {
        now: fernwart_agent::now(),
        since_boot_ms: 1,
        boot: fernwart_protocol::id::BootId::from_bytes([1; 16]),
    };
    store.confirm(moment).expect("written");
    drop(store);
    let back = shop.owner(Age::Old, "kasse-1", &["run"]);
    assert!(back.code == 5 && back.err.contains("FW-OWN-22"), "{}: {}", back.code, back.err);
    let process = shop.agent(Age::New, "kasse-1");
    wait_until("it is linked", || shop.is_online("kasse-1"));
    shop.technician(&mend).exits(0);
    drop(process);
}

#[test]
#[ignore = "needs the programs of the last release: tests/old-versions"]
fn a_hub_can_be_upgraded_under_old_machines_and_an_old_hub_refuses_its_store() {
    let mut shop = Shop::begin(Age::Old, Age::Old);
    let process = shop.join(Age::Old, "kasse-1");
    shop.approve();
    shop.technician(&["run", "mend", "kasse-1", "--reason", "a test"]).exits(0);
    shop.hub_age = Age::New;
    shop.restart_hub();
    wait_until("it is back", || shop.is_online("kasse-1"));
    assert_eq!(shop.outcome("1"), "ok");
    shop.technician(&["run", "mend", "kasse-1", "--reason", "a test"]).exits(0);
    shop.technician_age = Age::New;
    shop.technician(&["run", "mend", "kasse-1", "--reason", "a test"]).exits(0);
    shop.hub.kill_9();
    let mut old = Command::new(of(Age::Old, "fernwart"));
    old.arg("--home").arg(shop.home("shop")).arg("serve");
    let mut old = Process::start(&mut old, &shop.home("old.log"));
    wait_until("it does not start on a newer store", || !old.is_running());
    assert!(old.log().contains("bringing the store's tables up to date"), "{}", old.log());
    shop.hub = serve(shop.folder.path(), Age::New);
    wait_until("it is back", || shop.is_online("kasse-1"));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(shop.outcome("1"), "ok");
    drop(process);
}
