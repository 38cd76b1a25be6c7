//! The ssh server's effective settings from `sshd -T`, which evaluates Match, Include and every
//! notation as the server does.

use crate::collect::{child, memo};
use fernwart_protocol::diagnosis::{Cause, Reason};
use std::time::{Duration, Instant};

/// The relevant settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// `PermitRootLogin`, for root from a remote address.
    pub(super) root_login: String,
    /// Whether root can log in with a password.
    pub(super) root_password: bool,
    /// Whether any account can log in with a password.
    pub(super) passwords: bool,
}

/// A remote client (with an address reserved by RFC 5737).
const ROOT: &str = "user=root,host=outside.invalid,addr=203.0.113.7";
const ANYBODY: &str = "user=nobody,host=outside.invalid,addr=203.0.113.7";

/// Time limit for the server to read its settings.
const BUDGET: Duration = Duration::from_millis(1500);

pub(super) fn settings(until: Instant) -> Result<Settings, Cause> {
    if child::find("sshd").is_none() {
        return Err(Cause::new(Reason::Absent, "ssh server"));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Cause::new(Reason::NotPermitted, ""));
    }
    let until = until.min(Instant::now() + BUDGET);
    let mut all: Option<Settings> = None;
    for file in used_settings() {
        let own = file.as_deref();
        let places = ["/etc/ssh", "/etc/ssh/sshd_config.d", "/usr/sbin/sshd", "/run/sshd", own.unwrap_or_default()];
        let root = memo::holds("sshd root", &places, || ask(own, ROOT, until))?;
        let anybody = memo::holds("sshd anybody", &places, || ask(own, ANYBODY, until))?;
        let global = read(&root, &anybody);
        // If several servers run, a login that any of them permits counts.
        all = Some(match all {
            Some(all) if all.root_password || !global.root_password => {
                Settings { passwords: all.passwords || global.passwords, ..all }
            }
            Some(all) => Settings { passwords: all.passwords || global.passwords, ..global },
            None => global,
        });
    }
    all.ok_or_else(|| Cause::new(Reason::Absent, "ssh server"))
}

/// The configuration files of running servers that were started with `-f`; none stands for the
/// default file.
fn used_settings() -> Vec<Option<String>> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<Option<String>> = Vec::new();
    for process in processes {
        let is_it = crate::collect::read(process.path().join("comm")).is_some_and(|name| name.trim() == "sshd");
        if !is_it {
            continue;
        }
        let words = crate::collect::read(process.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&str> = words.split(['\0', ' ']).collect();
        // A process that serves a session has another name.
        let listens = words.iter().any(|word| word.ends_with("/sshd"));
        let file = words.windows(2).find_map(|pair| match pair {
            ["-f", file] => Some((*file).to_owned()),
            _ => None,
        });
        if listens && !found.contains(&file) && found.len() < 4 {
            found.push(file);
        }
    }
    if found.is_empty() { vec![None] } else { found }
}

fn ask(file: Option<&str>, whom: &str, until: Instant) -> Result<String, Cause> {
    let own = file.map(|file| ["-f", file]);
    let words: Vec<&str> = ["-T"].into_iter().chain(own.into_iter().flatten()).chain(["-C", whom]).collect();
    let ended = child::run("sshd", &words, until)?;
    // Without these the server cannot run either.
    let cannot_run = ["privilege separation directory", "no hostkeys available"];
    if cannot_run.iter().any(|words| ended.complaints.contains(words)) {
        return Err(Cause::new(Reason::Absent, "running ssh server"));
    }
    ended.complete("sshd")
}

/// Parses lines `permitrootlogin no`.
fn read(root: &str, anybody: &str) -> Settings {
    let value = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.unwrap_or_default().to_owned()
    };
    // Each list names methods that are all required; one of the lists is enough.
    let alone = |text: &str, method: &str| {
        let lists = value(text, "authenticationmethods");
        let is_it = |list: &str| list == "any" || list.split(',').all(|one| one.split(':').next() == Some(method));
        lists.is_empty() || lists.split_whitespace().any(is_it)
    };
    let takes_passwords = |text: &str| {
        let interactive = value(text, "kbdinteractiveauthentication") == "yes" && value(text, "usepam") == "yes";
        (value(text, "passwordauthentication") == "yes" && alone(text, "password"))
            || (interactive && alone(text, "keyboard-interactive"))
    };
    let root_login = value(root, "permitrootlogin");
    Settings {
        root_password: root_login == "yes" && takes_passwords(root) && is_let_in(root),
        passwords: takes_passwords(anybody),
        // The old name of the setting.
        root_login: if root_login == "without-password" { "prohibit-password".to_owned() } else { root_login },
    }
}

/// Whether the allow and deny lists permit root. Root's group is assumed to be `root`.
fn is_let_in(text: &str) -> bool {
    let list = |key: &str| -> Vec<&str> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        lines.flat_map(str::split_whitespace).map(|who| who.split('@').next().unwrap_or(who)).collect()
    };
    let has_root = |names: &[&str]| names.iter().any(|name| fits(name, "root"));
    let allows = |key: &str| Some(list(key)).filter(|names| !names.is_empty()).is_none_or(|names| has_root(&names));
    !has_root(&list("denyusers")) && !has_root(&list("denygroups")) && allows("allowusers") && allows("allowgroups")
}

/// Whether a name matches a pattern with `*` and `?` (ssh_config(5), PATTERNS).
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    match (pattern.chars().next(), name.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            let rest = pattern.get(1..).unwrap_or_default();
            fits(rest, name)
                || name.chars().next().is_some_and(|c| fits(pattern, name.get(c.len_utf8()..).unwrap_or_default()))
        }
        (Some(wanted), Some(c)) if wanted == '?' || wanted == c => {
            fits(pattern.get(wanted.len_utf8()..).unwrap_or_default(), name.get(c.len_utf8()..).unwrap_or_default())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_can_use_a_password_only_if_root_login_and_passwords_are_allowed() {
        let text = |root: &str, password: &str, interactive: &str| {
            format!(
                "port 22\nusepam yes\npermitrootlogin {root}\npasswordauthentication {password}\nkbdinteractiveauthentication {interactive}\n"
            )
        };
        let root = |text: String| read(&text, &text);
        assert!(root(text("yes", "yes", "no")).root_password);
        assert!(root(text("yes", "no", "yes")).root_password, "PAM asks for it");
        assert!(!root(text("yes", "no", "no")).root_password);
        let with = |line: &str| root(text("yes", "yes", "no") + line + "\n").root_password;
        assert!(with("authenticationmethods any") && with("authenticationmethods publickey password"));
        assert!(!with("authenticationmethods publickey") && !with("authenticationmethods publickey,password"));
        assert!(!with("allowusers bob") && with("allowusers bob\nallowusers ro*@192.0.2.*"));
        assert!(!with("denyusers root") && !with("allowgroups staff"));
        let keys = root(text("without-password", "yes", "no"));
        assert!(!keys.root_password && keys.passwords);
        assert_eq!(keys.root_login, "prohibit-password");
    }
}
