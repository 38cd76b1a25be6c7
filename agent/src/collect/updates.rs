//! Pending updates, from what the machine has already fetched: no network.

use super::{Surroundings, child};
use fernwart_protocol::diagnosis::facts::Updates;
use std::path::Path;
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant, SystemTime};

pub(super) fn facts(around: &Surroundings, deadline: Instant) -> Result<Updates, String> {
    let until = if around.stays { Instant::now() + PATIENCE } else { deadline };
    if child::find("apt-get").is_some() {
        let (pending, security) = remembered("apt", &APT_STATE, || apt(until))?;
        let lists_age_days = age_days("/var/lib/apt/lists/partial").or_else(|| age_days("/var/lib/apt/lists"));
        return Ok(Updates { manager: "apt".into(), pending, security, lists_age_days });
    }
    if child::find("dnf").is_some() {
        let (pending, security) = remembered("dnf", &DNF_STATE, || dnf(until))?;
        return Ok(Updates { manager: "dnf".into(), pending, security, lists_age_days: age_days("/var/cache/dnf") });
    }
    Err("no package manager that is known here".into())
}

/// How long a package manager may take, where whoever looks stays to hear it. It
/// goes on when the look is over: ended with it, it would be begun anew by each
/// look and answer none on a slow computer. A later look has its answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What it failed at is not tried anew by each look; something may be wrong that
/// no file shows.
const AGAIN: Duration = Duration::from_secs(600);

/// What a manager has on the disk: its settings, lists and installed packages.
/// While none changes, neither does its answer, which takes it more than a second.
const APT_STATE: [&str; 3] = ["/etc/apt", "/var/lib/apt/lists", "/var/lib/dpkg/status"];
const DNF_STATE: [&str; 5] =
    ["/etc/dnf", "/etc/yum.repos.d", "/var/cache/dnf", "/var/lib/rpm", "/usr/lib/sysimage/rpm"];

/// Pending updates, and those of them that close security holes.
type Counts = (u32, u32);

/// What a manager has said, of what, and when.
struct Said {
    manager: &'static str,
    state: Vec<Option<SystemTime>>,
    at: Instant,
    counts: Result<Counts, String>,
}

static SAID: Mutex<Option<Said>> = Mutex::new(None);

/// Held by the look that asks.
static ASKING: Mutex<()> = Mutex::new(());

fn remembered(
    manager: &'static str,
    places: &[&str],
    ask: impl FnOnce() -> Result<Counts, String>,
) -> Result<Counts, String> {
    let _asking = match ASKING.try_lock() {
        Ok(asking) => asking,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Err(format!("{manager} is still counting; ask again in a moment")),
    };
    let said = || SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let state: Vec<_> = places.iter().map(|place| newest(Path::new(place), 2)).collect();
    let is_good = |said: &&Said| {
        (said.manager, &said.state) == (manager, &state) && (said.counts.is_ok() || said.at.elapsed() < AGAIN)
    };
    if let Some(known) = said().as_ref().filter(is_good) {
        return known.counts.clone().map_err(|why| format!("{why}; it is asked again ten minutes later"));
    }
    let counts = ask();
    *said() = Some(Said { manager, state, at: Instant::now(), counts: counts.clone() });
    counts
}

/// When anything last changed at a place, so many folders deep.
fn newest(place: &Path, depth: usize) -> Option<SystemTime> {
    let own = place.metadata().and_then(|data| data.modified()).ok();
    let folder = (depth > 0).then(|| std::fs::read_dir(place).ok()).flatten();
    let within = folder.into_iter().flatten().flatten().filter_map(|entry| newest(&entry.path(), depth - 1));
    within.chain(own).max()
}

fn apt(until: Instant) -> Result<Counts, String> {
    // -s simulates: it takes no lock and changes nothing
    let text = child::run("apt-get", &["-s", "-q", "-o", "Debug::NoLocking=true", "upgrade"], until)?;
    Ok(parse_apt(&text))
}

fn dnf(until: Instant) -> Result<Counts, String> {
    let pending = match child::run_status("dnf", &["-C", "-q", "check-update"], until)? {
        // 100 says that there are updates (dnf(8)).
        (text, Some(0 | 100)) => count_dnf(&text),
        _ => return Err("dnf has no usable list of packages on this computer".into()),
    };
    let advisories = child::run("dnf", &["-C", "-q", "updateinfo", "list", "--updates"], until)?;
    Ok((pending, count_dnf_security(&advisories)))
}

fn age_days(path: &str) -> Option<f64> {
    let modified = Path::new(path).metadata().ok()?.modified().ok()?;
    let age = SystemTime::now().duration_since(modified).unwrap_or_default();
    Some((age.as_secs_f64() / 86_400.0 * 10.0).round() / 10.0)
}

/// Lines `Inst name [old] (new Debian-Security:12/stable-security [amd64])`.
fn parse_apt(text: &str) -> (u32, u32) {
    let lines = || text.lines().filter(|line| line.starts_with("Inst "));
    (counted(lines()), counted(lines().filter(|line| line.to_lowercase().contains("-security"))))
}

/// Lines `name.arch version repository`; what is obsoleted follows and counts no more.
fn count_dnf(text: &str) -> u32 {
    let lines = text.lines().take_while(|line| !line.starts_with("Obsoleting"));
    counted(lines.filter(|line| line.split_whitespace().count() == 3))
}

/// Lines `FEDORA-2026-1 Important/Sec. name-version`.
fn count_dnf_security(text: &str) -> u32 {
    counted(text.lines().filter(|line| line.contains("/Sec.")))
}

fn counted<'a>(lines: impl Iterator<Item = &'a str>) -> u32 {
    u32::try_from(lines.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_updates_are_counted_and_security_among_them() {
        let text = "Reading package lists...\nInst libc6 [1] (2 Debian:12.11/stable [amd64])\n\
                    Inst openssl [1] (2 Debian-Security:12/stable-security [amd64])\nConf libc6 (2)\n";
        assert_eq!(parse_apt(text), (2, 1));
        let updates =
            "\nbash.x86_64  5.2-1  updates\nopenssl.x86_64  3.1-1  updates\nObsoleting Packages\na.noarch 1 x\n";
        assert_eq!(count_dnf(updates), 2);
        assert_eq!(count_dnf_security("FEDORA-2026-1 Important/Sec. openssl\nFEDORA-2026-2 bugfix bash-5\n"), 1);
    }
}
