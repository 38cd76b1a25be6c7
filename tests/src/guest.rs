//! A guest: a container, run by systemd-nspawn, with a real systemd, journal and D-Bus.
//!
//! Its root is an overlay on this computer's files that is discarded afterwards; it shares this computer's
//! network. Tests run the installed product in it.

use crate::{CommandOutput, run, wait_until};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A booted guest; stopped and removed when dropped.
pub struct Guest {
    _folder: tempfile::TempDir,
    layers: PathBuf,
    root: PathBuf,
    nspawn: Child,
    leader: u32,
}

fn done(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The first child of a process, once there is one.
fn child_of(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Moves the guest into a control group of its own: two systemds in one group would stop each other's
/// services.
const OWN_GROUP: &str = r#"
name=$1; shift
for tree in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    if [ -e $tree/cgroup.procs ]; then mkdir -p $tree/$name && echo $$ > $tree/$name/cgroup.procs; fi
done
exec "$@"
"#;

/// Removes these control groups once they are empty.
const NO_GROUP: &str = r#"
for tree in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    [ ! -d $tree/$1 ] || find $tree/$1 -depth -type d -exec rmdir {} +
done
"#;

fn groups_name() -> String {
    format!("fernwart-guest-{}", std::process::id())
}

impl Guest {
    /// Boots a guest that sees `shared` under the same path. Returns `None` and prints the reason if this
    /// user may not.
    ///
    /// # Panics
    /// Under `CI` if it cannot boot, and whenever booting fails midway.
    pub fn boot(shared: &Path) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let layers = folder.path().join("layers");
        std::fs::create_dir(&layers).expect("a folder");
        let place = layers.to_str().expect("text").to_owned();
        let tools = ["systemd-nspawn", "nsenter", "dbus-daemon"];
        let lacks = tools.iter().find(|tool| !done("sh", &["-c", &format!("command -v {tool} >/dev/null")]));
        if lacks.is_some() || !done("mount", &["-t", "tmpfs", "-o", "size=1g,mode=0755", "tmpfs", &place]) {
            assert!(std::env::var_os("CI").is_none(), "a guest needs root, and the package of {lacks:?}");
            println!("skipped: a guest needs root, and the packages systemd-container and dbus");
            return None;
        }
        let inner = |name: &str| {
            let path = layers.join(name);
            std::fs::create_dir(&path).expect("a folder");
            path
        };
        let (upper, work, root) = (inner("upper"), inner("work"), inner("root"));
        let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
        assert!(done("mount", &["-t", "overlay", "overlay", "-o", &options, root.to_str().expect("text")]), "layered");
        let programs = crate::program("fernwart").parent().expect("a folder").to_owned();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "sh", "-c", OWN_GROUP, "sh", &groups_name()]);
        command.args(["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--kill-signal=SIGKILL"]);
        command.arg("--directory").arg(&root).arg("--machine").arg(format!("kasse-{}", std::process::id()));
        command.arg(format!("--bind={}", shared.display())).arg(format!("--bind-ro={}", programs.display()));
        // Only the necessary units: none of this computer's own timers.
        command.args(["--boot", "systemd.unit=sysinit.target", "systemd.wants=dbus.socket"]);
        let log = std::fs::File::create(folder.path().join("boot.log")).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let mut guest = Self { nspawn: command.spawn().expect("started"), leader: 0, layers, root, _folder: folder };
        wait_until("the guest is up", || {
            // The guest's init becomes the first child of systemd-nspawn, after a helper that only
            // prepares.
            guest.leader = child_of(guest.nspawn.id()).unwrap_or_default();
            guest.leader != 0 && guest.run(&["systemctl", "is-active", "sysinit.target", "dbus.socket"]).code == 0
        });
        Some(guest)
    }

    /// A command inside.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.leader.to_string(), "--mount", "--uts", "--ipc", "--pid", "--"]).args(words);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
        command
    }

    /// Runs a command inside.
    pub fn run(&self, words: &[&str]) -> CommandOutput {
        run(&mut self.command(words))
    }

    /// Puts a program into the guest, replacing the guest's own.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put_program(&self, path: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.root.join(path.trim_start_matches('/'));
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
    }

    /// Removes a file from the guest; this computer keeps its own.
    ///
    /// # Panics
    /// When it cannot be removed.
    pub fn remove(&self, path: &str) {
        std::fs::remove_file(self.root.join(path.trim_start_matches('/'))).expect("removed");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- the guest's journal\n{}", self.run(&["journalctl", "--no-pager", "-n", "60"]).out);
        }
        // Killing its init ends the whole guest; systemd-nspawn then exits.
        let number_one = rustix::process::Pid::from_raw(self.leader.cast_signed());
        let off =
            number_one.is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok());
        if !off {
            let _ = self.nspawn.kill();
        }
        let _ = self.nspawn.wait();
        let _ = done("sh", &["-c", NO_GROUP, "sh", &groups_name()]);
        for place in [&self.root, &self.layers] {
            let _ = done("umount", &["-l", place.to_str().unwrap_or_default()]);
        }
    }
}
