//! Failed logins over ssh, and those that succeeded after many had failed.

use super::lines::Line;
use crate::collect::bytes::clipped;
use std::collections::HashMap;

/// Maximum number of sources counted.
const SOURCES: usize = 10_000;

/// Number of failures before a success that counts as guessing.
const GUESSES: u64 = 20;

/// The login attempts of one source.
#[derive(Debug, Default)]
struct Source {
    failed: u64,
    first_failure: i64,
    accepted: Option<(i64, String)>,
}

/// Counts login attempts.
#[derive(Debug, Default)]
pub(super) struct Logins {
    failed: u64,
    sources: HashMap<String, Source>,
}

impl Logins {
    pub(super) fn take(&mut self, line: &Line<'_>) {
        if !line.is_sshds {
            return;
        }
        // A client tries its keys one after another, so rejected keys are not guesses.
        let is_guess = ["password", "keyboard-interactive"];
        let by = |what: &str| {
            let method = line.message.strip_prefix(what)?.split(' ').next()?;
            is_guess.iter().any(|guess| method.starts_with(guess)).then_some(())
        };
        let (is_failed, is_accepted) = (by("Failed ").is_some(), by("Accepted ").is_some());
        if !is_failed && !is_accepted {
            return;
        }
        let Some(from) = source(line.message) else { return };
        if is_failed {
            self.failed += line.times;
        }
        if self.sources.len() >= SOURCES && !self.sources.contains_key(from) {
            return;
        }
        let source = self.sources.entry(from.to_owned()).or_default();
        if is_failed {
            source.failed += line.times;
            let earlier = source.first_failure == 0 || line.at < source.first_failure;
            source.first_failure = if earlier { line.at } else { source.first_failure };
        } else if source.accepted.as_ref().is_none_or(|(at, _)| line.at > *at) {
            let user = line.message.split(" for ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
            source.accepted = Some((line.at, user.to_owned()));
        }
    }

    /// The number of failures, the sources with most of them, and guessed logins as `user from
    /// source`.
    pub(super) fn end(self) -> (u64, Vec<String>, Vec<String>) {
        let mut sources: Vec<(String, Source)> = self.sources.into_iter().collect();
        sources.sort_by(|(a, x), (b, y)| y.failed.cmp(&x.failed).then_with(|| a.cmp(b)));
        let guessed = sources.iter().filter_map(|(from, source)| {
            let (at, user) = source.accepted.as_ref()?;
            (source.failed >= GUESSES && source.first_failure < *at).then(|| clipped(&format!("{user} from {from}")))
        });
        let guessed = guessed.take(8).collect();
        let most = sources.iter().filter(|(_, source)| source.failed > 0).take(3).map(|(from, _)| clipped(from));
        (self.failed, most.collect(), guessed)
    }
}

/// The address after the last `from`: the text before it may contain a user name chosen by an
/// attacker.
fn source(message: &str) -> Option<&str> {
    let (_, rest) = message.rsplit_once(" from ")?;
    rest.split(' ').next().filter(|from| from.parse::<std::net::IpAddr>().is_ok() || from.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(lines: &[(&str, u64)]) -> (u64, Vec<String>, Vec<String>) {
        let mut logins = Logins::default();
        for (index, (message, times)) in lines.iter().enumerate() {
            let at = i64::try_from(index).unwrap_or_default() + 1;
            logins.take(&Line { at, is_sshds: true, message, times: *times, ..Line::default() });
        }
        logins.end()
    }

    #[test]
    fn a_login_after_many_failures_from_the_same_source_is_reported() {
        let bad = ("Failed password for root from 192.0.2.7 port 40000 ssh2", 30);
        let good = ("Accepted password for root from 192.0.2.7 port 40001 ssh2", 1);
        let other = ("Accepted publickey for jana from 192.0.2.8 port 40001 ssh2: ED25519 SHA256:x", 1);
        assert_eq!(count(&[bad, good, other]), (30, vec!["192.0.2.7".into()], vec!["root from 192.0.2.7".into()]));
        assert_eq!(count(&[good, bad]).2, Vec::<String>::new(), "first the right password, then the wrong ones");
        assert_eq!(count(&[(bad.0, 5), good]).2, Vec::<String>::new());
        let keys = ("Failed publickey for jana from 192.0.2.8 port 40001 ssh2: RSA SHA256:y", 40);
        assert_eq!(count(&[keys, other]), (0, Vec::new(), Vec::new()), "a client with many keys guesses nothing");
        assert_eq!(
            count(&[("Failed password for jana from 192.0.2.8 port 1 ssh2", 30), other]).2,
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_user_name_cannot_be_mistaken_for_a_source() {
        let evil = "Failed password for invalid user x from 198.51.100.1 port 1 from 192.0.2.7 port 40000 ssh2";
        assert_eq!(count(&[(evil, 1)]).1, ["192.0.2.7"]);
        let mut logins = Logins::default();
        logins.take(&Line { message: "Failed password for root from 192.0.2.7 port 1 ssh2", ..Line::default() });
        assert_eq!(logins.end().0, 0, "not from an ssh server");
    }
}
