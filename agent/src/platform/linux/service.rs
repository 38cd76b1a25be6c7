//! The system service, on systems with systemd.

use crate::home::{Home, HomeError};
use anyhow::Context;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SERVICE: &str = "fernwart-agent.service";
const UNIT: &str = "/etc/systemd/system/fernwart-agent.service";

/// The unit of a package. It starts only on a machine that has joined.
const PACKAGED: &str = "/usr/lib/systemd/system/fernwart-agent.service";

/// Folders of installed programs. A program started from elsewhere, such as a download, is copied
/// to [`PROGRAM`].
const SYSTEM: [&str; 4] = ["/usr", "/opt", "/bin", "/sbin"];
const PROGRAM: &str = "/usr/local/bin/fernwart-agent";

/// Quotes a word for a command line in a unit (systemd.service(5), "Command lines").
fn word(path: &Path) -> String {
    let mut word = String::from("\"");
    for c in path.display().to_string().chars() {
        match c {
            '%' => word.push_str("%%"),
            '$' => word.push_str("$$"),
            '"' | '\\' => word.extend(['\\', c]),
            c => word.push(c),
        }
    }
    word + "\""
}

fn unit(program: &Path, home: &Home) -> String {
    format!(
        "[Unit]\n\
         Description=Fernwart agent: lets your IT support look after this computer, as far as you allow\n\
         After=network-online.target\n\
         Wants=network-online.target\n\
         \n\
         [Service]\n\
         ExecStart={} --home {} run\n\
         Restart=always\n\
         RestartSec=2\n\
         MemoryHigh=64M\n\
         Environment=MALLOC_ARENA_MAX=1\n\
         UMask=0077\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        word(program),
        word(home.path())
    )
}

fn is_systemd_here() -> bool {
    Path::new("/run/systemd/system").exists()
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<bool> {
    let ended = Command::new("/usr/bin/systemctl").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).status();
    Ok(ended.context("asking systemd")?.success())
}

/// The installed program: the one that is running, or a copy of it.
fn installed(program: PathBuf) -> anyhow::Result<PathBuf> {
    if SYSTEM.iter().any(|folder| program.starts_with(folder)) {
        return Ok(program);
    }
    let to = PathBuf::from(PROGRAM);
    let beside = to.with_extension("new");
    let copy = || -> io::Result<()> {
        std::fs::create_dir_all(to.parent().unwrap_or(Path::new("/")))?;
        // The running program, even if its file was replaced.
        std::fs::copy("/proc/self/exe", &beside)?;
        std::fs::set_permissions(&beside, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        // A process that runs the old copy keeps its file.
        std::fs::rename(&beside, &to)
    };
    copy().with_context(|| format!("copying this program to {PROGRAM}"))?;
    Ok(to)
}

/// Whether a unit's command line names this folder.
fn is_for(unit: &str, home: &Home) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    home_of(unit).is_some_and(|path| real(&path) == home.real_path())
}

/// Whether a package has installed a unit for this folder.
fn is_packaged(home: &Home) -> bool {
    std::fs::read_to_string(PACKAGED).is_ok_and(|unit| is_for(&unit, home))
}

/// The command that the owner types to start the agent.
pub fn start_command(home: &Home) -> &'static str {
    let is_ours = |path: &str| std::fs::read_to_string(path).is_ok_and(|unit| is_for(&unit, home));
    if is_systemd_here() && (is_ours(UNIT) || is_ours(PACKAGED)) {
        "sudo systemctl start fernwart-agent"
    } else {
        "sudo fernwart-agent run"
    }
}

/// Another folder that the service runs for, if a machine has joined there.
pub fn serves_another(home: &Home) -> Option<PathBuf> {
    if !is_systemd_here() {
        return None;
    }
    let own = std::fs::read_to_string(UNIT);
    let text = own.as_ref().ok().cloned().or_else(|| std::fs::read_to_string(PACKAGED).ok())?;
    if is_for(&text, home) {
        return None;
    }
    match home_of(&text) {
        // A folder is free only if no machine has joined there for certain; a damaged enrollment
        // belongs to somebody.
        Some(other) => (!matches!(Home::at(&other).enrollment(), Err(HomeError::NotEnrolled(_)))).then_some(other),
        // A unit without `--home` was written by somebody else.
        None => own.is_ok().then(|| PathBuf::from(UNIT)),
    }
}

