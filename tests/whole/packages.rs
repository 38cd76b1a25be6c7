//! The packages, installed, upgraded and removed on a computer with systemd.
//!
//! `controller/package/build` makes them below `target/packages`. The previous package is derived from the
//! new one: with the programs below `FERNWART_OLD`, or with the same programs.

use fernwart_tests::guest::Guest;
use fernwart_tests::test_script::Script;
use fernwart_tests::{Process, World, program, run, wait_until};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Copies a built package to where the guest sees it. Returns `None` and prints the reason if there is
/// none.
pub(crate) fn package(world: &World, begins: &str, ends: &str) -> Option<String> {
    let folder = program("fernwart").parent()?.parent()?.join("packages");
    let files = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|file| file.path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.strip_prefix(begins).is_some_and(|rest| rest.starts_with(['_', '-']) && !rest.starts_with("-agent"))
            && name.ends_with(ends)
    };
    let Some(path) = files.into_iter().find(is_it) else {
        assert!(std::env::var_os("CI").is_none(), "{begins}{ends} is to be built by controller/package/build");
        println!("skipped: no package below {}; controller/package/build makes them", folder.display());
        return None;
    };
    let to = world.path().join(path.file_name()?);
    std::fs::copy(&path, &to).expect("copied");
    to.to_str().map(str::to_owned)
}

/// The same package with the version 0.2.0, and with the old programs if they are available.
fn older(package: &str) -> String {
    let tree = Path::new(package).with_extension("tree");
    run(Command::new("dpkg-deb").arg("-R").arg(package).arg(&tree)).exits(0);
    let control = tree.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).expect("control");
    let line = text.lines().find(|line| line.starts_with("Version: ")).expect("a version");
    std::fs::write(&control, text.replace(line, "Version: 0.2.0")).expect("written");
    if let Some(old) = std::env::var_os("FERNWART_OLD") {
        for name in ["fernwart", "fernwart-agent"] {
            let to = tree.join("usr/bin").join(name);
            if to.exists() {
                std::fs::copy(Path::new(&old).join(name), &to).expect("copied");
            }
        }
        let _ = std::fs::remove_file(tree.join("DEBIAN/md5sums"));
    }
    let to = Path::new(package).with_extension("old.deb");
    run(Command::new("dpkg-deb").args(["-Znone", "-b"]).arg(&tree).arg(&to)).exits(0);
    to.to_str().expect("text").to_owned()
}

/// A computer whose packages may start services, which images for containers forbid.
pub(crate) fn customers_computer(world: &World) -> Option<Guest> {
    let guest = Guest::boot(world.path())?;
    guest.run(&["rm", "-f", "/usr/sbin/policy-rc.d"]).exits(0);
    Some(guest)
}

fn main_pid(guest: &Guest, unit: &str) -> String {
    guest.run(&["systemctl", "show", "-P", "MainPID", unit]).exits(0).out.trim().to_owned()
}

/// Joins as the customer of a package does.
fn enroll(world: &World, guest: &Guest, program: &str) {
    let line = world.invitation(&["Bäckerei Meyer"]);
    guest.run(&[program, "--lang", "de", "enroll", &line, "--policy", "trusted"]).exits(0);
    let waiting = world.technician(&["pending", "-o", "name"]).exits(0).out;
    world.technician(&["admit", waiting.trim(), "--as", "kasse-1"]).exits(0);
    wait_until("the machine is linked", || world.is_online("kasse-1"));
}

const AGENT: &str = "fernwart-agent.service";
const OWN_UNIT: &str = "/etc/systemd/system/fernwart-agent.service";

/// Asserts that the agent runs in the host's mounts and with all capabilities.
fn sees_the_computer(guest: &Guest) {
    let pid = main_pid(guest, AGENT);
    let mounts = |pid: &str| {
        let text = guest.run(&["cat", &format!("/proc/{pid}/mountinfo")]).exits(0).out;
        assert!(text.lines().count() > 5, "{text}");
        text
    };
    assert_eq!(mounts(&pid), mounts("1"), "the same mounts as the first process");
    let status = guest.run(&["cat", &format!("/proc/{pid}/status")]).exits(0).out;
    assert!(status.contains("NoNewPrivs:\t0"), "{status}");
    let bounding = |status: &str| status.lines().find(|line| line.starts_with("CapBnd")).map(str::to_owned);
    assert_eq!(bounding(&status), bounding(&guest.run(&["cat", "/proc/1/status"]).exits(0).out));
}

