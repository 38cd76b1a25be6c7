//! Scripts that misbehave are contained, ended in time, and reported. Each test first shows that the
//! misbehaviour works, or could work, outside the cage.
//!
//! A second control group contains each bomb in case the cage fails.

use fernwart_tests::test_script::Script;
use fernwart_tests::{CommandOutput, Machine, SmallDisk, World, run, wait_until};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A control group (version 1 or 2) around a process and all it starts.
struct Net(Vec<PathBuf>);

impl Net {
    fn around(pid: u32) -> Option<Self> {
        let name = format!("fernwart-test-{}-{pid}", std::process::id());
        let mut places = Vec::new();
        let limits = [
            ("pids", "pids.max", "3000"),
            ("memory", "memory.limit_in_bytes", "2147483648"),
            ("unified", "pids.max", "3000"),
        ];
        for (tree, file, value) in limits {
            let place = Path::new("/sys/fs/cgroup").join(tree).join(&name);
            let made = std::fs::create_dir(&place).is_ok()
                && std::fs::write(place.join(file), value).is_ok()
                && std::fs::write(place.join("cgroup.procs"), pid.to_string()).is_ok();
            if made {
                places.push(place);
            } else {
                let _ = std::fs::remove_dir(&place);
            }
        }
        if places.is_empty() {
            assert!(std::env::var_os("CI").is_none(), "no control group to put under a bomb");
            println!("skipped: no control group to put under a bomb");
            return None;
        }
        Some(Self(places))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for place in &self.0 {
            for _ in 0..100 {
                if std::fs::remove_dir(place).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// A machine outside `/tmp` whose policy allows everything, with a control group as a safety net.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) machine: Machine,
    _net: Net,
}

impl Stage {
    pub(crate) fn new(scripts: &[Script]) -> Option<Self> {
        let folder = tempfile::tempdir_in("/srv").expect("a folder");
        let world = World::in_folder(folder);
        let machine = world.add_machine("kasse-1");
        let net = Net::around(machine.agent.pid())?;
        std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
            .expect("written");
        world.approve_all(scripts);
        Some(Self { world, machine, _net: net })
    }

    /// The same, where only namespaces contain a script.
    fn without_groups(scripts: &[Script]) -> Option<Self> {
        let mut stage = Self::new(scripts)?;
        stage.machine.agent.stop();
        stage.machine.restart_without_groups();
        stage._net = Net::around(stage.machine.agent.pid())?;
        wait_until("the machine is linked", || stage.world.is_online("kasse-1"));
        Some(stage)
    }

    /// Plays once in each kind of cage that this computer has: control groups with namespaces, and
    /// namespaces alone. `play` receives the name of the cage. A script named `honest` is added.
    pub(crate) fn each(scripts: &[Script], mut play: impl FnMut(Self, &str)) {
        let scripts: Vec<Script> = scripts.iter().cloned().chain([honest()]).collect();
        for make in [Self::new, Self::without_groups] {
            let Some(stage) = make(&scripts) else { return };
            let cage = stage.report(&["honest"])["cage"].as_str().expect("a kind").to_owned();
            println!("in a cage of {cage}");
            play(stage, &cage);
        }
    }

    pub(crate) fn run(&self, words: &[&str]) -> CommandOutput {
        let mut all = vec!["run"];
        all.extend(words);
        all.extend(["--reason", "test"]);
        self.world.technician(&all)
    }

    pub(crate) fn report(&self, words: &[&str]) -> Value {
        let mut all = words.to_vec();
        all.extend(["kasse-1", "-o", "jsonl"]);
        let printed = self.run(&all);
        let result = printed.json_lines().into_iter().find(|line| line["type"] == "result").expect("a result");
        assert!(result["report"].is_object(), "{}: {result} {}", words[0], printed.err);
        result["report"].clone()
    }

    /// Peak memory of the agent, KiB.
    fn most_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.machine.agent.pid())).expect("running");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a line");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }

    /// Asserts that the agent still runs and that nothing of the script is left.
    fn is_unharmed(&mut self, what: &str) {
        assert!(self.machine.agent.is_running(), "{what}: the agent runs");
        // An escaped process is reparented to init, but still carries this mark.
        let left = run(Command::new("pgrep").args(["-f", "fernwart-evil-31415"]));
        assert_eq!(left.out, "", "{what}: nothing is left");
        let pid = self.machine.agent.pid();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("running").flatten();
        let children: String =
            tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok()).collect();
        assert_eq!(children.trim(), "", "{what}: no child is left");
        let honest = self.report(&["honest"]);
        assert_eq!(honest["stdout"]["head"], "fine\n", "{what}");
    }
}

