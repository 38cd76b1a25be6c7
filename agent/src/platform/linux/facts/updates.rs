//! Pending updates, from lists that the machine has already fetched, without network access; and
//! what keeps its package manager from working.

use super::sources::{self, Lacks, Source};
use crate::collect::bytes::{clipped, names_in, read_bytes, shown};
use crate::collect::{Surroundings, child, locked, missing};
use crate::platform::linux::paths::is_locked;
use fernwart_protocol::diagnosis::facts::{LIST, Updates};
use fernwart_protocol::diagnosis::{Cause, Reason};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

pub(super) fn facts(around: &Surroundings, until: Instant) -> Updates {
    let (manager, places, ask): (&'static str, &'static [&'static str], fn(Instant) -> Counted) =
        if child::find("apt-get").is_some() {
            ("apt", &APT_STATE, apt)
        } else if child::find("dnf").is_some() {
            ("dnf", &DNF_STATE, dnf)
        } else {
            let why = ALL.into_iter().map(|name| (name.to_owned(), Cause::new(Reason::Absent, "package manager")));
            return Updates { why: why.collect(), ..Updates::default() };
        };
    let mut updates = Updates { manager: manager.into(), ..Updates::default() };
    let complaints = count(&mut updates, remembered(manager, places, ask, around, until));
    if manager == "apt" {
        apt_state(&mut updates, complaints);
    } else {
        updates.lists_age_days = age_days("/var/cache/dnf");
        note_broken(&mut updates, complaints.broken, complaints.silent);
        missing(&mut updates.why, &SOURCES, &Cause::new(Reason::NotSupported, manager));
    }
    if updates.lists_age_days.is_none() && !updates.why.contains_key("lists_age_days") {
        updates.why.insert("lists_age_days".into(), Cause::new(Reason::Absent, "package lists"));
    }
    updates
}

/// Facts that need an answer of the package manager.
const COUNTS: [&str; 3] = ["pending", "security", "kept_back"];

/// Facts about its sources.
const SOURCES: [&str; 2] = ["bad_sources", "bad_sources_count"];

/// Facts about packages that are not completely installed.
const BROKEN: [&str; 2] = ["broken", "broken_count"];

/// All facts of this section.
const ALL: [&str; 8] = [
    "pending",
    "security",
    "kept_back",
    "lists_age_days",
    "broken",
    "broken_count",
    "bad_sources",
    "bad_sources_count",
];

/// What a package manager complains of, beside its counts.
#[derive(Default)]
struct Complaints {
    broken: Vec<String>,
    /// Why it did not answer.
    silent: Option<Cause>,
    bad_sources: Vec<String>,
    /// The sources that it names, as it lists them.
    sources: Option<Vec<Source>>,
}

/// Takes over what the package manager counted.
fn count(updates: &mut Updates, counted: Counted) -> Complaints {
    let mut complaints = Complaints::default();
    match counted {
        Ok(counts) => {
            complaints.sources = counts.sources;
            updates.pending = Some(counts.pending);
            updates.security = counts.security;
            updates.kept_back = Some(counts.kept_back);
            if updates.security.is_none() {
                let why = Cause::new(Reason::NotSupported, &updates.manager);
                updates.why.insert("security".into(), why);
            }
        }
        Err(No::Complains(what)) => {
            // The manager's own complaint is reported as a finding.
            missing(&mut updates.why, &COUNTS, &Cause::new(Reason::Unreadable, what.clone()));
            // It cannot read its configured sources; the packages themselves are fine.
            match what.contains(".list") || what.contains(".sources") || what.contains("list of sources") {
                true => complaints.bad_sources.push(what),
                false => complaints.broken.push(what),
            }
        }
        Err(No::Silent(why)) => {
            missing(&mut updates.why, &COUNTS, &why);
            complaints.silent = Some(why);
        }
    }
    complaints
}

/// Forgets the counts, for this reason.
fn uncount(updates: &mut Updates, why: &Cause) {
    (updates.pending, updates.security, updates.kept_back) = (None, None, None);
    missing(&mut updates.why, &COUNTS, why);
}

/// The state of apt's lists, of dpkg, and of apt's sources.
fn apt_state(updates: &mut Updates, complaints: Complaints) {
    let Complaints { mut broken, silent, bad_sources: mut bad, sources } = complaints;
    let lists = Path::new("/var/lib/apt/lists");
    updates.lists_age_days = age_days("/var/lib/apt/lists/partial").or_else(|| age_days("/var/lib/apt/lists"));
    if !has_lists(lists) {
        // Nothing was ever fetched, so pending updates are unknown.
        updates.lists_age_days = None;
        let why = Cause::new(Reason::NotConfigured, "package lists");
        uncount(updates, &why);
        missing(&mut updates.why, &["lists_age_days"], &why);
    }
    let status = read_bytes("/var/lib/dpkg/status");
    let is_empty = status.as_ref().is_ok_and(|status| !status.starts_with(b"Package: "));
    match status.map(|status| half_installed(&shown(&status))) {
        Ok(_) if is_being_updated() => {
            missing(&mut updates.why, &BROKEN, &Cause::new(Reason::StillAsked, "dpkg"));
        }
        Ok(packages) => {
            broken.extend(packages);
            if is_empty {
                broken.push("the list of installed packages is empty".to_owned());
            }
            if !names_in(Path::new("/var/lib/dpkg/updates"), |name| name.parse::<u32>().is_ok()).is_empty() {
                broken.push("dpkg was interrupted".to_owned());
            }
            note_broken(updates, broken, silent);
        }
        Err(error) => {
            let why = Cause::new(Reason::Unreadable, clipped(&format!("/var/lib/dpkg/status: {error}")));
            missing(&mut updates.why, &BROKEN, &why);
        }
    }
    // If nothing was ever fetched, that is reported instead.
    if let Some(sources) = sources.filter(|_| has_lists(lists)) {
        match sources::without(&sources, lists) {
            // Without sources no update can be pending.
            Lacks::All => {
                uncount(updates, &no_source());
                bad.push("none is set".to_owned());
            }
            Lacks::Some { unfetched, security } => {
                bad.extend(unfetched);
                if security {
                    updates.security = None;
                    updates.why.insert("security".into(), no_source());
                    bad.push("none of security updates".to_owned());
                }
            }
        }
    }
    match sources::bad(lists, updates.lists_age_days) {
        // apt's complaint is known even while another process locks the lists.
        Err(why) if bad.is_empty() => missing(&mut updates.why, &SOURCES, &why),
        more => {
            bad.extend(more.unwrap_or_default());
            updates.bad_sources_count = u32::try_from(bad.len()).ok();
            updates.bad_sources = Some(bad.into_iter().take(LIST).collect());
        }
    }
}

fn no_source() -> Cause {
    Cause::new(Reason::NotConfigured, "package sources")
}

/// Reports what keeps the manager from working. If the manager did not answer, only what was
/// found without it is known.
fn note_broken(updates: &mut Updates, mut broken: Vec<String>, silent: Option<Cause>) {
    match silent.filter(|_| broken.is_empty()) {
        Some(why) => {
            missing(&mut updates.why, &["broken", "broken_count"], &why);
        }
        None => {
            updates.broken_count = u32::try_from(broken.len()).ok();
            broken.truncate(LIST);
            updates.broken = Some(broken);
        }
    }
}

/// Whether any package list has been fetched.
fn has_lists(lists: &Path) -> bool {
    !names_in(lists, |name| name.contains("_Packages") || name.ends_with("Release")).is_empty()
}

/// Time limit for a package manager if this process stays. It continues after the look: restarted
/// by each look, it would never finish on a slow computer. A later look gets its answer.
const ASKED_FOR: Duration = Duration::from_secs(120);

/// Minimum time before a failed query is repeated; its cause may not be visible in any file.
const AGAIN: Duration = Duration::from_secs(600);

/// A manager's files: settings, lists and installed packages. While they are unchanged, so is its
/// answer, which takes it more than a second.
const APT_STATE: [&str; 3] = ["/etc/apt", "/var/lib/apt/lists", "/var/lib/dpkg/status"];
const DNF_STATE: [&str; 5] =
    ["/etc/dnf", "/etc/yum.repos.d", "/var/cache/dnf", "/var/lib/rpm", "/usr/lib/sysimage/rpm"];

/// The result of a manager's query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    pending: u32,
    security: Option<u32>,
    kept_back: u32,
    /// The package sources, if the manager reports them.
    sources: Option<Vec<Source>>,
}

/// The answer of a manager.
type Counted = Result<Counts, No>;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum No {
    /// The query failed because something is broken; with its own message.
    Complains(String),
    /// It did not answer.
    Silent(Cause),
}

impl std::convert::From<Cause> for No {
    fn from(why: Cause) -> Self {
        Self::Silent(why)
    }
}

/// A query, the state of the files it is about, and when it was made or answered; no result while
/// it runs.
struct Inquiry {
    manager: &'static str,
    state: Vec<Option<SystemTime>>,
    at: Instant,
    counted: Option<Counted>,
}

/// The newest query, and a signal when it is answered.
struct Memory {
    inquiry: Mutex<Option<Inquiry>>,
    news: Condvar,
}

static MEMORY: Mutex<Option<Arc<Memory>>> = Mutex::new(None);

/// The manager's answer for the current state of its files: the known one, or from a new query.
/// If this process stays, the query continues after this look.
fn remembered(
    manager: &'static str,
    places: &'static [&'static str],
    ask: fn(Instant) -> Counted,
    around: &Surroundings,
    until: Instant,
) -> Counted {
    let stays = around.stays;
    // The running agent may have its answer already.
    if let Some((_, counts)) = around.known_updates.as_deref().and_then(read_known).filter(|(of, _)| of == manager) {
        return Ok(counts);
    }
    let memory = locked(&MEMORY)
        .get_or_insert_with(|| Arc::new(Memory { inquiry: Mutex::new(None), news: Condvar::new() }))
        .clone();
    let state: Vec<_> = places.iter().map(|place| newest(Path::new(place), 2)).collect();
    let mut inquiry = locked(&memory.inquiry);
    let is_known = inquiry.as_ref().is_some_and(|inquiry| match &inquiry.counted {
        // A running query is not restarted, even if the files have changed.
        None => true,
        Some(counted) => {
            (inquiry.manager, &inquiry.state) == (manager, &state) && (counted.is_ok() || inquiry.at.elapsed() < AGAIN)
        }
    });
    if !is_known {
        *inquiry = Some(Inquiry { manager, state, at: Instant::now(), counted: None });
        let limit = if stays { Instant::now() + ASKED_FOR } else { until };
        let answered = memory.clone();
        let job = move || {
            let counted = ask(limit);
            if let Some(inquiry) = locked(&answered.inquiry).as_mut() {
                (inquiry.counted, inquiry.at) = (Some(counted), Instant::now());
            }
            answered.news.notify_all();
        };
        if let Err(error) = std::thread::Builder::new().name(manager.into()).stack_size(128 * 1024).spawn(job) {
            *inquiry = None;
            return Err(Cause::new(Reason::Unreadable, error.to_string()).into());
        }
    }
    loop {
        match inquiry.as_ref().and_then(|inquiry| inquiry.counted.clone()) {
            Some(counted) => return counted,
            None => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let reason = if stays { Reason::StillAsked } else { Reason::TimedOut };
                    return Err(Cause::new(reason, manager).into());
                }
                inquiry = memory.news.wait_timeout(inquiry, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            }
        }
    }
}

