//! Scripts on machines with mounts that hang: they run without seeing these mounts, and are refused only if
//! they need one.

use fernwart_tests::test_script::Script;
use fernwart_tests::{Machine, Process, World, run, wait_until};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A user's FUSE mount; unmounted when dropped.
struct Bind {
    place: PathBuf,
    daemon: Process,
}

impl Bind {
    /// Mounts a folder at another path with this user's bindfs. Returns `None` and prints the reason if
    /// that is not possible.
    fn mount(from: &Path, to: &Path, user: u32) -> Option<Self> {
        std::fs::create_dir_all(from).expect("made");
        match std::fs::create_dir_all(to) {
            // Inside a mount of that user, which root cannot enter, the user has created it.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            made => made.expect("made"),
        }
        for folder in [from, to] {
            match std::os::unix::fs::chown(folder, Some(user), Some(user)) {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
                given => given.expect("given away"),
            }
        }
        let shown = [b" ", to.as_os_str().as_bytes(), b" "].concat();
        let layers = || {
            let table = std::fs::read("/proc/self/mountinfo").expect("readable");
            table.windows(shown.len()).filter(|window| *window == shown).count()
        };
        let before = layers();
        let user = user.to_string();
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &user, "--regid", &user, "--clear-groups", "bindfs", "-f", "--no-allow-other"])
            .arg(from)
            .arg(to);
        let daemon = Process::start(&mut command, &from.with_extension("log"));
        for _ in 0..100 {
            if layers() > before {
                return Some(Self { place: to.to_owned(), daemon });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(std::env::var_os("CI").is_none(), "no FUSE mount: {}", daemon.log());
        println!("skipped: no FUSE mount: {}", daemon.log());
        None
    }

    /// Suspends its daemon, so that every access to it hangs.
    fn stand_still(&self) {
        run(Command::new("kill").args(["-STOP", &self.daemon.pid().to_string()])).exits(0);
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        self.daemon.kill_9();
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

fn trusting(world: &World) -> Machine {
    let machine = world.add_machine("kasse-1");
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
    machine
}

fn folder() -> Option<(World, PathBuf)> {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "mounts need root");
        println!("skipped: mounts need root");
        return None;
    }
    let folder = tempfile::tempdir_in("/srv").expect("a folder");
    // The users whose programs mount here need access.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let place = folder.path().join("mounts");
    std::fs::create_dir(&place).expect("made");
    Some((World::in_folder(folder), place))
}

const LISTS: &str = "grep -c fuse /proc/self/mountinfo || :; echo fine\n";

#[test]
fn a_users_nested_fuse_mount_does_not_block_scripts() {
    let Some((world, place)) = folder() else { return };
    let _machine = trusting(&world);
    world.approve_all(&[Script::new("honest", LISTS)]);
    std::fs::create_dir_all(place.join("files/in")).expect("made");
    std::os::unix::fs::chown(place.join("files/in"), Some(65534), Some(65534)).expect("given away");
    let Some(outer) = Bind::mount(&place.join("files"), &place.join("shown"), 65534) else { return };
    let Some(inner) = Bind::mount(&place.join("other"), &place.join("second"), 65534) else { return };
    // Root cannot enter the outer mount; its owner can, and is given the right to mount.
    let call = "import ctypes, sys; sys.exit(ctypes.CDLL(None).mount(sys.argv[1].encode(), sys.argv[2].encode(), None, 4096, None))";
    let mut bind = Command::new("setpriv");
    bind.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "+sys_admin"]);
    bind.args(["--ambient-caps", "+sys_admin", "/usr/bin/python3", "-c", call])
        .arg(&inner.place)
        .arg(place.join("shown/in"));
    run(&mut bind).exits(0);
    let output = world.technician(&["run", "honest", "kasse-1", "--reason", "x", "-o", "jsonl"]).exits(0);
    let report =
        output.json_lines().into_iter().find(|line| line["type"] == "result").expect("a result")["report"].clone();
    assert_eq!(report["stdout"]["head"], "0\nfine\n", "{report}");
    assert_eq!(
        report["unseen"],
        serde_json::json!([outer.place.to_str(), inner.place.to_str()]),
        "what it did not see is named"
    );
}

