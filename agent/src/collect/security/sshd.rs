//! The ssh server's settings, in its own words: `sshd -T` reads Match, Include and
//! every spelling as the server does.

use crate::collect::{child, memo};
use fernwart_protocol::diagnosis::{Reason, Why};
use std::time::{Duration, Instant};

/// What matters of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// `PermitRootLogin`, for root from outside.
    pub(super) root_login: String,
    /// Whether root can come in with a password.
    pub(super) root_password: bool,
    /// Whether anybody can.
    pub(super) passwords: bool,
}

/// Somebody far away (an address of RFC 5737, which nobody has).
const ROOT: &str = "user=root,host=outside.invalid,addr=203.0.113.7";
const ANYBODY: &str = "user=nobody,host=outside.invalid,addr=203.0.113.7";

/// How long the server may take to read its own settings.
const BUDGET: Duration = Duration::from_millis(1500);

pub(super) fn settings(until: Instant) -> Result<Settings, Why> {
    if child::find("sshd").is_none() {
        return Err(Why::new(Reason::Absent, "ssh server"));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Why::new(Reason::NotPermitted, ""));
    }
    let until = until.min(Instant::now() + BUDGET);
    let places = ["/etc/ssh", "/etc/ssh/sshd_config.d", "/usr/sbin/sshd", "/run/sshd"];
    let root = memo::holds("sshd root", &places, || ask(ROOT, until))?;
    let anybody = memo::holds("sshd anybody", &places, || ask(ANYBODY, until))?;
    Ok(read(&root, &anybody))
}

fn ask(whom: &str, until: Instant) -> Result<String, Why> {
    let ended = child::run("sshd", &["-T", "-C", whom], until)?;
    // Without these it does not run either.
    let cannot_run = ["privilege separation directory", "no hostkeys available"];
    if cannot_run.iter().any(|words| ended.complaints.contains(words)) {
        return Err(Why::new(Reason::Absent, "running ssh server"));
    }
    ended.whole("sshd")
}

/// Lines `permitrootlogin no`.
fn read(root: &str, anybody: &str) -> Settings {
    let value = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.unwrap_or_default().to_owned()
    };
    let takes_passwords = |text: &str| {
        value(text, "passwordauthentication") == "yes"
            || (value(text, "kbdinteractiveauthentication") == "yes" && value(text, "usepam") == "yes")
    };
    let root_login = value(root, "permitrootlogin");
    Settings {
        root_password: root_login == "yes" && takes_passwords(root),
        passwords: takes_passwords(anybody),
        // Its old name.
        root_login: if root_login == "without-password" { "prohibit-password".to_owned() } else { root_login },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_gets_root_in_only_where_both_are_allowed() {
        let text = |root: &str, password: &str, interactive: &str| {
            format!(
                "port 22\nusepam yes\npermitrootlogin {root}\npasswordauthentication {password}\nkbdinteractiveauthentication {interactive}\n"
            )
        };
        let root = |text: String| read(&text, &text);
        assert!(root(text("yes", "yes", "no")).root_password);
        assert!(root(text("yes", "no", "yes")).root_password, "PAM asks for it");
        assert!(!root(text("yes", "no", "no")).root_password);
        let keys = root(text("without-password", "yes", "no"));
        assert!(!keys.root_password && keys.passwords);
        assert_eq!(keys.root_login, "prohibit-password");
    }
}
