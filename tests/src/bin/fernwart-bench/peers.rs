//! Sends the same request to the same number of machines on this computer: Fernwart, Salt, and Ansible over
//! ssh, one after another in each round.
//!
//! Salt and Ansible are installed from PyPI into folders of their own. A separate sshd runs on loopback
//! with a temporary account; its connections are open before anything is timed. All agents and minions are
//! processes. Needs root, python3-venv and openssh-server.

use crate::measure::{Paper, Takes, children, memory};
use crate::ssh::{ACCOUNT, Sshd, quiet};
use fernwart_tests::{Process, World, program, run as run_to_end, wait_within};
use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Measured rounds; a warm-up round precedes them.
const ROUNDS: usize = 5;

/// Timeout until all of them are connected.
const TIMEOUT: Duration = Duration::from_secs(600);

const SALT: &str = "salt==3008.3";
const ANSIBLE: &str = "ansible-core==2.19.14";
/// Where they are installed and run. The path is short because it contains Salt's sockets.
const FOLDER: &str = "/tmp/fernwart-peers";

fn write(path: &Path, lines: &[String]) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(path, lines.join("\n") + "\n").expect("written");
}

/// Installs a PyPI package into a folder of its own; returns where its programs are.
fn install(name: &str, package: &str) -> PathBuf {
    let place = Path::new(FOLDER).join(name);
    let programs = place.join("bin");
    let made = place.join("fernwart-made");
    if std::fs::read_to_string(&made).is_ok_and(|known| known == package) {
        return programs;
    }
    eprintln!("installing {package} into {}", place.display());
    let _ = std::fs::remove_dir_all(&place);
    let done = quiet(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&place))
        && quiet(Command::new(programs.join("pip")).args(["install", "--quiet", package]));
    assert!(done, "{package} cannot be installed: is python3-venv there?");
    std::fs::write(made, package).expect("written");
    programs
}

/// A process and all its descendants.
struct Tree(Child);

impl Tree {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = std::fs::File::create(log).expect("a file");
        let command = command.stdin(Stdio::null()).stderr(log.try_clone().expect("a file")).stdout(log);
        Self(command.process_group(0).spawn().expect("started"))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let mut all = below(&[self.0.id()]);
        all.reverse();
        for pid in all {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            // Fails only for processes that have ended already.
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        }
        let _ = self.0.wait();
    }
}

/// All processes: parent, and processor time including that of reaped children.
fn processes() -> HashMap<u32, (u32, Duration)> {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir("/proc").expect("a folder").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // After the name in brackets: state, parent, and from the 12th on four times in
        // hundredths of a second. Some of the others may be negative.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(1);
        let fields: Vec<i64> = fields.map_while(|field| field.parse().ok()).collect();
        let (Some(parent), Some(times)) = (fields.first(), fields.get(10..14)) else { continue };
        let ticks = u64::try_from(times.iter().sum::<i64>()).unwrap_or_default();
        all.insert(pid, (u32::try_from(*parent).unwrap_or_default(), Duration::from_millis(10 * ticks)));
    }
    all
}

