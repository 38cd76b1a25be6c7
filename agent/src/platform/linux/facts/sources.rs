//! The package sources of apt: which are configured, which were never fetched, which could not be
//! verified.

use crate::collect::bytes::{clipped, names_in};
use crate::collect::{child, read};
use crate::platform::linux::paths::is_locked;
use fernwart_protocol::diagnosis::{Cause, Reason};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A package list that a source should provide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    /// `http://deb.debian.org/debian`.
    site: String,
    /// `bookworm-security`.
    release: String,
    /// The file name of the list, without the suffix of its compression.
    file: String,
}

/// What is missing among the package sources.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lacks {
    /// No source is configured.
    All,
    /// Some are missing.
    Some {
        /// Sources of which nothing was ever fetched.
        unfetched: Vec<String>,
        /// Whether the distribution has a source of security updates that is not configured.
        security: bool,
    },
}

/// The configured sources, as reported by apt.
///
/// # Errors
/// When apt does not report them.
pub(super) fn set(until: Instant) -> Result<Vec<Source>, Cause> {
    let format = "$(SITE)|$(RELEASE)|$(FILENAME)";
    let arguments = ["indextargets", "--no-release-info", "--format", format, "Created-By: Packages"];
    let text = child::ask("apt-get", &arguments, until)?;
    let sources = parse(&text);
    // Output in another format does not mean that there is no source.
    let is_understood = sources.len() == text.lines().filter(|line| !line.is_empty()).count();
    if is_understood { Ok(sources) } else { Err(Cause::new(Reason::Unreadable, "apt-get indextargets")) }
}

/// Lines `http://deb.debian.org/debian|bookworm|/var/lib/apt/lists/deb.debian.org_…_Packages`.
fn parse(text: &str) -> Vec<Source> {
    let source = |line: &str| {
        let mut fields = line.splitn(3, '|');
        let (site, release, path) = (fields.next()?, fields.next()?, fields.next()?);
        let file = Path::new(path).file_name()?.to_str()?;
        Some(Source { site: clipped(site), release: clipped(release), file: file.to_owned() })
    };
    text.lines().filter_map(source).collect()
}

/// Finds missing sources that keep updates from arriving without an error.
pub(super) fn without(sources: &[Source], lists: &Path) -> Lacks {
    if sources.is_empty() {
        return Lacks::All;
    }
    let there = names_in(lists, |_| true);
    let mut fetched: BTreeMap<(&str, &str), bool> = BTreeMap::new();
    for source in sources {
        // A release's list names the others; a flat source has none.
        let begin = source
            .file
            .split_once("_dists_")
            .map(|(place, _)| format!("{place}_dists_{}_", source.release.trim_matches('/').replace('/', "_")));
        let is_there = there.iter().any(|name| {
            name.starts_with(&source.file)
                || begin.as_ref().is_some_and(|begin| {
                    name.strip_prefix(begin.as_str()).is_some_and(|rest| rest == "InRelease" || rest == "Release")
                })
        });
        *fetched.entry((&source.site, &source.release)).or_default() |= is_there;
    }
    let unfetched = fetched.iter().filter(|(_, is_there)| !**is_there);
    let unfetched =
        unfetched.map(|((site, release), _)| clipped(&format!("{site} {release} (nothing was ever fetched)")));
    let is_security = |source: &Source| {
        source.release.ends_with("-security")
            || source.release.ends_with("/updates")
            || source.site.contains("security")
    };
    let security = has_security_source(&read("/etc/os-release").unwrap_or_default());
    Lacks::Some { unfetched: unfetched.collect(), security: security && !sources.iter().any(is_security) }
}

/// Whether this release has a separate source of security updates.
fn has_security_source(os_release: &str) -> bool {
    let has = |line: &str| os_release.lines().any(|own| own.replace('"', "") == line);
    let is_numbered = os_release.lines().any(|line| line.starts_with("VERSION_ID="));
    is_numbered && (has("ID=debian") || has("ID=ubuntu"))
}

