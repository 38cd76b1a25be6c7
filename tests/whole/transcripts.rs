//! Runs every transcript in the documents and compares the output.
//!
//! Blocks run in the order of their `<!-- step N -->`, in one folder with one shop. Values that vary are
//! normalised on both sides: times, ids, words, measures, and which checks have an answer on this computer.
//! So that it can run here, each hub's name is replaced by a free port on loopback, this computer acts as
//! `kasse-1`, the key id and the draft are those that were just printed, and `sudo` is dropped. A line of
//! three dots matches any lines.

use crate::packages::{customers_computer, package};
use fernwart_tests::guest::Guest;
use fernwart_tests::{LoopDisk, Process, TIMEOUT, World, free_port, program, run, wait_until};
use regex::Regex;
use std::path::{Path, PathBuf};
use std::process::Command;

const HUBS: [&str; 2] = ["hub.nordlicht.example:443", "hub.suedlicht.example:443"];
const MACHINE: &str = "kasse-1";
const KEY_ID: &str = "7f3a52c6d0e14b8f9a6b3c2d1e0f4a5b";
const DRAFT: &str = "0a1b2c3d4e5f";

/// The package's file name in the customer's guide.
const PACKAGE: &str = "./fernwart-agent_0.3.0_amd64.deb";

/// The same of the package for technicians and hubs.
const HUBS_PACKAGE: &str = "./fernwart_0.3.0_amd64.deb";

/// Address of the hub in the guide for a trial on one computer.
const TRIAL: &str = "127.0.0.1:4433";

const SCRIPTS: &str = "controller/scripts";

/// Where the shipped scripts are.
fn scripts() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(SCRIPTS);
    folder.canonicalize().expect("scripts").to_str().expect("text").to_owned()
}

/// A small disk at `/var/log/pos` that a till's log has filled; removed when dropped.
struct FullDisk(Option<LoopDisk>);

const POS: &str = "/var/log/pos";

impl FullDisk {
    fn mount() -> Option<Self> {
        let disk = LoopDisk::mount(Path::new(POS))?;
        let mut log = std::fs::File::create(Path::new(POS).join("debug.log")).expect("a log");
        let line = format!("2026-11-23 till 1: {}\n", "debug ".repeat(160));
        while std::io::Write::write_all(&mut log, line.as_bytes()).is_ok() {}
        Some(Self(Some(disk)))
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        drop(self.0.take());
        let _ = std::fs::remove_dir(POS);
    }
}

/// The first step at which the disk is full.
const DISK_IS_FULL: u32 = 16;

struct Step {
    number: u32,
    commands: Vec<(String, Vec<String>)>,
}

fn steps(text: &str, kind: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mark = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
        let Some((found, number)) = mark.and_then(|mark| mark.split_once(' ')) else {
            assert!(!line.starts_with("```console"), "a transcript without a step");
            continue;
        };
        assert!(["step", "customer", "trial"].contains(&found), "{found} is played by nobody");
        if found != kind {
            lines.by_ref().take_while(|line| *line != "```").for_each(drop);
            continue;
        }
        assert_eq!(lines.next(), Some("```console"));
        let mut commands: Vec<(String, Vec<String>)> = Vec::new();
        for line in lines.by_ref().take_while(|line| *line != "```") {
            match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(command), _) => commands.push((command.to_owned(), Vec::new())),
                (None, Some((_, output))) => output.push(line.to_owned()),
                (None, None) => panic!("a transcript begins with a command: {line}"),
            }
        }
        steps.push(Step { number: number.parse().expect("a number"), commands });
    }
    steps.sort_by_key(|step| step.number);
    steps
}