fn honest() -> Script {
    Script::new("honest", "echo fine\n")
}

fn limits(lines: &str) -> String {
    format!("[limits]\n{lines}\n")
}

#[test]
fn resource_bombs_are_stopped_in_time_and_leave_no_process() {
    let scripts = [
        Script::new("forks", "f() { sh -c 'sleep 31; : fernwart-evil-31415' & f & f; }; f; sleep 60\n")
            .and(&limits("processes = 32\ntime_s = 20")),
        Script::new("eats", "head -c 100G /dev/zero | tail -c 100G | wc -c\n")
            .and(&limits("memory_mib = 64\ntime_s = 20")),
        Script::new("maps", "import mmap\nm = mmap.mmap(-1, 1 << 30)\nfor at in range(0, 1 << 30, 4096): m[at] = 1\n")
            .shell("python3")
            .and(&limits("memory_mib = 64\ntime_s = 20")),
        Script::new(
            "shares",
            "for n in 1 2 3 4 5 6; do head -c 48M /dev/zero | tail -c 48M | (sleep 15; wc -c) & done; wait\n",
        )
        .and(&limits("memory_mib = 96\ntime_s = 20")),
        Script::new("stubborn", "trap '' TERM INT HUP; while :; do sleep 0.1 || :; done\n").and(&limits("time_s = 1")),
        Script::new(
            "daemon",
            "setsid sh -c 'trap \"\" HUP TERM; sleep 300; : fernwart-evil-31415' </dev/null >/dev/null 2>&1 &\necho off\n",
        ),
        Script::new("clings", "setsid sh -c 'sleep 300; : fernwart-evil-31415' &\necho off\n"),
    ];
    Stage::each(&scripts, |mut stage, _| {
        stage.report(&["honest"]);
        let before = stage.most_kib();
        let ended = |report: &Value| report["stopped"].as_str().map(str::to_owned);
        let report = stage.report(&["forks"]);
        assert_eq!(ended(&report).as_deref(), Some("processes"), "{report}");
        assert!(report["took_ms"].as_u64().is_some_and(|ms| ms < 10_000), "{report}");
        stage.is_unharmed("forks");
        let report = stage.report(&["eats"]);
        assert!(
            ended(&report).as_deref() == Some("memory")
                || report["well"] == false
                || report["stdout"]["head"] != "107374182400\n",
            "{report}"
        );
        assert!(report["took_ms"].as_u64().is_some_and(|ms| ms < 15_000), "{report}");
        stage.is_unharmed("eats");
        let report = stage.report(&["shares"]);
        assert_eq!(ended(&report).as_deref(), Some("memory"), "together they are too large: {report}");
        stage.is_unharmed("shares");
        let report = stage.report(&["maps"]);
        // Without memory accounting, anonymous shared memory is forbidden.
        let refused =
            report["stderr"]["head"].as_str().is_some_and(|printed| printed.contains("Operation not permitted"));
        assert!(ended(&report).as_deref() == Some("memory") || refused, "what is shared counts, too: {report}");
        stage.is_unharmed("maps");
        let report = stage.report(&["stubborn"]);
        assert_eq!(ended(&report).as_deref(), Some("time"), "{report}");
        assert!(report["took_ms"].as_u64().is_some_and(|ms| (1000..5000).contains(&ms)), "{report}");
        stage.is_unharmed("stubborn");
        for name in ["daemon", "clings"] {
            let report = stage.report(&[name]);
            assert_eq!(
                (report["exit"].as_i64(), report["stdout"]["head"].as_str()),
                (Some(0), Some("off\n")),
                "{report}"
            );
            assert!(report["took_ms"].as_u64().is_some_and(|ms| ms < 5000), "it is not waited for: {report}");
            stage.is_unharmed(name);
        }
        let grown = stage.most_kib() - before;
        println!("the agent grew by {grown} KiB at most");
        assert!(grown <= 8 * 1024, "{grown} KiB");
    });
}

