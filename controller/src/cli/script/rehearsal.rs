//! Tries a script where it can do no harm: on a throw-away layer over this computer's files, in its
//! own PID and network namespace.
//!
//! ```text
//! break.sh ─▶ check.sh must fail ─▶ dry run ─▶ check.sh must still fail ─▶ the script ─▶ check.sh must succeed
//! ```
//! `break.sh` and `check.sh` are in the folder `.test`, which is not part of the bundle, with
//! `parameters.toml` if the script has parameters. `check.sh` gets the file with the script's
//! output as its argument.

use super::{Failure, Folder};
use crate::cli::{Exit, say};
use fernwart_protocol::script::{
    Checked, ClockRight, Declared, Manifest, Parameters, Privilege, Reach, Value, given_up,
};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, UnshareFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The folder of the script's files, as on a machine.
const FOLDER: &str = "/tmp/fernwart";

/// Timeout of `break.sh` and `check.sh`.
const TIMEOUT: Duration = Duration::from_secs(120);

const TESTS: &str = ".test";

/// The input of the process inside the layer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    /// The folder for the layer.
    homes: PathBuf,
    /// What is written into the script's folder: its files, and the tests.
    files: BTreeMap<String, String>,
    interpreter: String,
    run: String,
    json: String,
    environment: BTreeMap<String, String>,
    dry_run: bool,
    time_s: u32,
    /// Exit codes that are well.
    well: Vec<i32>,
    /// Whether the script only looks.
    looks: bool,
    /// Whether it may write everywhere.
    writes_all: bool,
}

impl Spec {
    fn reach(&self) -> Reach {
        match (self.looks, self.writes_all) {
            (true, _) => Reach::Looks,
            (false, false) => Reach::Acts,
            (false, true) => Reach::ActsOnAll,
        }
    }
}

fn usage(what: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, "FW-CAT-18", what)
}

/// Rehearses each folder's script.
///
/// # Errors
/// When one has mistakes or no tests, or this is not root.
pub(super) fn run(folders: &[PathBuf]) -> Result<Exit, Failure> {
    if !rustix::process::geteuid().is_root() {
        let what = "trying a script needs root: it lays a throw-away layer over this computer's files";
        return Err(usage(what).now("sudo fernwart script test DIR"));
    }
    let mut exit = Exit::Done;
    for path in folders {
        let folder = super::folder(path)?;
        let homes = tempfile::tempdir()?;
        let spec = spec(path, &folder, homes.path())?;
        let text = serde_json::to_string(&spec).map_err(|error| usage(error.to_string()))?;
        let mut outer = Command::new(std::env::current_exe()?);
        outer.args(["script", "rehearse"]).stdin(Stdio::piped());
        let mut child = outer.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes())?;
        }
        match child.wait()?.code() {
            Some(0) => say(&format!("{} {}: broken, repaired, checked\n", folder.bundle.name, folder.bundle.version))?,
            _ => {
                exit = Exit::Bad;
                say(&format!("{} {}: FAILED\n", folder.bundle.name, folder.bundle.version))?
            }
        };
    }
    Ok(exit)
}

fn spec(path: &Path, folder: &Folder, homes: &Path) -> Result<Spec, Failure> {
    let manifest = Manifest::read(folder.bundle.manifest.as_raw()).map_err(|_| usage("the manifest has mistakes"))?;
    let tests = path.join(TESTS);
    let read = |name: &str| {
        std::fs::read_to_string(tests.join(name)).map_err(|error| {
            usage(format!("{}: {error}", tests.join(name).display()))
                .now("a script is tried with .test/break.sh, which breaks, and .test/check.sh, which looks whether it is well")
        })
    };
    let mut files: BTreeMap<String, String> =
        folder.files.iter().map(|(name, text)| (name.to_string(), text.clone())).collect();
    for name in ["break.sh", "check.sh"] {
        files.insert(format!(".{name}"), read(name)?);
    }
    let parameters = parameters(&tests.join("parameters.toml"), &manifest)?;
    let well = (0..=255).filter(|code| manifest.meaning(*code).0).collect();
    let mut environment: BTreeMap<String, String> = parameters.environment().collect();
    if manifest.sees_processes {
        // Its namespace contains no other processes.
        environment.insert("FERNWART_PROC".to_owned(), "/proc".to_owned());
        environment.insert("FERNWART_OPEN_BY".to_owned(), String::new());
    }
    Ok(Spec {
        homes: homes.to_owned(),
        files,
        interpreter: manifest.interpreter.path().to_owned(),
        run: manifest.run.to_string(),
        json: parameters.to_json(),
        environment,
        dry_run: manifest.dry_run,
        time_s: manifest.limits.time_s,
        well,
        looks: manifest.changes_nothing(false),
        writes_all: manifest.privilege == Privilege::Raw,
    })
}

fn parameters(path: &Path, manifest: &Manifest) -> Result<Checked, Failure> {
    let values: BTreeMap<String, Value> = match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| usage(format!("{}: {}", path.display(), error.message())))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => return Err(usage(format!("{}: {error}", path.display()))),
    };
    let given = Parameters::try_from(values).map_err(|error| usage(error.to_string()))?;
    Declared::check(&manifest.parameters, &given).map_err(|error| usage(error.to_string()))
}

/// Runs outside the layer: creates the namespaces, and starts the process inside as PID 1.
///
/// # Errors
/// When the system denies it.
#[expect(deprecated, reason = "the flags share no file descriptors, so what makes the other unsafe is not so here")]
pub(super) fn outside() -> Result<Exit, Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)?;
    let apart = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWNET;
    rustix::thread::unshare(apart).map_err(std::io::Error::from)?;
    let inside = Command::new("/proc/self/exe").args(["script", "rehearse", "--inside"]).status()?;
    Ok(if inside.success() { Exit::Done } else { Exit::Bad })
}

