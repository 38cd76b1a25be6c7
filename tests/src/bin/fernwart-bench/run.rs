//! Measures one approved script, from the technician's command to the receipt, beside `ssh host true`.
//!
//! All variants take turns in one loop, so that other load on the computer affects them equally. Needs root
//! and the package `openssh-server`.

use crate::ssh::{ACCOUNT, Sshd, quiet};
use fernwart_tests::test_script::Script;
use fernwart_tests::{World, program};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A separate sshd, with one master connection open.
struct Ssh(Sshd);

impl Ssh {
    fn start() -> Option<Self> {
        let ssh = Self(Sshd::start()?);
        let mut master = ssh.plain();
        master.args(["-M", "-N", "-f", "-S"]).arg(ssh.master()).arg(format!("{ACCOUNT}@127.0.0.1"));
        assert!(quiet(&mut master), "a master connection");
        Some(ssh)
    }

    fn master(&self) -> PathBuf {
        self.0.file("master")
    }

    fn plain(&self) -> Command {
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        command.args(["-o", "BatchMode=yes", "-p", &self.0.port.to_string(), "-i"]).arg(self.0.key());
        command
    }

    fn fresh(&self) -> Command {
        let mut command = self.plain();
        command.args([&format!("{ACCOUNT}@127.0.0.1"), "true"]);
        command
    }

    fn warm(&self) -> Command {
        let mut command = self.plain();
        command.arg("-S").arg(self.master()).args([&format!("{ACCOUNT}@127.0.0.1"), "true"]);
        command
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let mut end = self.plain();
        end.arg("-S").arg(self.master()).args(["-O", "exit", "127.0.0.1"]);
        quiet(&mut end);
    }
}

struct Route {
    name: &'static str,
    command: Box<dyn Fn() -> Command>,
    took: Vec<Duration>,
}

/// Measures `rounds` rounds.
pub(super) fn run(rounds: usize) {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("rules");
    world.approve(&Script::new("nothing", "exit 0\n"));
    let ssh = Ssh::start();
    let home = world.shop();
    let ours = |name, words: &'static [&'static str]| {
        let home = home.clone();
        let command = move || fernwart_tests::staff_command(&home, words);
        Route { name, command: Box::new(command), took: Vec::new() }
    };
    let spawned = || Command::new("/bin/true");
    let mut ways = vec![
        Route { name: "/bin/true alone", command: Box::new(spawned), took: Vec::new() },
        ours("fernwart version", &["version"]),
        ours("fernwart ping (handshake, echo)", &["ping", "kasse-1"]),
        ours("fernwart diagnose --section power", &["diagnose", "kasse-1", "--section", "power", "-o", "name"]),
        ours("fernwart run nothing", &["run", "nothing", "kasse-1", "--reason", "bench", "-o", "name"]),
    ];
    if let Some(ssh) = ssh.as_ref() {
        let key = |warm: bool| {
            let line: Vec<_> = {
                let command = if warm { ssh.warm() } else { ssh.fresh() };
                command.get_args().map(std::ffi::OsStr::to_owned).collect()
            };
            move || {
                let mut command = Command::new("ssh");
                command.args(&line);
                command
            }
        };
        ways.push(Route { name: "ssh true, warm master", command: Box::new(key(true)), took: Vec::new() });
        ways.push(Route { name: "ssh true, fresh", command: Box::new(key(false)), took: Vec::new() });
    }
    for round in 0..=rounds {
        for way in &mut ways {
            let begun = Instant::now();
            assert!(quiet(&mut (way.command)()), "{}", way.name);
            // The first round is a warm-up.
            if round > 0 {
                way.took.push(begun.elapsed());
            }
        }
    }
    println!("{rounds} rounds, one after another; ms: median (tenth – ninetieth of a hundred)");
    let mut medians = std::collections::HashMap::new();
    for way in &mut ways {
        way.took.sort();
        let at = |share: usize| way.took[(way.took.len() - 1) * share / 100].as_secs_f64() * 1000.0;
        println!("{:<36} {:>7.1}  ({:.1} – {:.1})", way.name, at(50), at(10), at(90));
        medians.insert(way.name, at(50));
    }
    if let (Some(ours), Some(warm), Some(fresh)) =
        (medians.get("fernwart run nothing"), medians.get("ssh true, warm master"), medians.get("ssh true, fresh"))
    {
        println!("run / warm ssh = {:.2}    run / fresh ssh = {:.2}", ours / warm, ours / fresh);
    }
    let output = world.technician(&["run", "nothing", "kasse-1", "--reason", "bench", "-o", "jsonl"]);
    let report = output.json_lines()[0]["report"].clone();
    println!("of which the script in its cage ({}): {} ms", report["cage"], report["took_ms"]);
    println!("programs: {}", program("fernwart").display());
}