/// The manager's last answer, for a diagnosis that asks the running agent: the manager's name and
/// its counts, as JSON.
pub fn known() -> Option<String> {
    let memory = locked(&MEMORY).clone()?;
    let inquiry = locked(&memory.inquiry);
    let Inquiry { manager, state, counted: Some(Ok(counts)), .. } = inquiry.as_ref()? else { return None };
    let places: &[&str] = if *manager == "apt" { &APT_STATE } else { &DNF_STATE };
    let now: Vec<_> = places.iter().map(|place| newest(Path::new(place), 2)).collect();
    (now == *state).then(|| serde_json::to_string(&(manager, counts)).ok()).flatten()
}

fn read_known(text: &str) -> Option<(String, Counts)> {
    serde_json::from_str(text).ok()
}

/// When anything last changed at a path, up to `depth` folders deep.
fn newest(place: &Path, depth: usize) -> Option<SystemTime> {
    let own = place.metadata().and_then(|data| data.modified()).ok();
    let folder = (depth > 0).then(|| std::fs::read_dir(place).ok()).flatten();
    let within = folder.into_iter().flatten().flatten().filter_map(|entry| newest(&entry.path(), depth - 1));
    within.chain(own).max()
}

fn apt(until: Instant) -> Counted {
    // -s simulates: it takes no lock and changes nothing. dist-upgrade, since a new kernel is a
    // new package, which a plain upgrade never installs.
    let arguments = ["-s", "-q", "-o", "Debug::NoLocking=true", "dist-upgrade"];
    // Run in parallel: each takes about a second, mostly to start.
    let (ended, sources) = std::thread::scope(|scope| {
        let sources = std::thread::Builder::new().stack_size(128 * 1024);
        let sources = sources.spawn_scoped(scope, || sources::set(until));
        let ended = child::run("apt-get", &arguments, until);
        (ended, sources.ok().and_then(|sources| sources.join().ok()?.ok()))
    });
    let ended = ended?;
    if !ended.is_late && ended.code == Some(100) {
        return Err(No::Complains(complaint(&shown(&ended.out), &ended.complaints)));
    }
    Ok(Counts { sources, ..parse_apt(&ended.complete("apt-get")?) })
}