/// Repositories whose lists apt rejected: not signed by a known key, or expired.
pub(super) fn bad(lists: &Path, age_days: Option<f64>) -> Result<Vec<String>, Cause> {
    if is_locked(&lists.join("lock")) {
        return Err(Cause::new(Reason::StillAsked, "apt"));
    }
    let partial = lists.join("partial");
    match std::fs::read_dir(&partial) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(Cause::new(Reason::NotPermitted, ""));
        }
        // Without this folder nothing was ever fetched.
        Ok(_) | Err(_) => {}
    }
    let mut bad = Vec::new();
    // A verified list is moved away from here; a rejected one stays.
    for name in names_in(&partial, |name| name.ends_with("Release") || name.ends_with("Release.FAILED")) {
        bad.push(clipped(&format!("{} (its signature could not be verified)", source_name(&name))));
    }
    // Only checked while lists are fresh: old lists are reported separately.
    if age_days.is_some_and(|days| days < 2.0) {
        let now = crate::now() / 1000;
        for name in names_in(lists, |name| name.ends_with("Release")) {
            let file: PathBuf = lists.join(&name);
            let text = read(&file).unwrap_or_default();
            let until = text.lines().take(40).find_map(|line| line.strip_prefix("Valid-Until: "));
            let until = until.and_then(|until| jiff::fmt::rfc2822::parse(&until.replace("UTC", "+0000")).ok());
            if until.is_some_and(|until| until.timestamp().as_second() < now) {
                bad.push(clipped(&format!("{} (it has ended)", source_name(&name))));
            }
        }
    }
    bad.sort();
    bad.dedup();
    Ok(bad)
}

/// `deb.debian.org_debian_dists_bookworm_InRelease` becomes deb.debian.org/debian bookworm.
fn source_name(file: &str) -> String {
    let name = file.trim_end_matches(".FAILED").trim_end_matches("_InRelease").trim_end_matches("_Release");
    match name.split_once("_dists_") {
        Some((place, release)) => format!("{} {}", place.replace('_', "/"), release.replace('_', "/")),
        None => name.replace('_', "/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_are_unverified_or_expired_are_named() {
        let place = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(place.path().join("partial")).expect("made");
        let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).expect("written");
        write("partial/apt.till.example_debian_dists_stable_InRelease", "x");
        write(
            "deb.debian.org_debian_dists_bookworm_InRelease",
            "Origin: Debian\nValid-Until: Sat, 01 Jan 2099 00:00:00 UTC\n",
        );
        write("old.example_dists_etch_main_Release", "Valid-Until: Sat, 01 Jan 2011 00:00:00 UTC\n");
        let bad = super::bad(place.path(), Some(0.5)).expect("read");
        assert_eq!(
            bad,
            [
                "apt.till.example/debian stable (its signature could not be verified)",
                "old.example etch/main (it has ended)"
            ]
        );
        assert_eq!(super::bad(place.path(), Some(30.0)).map(|bad| bad.len()), Ok(1), "all lists are old then");
    }

    #[test]
    fn sources_that_were_never_fetched_or_not_configured_are_reported() {
        let place = tempfile::tempdir().expect("a folder");
        let write = |name: &str| std::fs::write(place.path().join(name), "x").expect("written");
        write("deb.debian.org_debian_dists_bookworm_InRelease");
        write("till.example_.__Packages.lz4");
        let text = "http://deb.debian.org/debian|bookworm|/var/lib/apt/lists/deb.debian.org_debian_dists_bookworm_main_binary-amd64_Packages\n\
            http://deb.debian.org/debian|trixie|/var/lib/apt/lists/deb.debian.org_debian_dists_trixie_main_binary-amd64_Packages\n\
            http://till.example|./|/var/lib/apt/lists/till.example_.__Packages\nbroken\n";
        let Lacks::Some { unfetched, .. } = without(&parse(text), place.path()) else { panic!("some are set") };
        assert_eq!(unfetched, ["http://deb.debian.org/debian trixie (nothing was ever fetched)"]);
        assert_eq!(without(&[], place.path()), Lacks::All);
        assert!(has_security_source("NAME=x\nID=debian\nVERSION_ID=\"12\"\n"));
        // Testing releases and derived distributions have no separate security source.
        assert!(!has_security_source("ID=debian\n") && !has_security_source("ID=mint\nVERSION_ID=\"22\"\n"));
    }
}