#[test]
fn script_output_is_bounded_and_escaped() {
    let scripts = [
        honest(),
        Script::new("endless", "exec head -c 10G /dev/zero\n").and(&limits("time_s = 60\noutput_mib = 32")),
        Script::new("oneline", "head -c 1G /dev/zero | tr '\\0' x\n").and(&limits("time_s = 60\noutput_mib = 32")),
        Script::new("noise", "exec head -c 16M /dev/urandom\n").and(&limits("time_s = 60")),
        Script::new("escapes", "printf 'a\\033[2J\\033]0;evil\\007b\\0c\\377d\\r\\033[1A\\n'\n"),
    ];
    let Some(mut stage) = Stage::new(&scripts) else { return };
    stage.report(&["honest"]);
    let before = stage.most_kib();
    for name in ["endless", "oneline"] {
        let report = stage.report(&[name]);
        assert_eq!(report["stopped"], "output", "{name}: {} {}", report["stopped"], report["stdout"]["bytes"]);
        let bytes = report["stdout"]["bytes"].as_u64().expect("a number");
        assert!((32 << 20..64 << 20).contains(&bytes), "{name}: {bytes}");
        stage.is_unharmed(name);
    }
    let report = stage.report(&["noise"]);
    // Random bytes sometimes look like a key, which is redacted.
    let bytes = report["stdout"]["bytes"].as_u64().expect("a number");
    assert!(report["exit"] == 0 && ((16 << 20) - 16_384..=16 << 20).contains(&bytes), "{bytes}");
    assert!(report["stdout"]["sha256"].is_string() && report["stdout"]["tail"].as_str().expect("text").len() > 1000);
    let grown = stage.most_kib() - before;
    println!("the agent grew by {grown} KiB at most");
    assert!(grown <= 8 * 1024, "{grown} KiB");
    // The technician's terminal gets escaped text only, live and afterwards.
    let printed = stage.run(&["escapes", "kasse-1"]).exits(0);
    let raw = printed.out.chars().find(|c| c.is_control() && *c != '\n');
    assert!(raw.is_none() && printed.out.contains('a') && printed.out.contains('d'), "{:?}", printed.out);
    let report = stage.report(&["escapes"]);
    // The stored output is complete; it is escaped when shown.
    assert_eq!(report["stdout"]["head"], "a\u{1b}[2J\u{1b}]0;evil\u{7}b\0c\u{fffd}d\r\u{1b}[1A\n");
    let logs = |words: &[&str]| stage.world.technician(&[&["job", "logs", "1"], words].concat()).exits(0).out;
    for words in [&["-o", "json"][..], &["-o", "csv"], &[]] {
        let raw = logs(words).chars().find(|c| c.is_control() && *c != '\n');
        assert!(raw.is_none(), "{words:?}: {raw:?}");
    }
}

/// A second mount of a folder; unmounted when dropped.
struct Alias(tempfile::TempDir);

impl Alias {
    fn of(folder: &Path) -> Self {
        let place = tempfile::tempdir_in("/srv").expect("a folder");
        run(Command::new("mount").arg("--bind").arg(folder).arg(place.path())).exits(0);
        Self(place)
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn signals_to_a_scripts_process_group_do_not_reach_the_agent() {
    let scripts = [
        honest(),
        Script::new("ends", "sleep 0.2; kill -KILL 0\n").privilege("read"),
        Script::new("freezes", "python3 -c 'import os; os.kill(0, 19)'; sleep 60\n")
            .privilege("read")
            .and(&limits("time_s = 2")),
        Script::new("slows", "python3 -c 'import os; os.setpriority(os.PRIO_PGRP, 0, 19)'\n"),
        Script::new("above", "echo ran\n").with("writes = [\"/srv\"]"),
    ];
    let Some(mut stage) = Stage::new(&scripts) else { return };
    let nice = |stage: &Stage| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", stage.machine.agent.pid())).expect("running");
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(16).map(str::to_owned))
    };
    let before = nice(&stage);
    for name in ["ends", "freezes", "slows"] {
        let report = stage.report(&[name]);
        assert!(name == "slows" || report["well"] == false, "{report}");
        stage.is_unharmed(name);
        assert_eq!(nice(&stage), before, "{name}");
    }
    // A script that may write above the agent's folder could replace that folder.
    let printed = stage.run(&["above", "kasse-1"]).exits(3);
    assert!(printed.out.contains("FW-GATE-19"), "{}", printed.out);
}