/// What apt complains of: the packages it names, else its first error.
fn complaint(out: &str, complaints: &str) -> String {
    let unmet: Vec<&str> = out
        .lines()
        .skip_while(|line| !line.starts_with("The following packages have unmet dependencies"))
        .skip(1)
        .filter_map(|line| line.strip_prefix(' ')?.split(" :").next())
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    if !unmet.is_empty() {
        return clipped(&format!("unmet dependencies: {}", unmet.join(", ")));
    }
    // The first error is the cause, the others are consequences.
    let first = complaints.lines().find_map(|line| line.strip_prefix("E: "));
    clipped(&format!("apt-get: {}", first.unwrap_or("exit code 100").trim_end_matches('.')))
}

fn dnf(until: Instant) -> Counted {
    let ended = child::run("dnf", &["-C", "-q", "check-update"], until)?;
    let pending = match &ended {
        child::ProcessOutput { is_late: true, .. } => return Err(Cause::new(Reason::TimedOut, "dnf").into()),
        // 100 means that there are updates (dnf(8)).
        child::ProcessOutput { code: Some(0 | 100), out, .. } => count_dnf(&shown(out)),
        // It has no lists yet and must not fetch them now (-C).
        ended if ["Cache-only enabled", "no cache"].iter().any(|words| ended.complaints.contains(words)) => {
            return Err(Cause::new(Reason::Absent, "package lists").into());
        }
        ended => return Err(ended.failed("dnf").into()),
    };
    let advisories = child::ask("dnf", &["-C", "-q", "updateinfo", "list", "--updates"], until)?;
    Ok(Counts { pending, security: Some(count_dnf_security(&advisories)), kept_back: 0, sources: None })
}