/// These processes and all their descendants.
fn below(roots: &[u32]) -> Vec<u32> {
    let all = processes();
    let mut found = roots.to_vec();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|(_, (above, _))| *above == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

fn spent(roots: &[u32]) -> Duration {
    let all = processes();
    below(roots).iter().filter_map(|pid| all.get(pid)).map(|(_, time)| *time).sum()
}

/// Proportional memory, MiB.
fn held(roots: &[u32]) -> f64 {
    let some = below(roots);
    // A process that has just ended, or is a zombie, holds no memory.
    let there =
        some.iter().filter(|pid| std::fs::read(format!("/proc/{pid}/smaps_rollup")).is_ok_and(|text| !text.is_empty()));
    there.map(|pid| memory(*pid, "Pss:") as f64 / 1024.0).sum()
}

/// Builds the command of a request.
type Ask = Box<dyn Fn() -> Command>;

/// One of the three programs.
struct Peer {
    name: &'static str,
    /// Its requests: name and command.
    ways: Vec<(&'static str, Ask)>,
    /// Processes of its server.
    server: Vec<u32>,
    /// Those of its agents.
    agents: Vec<u32>,
    wall: Vec<Takes>,
    cpu: Vec<Takes>,
}

/// Ours: a hub and agents.
fn fernwart(n: usize) -> (Peer, World, Vec<Process>) {
    let world = World::new();
    let line = world.invitation(&["Peers", "--machines", &n.to_string(), "--for", "2h", "--admit-automatically"]);
    let file = world.path().join("invitation");
    std::fs::write(&file, line).expect("written");
    let agents: Vec<Process> = (0..n)
        .map(|nth| {
            let home = world.path().join(format!("agent-{nth}"));
            let agent = |words: &[&str]| {
                let mut command = Command::new(program("fernwart-agent"));
                command.arg("--home").arg(&home).args(words);
                command
            };
            let file = file.to_str().expect("text");
            run_to_end(&mut agent(&["enroll", "--invitation", file, "--policy", "ask", "--no-service"])).exits(0);
            Process::start(&mut agent(&["run"]), &home.with_extension("log"))
        })
        .collect();
    let home = world.shop();
    let ours = move |words: &'static [&'static str]| {
        let home = home.clone();
        Box::new(move || fernwart_tests::staff_command(&home, words)) as Ask
    };
    wait_within(TIMEOUT, "all agents are linked", || {
        world
            .technician(&["ping", "all", "-o", "jsonl"])
            .json_lines()
            .iter()
            .filter(|line| line["ms"].is_number())
            .count()
            == n
    });
    let peer = Peer {
        name: "fernwart",
        ways: vec![("ping", ours(&["ping", "all"])), ("facts", ours(&["diagnose", "all", "--timeout", "60s"]))],
        server: vec![world.hub.pid()],
        agents: agents.iter().map(Process::pid).collect(),
        wall: Vec::new(),
        cpu: Vec::new(),
    };
    (peer, world, agents)
}

/// A Salt master and minions.
fn salt(n: usize) -> (Peer, Vec<Tree>) {
    let programs = install("salt-venv", SALT);
    let place = Path::new(FOLDER).join("s");
    let _ = std::fs::remove_dir_all(&place);
    let common = |of: &Path| -> Vec<String> {
        let of = of.display();
        let folders = ["root_dir", "pki_dir", "sock_dir", "cachedir"];
        let mut lines: Vec<String> = folders.iter().map(|name| format!("{name}: {of}/{name}")).collect();
        lines.extend([format!("log_file: {of}/log"), format!("pidfile: {of}/pid"), "log_level: error".to_owned()]);
        lines.extend(["user: root".to_owned(), "publish_port: 14505".to_owned()]);
        lines
    };
    let master = place.join("master");
    let mut lines = common(&master);
    lines.extend(["interface: 127.0.0.1", "ret_port: 14506", "auto_accept: true"].map(str::to_owned));
    write(&master.join("master"), &lines);
    let start = |word: &str, at: &Path| {
        let mut command = Command::new(programs.join(word));
        Tree::start(command.arg("-c").arg(at).env("LC_ALL", "C.UTF-8"), &at.join("out"))
    };
    let mut trees = vec![start("salt-master", &master)];
    for nth in 0..n {
        let minion = place.join(format!("m{nth}"));
        let mut lines = common(&minion);
        lines.extend([format!("id: m{nth}"), "master: 127.0.0.1".to_owned(), "master_port: 14506".to_owned()]);
        write(&minion.join("minion"), &lines);
        trees.push(start("salt-minion", &minion));
    }
    let ask = move |words: &'static [&'static str]| {
        let (programs, master) = (programs.clone(), master.clone());
        Box::new(move || {
            let mut command = Command::new(programs.join("salt"));
            command.arg("-c").arg(&master).args(["-t", "60", "*"]).args(words).env("LC_ALL", "C.UTF-8");
            command
        }) as Ask
    };
    let ping = ask(&["test.ping", "--out=txt"]);
    wait_within(TIMEOUT, "all minions answer", || {
        let output = ping().stdin(Stdio::null()).output().expect("started");
        String::from_utf8_lossy(&output.stdout).matches(": True").count() == n
    });
    let ids: Vec<u32> = trees.iter().map(|tree| tree.0.id()).collect();
    let peer = Peer {
        name: "Salt",
        ways: vec![("ping", ping), ("facts", ask(&["grains.items", "--out=json", "--static"]))],
        server: ids[..1].to_vec(),
        agents: ids[1..].to_vec(),
        wall: Vec::new(),
        cpu: Vec::new(),
    };
    (peer, trees)
}

