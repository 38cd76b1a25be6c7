//! Pending updates, from what the machine has already fetched: no network.

use super::child;
use fernwart_protocol::diagnosis::facts::Updates;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

pub(super) fn facts(deadline: Instant) -> Result<Updates, String> {
    if child::find("apt-get").is_some() {
        let (pending, security) = apt()?;
        let lists_age_days = age_days("/var/lib/apt/lists/partial").or_else(|| age_days("/var/lib/apt/lists"));
        return Ok(Updates { manager: "apt".into(), pending, security, lists_age_days });
    }
    if child::find("dnf").is_some() {
        let pending = match child::run_status("dnf", &["-C", "-q", "check-update"], deadline)? {
            // 100 says that there are updates (dnf(8)).
            (text, Some(0 | 100)) => count_dnf(&text),
            _ => return Err("dnf has no usable list of packages on this computer".into()),
        };
        let advisories = child::run("dnf", &["-C", "-q", "updateinfo", "list", "--updates"], deadline)?;
        let security = count_dnf_security(&advisories);
        return Ok(Updates { manager: "dnf".into(), pending, security, lists_age_days: age_days("/var/cache/dnf") });
    }
    Err("no package manager that is known here".into())
}

/// How long apt may take. Where that is longer than a look, it goes on when the
/// look is over: ended with it, apt would be begun anew by each look and answer
/// none on a slow computer. The next look has its answer.
const APT_PATIENCE: Duration = Duration::from_secs(120);

/// What apt has on its disk: lists and installed packages. While neither
/// changes, neither does its answer, which takes it more than a second.
const APT_STATE: [&str; 2] = ["/var/lib/apt/lists", "/var/lib/dpkg/status"];

type AptState = [Option<SystemTime>; 2];

/// What it failed at is not tried anew by each look; something may be wrong that
/// no file shows.
const APT_AGAIN: Duration = Duration::from_secs(600);

/// What apt has said, of what, and when.
struct AptSaid {
    state: AptState,
    at: Instant,
    counts: Result<(u32, u32), String>,
}

static APT_SAID: Mutex<Option<AptSaid>> = Mutex::new(None);

fn apt() -> Result<(u32, u32), String> {
    let state = APT_STATE.map(|path| Path::new(path).metadata().and_then(|data| data.modified()).ok());
    let said = || APT_SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let is_good = |said: &&AptSaid| said.state == state && (said.counts.is_ok() || said.at.elapsed() < APT_AGAIN);
    if let Some(known) = said().as_ref().filter(is_good) {
        return known.counts.clone();
    }
    // -s simulates: it takes no lock and changes nothing
    let arguments = ["-s", "-q", "-o", "Debug::NoLocking=true", "upgrade"];
    let counts = child::run("apt-get", &arguments, Instant::now() + APT_PATIENCE).map(|text| parse_apt(&text));
    *said() = Some(AptSaid { state, at: Instant::now(), counts: counts.clone() });
    counts
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