#[test]
fn the_agent_package_installs_upgrades_and_leaves_the_hub_on_removal() {
    let world = World::new();
    let Some(new) = package(&world, "fernwart-agent", ".deb") else { return };
    let Some(guest) = customers_computer(&world) else { return };
    guest.run(&["dpkg", "-i", &older(&new)]).exits(0);
    guest.run(&["systemctl", "is-enabled", AGENT]).exits(0);
    assert_ne!(guest.run(&["systemctl", "is-active", AGENT]).code, 0, "nobody has joined yet");
    enroll(&world, &guest, "/usr/bin/fernwart-agent");
    if std::env::var_os("FERNWART_OLD").is_none() {
        guest.run(&["test", "!", "-e", OWN_UNIT]).exits(0);
    }
    let before = main_pid(&guest, AGENT);
    let machine = guest.run(&["sha256sum", "/var/lib/fernwart-agent/agent.toml"]).exits(0).out;

    let output = guest.run(&["dpkg", "-i", &new]).exits(0);
    wait_until("it runs the new program", || !["0", &before].contains(&main_pid(&guest, AGENT).as_str()));
    assert!(!output.out.is_empty());
    guest.run(&["test", "!", "-e", OWN_UNIT]).exits(0);
    assert_eq!(guest.run(&["sha256sum", "/var/lib/fernwart-agent/agent.toml"]).exits(0).out, machine);
    wait_until("it is linked again", || world.technician(&["ping", "kasse-1", "--timeout", "1s"]).code == 0);
    let row = world.technician(&["ls", "-o", "jsonl"]).exits(0).json_lines().swap_remove(0);
    assert_eq!(row["agent"], env!("CARGO_PKG_VERSION"), "{row}");
    let running = guest.run(&["readlink", &format!("/proc/{}/exe", main_pid(&guest, AGENT))]).exits(0).out;
    assert_eq!(running.trim(), "/usr/bin/fernwart-agent");
    sees_the_computer(&guest);
    let output = world.technician(&["diagnose", "kasse-1", "-o", "jsonl"]);
    assert!(matches!(output.code, 0 | 1), "{}", output.err);

    // A running repair ends properly before the agent is replaced.
    world.approve(&Script::new("slow", "sleep 20\necho mended\n"));
    let before = main_pid(&guest, AGENT);
    let log = world.path().join("slow.log");
    let mut repair = Process::start(&mut world.command(&["run", "slow", "kasse-1", "--reason", "test"]), &log);
    wait_until("the repair has begun", || guest.run(&["pgrep", "-x", "sleep"]).code == 0);
    guest.run(&["dpkg", "-i", &new]).exits(0);
    assert_eq!(main_pid(&guest, AGENT), before, "it goes on meanwhile");
    wait_until("the repair is done", || !repair.is_running());
    let reported = world.technician(&["job", "logs", "2"]).exits(0).out;
    assert!(reported.contains("mended"), "{reported}");
    wait_until("the agent is renewed", || !["0", &before].contains(&main_pid(&guest, AGENT).as_str()));
    wait_until("it is linked again", || world.is_online("kasse-1"));

    // Being replaced by another package deletes no keys.
    guest.run(&["sh", "/var/lib/dpkg/info/fernwart-agent.prerm", "remove", "in-favour", "other", "1"]);
    guest.run(&["test", "-e", "/var/lib/fernwart-agent/agent.toml"]).exits(0);
    guest.run(&["systemctl", "start", AGENT]).exits(0);
    wait_until("it is linked again", || world.is_online("kasse-1"));

    // A service that the owner has disabled stays disabled after an upgrade.
    guest.run(&["systemctl", "disable", "--now", AGENT]).exits(0);
    guest.run(&["dpkg", "-i", &new]).exits(0);
    assert_ne!(guest.run(&["systemctl", "is-enabled", "--quiet", AGENT]).code, 0);
    guest.run(&["systemctl", "enable", "--now", AGENT]).exits(0);
    wait_until("it is linked again", || world.is_online("kasse-1"));

    let output = guest.run(&["dpkg", "-r", "fernwart-agent"]).exits(0);
    wait_until("the hub has heard it", || !world.technician(&["ls"]).exits(0).out.contains("kasse-1"));
    guest.run(&["test", "!", "-e", "/usr/bin/fernwart-agent"]).exits(0);
    let left = guest.run(&["sh", "-c", "find /var/lib/fernwart-agent -type f | sort"]).exits(0).out;
    assert!(left.contains("/left-") && left.contains("journal.jsonl"), "{left}\n{}", output.out);
    assert!(!left.contains(".key") && !left.contains("identity"), "no key is left: {left}");
    guest.run(&["dpkg", "-P", "fernwart-agent"]).exits(0);
    guest.run(&["test", "!", "-e", "/var/lib/fernwart-agent"]).exits(0);
    assert_ne!(guest.run(&["systemctl", "is-enabled", "--quiet", AGENT]).code, 0);
}