#[test]
fn a_script_can_access_only_what_its_manifest_declares() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let inside = tempfile::tempdir_in("/srv").expect("a folder");
    let outside = tempfile::tempdir_in("/srv").expect("a folder");
    let (inside, outside) = (inside.path(), outside.path());
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached\n");
    // Each line prints what the script was able to do; in a sound cage none prints anything.
    let reach = format!(
        "touch {out}/x 2>/dev/null && echo wrote outside\n\
         touch /etc/fernwart-evil 2>/dev/null && echo wrote in etc\n\
         mount -o remount,rw / 2>/dev/null && echo remounted\n\
         umount $FERNWART_PARAM_HOME 2>/dev/null && echo uncovered\n\
         mknod /tmp/disk b 254 0 2>/dev/null && echo made a device\n\
         for disk in /dev/vda /dev/sda /dev/mem /dev/kmsg; do [ -e $disk ] && echo sees $disk; done\n\
         cat $FERNWART_PARAM_HOME/evidence.key >/dev/null 2>&1 && echo read a key\n\
         ls $FERNWART_PARAM_HOME 2>/dev/null | grep . && echo listed the home\n\
         kill -9 $FERNWART_PARAM_PID 2>/dev/null && echo killed the agent\n\
         pkill -9 -f fernwart-agent 2>/dev/null && echo killed by name\n\
         echo h > /proc/sysrq-trigger 2>/dev/null && echo pulled the plug\n\
         echo core > /proc/sys/kernel/core_pattern 2>/dev/null && echo turned a switch\n\
         echo $$ > /sys/fs/cgroup/pids/cgroup.procs 2>/dev/null && echo left its group\n\
         nsenter --target 1 --mount true 2>/dev/null && [ $FERNWART_PARAM_PID -gt 0 ] && ls /proc/$FERNWART_PARAM_PID 2>/dev/null && echo saw others\n\
         python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL(None, use_errno=True).reboot(0))' 2>/dev/null && echo may reboot\n\
         unshare --mount true 2>/dev/null && echo opened namespaces\n\
         [ -e /dev/tty ] && echo has a terminal\n\
         cat $FERNWART_PARAM_ALIAS/evidence.key >/dev/null 2>&1 && echo read a key by another way\n\
         for fd in /proc/$$/fd/*; do readlink $fd; done | grep -v -e '^pipe:' -e '^/memfd:run.sh' -e '^/dev/null$'\n\
         python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL(None).syscall(248, b\"user\", b\"fernwart-evil\", b\"x\", 1, -4) < 0)' && echo wrote into a keyring\n\
         nice -n -5 true 2>&1 | grep -q . || echo may hurry\n\
         [ $(( 0x$(grep CapEff /proc/self/status | tr -d -c 0-9a-fA-F | tail -c 16) & 4 )) = 0 ] || echo may open files by handle\n\
         touch {inside}/y && echo wrote inside\n",
        out = outside.display(),
        inside = inside.display(),
    );
    let home = |script: Script| {
        script
            .parameter("home", "path", "under = [\"/\"]")
            .parameter("alias", "path", "under = [\"/\"]")
            .parameter("pid", "integer", "min = 1")
    };
    let allowed = format!("writes = [\"{}\"]", inside.display());
    let scripts = [
        honest(),
        home(Script::new("reaches", &reach).with(&allowed)),
        home(Script::new("peeks", &reach).privilege("read")),
        Script::new("calls", &connect).with("network = false").shell("bash"),
        Script::new("phones", &connect).with("network = true").shell("bash"),
    ];
    let Some(mut stage) = Stage::new(&scripts) else { return };
    // The same folder, seen in a second place, as with a file system that is mounted twice.
    let alias = Alias::of(&stage.machine.home);
    let other = format!("alias={}", alias.0.path().display());
    let home = format!("home={}", stage.machine.home.display());
    let pid = format!("pid={}", stage.machine.agent.pid());
    // Proof: outside the cage root can write to /srv and read the key.
    let free = run(Command::new("sh").args(["-c", "touch /srv/x && rm /srv/x && [ -e /dev/null ] && echo could"]));
    assert_eq!(free.out, "could\n");
    let key = std::fs::read(stage.machine.home.join("evidence.key"));
    assert!(key.is_ok(), "root may read the key");
    let report = stage.report(&["reaches", "-p", &home, "-p", &pid, "-p", &other]);
    assert_eq!(report["stdout"]["head"], "wrote inside\n", "{report}");
    let report = stage.report(&["peeks", "-p", &home, "-p", &pid, "-p", &other]);
    assert_eq!(report["stdout"]["head"], "", "one that reads writes nowhere: {report}");
    stage.is_unharmed("reaches");
    assert!(inside.join("y").exists() && !outside.join("x").exists() && !Path::new("/etc/fernwart-evil").exists());
    let report = stage.report(&["calls"]);
    assert!(report["stdout"]["head"] == "" && report["well"] == false, "{report}");
    let report = stage.report(&["phones"]);
    assert_eq!(report["stdout"]["head"], "reached\n", "with a network it does: {report}");
    drop(listener);
}

