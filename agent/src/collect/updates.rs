//! Pending updates, from what the machine has already fetched: no network.

use super::child;
use fernwart_protocol::diagnosis::facts::Updates;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

pub(super) fn facts(deadline: Instant) -> Result<Updates, String> {
    if child::find("apt-get").is_some() {
        let (pending, security) = apt(deadline)?;
        let lists_age_days = age_days("/var/lib/apt/lists/partial").or_else(|| age_days("/var/lib/apt/lists"));
        return Ok(Updates { manager: "apt".into(), pending, security, lists_age_days });
    }
    if child::find("dnf").is_some() {
        let text = child::run("dnf", &["-C", "-q", "updateinfo", "list", "--updates"], deadline)?;
        let (pending, security) = parse_dnf(&text);
        return Ok(Updates { manager: "dnf".into(), pending, security, lists_age_days: age_days("/var/cache/dnf") });
    }
    Err("no package manager that is known here".into())
}

/// What apt has on its disk: lists and installed packages. While neither
/// changes, neither does its answer, which takes it more than a second.
const APT_STATE: [&str; 2] = ["/var/lib/apt/lists", "/var/lib/dpkg/status"];

type AptState = [Option<SystemTime>; 2];

static APT_SAID: Mutex<Option<(AptState, (u32, u32))>> = Mutex::new(None);

fn apt(deadline: Instant) -> Result<(u32, u32), String> {
    let state = APT_STATE.map(|path| Path::new(path).metadata().and_then(|data| data.modified()).ok());
    let said = *APT_SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((then, counts)) = said
        && then == state
    {
        return Ok(counts);
    }
    // -s simulates: it takes no lock and changes nothing
    let text = child::run("apt-get", &["-s", "-q", "-o", "Debug::NoLocking=true", "upgrade"], deadline)?;
    let counts = parse_apt(&text);
    *APT_SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some((state, counts));
    Ok(counts)
}

fn age_days(path: &str) -> Option<f64> {
    let modified = Path::new(path).metadata().ok()?.modified().ok()?;
    let age = SystemTime::now().duration_since(modified).unwrap_or_default();
    Some((age.as_secs_f64() / 86_400.0 * 10.0).round() / 10.0)
}

/// Lines `Inst name [old] (new Debian-Security:12/stable-security [amd64])`.
fn parse_apt(text: &str) -> (u32, u32) {
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("Inst ")).collect();
    let security = lines.iter().filter(|line| line.to_lowercase().contains("-security")).count();
    (u32::try_from(lines.len()).unwrap_or(u32::MAX), u32::try_from(security).unwrap_or(u32::MAX))
}

/// Lines `FEDORA-2026-1 Important/Sec. name`.
fn parse_dnf(text: &str) -> (u32, u32) {
    let lines: Vec<_> = text.lines().filter(|line| line.split_whitespace().count() >= 3).collect();
    let security = lines.iter().filter(|line| line.contains("/Sec.")).count();
    (u32::try_from(lines.len()).unwrap_or(u32::MAX), u32::try_from(security).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_updates_are_counted_and_security_among_them() {
        let text = "Reading package lists...\nInst libc6 [1] (2 Debian:12.11/stable [amd64])\n\
                    Inst openssl [1] (2 Debian-Security:12/stable-security [amd64])\nConf libc6 (2)\n";
        assert_eq!(parse_apt(text), (2, 1));
        assert_eq!(parse_dnf("FEDORA-2026-1 Important/Sec. openssl\nFEDORA-2026-2 bugfix bash-5\n"), (2, 1));
    }
}