#[test]
fn the_agent_package_takes_over_a_manual_installation() {
    let world = World::new();
    let Some(new) = package(&world, "fernwart-agent", ".deb") else { return };
    let Some(guest) = customers_computer(&world) else { return };
    // Enrolled with a downloaded program, which is copied to its permanent place.
    let download = world.path().join("fernwart-agent");
    std::fs::copy(program("fernwart-agent"), &download).expect("copied");
    enroll(&world, &guest, download.to_str().expect("text"));
    guest.run(&["test", "-e", OWN_UNIT, "-a", "-e", "/usr/local/bin/fernwart-agent"]).exits(0);
    guest.run(&["dpkg", "-i", &new]).exits(0);
    guest.run(&["test", "!", "-e", OWN_UNIT, "-a", "!", "-e", "/usr/local/bin/fernwart-agent"]).exits(0);
    wait_until("the package's program is linked", || {
        let running = guest.run(&["readlink", &format!("/proc/{}/exe", main_pid(&guest, AGENT))]).out;
        running.trim() == "/usr/bin/fernwart-agent" && world.is_online("kasse-1")
    });
    // The customer leaves and enrolls again with the program; the package stays installed.
    guest.run(&["fernwart-agent", "leave", "--yes"]).exits(0);
    assert_ne!(guest.run(&["systemctl", "is-active", "--quiet", AGENT]).code, 0);
    guest.run(&["systemctl", "start", AGENT]);
    assert_ne!(guest.run(&["systemctl", "is-active", "--quiet", AGENT]).code, 0, "nobody has joined");
    let output = guest.run(&["fernwart-agent", "uninstall", "--yes"]).exits(0);
    assert!(output.out.contains("apt remove fernwart-agent"), "{}", output.out);
    enroll(&world, &guest, "/usr/bin/fernwart-agent");
    guest.run(&["systemctl", "is-active", AGENT]).exits(0);
}

#[test]
fn the_agent_package_leaves_foreign_units_and_folders_alone() {
    let world = World::new();
    let Some(new) = package(&world, "fernwart-agent", ".deb") else { return };
    let Some(guest) = customers_computer(&world) else { return };
    let is = |what: &str| guest.run(&["systemctl", what, AGENT]).out.trim().to_owned();
    // A service that was set up manually for another folder stays when the package is installed and
    // removed.
    let program = program("fernwart-agent").display().to_string();
    let line = world.path().join("line");
    std::fs::write(&line, world.invitation(&["Bäckerei Meyer", "--admit-automatically"])).expect("written");
    let line = line.to_str().expect("text");
    let join = |home: &str| {
        guest.run(&[&program, "--lang", "de", "--home", home, "enroll", "--invitation", line, "--policy", "trusted"])
    };
    join("/srv/agent").exits(0);
    guest.run(&["dpkg", "-i", &new]).exits(0);
    guest.run(&["dpkg", "-r", "fernwart-agent"]).exits(0);
    assert_eq!((is("is-active").as_str(), is("is-enabled").as_str()), ("active", "enabled"));
    let output = guest.run(&["dpkg", "-P", "fernwart-agent"]).exits(0);
    assert_eq!((is("is-active").as_str(), is("is-enabled").as_str()), ("active", "enabled"));
    assert!(!output.err.contains("stays"), "the usual folder is used by nobody: {}", output.err);
    // A second folder cannot take over the service of a folder that has joined.
    assert!(join("/srv/other").exits(2).err.contains("FW-JOIN-30"));
    // An edited unit is kept, with a message.
    guest.run(&[&program, "--home", "/srv/agent", "leave", "--yes"]).exits(0);
    enroll(&world, &guest, &program);
    guest.run(&["sed", "-i", "/^UMask/a CPUQuota=10%", OWN_UNIT]).exits(0);
    let output = guest.run(&["dpkg", "-i", &new]).exits(0);
    assert!(output.err.contains("was edited and stays"), "{}", output.err);
    guest.run(&["grep", "-q", "CPUQuota=10%", OWN_UNIT]).exits(0);
}