/// A listener below `/run`, like the sockets of system services; it is recreated again and again, as when a
/// service restarts.
struct Service {
    process: fernwart_tests::Process,
    folder: tempfile::TempDir,
}

impl Service {
    /// Answers each connection with `yes`, and replaces its socket every tenth of a second.
    const TEXT: &str = "import os, socket, sys, time
path = sys.argv[1]
while True:
    if os.path.exists(path):
        os.unlink(path)
    one = socket.socket(socket.AF_UNIX)
    one.bind(path)
    one.listen(8)
    one.settimeout(0.1)
    until = time.time() + 0.1
    while time.time() < until:
        try:
            other, _ = one.accept()
            other.sendall(b'yes')
            other.close()
        except OSError:
            pass
    one.close()
";

    fn start() -> Self {
        let folder = tempfile::tempdir_in("/run").expect("a folder");
        let mut command = Command::new("python3");
        command.args(["-c", Self::TEXT]).arg(folder.path().join("rules.sock"));
        let log = folder.path().join("log");
        Self { process: fernwart_tests::Process::start(&mut command, &log), folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("rules.sock")
    }
}

/// Tries to connect for two seconds, and prints whether it succeeded.
const CALLS: &str = "import os, socket, time
until = time.time() + 2
while time.time() < until:
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(0.2)
    try:
        one.connect(os.environ['FERNWART_PARAM_SOCKET'])
        if one.recv(3) == b'yes':
            print('was let in')
            break
    except OSError:
        pass
    time.sleep(0.01)
print('done')
";

#[test]
fn a_script_without_services_cannot_connect_even_to_a_restarting_service() {
    let socket = |script: Script| script.parameter("socket", "path", "under = [\"/run\"]").shell("python3");
    let scripts = [
        honest(),
        socket(Script::new("silent", CALLS)),
        socket(Script::new("anything", CALLS)).privilege("raw"),
        socket(Script::new("speaks", CALLS)).with("services = true"),
        Script::new(
            "lives",
            "[ -d /run ] && ! touch /run/x 2>/dev/null && getent hosts localhost >/dev/null && setpriv --reuid=65534 --regid=65534 --clear-groups ls /tmp/fernwart /run/lock >/dev/null && echo lives\n",
        ),
    ];
    let Some(mut stage) = Stage::new(&scripts) else { return };
    let mut service = Service::start();
    let given = format!("socket={}", service.socket().display());
    wait_until("it listens", || service.socket().exists());
    for (name, reported) in [("silent", ""), ("anything", ""), ("speaks", "was let in\ndone\n")] {
        let report = stage.report(&[name, "-p", &given]);
        assert_eq!(report["stdout"]["head"], reported, "{name}: {report}");
        let refused = report["stderr"]["head"].as_str().is_some_and(|printed| printed.contains("Permission denied"));
        assert_eq!(refused, name != "speaks", "{name}: {report}");
    }
    assert!(service.process.is_running());
    assert_eq!(stage.report(&["lives"])["stdout"]["head"], "lives\n");
    stage.is_unharmed("sockets");
}

#[test]
fn read_only_scripts_cannot_change_the_network_or_the_clock() {
    let tries = "ip link set lo down 2>/dev/null && echo took the network down\n\
                 date -s @$(date +%s) >/dev/null 2>&1 && echo set the clock\n\
                 for right in 12 13 25; do\n\
                     [ $(( 0x$(grep CapEff /proc/self/status | tr -d -c 0-9a-fA-F | tail -c 16) >> right & 1 )) = 0 ] || echo has right $right\n\
                 done\necho looked\n";
    let scripts = [
        honest(),
        Script::new("reads", tries).privilege("read").with("network = true"),
        Script::new("shows", tries).with("network = true\ndry_run = true"),
        Script::new("asks", "echo asked\n").with("services = true\ndry_run = true"),
    ];
    let Some(mut stage) = Stage::new(&scripts) else { return };
    assert_eq!(stage.report(&["reads"])["stdout"]["head"], "looked\n");
    assert_eq!(stage.report(&["shows", "--dry-run"])["stdout"]["head"], "looked\n");
    stage.is_unharmed("looks");
    assert_eq!(stage.report(&["asks", "--dry-run"])["stdout"]["head"], "asked\n");
    // A dry run that may use services is an act to the owner.
    std::fs::write(stage.machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"never\"\n")
        .expect("written");
    for name in ["asks", "shows", "reads"] {
        // So is a script with network access: many local services listen on loopback.
        let dry: &[&str] = if name == "reads" { &[] } else { &["--dry-run"] };
        let printed = stage.run(&[&[name, "kasse-1"], dry].concat()).exits(3);
        assert!(printed.out.contains("FW-OWN-01"), "{name}: {}", printed.out);
    }
}

/// Takes the descriptor that is sent to it, and keeps it.
const KEEPS: &str = "import array, os, socket, sys, time
one = socket.socket(socket.AF_UNIX)
one.bind(sys.argv[1])
one.listen(1)
other, _ = one.accept()
other.recvmsg(1, socket.CMSG_SPACE(4))
other.sendall(b'kept')
time.sleep(120)
";

#[test]
fn a_run_ends_even_if_an_outside_process_keeps_its_output_open() {
    let gives = "import array, os, socket\n\
                 one = socket.socket(socket.AF_UNIX)\n\
                 one.connect(os.environ['FERNWART_PARAM_SOCKET'])\n\
                 print('given', flush=True)\n\
                 one.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [1]))])\n\
                 one.recv(4)\n";
    let gives = Script::new("gives", gives).parameter("socket", "path", "under = [\"/run\"]");
    let scripts = [honest(), gives.shell("python3").with("services = true")];
    let Some(mut stage) = Stage::new(&scripts) else { return };
    let folder = tempfile::tempdir_in("/run").expect("a folder");
    let socket = folder.path().join("keeps.sock");
    let mut command = Command::new("python3");
    command.args(["-c", KEEPS]).arg(&socket);
    let mut keeps = fernwart_tests::Process::start(&mut command, &folder.path().join("log"));
    wait_until("it listens", || socket.exists());
    let begun = std::time::Instant::now();
    let report = stage.report(&["gives", "-p", &format!("socket={}", socket.display())]);
    assert_eq!((&report["exit"], &report["stdout"]["head"]), (&0.into(), &"given\n".into()), "{report}");
    assert!(keeps.is_running() && begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    stage.is_unharmed("gives");
}

#[test]
fn a_script_that_fills_the_disk_is_stopped() {
    let folder = tempfile::tempdir_in("/srv").expect("a folder");
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), 64) else { return };
    let fills = format!("cat /dev/zero > {}/big\n", disk.path().display());
    let scripts = [
        honest(),
        Script::new("fills", &fills)
            .with(&format!("writes = [\"{}\"]", disk.path().display()))
            .and(&limits("time_s = 20")),
    ];
    let Some(mut stage) = Stage::new(&scripts) else { return };
    let report = stage.report(&["fills"]);
    assert!(report["stopped"] == "disk" || report["well"] == false, "{report}");
    stage.is_unharmed("fills");
}