struct Stage {
    folder: tempfile::TempDir,
    addresses: [String; 2],
    hostname: String,
    invitation: String,
    key_id: String,
    draft: String,
    running: Vec<Process>,
    /// The guest on which commands run, instead of this computer.
    guest: Option<Guest>,
    /// Texts in the document, and what is typed in the guest instead.
    there: Vec<(&'static str, String)>,
    alike: Vec<(Regex, &'static str)>,
}

impl Stage {
    fn new() -> Self {
        let alike = [
            (r"fw1-[A-Za-z0-9_…-]+", "LINE"),
            (r"Receipt [0-9a-f]{8}\b", "Receipt ID"),
            (r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) \d+ [A-Z][a-z]{2} \d\d:\d\d [A-Z]+", "WHEN"),
            (r"\d+ [A-Z][a-z]{2} \d\d:\d\d:\d\d", "MOMENT"),
            (r"\d{4}-\d\d-\d\d( \d\d:\d\d)?", "DAY"),
            (r"[0-9a-f]{32,64}|[0-9a-f]{4}…", "HEX"),
            (r"\b[0-9a-f]{12}\b", "DRAFT"),
            (r"[a-zäöüß]+ · [a-zäöüß]+ · [a-zäöüß]+ · [a-zäöüß]+", "WORDS"),
            (r#"":\d+"#, "\":N"),
            (r"^\d+ checks: .*$", "N checks"),
            (r"( · (ok|warn|crit|unknown|incomplete) \d+)+", ""),
            (r"\d+(\.\d+)? ?(ms|s|d|h|min)\b", "N"),
            (r"\b\d+(\.\d+)? (KiB|MiB|GiB)\b", "SIZE"),
            (r"\(\d+(\.\d+)? %\)", "(SHARE)"),
            // Two hours from now may be tomorrow.
            (r"(until|bis) (\d\d:\d\d|DAY)", "$1 TIME"),
            (r"job logs \d+", "job logs N"),
            (r"^job \d+ · ", "job N · "),
            (r" – unknown: .*$", ""),
            // This computer's own name stands for the machine's.
            (r"\(kasse-1, bei Ihrer IT-Betreuung: kasse-1\)", "(kasse-1)"),
            (r"\b\d+\.\d+$", "N"),
            (r"\s+", " "),
        ];
        let hostname = run(Command::new("uname").arg("-n")).exits(0).out.trim().to_owned();
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            addresses: [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}")),
            hostname,
            invitation: String::new(),
            key_id: KEY_ID.to_owned(),
            draft: DRAFT.to_owned(),
            running: Vec::new(),
            guest: None,
            there: Vec::new(),
            alike: alike.into_iter().map(|(from, to)| (Regex::new(from).expect("a pattern"), to)).collect(),
        }
    }

    fn bash(&self, command: &str) -> Command {
        if let Some(guest) = &self.guest {
            let mut bash = guest.command(&["bash", "-c", &format!("cd /root && {command}")]);
            bash.env("LANG", "de_DE.UTF-8").env("TZ", "UTC").env("FERNWART_HOME", "shop");
            return bash;
        }
        let programs: PathBuf = program("fernwart").parent().expect("a folder").to_owned();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let mut bash = Command::new("bash");
        bash.arg("-c").arg(command).current_dir(self.folder.path());
        bash.env("PATH", path).env("TZ", "UTC").env("LANG", "C.UTF-8").env_remove("LC_ALL");
        bash.env("FERNWART_HOME", "shop").env("FERNWART_AGENT_HOME", self.folder.path().join("machine"));
        bash
    }

    /// The command to run for a command in the document.
    fn typed(&self, command: &str) -> String {
        let mut typed = command
            .replace("sudo ", "")
            .replace("fw1-…", &self.invitation)
            .replace(KEY_ID, &self.key_id)
            .replace(DRAFT, &self.draft);
        let own_name = waiting_name(&self.hostname);
        let admits = format!("admit {own_name} --as {MACHINE}");
        if self.guest.is_some() {
            for (stands, is) in &self.there {
                typed = typed.replace(stands, is);
            }
            return typed.replace("apt ", "apt -y ").replace(&format!("admit {MACHINE}"), &admits);
        }
        typed = typed.replace(SCRIPTS, &scripts());
        // The second shop admits this computer under the name that it has.
        if typed.contains("--home mia") {
            typed = typed.replace(MACHINE, &own_name);
        }
        for (name, address) in HUBS.iter().zip(&self.addresses) {
            if typed.contains(name) {
                typed = format!("{} --listen {address}", typed.replace(name, address));
            }
        }
        if typed.contains("fernwart-agent") && typed.contains(" enroll ") {
            typed.push_str(" --no-service");
        }
        typed.replace(&format!("admit {MACHINE}"), &admits)
    }

    fn made_alike(&self, line: &str) -> String {
        let mut line = line.replace(&scripts(), SCRIPTS);
        for (name, address) in HUBS.iter().zip(&self.addresses) {
            line = line.replace(address, name);
        }
        for (stands, is) in &self.there {
            line = line.replace(is, stands);
        }
        for name in [self.hostname.as_str(), waiting_name(&self.hostname).as_str()] {
            line = Regex::new(&format!(r"\b{}\b", regex::escape(name)))
                .expect("a pattern")
                .replace_all(&line, MACHINE)
                .into_owned();
        }
        for (from, to) in &self.alike {
            line = from.replace_all(&line, *to).into_owned();
        }
        line.trim().to_owned()
    }

    fn play(&mut self, command: &str, expected: &[String]) {
        let typed = self.typed(command);
        if let Some(typed) = typed.strip_suffix(" &") {
            let log = self.folder.path().join(format!("{}.log", self.running.len()));
            let started = Process::start(&mut self.bash(&format!("exec {typed}")), &log);
            wait_until("it is up", || {
                started.log().contains("hub is listening") || started.log().contains("agent started")
            });
            self.running.push(started);
            return;
        }
        // A machine that was just admitted is linked within the second.
        let deadline = std::time::Instant::now() + TIMEOUT;
        loop {
            let printed = run(&mut self.bash(&format!("{{ {typed} ; }} 2>&1")));
            if let Some(line) = printed.out.split_whitespace().find(|word| word.starts_with("fw1-")) {
                self.invitation = line.to_owned();
            }
            if let Some((_, key)) = printed.out.split_once("Key id   ") {
                self.key_id = key.split_whitespace().next().unwrap_or_default().to_owned();
            }
            if let Some((_, draft)) = printed.out.split_once("draft ") {
                self.draft = draft.chars().take(DRAFT.len()).collect();
            }
            let actual: Vec<String> = printed.out.lines().map(|line| self.made_alike(line)).collect();
            let wanted: Vec<String> = expected.iter().map(|line| self.made_alike(line)).collect();
            if fits(&wanted, &actual) {
                return;
            }
            let waits = [" ls", " status", " questions", " history"];
            let may_wait = typed.starts_with("fernwart") && waits.iter().any(|word| typed.ends_with(word));
            let again = may_wait && std::time::Instant::now() < deadline;
            assert!(
                again,
                "$ {typed}\n{}\n--- made alike:\n{}\n--- wanted:\n{}",
                printed.out,
                actual.join("\n"),
                wanted.join("\n")
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// The name that the hub derives from a host name.
fn waiting_name(hostname: &str) -> String {
    fernwart_protocol::text::MachineName::from_hostname(hostname).to_string()
}

fn fits(wanted: &[String], actual: &[String]) -> bool {
    match (wanted.split_first(), actual.split_first()) {
        (None, None) => true,
        (Some((dots, rest)), _) if dots == "..." => {
            // Dots never skip an error message.
            let most = actual.iter().position(|line| line.starts_with("error:")).unwrap_or(actual.len());
            (0..=most).any(|skip| fits(rest, &actual[skip..]))
        }
        (Some((want, rest)), Some((have, left))) => want == have && fits(rest, left),
        _ => false,
    }
}

/// The documents with transcripts.
const DOCUMENTS: [&str; 11] = [
    "README.md",
    "controller/docs/first-repair.md",
    "controller/docs/technician.md",
    "controller/docs/approvers.md",
    "controller/docs/operator.md",
    "controller/docs/scripting.md",
    "controller/docs/script-authors.md",
    "controller/docs/architecture.md",
    "controller/docs/refusals.md",
    "agent/docs/kunden.md",
    "agent/docs/customers.md",
];

/// What each crate says of itself.
const CRATES: [&str; 9] = [
    "agent/README.md",
    "certs/README.md",
    "controller/README.md",
    "controller/client/README.md",
    "controller/fleet/README.md",
    "controller/hub/README.md",
    "controller/index/README.md",
    "controller/store/README.md",
    "protocol/README.md",
];

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)).expect(name)
}

fn all_steps() -> Vec<Step> {
    let mut all: Vec<Step> = DOCUMENTS.iter().flat_map(|name| steps(&document(name), "step")).collect();
    all.sort_by_key(|step| step.number);
    all
}

#[test]
fn the_first_commands_of_the_readme_are_tested_in_a_transcript() {
    let customers = steps(&document("agent/docs/kunden.md"), "customer");
    let played: Vec<String> =
        all_steps().into_iter().chain(customers).flat_map(|step| step.commands).map(|(command, _)| command).collect();
    let readme = document("README.md");
    let first = readme.split("## The first machine").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("there");
    let typed = first.lines().filter(|line| line.starts_with("fernwart") || line.starts_with("sudo"));
    let never: Vec<&str> = typed.filter(|line| !played.iter().any(|command| command.starts_with(*line))).collect();
    assert!(never.is_empty(), "{never:?}");
    assert!(readme.len() <= 10_240, "{} bytes", readme.len());
}

#[test]
fn the_manifest_in_the_authors_guide_is_valid() {
    let guide = document("controller/docs/script-authors.md");
    let text = guide.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a manifest");
    let manifest = fernwart_protocol::script::Manifest::read(&text.replace('…', "x"));
    assert!(manifest.is_ok(), "{manifest:?}");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let others = ["tests/README.md", "controller/CHANGELOG.md"].into_iter().chain(CRATES);
    let link = Regex::new(r"\]\(([^)#]+)\)").expect("a pattern");
    for name in DOCUMENTS.into_iter().chain(others) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        for found in link.captures_iter(&document(name)) {
            let to = found.get(1).expect("a place").as_str();
            let is_there = to.starts_with("http") || folder.parent().expect("a folder").join(to).exists();
            assert!(is_there, "{name}: {to} is not there");
        }
    }
}

fn folders_below(folder: &Path, all: &mut Vec<PathBuf>) {
    all.push(folder.to_owned());
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() {
            folders_below(&entry.path(), all);
        }
    }
}

#[test]
fn each_crate_describes_itself_in_a_page_and_names_files_that_exist() {
    let file = Regex::new(r"`([\w./-]+\.(?:rs|toml|md))`").expect("a pattern");
    let module = Regex::new(r"`(?:src/)?([a-z_]+)/?`").expect("a pattern");
    // Files of homes and of a machine, not of the source.
    let made = ["policy.toml", "hub.toml", "staff.toml"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in CRATES {
        let text = document(name);
        let lines = text.lines().count();
        assert!((30..=120).contains(&lines), "{name}: {lines} lines");
        let home = root.join(name).parent().expect("a folder").to_owned();
        let mut sources = vec![root.clone(), home.clone()];
        folders_below(&home.join("src"), &mut sources);
        for found in file.captures_iter(&text) {
            let path = found.get(1).expect("a file").as_str();
            let is_there = made.contains(&path) || sources.iter().any(|folder| folder.join(path).exists());
            assert!(is_there, "{name}: {path} is not there");
        }
        // The first column of the table of modules.
        let table = text.split("| module").nth(1).unwrap_or_else(|| panic!("{name} has no table of modules"));
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let cells = rows.filter_map(|line| line.split('|').nth(1));
        let mut modules = 0;
        for cell in cells {
            for found in module.captures_iter(cell) {
                let module = found.get(1).expect("a module").as_str();
                let places = [format!("src/{module}"), format!("src/{module}.rs"), module.to_owned()];
                assert!(places.iter().any(|place| home.join(place).exists()), "{name}: no {module}");
                modules += 1;
            }
        }
        assert!(modules >= 3, "{name} names {modules} modules");
    }
}

#[test]
fn every_transcript_matches_real_output() {
    let steps = all_steps();
    assert!(steps.len() >= 10, "{} transcripts", steps.len());
    let mut stage = Stage::new();
    let mut disk = None;
    for step in steps {
        if step.number >= DISK_IS_FULL && disk.is_none() {
            disk = FullDisk::mount();
            if disk.is_none() {
                return;
            }
        }
        for (command, expected) in step.commands {
            stage.play(&command, &expected);
        }
    }
}

/// The customer's guide, from the package to leaving, on a computer with systemd. The technician's steps
/// run in between.
#[test]
fn the_customers_guide_matches_real_output_from_installation_to_leaving() {
    let world = World::new();
    let Some(package) = package(&world, "fernwart-agent", ".deb") else { return };
    let Some(guest) = customers_computer(&world) else { return };
    let script = format!("{}/print-queue-clear", scripts());
    world.technician(&["catalogue", "propose", &script, "--yes"]).exits(0);
    let mut stage = Stage::new();
    stage.hostname = guest.run(&["uname", "-n"]).exits(0).out.trim().to_owned();
    stage.invitation = world.invitation(&["Bäckerei Meyer"]);
    (stage.guest, stage.there) = (Some(guest), vec![(PACKAGE, package)]);
    let mut asking = None;
    for step in steps(&document("agent/docs/kunden.md"), "customer") {
        match step.number {
            2 => {
                let waiting = waiting_name(&stage.hostname);
                world.technician(&["admit", &waiting, "--as", MACHINE]).exits(0);
                wait_until("the machine is linked", || world.is_online(MACHINE));
                let printed = world.technician(&["diagnose", MACHINE, "--reason", "Kunde ruft an: Drucker steht"]);
                assert!(matches!(printed.code, 0 | 1), "{}", printed.err);
            }
            3 => {
                let words = ["run", "print-queue-clear", MACHINE, "--reason", "Der Drucker druckt nicht mehr"];
                let log = stage.folder.path().join("asking.log");
                asking = Some(Process::start(&mut world.command(&words), &log));
            }
            _ => {}
        }
        for (command, expected) in step.commands {
            stage.play(&command, &expected);
        }
    }
    drop(asking);
    wait_until("the hub has heard it", || !world.technician(&["ls"]).exits(0).out.contains(MACHINE));
}

/// The first-repair guide on one computer, from installing both packages to removing them.
#[test]
fn the_first_repair_guide_matches_real_output_from_installation_on() {
    let world = World::new();
    let Some(agents) = package(&world, "fernwart-agent", ".deb") else { return };
    let Some(hubs) = package(&world, "fernwart", ".deb") else { return };
    let Some(guest) = customers_computer(&world) else { return };
    // A service that fails the first time it is started.
    let fails = "[Unit]\nDescription=Umsätze der Kassen einlesen\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                 ExecStart=/bin/sh -c '[ -e /run/was-started ] || { touch /run/was-started; exit 1; }'\n";
    guest.put_program("/etc/systemd/system/kassenimport.service", fails);
    assert_ne!(guest.run(&["systemctl", "start", "kassenimport"]).code, 0);
    let mut stage = Stage::new();
    stage.hostname = guest.run(&["uname", "-n"]).exits(0).out.trim().to_owned();
    stage.there = vec![(PACKAGE, agents), (HUBS_PACKAGE, hubs), (TRIAL, stage.addresses[0].clone())];
    stage.guest = Some(guest);
    for step in steps(&document("controller/docs/first-repair.md"), "trial") {
        for (command, expected) in step.commands {
            stage.play(&command, &expected);
        }
    }
}