fn age_days(path: &str) -> Option<f64> {
    let modified = Path::new(path).metadata().ok()?.modified().ok()?;
    let age = SystemTime::now().duration_since(modified).unwrap_or_default();
    Some((age.as_secs_f64() / 86_400.0 * 10.0).round() / 10.0)
}

/// Counts lines `Inst name [old] (new Debian-Security:12/stable-security [amd64])`. The origin is
/// in the brackets; the package's name does not matter.
fn parse_apt(text: &str) -> Counts {
    let updates = || text.lines().filter(|line| line.starts_with("Inst "));
    let is_security = |line: &&str| {
        let origins = line.split_once('(').map(|(_, rest)| rest.to_lowercase()).unwrap_or_default();
        origins.contains("-security") || origins.contains("esm")
    };
    let kept = text.lines().skip_while(|line| !line.starts_with("The following packages have been kept back")).skip(1);
    let kept = kept.take_while(|line| line.starts_with(' ')).flat_map(str::split_whitespace);
    Counts {
        pending: counted(updates()),
        security: Some(counted(updates().filter(is_security))),
        kept_back: counted(kept),
        sources: None,
    }
}

/// Counts lines `name.arch version repository`; obsoleted packages follow and are not counted.
fn count_dnf(text: &str) -> u32 {
    let lines = text.lines().take_while(|line| !line.starts_with("Obsoleting"));
    counted(lines.filter(|line| line.split_whitespace().count() == 3))
}

/// Counts lines `FEDORA-2026-1 Important/Sec. name-version`.
fn count_dnf_security(text: &str) -> u32 {
    counted(text.lines().filter(|line| line.contains("/Sec.")))
}

fn counted<'a>(lines: impl Iterator<Item = &'a str>) -> u32 {
    u32::try_from(lines.count()).unwrap_or(u32::MAX)
}

