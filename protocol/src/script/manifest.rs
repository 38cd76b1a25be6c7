//! A script's manifest: what it is, what it needs, what it may do.
//!
//! The text is TOML with a closed set of fields. Whoever proposes, approves,
//! runs or refuses a script reads the same text.

use super::bundle::{BundleName, FileName};
use super::parameter::Declared;
use super::reader::{Mistake, Reader};
use crate::diagnosis::Both;
use crate::document::{ActionKind, UnixMs};
use serde::{Deserialize, Serialize};

/// Programs that may run a script; each has one fixed place.
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
    /// Where it is.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Sh => "/bin/sh",
            Self::Bash => "/bin/bash",
            Self::Python3 => "/usr/bin/python3",
            Self::Perl => "/usr/bin/perl",
        }
    }
}

/// Where a script can run.
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

/// What a script and all its children together may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Seconds from start to end.
    pub time_s: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Processes at once.
    pub processes: u32,
    /// Per cent of one core, 200 are two cores; nothing if it does not matter.
    pub cpu_pct: Option<u32>,
    /// What it may write on its output streams, MiB; more ends it. Of that the
    /// beginning and the end are kept.
    pub output_mib: u32,
}

/// What an exit code means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitMeaning {
    /// The code.
    pub code: u8,
    /// Whether it counts as done.
    pub well: bool,
    /// In words.
    pub says: Both,
}

/// A script's manifest. Only [`Manifest::read`] makes it, so it is whole.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The script's name.
    pub name: BundleName,
    /// Its version; a later one replaces it.
    pub version: u32,
    /// What it does, in a few words.
    pub title: Both,
    /// What it does, plainly.
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
    /// Whether it may speak to the system's services: systemd, D-Bus and the
    /// like. Through them it can do what they can.
    pub services: bool,
    /// Whether it may see which processes the machine has and which locks they hold,
    /// where `$FERNWART_PROC` says; else it sees its own alone.
    pub sees_processes: bool,
    /// Whether it can show what it would do.
    pub dry_run: bool,
    /// The script that takes it back.
    pub undo: Option<BundleName>,
    /// Whether it may be run again after nobody knows how it ended.
    pub retry_safe: bool,
    /// Whether it repairs a wrong clock, and so may run under one.
    pub repairs_clock: bool,
    /// After this it is not run any more.
    pub expires: Option<UnixMs>,
    /// What it may use.
    pub limits: Limits,
    /// Its parameters.
    pub parameters: Vec<Declared>,
    /// What its exit codes mean; 0 is well and all others are not, unless said.
    pub exits: Vec<ExitMeaning>,
    /// Findings to look for again afterwards, by their rules' names.
    pub checks: Vec<String>,
}

