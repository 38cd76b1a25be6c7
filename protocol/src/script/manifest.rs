//! A script's manifest: what it is, what it needs, what it may do.
//!
//! The text is TOML with a closed set of fields. Authors, approvers, technicians and machines all
//! read the same text.

use super::bundle::{BundleName, FileName};
use super::parameter::Declared;

use crate::diagnosis::Both;
use crate::document::{ActionKind, UnixMs};
use serde::{Deserialize, Serialize};

/// Programs that may run a script; each has one fixed path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpreter {
    /// POSIX shell.
    Sh,
    /// bash.
    Bash,
    /// Python 3.
    Python3,
    /// Perl.
    Perl,
}

impl Interpreter {
    /// Its path.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Sh => "/bin/sh",
            Self::Bash => "/bin/bash",
            Self::Python3 => "/usr/bin/python3",
            Self::Perl => "/usr/bin/perl",
        }
    }
}

/// An operating system on which a script can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// Linux.
    Linux,
    /// Windows.
    Windows,
}

impl Platform {
    /// The one this program was built for.
    pub const HERE: Self = if cfg!(windows) { Self::Windows } else { Self::Linux };
}

/// How much of the machine a script may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privilege {
    /// Nothing.
    Read,
    /// The paths it names, and services through their manager.
    Repair,
    /// Anything but the agent itself.
    Raw,
}

impl Privilege {
    /// The word, as in a manifest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Repair => "repair",
            Self::Raw => "raw",
        }
    }
}

/// Resource limits for a script and all its children together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Seconds from start to end.
    pub time_s: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Processes at once.
    pub processes: u32,
    /// Per cent of one core, 200 are two cores; `None` for no limit.
    pub cpu_pct: Option<u32>,
    /// What it may write on its output streams, MiB; more stops it. The beginning and the end of
    /// that are kept.
    pub output_mib: u32,
}

/// What an exit code means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitMeaning {
    /// The code.
    pub code: u8,
    /// Whether it counts as success.
    pub well: bool,
    /// The meaning in words.
    pub says: Both,
}

/// A script's manifest. Only [`Manifest::read`] makes it, so it is always complete.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The script's name.
    pub name: BundleName,
    /// Its version; a later one replaces it.
    pub version: u32,
    /// What it does, in a few words.
    pub title: Both,
    /// What it does, in plain language.
    pub explain: Both,
    /// What runs it.
    pub interpreter: Interpreter,
    /// The file that is run.
    pub run: FileName,
    /// Where it can run.
    pub platforms: Vec<Platform>,
    /// How much it may change.
    pub privilege: Privilege,
    /// Paths it may write to.
    pub writes: Vec<String>,
    /// Whether it may use the network.
    pub network: bool,
    /// Whether it may use the system's services: systemd, D-Bus and others. Through them it can do
    /// everything that they can.
    pub services: bool,
    /// Whether it may see the machine's processes and the locks they hold, through the path in
    /// `$FERNWART_PROC`. Otherwise it only sees its own processes.
    pub sees_processes: bool,
    /// Whether it supports a dry run.
    pub dry_run: bool,
    /// The script that reverts it.
    pub undo: Option<BundleName>,
    /// Whether it may be run again after a run with an unknown outcome.
    pub retry_safe: bool,
    /// Whether it repairs a wrong clock, and so may run with a wrong clock.
    pub repairs_clock: bool,
    /// It may not be run after this time.
    pub expires: Option<UnixMs>,
    /// Its resource limits.
    pub limits: Limits,
    /// Its parameters.
    pub parameters: Vec<Declared>,
    /// The meanings of its exit codes. By default 0 is success and all others are failures.
    pub exits: Vec<ExitMeaning>,
    /// Rules to check again after the run.
    pub checks: Vec<String>,
}

impl Manifest {
    /// Whether running it is a look or an act. A dry run or a script that only reads is a look,
    /// unless it may use services, set the clock or use the network: over the loopback interface,
    /// much of a computer can be controlled.
    pub fn kind(&self, dry_run: bool) -> ActionKind {
        if self.changes_nothing(dry_run) && !self.network { ActionKind::Look } else { ActionKind::Act }
    }

    /// Whether it gets no right to change anything, even if it may use the network.
    pub fn changes_nothing(&self, dry_run: bool) -> bool {
        (self.privilege == Privilege::Read || dry_run) && !self.services && !self.repairs_clock
    }