/// Ansible over connections that are open.
fn ansible(n: usize, sshd: &Sshd) -> (Peer, Vec<Tree>) {
    let programs = install("ansible-venv", ANSIBLE);
    let place = Path::new(FOLDER).join("a");
    let _ = std::fs::remove_dir_all(&place);
    std::fs::create_dir_all(place.join("cm")).expect("made");
    let path = |name: &str| place.join(name).display().to_string();
    let (port, key) = (sshd.port, sshd.key().display().to_string());
    let client = format!(
        "Host peer*\n HostName 127.0.0.1\n Port {port}\n User {ACCOUNT}\n IdentityFile {}\n IdentitiesOnly yes\n \
         StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n ControlMaster auto\n \
         ControlPersist no\n ControlPath {}/%n",
        key,
        path("cm")
    );
    write(&place.join("ssh_config"), &[client]);
    let names: Vec<String> = (0..n).map(|nth| format!("peer{nth}")).collect();
    write(&place.join("hosts"), &names);
    let settings = format!(
        "[defaults]\ninventory = {}\nforks = 50\ninterpreter_python = /usr/bin/python3\n\
         [ssh_connection]\npipelining = True\nssh_args = -F {}",
        path("hosts"),
        path("ssh_config")
    );
    write(&place.join("ansible.cfg"), &[settings]);
    let mut trees = Vec::new();
    for name in &names {
        let mut open = Command::new("ssh");
        trees.push(Tree::start(open.args(["-F", &path("ssh_config"), "-N", name]), &place.join("ssh.log")));
        wait_within(TIMEOUT, "a connection is open", || place.join("cm").join(name).exists());
    }
    let ask = move |module: &'static str| {
        let (programs, place) = (programs.clone(), place.clone());
        Box::new(move || {
            let mut command = Command::new(programs.join("ansible"));
            command.args(["all", "-m", module]).env("LC_ALL", "C.UTF-8");
            command.env("ANSIBLE_CONFIG", place.join("ansible.cfg")).env("ANSIBLE_HOME", place.join("home"));
            command
        }) as Ask
    };
    let peer = Peer {
        name: "Ansible",
        ways: vec![("ping", ask("ping")), ("facts", ask("setup"))],
        // Ansible has no server; what stays running are the open connections.
        server: trees.iter().map(|tree| tree.0.id()).collect(),
        agents: vec![sshd.pid()],
        wall: Vec::new(),
        cpu: Vec::new(),
    };
    (peer, trees)
}

/// Prints the table for `n` machines of each.
pub(crate) fn peers(n: usize, paper: &Paper) {
    let Some(sshd) = Sshd::start() else { return };
    std::fs::create_dir_all(FOLDER).expect("made");
    let (ours, _world, _agents) = fernwart(n);
    let (salt, _trees) = salt(n);
    let (ansible, _masters) = ansible(n, &sshd);
    let mut peers = [ours, salt, ansible];
    for peer in &mut peers {
        peer.wall = vec![Takes::default(); peer.ways.len()];
        peer.cpu = vec![Takes::default(); peer.ways.len()];
    }
    for round in 0..=ROUNDS {
        for peer in &mut peers {
            let all: Vec<u32> = peer.server.iter().chain(&peer.agents).copied().collect();
            for (way, (what, command)) in peer.ways.iter().enumerate() {
                let before = (spent(&all), children());
                let begun = Instant::now();
                let output = command().stdin(Stdio::null()).output().expect("started");
                let took = begun.elapsed();
                let err = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.code().is_some_and(|code| code < 2), "{} {what}: {err}", peer.name);
                // Work that the request has started and that still runs is counted, too.
                std::thread::sleep(Duration::from_secs(1));
                let used = spent(&all) - before.0 + children() - before.1;
                if round > 0 {
                    peer.wall[way].0.push(took.as_secs_f64() * 1000.0);
                    peer.cpu[way].0.push(used.as_secs_f64() * 1000.0);
                }
            }
        }
    }
    paper.peers(&format!("{n} machines each, {ROUNDS} rounds; ping: fernwart ping, test.ping, -m ping; facts: fernwart diagnose, grains.items, -m setup"));
    for peer in &peers {
        let server = held(&peer.server);
        let agent = held(&peer.agents) / n as f64;
        for (way, (what, _)) in peer.ways.iter().enumerate() {
            paper.peer((peer.name, what), &peer.wall[way], &peer.cpu[way], server, agent);
        }
    }
}