#[test]
fn the_hub_package_runs_sandboxed_and_can_be_upgraded_and_purged() {
    let world = World::new();
    let Some(new) = package(&world, "fernwart", ".deb") else { return };
    let Some(guest) = customers_computer(&world) else { return };
    let unit = "fernwart-hub.service";
    guest.run(&["dpkg", "-i", &older(&new)]).exits(0);
    guest.run(&["systemctl", "is-enabled", unit]).exits(0);
    assert_ne!(guest.run(&["systemctl", "is-active", unit]).code, 0, "there is no hub yet");
    // As the guide says.
    let address = format!("127.0.0.1:{}", fernwart_tests::free_port());
    let words =
        ["--home", "/root/shop", "init", "--shop", "S", "--address", &address, "--name", "jana", "--contact", "J"];
    guest.run(&[&["/usr/bin/fernwart"], &words[..]].concat()).exits(0);
    guest.run(&["cp", "-r", "/root/shop/hub", "/var/lib/fernwart/hub"]).exits(0);
    guest.run(&["chown", "-R", "fernwart:", "/var/lib/fernwart/hub"]).exits(0);
    guest.run(&["systemctl", "start", unit]).exits(0);
    let technician = |words: &[&str]| guest.run(&[&["/usr/bin/fernwart", "--home", "/root/shop"], words].concat());
    wait_until("the hub answers", || technician(&["ls"]).code == 0);
    let page = guest.run(&["systemd-analyze", "security", "--no-pager", unit]).exits(0).out;
    let overall = page.lines().find(|line| line.contains("Overall exposure level")).expect("a figure");
    println!("{overall}");
    let figure = overall.split_whitespace().find_map(|word| word.parse::<f64>().ok()).expect("a number");
    assert!(figure <= 2.5, "{page}");
    let before = main_pid(&guest, unit);
    guest.run(&["dpkg", "-i", &new]).exits(0);
    assert_ne!(main_pid(&guest, unit), before, "it runs the new program");
    wait_until("the hub answers", || technician(&["ls"]).code == 0);
    technician(&["query", "SELECT 1 AS one"]).exits(0);
    // The hub's own user can make a backup while the hub runs.
    let backup = ["setpriv", "--reuid", "fernwart", "--regid", "fernwart", "--clear-groups", "/usr/bin/fernwart"];
    let words = ["--home", "/var/lib/fernwart/hub", "backup", "/var/lib/fernwart/backup"];
    guest.run(&[&backup[..], &words].concat()).exits(0);
    guest.run(&["dpkg", "-r", "fernwart"]).exits(0);
    assert_ne!(guest.run(&["systemctl", "is-active", "--quiet", unit]).code, 0);
    guest.run(&["test", "-e", "/var/lib/fernwart/hub/hub.toml"]).exits(0);
    guest.run(&["dpkg", "-P", "fernwart"]).exits(0);
    guest.run(&["test", "!", "-e", "/var/lib/fernwart"]).exits(0);
}

/// Runs the scriptlets with Debian's rpm; it does not show that other systems have the tools they need.
#[test]
fn rpm_scriptlets_start_upgrade_and_remove_the_services() {
    let world = World::new();
    let Some(agent) = package(&world, "fernwart-agent", ".rpm") else { return };
    let Some(hub) = package(&world, "fernwart", ".rpm") else { return };
    let Some(guest) = customers_computer(&world) else { return };
    let rpm = |words: &[&str]| guest.run(&[&["rpm", "--nodeps"], words].concat()).exits(0);
    rpm(&["-i", &hub]);
    guest.run(&["stat", "-c", "%U %a", "/var/lib/fernwart"]).exits(0);
    guest.run(&["systemctl", "is-enabled", "fernwart-hub.service"]).exits(0);
    rpm(&["-e", "fernwart"]);
    assert_ne!(guest.run(&["systemctl", "is-enabled", "--quiet", "fernwart-hub.service"]).code, 0);
    rpm(&["-i", &agent]);
    guest.run(&["systemctl", "is-enabled", AGENT]).exits(0);
    enroll(&world, &guest, "/usr/bin/fernwart-agent");
    sees_the_computer(&guest);
    let before = main_pid(&guest, AGENT);
    rpm(&["-U", "--replacepkgs", "--force", &agent]);
    wait_until("it runs the new program", || !["0", &before].contains(&main_pid(&guest, AGENT).as_str()));
    wait_until("it is linked again", || world.technician(&["ping", "kasse-1", "--timeout", "1s"]).code == 0);
    let output = guest.run(&["fernwart-agent", "uninstall", "--help"]).exits(0);
    assert!(!output.out.is_empty());
    rpm(&["-e", "fernwart-agent"]);
    wait_until("the hub has heard it", || !world.technician(&["ls"]).exits(0).out.contains("kasse-1"));
    guest.run(&["test", "!", "-e", "/usr/bin/fernwart-agent"]).exits(0);
    assert_ne!(guest.run(&["systemctl", "is-active", "--quiet", AGENT]).code, 0);
}