    /// The meaning of an exit code: whether it is success, and the text if there is one.
    pub fn meaning(&self, code: i32) -> (bool, Option<&Both>) {
        let stated = self.exits.iter().find(|meaning| i32::from(meaning.code) == code);
        (stated.map_or(code == 0, |meaning| meaning.well), stated.map(|meaning| &meaning.says))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "service-restart"
version = 3
title = { en = "Restart a failed service", de = "Einen ausgefallenen Dienst neu starten" }
explain = { en = "Starts the service again.", de = "Startet den Dienst neu." }
interpreter = "sh"
run = "run.sh"
platforms = ["linux"]
privilege = "repair"
dry_run = true
retry_safe = true
checks = ["service.failed"]
expires = "2027-11-23"

[limits]
time_s = 90

[[parameter]]
name = "unit"
kind = "text"
pattern = '[A-Za-z0-9@._-]+\.service'
from = "unit"
en = "Which service"
de = "Welcher Dienst"

[[exit]]
code = 3
well = false
en = "There is no such service."
de = "Diesen Dienst gibt es nicht."
"#;

    #[test]
    fn a_valid_manifest_is_read_completely() {
        let manifest = Manifest::read(GOOD).expect("good");
        assert_eq!((manifest.name.as_str(), manifest.version), ("service-restart", 3));
        assert_eq!(
            manifest.limits,
            Limits { time_s: 90, memory_mib: 256, processes: 64, cpu_pct: None, output_mib: 64 }
        );
        assert_eq!(manifest.expires, Some(1_827_014_400_000));
        assert_eq!((manifest.kind(false), manifest.kind(true)), (ActionKind::Act, ActionKind::Look));
        assert!(!manifest.meaning(3).0 && manifest.meaning(0).0 && !manifest.meaning(1).0);
    }

    fn mistakes(text: &str) -> Vec<String> {
        let mistakes = Manifest::read(text).expect_err("not good");
        mistakes
            .iter()
            .map(|mistake| {
                let (line, column, _) = mistake.place(text);
                format!("{line}:{column} {}", mistake.what)
            })
            .collect()
    }

    #[test]
    fn all_mistakes_are_reported_together_with_their_positions() {
        let text = GOOD
            .replace("version = 3", "version = 0")
            .replace("\"sh\"", "\"zsh\"")
            .replace("time_s = 90", "time_s = 9000\ntimeout = 3")
            .replace("[A-Z", "[Z-A")
            .replace("code = 3\nwell = false", "code = 0\nwell = false");
        let mistakes_found = mistakes(&text);
        let begins = [
            "3:11 version counts",
            "6:15 interpreter: unknown variant `zsh`",
            "16:10 time_s must be from 1 to 3600",
            "17:1 there is no \"timeout\" here",
            "22:11 this pattern cannot be read",
            "29:8 exit code 0 is always well",
        ];
        assert_eq!(mistakes_found.len(), begins.len(), "{mistakes_found:#?}");
        for (mistakes_found, begin) in mistakes_found.iter().zip(begins) {
            assert!(mistakes_found.starts_with(begin), "{mistakes_found} ≠ {begin}");
        }
        let unknown = Manifest::read(&text).expect_err("not good");
        let (word, known) = unknown.iter().find_map(|m| m.unknown.clone()).expect("one");
        assert!(word == "timeout" && known.contains(&"time_s"));
    }

    #[test]
    fn missing_fields_and_broken_toml_are_reported() {
        let mistakes_found = mistakes("name = \"a b\"\n");
        assert!(mistakes_found.iter().any(|what| what.contains("version is missing")), "{mistakes_found:?}");
        assert!(
            mistakes_found.iter().any(|what| what.contains("title.en and title.de are missing")),
            "{mistakes_found:?}"
        );
        assert!(
            mistakes_found.iter().any(|what| what.starts_with("1:8 name: a name is written in small letters")),
            "{mistakes_found:?}"
        );
        assert!(!mistakes(&GOOD.replace("version = 3", "version = = 3")).is_empty());
        assert!(
            !mistakes(&format!("{GOOD}\n[[parameter]]\nname = \"unit\"\nkind = \"boolean\"\nen = \"x\"\nde = \"x\""))
                .is_empty()
        );
    }

    #[test]
    fn a_read_only_script_must_not_declare_paths_to_write() {
        let text = GOOD
            .replace("\"repair\"", "\"read\"")
            .replace("retry_safe", "writes = [\"/var/log\", \"etc\"]\nretry_safe");
        let mistakes_found = mistakes(&text);
        assert_eq!(mistakes_found.len(), 2, "{mistakes_found:?}");
        assert!(
            mistakes_found[0].contains("writes nowhere") && mistakes_found[1].contains("must be a path"),
            "{mistakes_found:?}"
        );
    }

    #[test]
    fn a_script_that_may_use_services_clock_or_network_is_never_a_look() {
        for power in ["services", "repairs_clock"] {
            let text = GOOD.replace("retry_safe", &format!("{power} = true\nretry_safe"));
            let manifest = Manifest::read(&text).expect("good");
            assert_eq!((manifest.kind(false), manifest.kind(true)), (ActionKind::Act, ActionKind::Act), "{power}");
            let mistakes_found = mistakes(&text.replace("\"repair\"", "\"read\""));
            assert!(mistakes_found.len() == 1 && mistakes_found[0].contains("changes nothing"), "{mistakes_found:?}");
        }
        // Much of a computer can be controlled over its own loopback interface.
        let text = GOOD.replace("retry_safe", "network = true\nretry_safe");
        for privilege in ["repair", "read"] {
            let text = text.replace("\"repair\"", &format!("{privilege:?}"));
            let text = if privilege == "read" { text.replace("writes", "#writes") } else { text };
            let manifest = Manifest::read(&text).expect("good");
            assert_eq!((manifest.kind(false), manifest.kind(true)), (ActionKind::Act, ActionKind::Act), "{privilege}");
        }
    }

    #[test]
    fn a_scripts_private_tmp_folders_are_rejected_as_paths_to_write() {
        for path in ["/tmp", "/tmp/x", "/var/tmp/y"] {
            let mistakes_found = mistakes(&GOOD.replace("retry_safe", &format!("writes = [\"{path}\"]\nretry_safe")));
            assert!(mistakes_found.len() == 1 && mistakes_found[0].contains("of its own"), "{mistakes_found:?}");
        }
        assert!(Manifest::read(&GOOD.replace("retry_safe", "writes = [\"/tmpfiles\"]\nretry_safe")).is_ok());
    }

    #[test]
    fn writing_to_folders_of_service_sockets_requires_the_services_right() {
        let text = GOOD.replace("retry_safe", "writes = [\"/run/systemd\", \"/run/lock\"]\nretry_safe");
        let mistakes_found = mistakes(&text);
        assert!(mistakes_found.len() == 1 && mistakes_found[0].contains("services = true"), "{mistakes_found:?}");
        assert!(Manifest::read(&text.replace("retry_safe", "services = true\nretry_safe")).is_ok());
    }
}