#[test]
fn many_user_mounts_with_long_names_do_not_block_scripts() {
    let Some((world, place)) = folder() else { return };
    let _machine = trusting(&world);
    world.approve_all(&[Script::new("honest", LISTS)]);
    // Each path is almost as long as the kernel allows; together they exceed the size of one program
    // argument.
    let mut mounts = Vec::new();
    for number in 0..40u8 {
        let deep: PathBuf = (0..14).map(|_| "n".repeat(250)).collect();
        let name = [b"M\xfcller-".as_slice(), number.to_string().as_bytes()].concat();
        let below = place.join(OsStr::from_bytes(&name)).join(deep);
        let Some(mount) = Bind::mount(&place.join("files"), &below, 65534) else { return };
        mounts.push(mount);
    }
    let output = world.technician(&["run", "honest", "kasse-1", "--reason", "x", "-o", "jsonl"]).exits(0);
    let report =
        output.json_lines().into_iter().find(|line| line["type"] == "result").expect("a result")["report"].clone();
    assert_eq!(report["stdout"]["head"], "0\nfine\n", "{report}");
    let unseen = report["unseen"].as_array().expect("named");
    assert_eq!((unseen.len(), unseen.last().and_then(|last| last.as_str())), (17, Some("24 more")), "{unseen:?}");
    assert!(unseen[0].as_str().is_some_and(|name| name.contains("M\\xfcller")), "{unseen:?}");
}

#[test]
fn two_hanging_mounts_on_one_path_do_not_block_scripts() {
    let Some((world, place)) = folder() else { return };
    let _machine = trusting(&world);
    world.approve_all(&[Script::new("looks", &format!("ls {0}/shown && echo fine\n", place.display()))]);
    let Some(lower) = Bind::mount(&place.join("files"), &place.join("shown"), 0) else { return };
    let Some(upper) = Bind::mount(&place.join("other"), &place.join("shown"), 0) else { return };
    lower.stand_still();
    upper.stand_still();
    let begun = Instant::now();
    let output = world.technician(&["run", "looks", "kasse-1", "--reason", "x"]).exits(0);
    assert!(output.out.contains("fine") && output.out.contains("not seen"), "{}", output.out);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn a_hanging_mount_delays_no_script_and_scripts_that_need_it_are_refused() {
    let Some((world, place)) = folder() else { return };
    let _machine = trusting(&world);
    let needs = format!("writes = [\"{}/shown/till\"]", place.display());
    let given = format!(
        "[[parameter]]\nname = \"place\"\nkind = \"path\"\nunder = [\"{}\"]\nen = \"x\"\nde = \"y\"",
        place.display()
    );
    world.approve_all(&[
        Script::new("honest", LISTS),
        Script::new("needs", "echo fine\n").with(&needs),
        Script::new("given", "echo fine\n").and(&given),
    ]);
    let Some(nas) = Bind::mount(&place.join("files"), &place.join("shown"), 0) else { return };
    std::fs::create_dir(place.join("files/till")).expect("made");
    world.technician(&["run", "needs", "kasse-1", "--reason", "x"]).exits(0);
    nas.stand_still();
    let begun = Instant::now();
    let output = world.technician(&["run", "honest", "kasse-1", "--reason", "x"]).exits(0);
    assert!(
        output.out.contains("fine") && output.out.contains("not seen") && output.out.contains("/shown"),
        "{}",
        output.out
    );
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let parameter = format!("place={}/shown/till", place.display());
    for words in [&["run", "needs", "kasse-1"][..], &["run", "given", "kasse-1", "-p", &parameter]] {
        let output = world.technician(&[words, &["--reason", "x"]].concat()).exits(3);
        let all = output.out + &output.err;
        assert!(all.contains("FW-GATE-19") && all.contains("does not answer") && all.contains("/shown"), "{all}");
    }
    drop(nas);
    wait_until("it is asked again once it is gone", || {
        world.technician(&["run", "honest", "kasse-1", "--reason", "x"]).code == 0
    });
}