/// Registers and starts the service. Returns false without systemd.
///
/// # Errors
/// When the unit cannot be written or does not start.
pub fn install(home: &Home) -> anyhow::Result<bool> {
    if !is_systemd_here() {
        return Ok(false);
    }
    if is_packaged(home) {
        // A unit of our own would take precedence over the package's.
        match std::fs::remove_file(UNIT) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context(format!("removing {UNIT}"));
            }
            _ => {}
        }
    } else {
        let program = installed(std::env::current_exe().context("finding this program")?)?;
        let path = std::path::absolute(home.path()).context("finding the agent's folder")?;
        // Replaced, not written through a link: a removed package leaves a link to /dev/null.
        let beside = format!("{UNIT}.new");
        let written = std::fs::write(&beside, unit(&program, &Home::at(&path)));
        written.and_then(|()| std::fs::rename(&beside, UNIT)).with_context(|| format!("writing {UNIT}"))?;
    }
    // Restarted, since the service may be running for another folder.
    for arguments in [&["daemon-reload"][..], &["enable", SERVICE], &["restart", SERVICE]] {
        let is_done = systemctl(arguments)?;
        anyhow::ensure!(is_done, "systemd did not start the service; see: journalctl -u fernwart-agent");
    }
    Ok(true)
}

/// The folder that a unit's command line names, unescaped.
fn home_of(unit: &str) -> Option<PathBuf> {
    let line = unit.lines().find(|line| line.starts_with("ExecStart="))?;
    let named = line.split_once(" --home ")?.1.strip_suffix(" run")?;
    let quoted = named.strip_prefix('"').and_then(|named| named.strip_suffix('"'));
    let Some(quoted) = quoted else { return Some(PathBuf::from(named)) };
    let (mut path, mut rest) = (String::new(), quoted.chars());
    while let Some(c) = rest.next() {
        match c {
            // The second of a doubled character, or the escaped one.
            '%' | '$' | '\\' => path.extend(rest.next()),
            c => path.push(c),
        }
    }
    Some(PathBuf::from(path))
}

/// Stops the service of this folder and removes its unit, unless that is of a package. A service
/// of another folder stays.
///
/// # Errors
/// When it does not stop, or its unit cannot be removed.
pub fn remove(home: &Home) -> anyhow::Result<()> {
    let is_link = std::fs::symlink_metadata(UNIT).is_ok_and(|file| file.is_symlink());
    let own = if is_link { Err(io::ErrorKind::NotFound.into()) } else { std::fs::read_to_string(UNIT) };
    let is_ours = match &own {
        Ok(unit) => is_for(unit, home),
        Err(_) => is_packaged(home),
    };
    if !is_ours {
        return Ok(());
    }
    if is_systemd_here() {
        // A package's unit stays enabled: it does not start until the machine joins again.
        let stop = if own.is_ok() { &["disable", "--now", SERVICE][..] } else { &["stop", SERVICE] };
        systemctl(stop)?;
        anyhow::ensure!(!systemctl(&["is-active", "--quiet", SERVICE])?, "systemd did not stop the service");
    }
    if own.is_err() {
        return Ok(());
    }
    std::fs::remove_file(UNIT).with_context(|| format!("removing {UNIT}"))?;
    if is_systemd_here() {
        systemctl(&["daemon-reload"])?;
    }
    Ok(())
}

/// What happened to the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// The copy made by [`install`] was removed.
    Done,
    /// It belongs to a package, which this command removes.
    Package(&'static str),
    /// It was installed in some other way.
    Not(PathBuf),
}

/// Removes the copy of this program made by [`install`].
///
/// # Errors
/// When it cannot be removed.
pub fn remove_program() -> anyhow::Result<Removed> {
    if Path::new(PACKAGED).exists() {
        let is_debs = Path::new("/var/lib/dpkg/info/fernwart-agent.list").exists();
        return Ok(Removed::Package(if is_debs { "apt remove fernwart-agent" } else { "dnf remove fernwart-agent" }));
    }
    match std::fs::remove_file(PROGRAM) {
        Ok(()) => Ok(Removed::Done),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Removed::Not(std::env::current_exe().context("finding this program")?))
        }
        Err(error) => Err(error).context(format!("removing {PROGRAM}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_special_characters_is_quoted_in_the_unit() {
        let unit = unit(Path::new("/opt/100 %/agent"), &Home::at(Path::new("/srv/a \"b\" $c\\d")));
        assert!(unit.contains(r#"ExecStart="/opt/100 %%/agent" --home "/srv/a \"b\" $$c\\d" run"#), "{unit}");
        assert_eq!(home_of(&unit).as_deref(), Some(Path::new("/srv/a \"b\" $c\\d")));
        let before = "ExecStart=/usr/bin/fernwart-agent --home /var/lib/fernwart-agent run\n";
        assert_eq!(home_of(before).as_deref(), Some(Path::new("/var/lib/fernwart-agent")));
    }
}