#[test]
fn unenforceable_limits_are_refused_and_a_cancelled_run_is_ended() {
    let scripts = [
        honest(),
        Script::new("half", "echo ran\n").and(&limits("cpu_pct = 50")),
        Script::new("long", "echo begun; sleep 60; echo over\n").and(&limits("time_s = 120")),
    ];
    let Some(mut stage) = Stage::without_groups(&scripts) else { return };
    // A processor limit needs a control group that this agent can use.
    if !Path::new("/run/systemd/system").is_dir() {
        let printed = stage.run(&["half", "kasse-1"]).exits(3);
        assert!(printed.out.contains("FW-GATE-19"), "{}", printed.out);
    }
    let log = stage.world.path().join("long.log");
    let mut command = stage.world.command(&["run", "long", "kasse-1", "--reason", "x"]);
    let mut asking = fernwart_tests::Process::start(&mut command, &log);
    let started = |machine: &Machine| machine.journal().iter().any(|(kind, _)| kind == "run_started");
    wait_until("it has begun", || started(&stage.machine));
    let job = stage.world.technician(&["job", "ls", "-o", "name"]).exits(0).out;
    let job = job.lines().next().expect("a job").to_owned();
    stage.world.technician(&["job", "cancel", &job]).exits(0);
    wait_until("it is over", || !asking.is_running());
    let rows = stage.world.technician(&["job", "show", &job, "-o", "jsonl"]).exits(0).json_lines();
    assert_eq!(rows[0]["outcome"], "cancelled");
    stage.is_unharmed("long");
}