impl Manifest {
    /// Reads a manifest's text.
    ///
    /// # Errors
    /// Every mistake in it, in the order of the text.
    pub fn read(text: &str) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let mut file = Reader::file(text, &mut mistakes);
        let manifest = super::lint::read(&mut file);
        file.finish();
        mistakes.sort_by_key(|mistake| mistake.span.start);
        match manifest {
            Some(manifest) if mistakes.is_empty() => Ok(manifest),
            _ => Err(mistakes),
        }
    }

    /// Whether running it looks or acts. What is only shown changes nothing, unless it
    /// may speak to services, set the clock or use the network while it looks: much of a
    /// computer can be ruled over its own loopback.
    pub fn kind(&self, dry_run: bool) -> ActionKind {
        if self.changes_nothing(dry_run) && !self.network { ActionKind::Look } else { ActionKind::Act }
    }

    /// Whether it gets no right to change anything, whatever its owner takes it for.
    pub fn changes_nothing(&self, dry_run: bool) -> bool {
        (self.privilege == Privilege::Read || dry_run) && !self.services && !self.repairs_clock
    }

    /// What an exit code means: whether it is well, and its words if it has any.
    pub fn meaning(&self, code: i32) -> (bool, Option<&Both>) {
        let said = self.exits.iter().find(|meaning| i32::from(meaning.code) == code);
        (said.map_or(code == 0, |meaning| meaning.well), said.map(|meaning| &meaning.says))
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
    fn a_good_manifest_is_read_whole() {
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
    fn every_mistake_is_told_with_its_place_at_once() {
        let text = GOOD
            .replace("version = 3", "version = 0")
            .replace("\"sh\"", "\"zsh\"")
            .replace("time_s = 90", "time_s = 9000\ntimeout = 3")
            .replace("[A-Z", "[Z-A")
            .replace("code = 3\nwell = false", "code = 0\nwell = false");
        let told = mistakes(&text);
        let begins = [
            "3:11 version counts",
            "6:15 interpreter: unknown variant `zsh`",
            "16:10 time_s must be from 1 to 3600",
            "17:1 there is no \"timeout\" here",
            "22:11 this pattern cannot be read",
            "29:8 exit code 0 is always well",
        ];
        assert_eq!(told.len(), begins.len(), "{told:#?}");
        for (told, begin) in told.iter().zip(begins) {
            assert!(told.starts_with(begin), "{told} ≠ {begin}");
        }
        let unknown = Manifest::read(&text).expect_err("not good");
        let (word, known) = unknown.iter().find_map(|m| m.unknown.clone()).expect("one");
        assert!(word == "timeout" && known.contains(&"time_s"));
    }

    #[test]
    fn what_is_missing_is_named_and_broken_toml_too() {
        let told = mistakes("name = \"a b\"\n");
        assert!(told.iter().any(|what| what.contains("version is missing")), "{told:?}");
        assert!(told.iter().any(|what| what.contains("title.en and title.de are missing")), "{told:?}");
        assert!(told.iter().any(|what| what.starts_with("1:8 name: a name is written in small letters")), "{told:?}");
        assert!(!mistakes(&GOOD.replace("version = 3", "version = = 3")).is_empty());
        assert!(
            !mistakes(&format!("{GOOD}\n[[parameter]]\nname = \"unit\"\nkind = \"boolean\"\nen = \"x\"\nde = \"x\""))
                .is_empty()
        );
    }

    #[test]
    fn a_script_that_only_reads_names_nothing_to_write() {
        let text = GOOD
            .replace("\"repair\"", "\"read\"")
            .replace("retry_safe", "writes = [\"/var/log\", \"etc\"]\nretry_safe");
        let told = mistakes(&text);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("writes nowhere") && told[1].contains("must be a path"), "{told:?}");
    }

    #[test]
    fn what_may_rule_services_or_the_clock_never_counts_as_a_look() {
        for power in ["services", "repairs_clock"] {
            let text = GOOD.replace("retry_safe", &format!("{power} = true\nretry_safe"));
            let manifest = Manifest::read(&text).expect("good");
            assert_eq!((manifest.kind(false), manifest.kind(true)), (ActionKind::Act, ActionKind::Act), "{power}");
            let told = mistakes(&text.replace("\"repair\"", "\"read\""));
            assert!(told.len() == 1 && told[0].contains("changes nothing"), "{told:?}");
        }
        // Much of a computer is ruled over its own loopback, whoever only means to look.
        let text = GOOD.replace("retry_safe", "network = true\nretry_safe");
        for privilege in ["repair", "read"] {
            let text = text.replace("\"repair\"", &format!("{privilege:?}"));
            let text = if privilege == "read" { text.replace("writes", "#writes") } else { text };
            let manifest = Manifest::read(&text).expect("good");
            assert_eq!((manifest.kind(false), manifest.kind(true)), (ActionKind::Act, ActionKind::Act), "{privilege}");
        }
    }

    #[test]
    fn what_a_script_has_for_itself_is_nothing_to_write_to() {
        for path in ["/tmp", "/tmp/x", "/var/tmp/y"] {
            let told = mistakes(&GOOD.replace("retry_safe", &format!("writes = [\"{path}\"]\nretry_safe")));
            assert!(told.len() == 1 && told[0].contains("of its own"), "{told:?}");
        }
        assert!(Manifest::read(&GOOD.replace("retry_safe", "writes = [\"/tmpfiles\"]\nretry_safe")).is_ok());
    }

    #[test]
    fn where_the_services_sockets_lie_nobody_writes_without_saying_so() {
        let text = GOOD.replace("retry_safe", "writes = [\"/run/systemd\", \"/run/lock\"]\nretry_safe");
        let told = mistakes(&text);
        assert!(told.len() == 1 && told[0].contains("services = true"), "{told:?}");
        assert!(Manifest::read(&text.replace("retry_safe", "services = true\nretry_safe")).is_ok());
    }
}