/// Runs inside the layer as PID 1: when it ends, all other processes there end.
///
/// # Errors
/// When the layer cannot be made.
pub(super) fn inside() -> Result<Exit, Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)?;
    let spec: Spec = serde_json::from_reader(std::io::stdin()).map_err(|error| usage(error.to_string()))?;
    enter(&spec)?;
    std::fs::create_dir_all(FOLDER)?;
    for (name, text) in &spec.files {
        std::fs::write(Path::new(FOLDER).join(name), text)?;
    }
    std::env::set_current_dir(FOLDER)?;
    match rehearse(&spec)? {
        None => Ok(Exit::Done),
        Some(why) => {
            note!("  {why}");
            Ok(Exit::Bad)
        }
    }
}

/// Makes a layer over this computer's files and enters it for good.
fn enter(spec: &Spec) -> std::io::Result<()> {
    let homes = &spec.homes;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    let none = MountFlags::empty();
    rustix::mount::mount("tmpfs", homes, "tmpfs", none, c"mode=0755,size=1g")?;
    let [upper, work, root] = ["upper", "work", "root"].map(|name| homes.join(name));
    for folder in [&upper, &work, &root] {
        std::fs::create_dir(folder)?;
    }
    let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    let options = std::ffi::CString::new(options)?;
    rustix::mount::mount("overlay", &root, "overlay", none, options.as_c_str())?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Mount new file systems, so that the computer's own switches and devices are not reachable.
    rustix::mount::mount("proc", root.join("proc"), "proc", plain | MountFlags::RDONLY, c"")?;
    rustix::mount::mount("sysfs", root.join("sys"), "sysfs", plain | MountFlags::RDONLY, c"")?;
    for (name, mode) in [("tmp", c"mode=1777"), ("run", c"mode=0755"), ("dev", c"mode=0755,size=1m")] {
        rustix::mount::mount("tmpfs", root.join(name), "tmpfs", none, mode)?;
    }
    let devices = root.join("dev");
    for name in DEVICES {
        std::fs::write(devices.join(name), "")?;
        rustix::mount::mount_bind(Path::new("/dev").join(name), devices.join(name))?;
    }
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        std::os::unix::fs::symlink(target, devices.join(name))?;
    }
    std::fs::create_dir(devices.join("shm"))?;
    // Unmount the old root, so that it is not just hidden but unreachable.
    let below = root.join(".below");
    std::fs::create_dir(&below)?;
    rustix::process::pivot_root(&root, &below)?;
    std::env::set_current_dir("/")?;
    rustix::mount::unmount("/.below", rustix::mount::UnmountFlags::DETACH)?;
    std::fs::remove_dir("/.below")?;
    rustix::thread::set_no_new_privs(true)?;
    // Drop the same capabilities as on a machine, and always those that set the clock: this
    // computer's clock is not a copy.
    for right in given_up(spec.reach(), ClockRight::MayNot) {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(right.bit())) {
            // A capability unknown to this kernel cannot be held.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Harmless devices.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Runs the test. Returns what went wrong, if anything did.
fn rehearse(spec: &Spec) -> std::io::Result<Option<String>> {
    let wrong = |what: &str| Ok(Some(what.to_owned()));
    let output = Path::new(FOLDER).join(".output");
    std::fs::write(&output, "")?;
    let check = || -> std::io::Result<bool> {
        let mut command = plain("/bin/sh");
        command.arg(".check.sh").arg(&output).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(wait(command.spawn()?, TIMEOUT)?.is_some_and(|ended| ended.success()))
    };
    if !wait(plain("/bin/sh").arg(".break.sh").stdin(Stdio::null()).spawn()?, TIMEOUT)?.is_some_and(|e| e.success()) {
        return wrong("break.sh did not end well");
    }
    if check()? {
        return wrong("check.sh calls it well although it is broken: it could not tell");
    }
    if spec.dry_run {
        let Some(_) = script(spec, "1", &output)? else { return wrong("the dry run took too long") };
        if check()? {
            return wrong("the dry run has repaired it: it must only show");
        }
    }
    match script(spec, "0", &output)?.map(|ended| ended.code()) {
        None => return wrong("the script took longer than its manifest allows"),
        Some(Some(code)) if spec.well.contains(&code) => {}
        Some(code) => {
            let code = code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
            let written = std::fs::read_to_string(&output).unwrap_or_default();
            return Ok(Some(format!("the script ended with {code}, which is not well:\n{written}")));
        }
    }
    if check()? { Ok(None) } else { wrong("check.sh still fails after the script has run") }
}

fn plain(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8").env("HOME", FOLDER);
    command
}

fn script(spec: &Spec, dry_run: &str, output: &Path) -> std::io::Result<Option<ExitStatus>> {
    let file = std::fs::File::create(output)?;
    let mut command = plain(&spec.interpreter);
    command.arg(&spec.run).env("FERNWART_DRY_RUN", dry_run).envs(&spec.environment);
    command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // The script may ignore its parameters.
        let _ = stdin.write_all(spec.json.as_bytes());
    }
    wait(child, Duration::from_secs(u64::from(spec.time_s)))
}

/// Waits for the end; `None` after a timeout.
fn wait(mut child: Child, timeout: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(ended) = child.try_wait()? {
            return Ok(Some(ended));
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
