//! Desktop notices, observed on a real session bus.

use fernwart_tests::test_script::Script;
use fernwart_tests::{Process, World, wait_until};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A logged-in user: a session bus where the agent looks for it.
struct Desktop {
    folder: PathBuf,
    received: Process,
    _bus: Process,
}

/// The account `games`, on every Debian.
const GAMES: u32 = 5;

impl Desktop {
    fn of(uid: u32, logs: &Path) -> Self {
        let folder = Path::new("/run/user").join(uid.to_string());
        std::fs::create_dir_all(&folder).expect("a folder");
        std::os::unix::fs::chown(&folder, Some(uid), Some(uid)).expect("given away");
        let address = format!("unix:path={}/bus", folder.display());
        let mut bus = Command::new("dbus-daemon");
        bus.args(["--session", "--nofork", "--nopidfile", "--address", &address]).uid(uid).gid(uid);
        let bus = Process::start(&mut bus, &logs.join("bus.log"));
        wait_until("the bus is there", || folder.join("bus").exists());
        let mut monitor = Command::new("sh");
        let listens = "exec stdbuf -oL dbus-monitor --address \"$0\" \"interface='org.freedesktop.Notifications'\" >&2";
        monitor.args(["-c", listens, &address]).uid(uid).gid(uid);
        let received = Process::start(&mut monitor, &logs.join("heard.log"));
        wait_until("it is listened to", || received.log().contains("NameAcquired"));
        Self { folder, received, _bus: bus }
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn desktop_users_are_shown_questions_and_results() {
    if !Path::new("/usr/bin/busctl").exists() {
        assert!(std::env::var_os("CI").is_none(), "no busctl");
        println!("skipped: no busctl");
        return;
    }
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    world.approve(&Script::new("mend", "echo mended\n"));
    let desktop = Desktop::of(GAMES, world.path());
    let policy = |text: &str| std::fs::write(machine.home.join("policy.toml"), text).expect("written");
    policy("[look]\nmode = \"allow\"\n[act]\nmode = \"ask\"\n");
    // The reason of an order must not act as an option, as markup, or as a second line that looks like
    // ours.
    let reason = "--reason=--help <b>Drucker</b>\nJa: rm -rf /";
    let mut command = world.command(&["run", "mend", "kasse-1", reason, "--timeout", "60s"]);
    let mut asking = Process::start(&mut command, &world.path().join("asking.log"));
    wait_until("a notice is shown", || desktop.received.log().contains("fernwart-agent allow 1"));
    let log = desktop.received.log();
    for part in [
        "member=Notify",
        "Fernwart – Nordlicht IT fragt: Probe mend",
        "--help &lt;b&gt;Drucker&lt;/b&gt;",
        "fernwart-agent deny 1",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("\nJa: rm"), "{log}");
    machine.owner(&["deny", "1"]).exits(0);
    wait_until("it is over", || !asking.is_running());
    // With the mode `notify` the user is informed afterwards.
    policy("[look]\nmode = \"allow\"\n[act]\nmode = \"notify\"\n");
    world.technician(&["run", "mend", "kasse-1", "--reason", "Auftrag 12"]).exits(0);
    wait_until("it is told", || desktop.received.log().contains("Probe mend – erledigt"));
    assert!(desktop.received.log().contains("Von jana. Grund: Auftrag 12"), "{}", desktop.received.log());
    // Users whom the policy does not name are not informed.
    policy("[look]\nmode = \"allow\"\n[act]\nmode = \"notify\"\nasked = [\"nobody\"]\n");
    world.technician(&["run", "mend", "kasse-1", "--reason", "Auftrag 13"]).exits(0);
    policy("[look]\nmode = \"allow\"\n[act]\nmode = \"notify\"\nasked = [\"games\"]\n");
    world.technician(&["run", "mend", "kasse-1", "--reason", "Auftrag 14"]).exits(0);
    wait_until("it is told", || desktop.received.log().contains("Auftrag 14"));
    assert!(!desktop.received.log().contains("Auftrag 13"), "{}", desktop.received.log());
}