/// Packages that dpkg has not finished installing.
fn half_installed(status: &str) -> Vec<String> {
    let mut name = "";
    let mut found = Vec::new();
    for line in status.lines() {
        if let Some(package) = line.strip_prefix("Package: ") {
            name = package;
        } else if let Some(words) = line.strip_prefix("Status: ") {
            let state = words.rsplit(' ').next().unwrap_or_default();
            if ["half-configured", "half-installed", "unpacked", "triggers-awaited", "triggers-pending"]
                .contains(&state)
                || words.contains(" reinstreq ")
            {
                found.push(clipped(&format!("{name} ({state})")));
            }
        }
    }
    found
}

/// Whether dpkg is running now, so that unfinished packages are normal. A dpkg that holds its
/// lock without writing for an hour is stuck, which is a fault.
fn is_being_updated() -> bool {
    let wrote = age_days("/var/lib/dpkg/status").is_some_and(|days| days < 1.0 / 24.0);
    let is_held = ["/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock"].iter().any(|lock| is_locked(Path::new(lock)));
    is_held && wrote
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_kernels_and_security_updates_are_counted_by_origin_not_by_name() {
        let text = "Reading package lists...\n\
            The following packages have been kept back:\n  docker-ce libfoo\n  libbar\n\
            The following NEW packages will be installed:\n  linux-image-6.1.0-31-amd64\n\
            Inst libc6 [1] (2 Debian:12.11/stable [amd64])\n\
            Inst linux-image-6.1.0-31-amd64 (6.1.128-1 Debian-Security:12/stable-security [amd64])\n\
            Inst harden-security-tools [1] (2 Debian:12.11/stable [all])\n\
            Inst openssl [1] (2 Ubuntu:22.04/jammy-updates, Ubuntu:22.04/jammy-security [amd64]) []\n\
            Inst bash [1] (2 UbuntuESM:20.04/focal-infra [amd64])\nConf libc6 (2)\n";
        assert_eq!(parse_apt(text), Counts { pending: 5, security: Some(3), kept_back: 3, sources: None });
        let updates =
            "\nbash.x86_64  5.2-1  updates\nopenssl.x86_64  3.1-1  updates\nObsoleting Packages\na.noarch 1 x\n";
        assert_eq!(count_dnf(updates), 2);
        assert_eq!(count_dnf_security("FEDORA-2026-1 Important/Sec. openssl\nFEDORA-2026-2 bugfix bash-5\n"), 1);
    }

    #[test]
    fn unmet_dependencies_are_named() {
        let out = "Building dependency tree...\nYou might want to run 'apt --fix-broken install' to correct these.\n\
            The following packages have unmet dependencies:\n till-app : Depends: libtill1 (>= 2) but it is not installed\n";
        let complaints =
            "E: Unmet dependencies. Try 'apt --fix-broken install' with no packages (or specify a solution).\n";
        assert_eq!(complaint(out, complaints), "unmet dependencies: till-app");
        assert_eq!(
            complaint("", "W: x\nE: The list of sources could not be read.\n"),
            "apt-get: The list of sources could not be read"
        );
    }

    #[test]
    fn half_installed_packages_are_named() {
        let status = "Package: bash\nStatus: install ok installed\n\nPackage: cups\nStatus: install ok half-configured\nVersion: 1\n\n\
            Package: gone\nStatus: deinstall ok config-files\n\nPackage: bad\nStatus: install reinstreq half-installed\n";
        assert_eq!(half_installed(status), ["cups (half-configured)", "bad (half-installed)"]);
    }

    #[test]
    fn a_slow_package_managers_answer_is_ready_at_a_later_look() {
        static PLACES: [&str; 1] = ["/no/such/place"];
        fn slow(_: Instant) -> Counted {
            std::thread::sleep(Duration::from_millis(400));
            Ok(Counts { pending: 7, security: Some(1), kept_back: 0, sources: None })
        }
        let stays = Surroundings { stays: true, ..Surroundings::default() };
        let soon = || Instant::now() + Duration::from_millis(50);
        let first = remembered("slow", &PLACES, slow, &stays, soon());
        assert_eq!(first, Err(Cause::new(Reason::StillAsked, "slow").into()));
        let later = remembered("slow", &PLACES, slow, &stays, Instant::now() + Duration::from_secs(10));
        assert_eq!(later.map(|counts| counts.pending), Ok(7));
        let begun = Instant::now();
        assert!(
            remembered("slow", &PLACES, slow, &stays, soon()).is_ok() && begun.elapsed() < Duration::from_millis(40)
        );
    }
}
