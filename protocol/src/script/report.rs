//! The report of a script's run: how it ended, what it wrote, and whether the problem it should
//! repair is gone.

use super::bundle::BundleName;
use crate::diagnosis::{Both, Finding};
use crate::document::UnixMs;
use crate::id::Digest;
use crate::limits::{REPORT_BYTES, REPORT_PLAIN_BYTES};
use crate::text::Text;
use serde::{Deserialize, Serialize};

/// The mechanism that enforced a script's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cage {
    /// A transient unit of systemd's.
    Systemd,
    /// A control group (version 2).
    ControlGroup,
    /// Namespaces and per-process limits, with a watcher for their sum.
    Namespaces,
}

/// Why a script was stopped, or which limit it hit before it ended badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// Its time limit was reached.
    Time,
    /// It used too much memory.
    Memory,
    /// It had too many processes.
    Processes,
    /// It was filling the disk.
    Disk,
    /// It was cancelled.
    Cancelled,
    /// It wrote too much output.
    Output,
}

/// The kept part of an output stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its beginning, as text; bytes that are not UTF-8 are replaced.
    pub head: String,
    /// Its end, if the middle was dropped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tail: String,
    /// Length of the complete output, bytes, after secrets were removed.
    pub bytes: u64,
    /// SHA-256 of the complete output, after secrets were removed.
    pub sha256: Option<Digest>,
}

impl Kept {
    /// The kept parts, with a line between them that states how much is missing.
    pub fn in_one(&self) -> String {
        if self.tail.is_empty() {
            return self.head.clone();
        }
        let missing = self.bytes.saturating_sub((self.head.len() + self.tail.len()) as u64);
        format!("{}\n… about {missing} bytes …\n{}", self.head, self.tail)
    }

    /// Truncates the beginning and the end to at most this many bytes each.
    fn cut(&mut self, most: usize) {
        let head = self.head.floor_char_boundary(most);
        if head < self.head.len() && self.tail.is_empty() {
            let from = self.head.ceil_char_boundary(self.head.len().saturating_sub(most).max(head));
            self.tail = self.head.get(from..).unwrap_or_default().to_owned();
        }
        self.head.truncate(head);
        let from = self.tail.ceil_char_boundary(self.tail.len().saturating_sub(most));
        self.tail.drain(..from);
    }
}

/// The report of a script's run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Version of this format.
    pub v: u32,
    /// Which script.
    pub bundle: BundleName,
    /// Its version.
    pub version: u32,
    /// Whether it only showed what it would do.
    pub dry_run: bool,
    /// The mechanism that enforced its limits.
    pub cage: Cage,
    /// Its exit code, if it ended by itself.
    pub exit: Option<i32>,
    /// Whether the manifest counts the code as success.
    pub well: bool,
    /// The meaning of the code, from the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub means: Option<Both>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why it was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// When it began.
    pub started_at: UnixMs,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Its standard output.
    pub stdout: Kept,
    /// Its standard error.
    pub stderr: Kept,
    /// How many secrets were removed from the output.
    pub redacted: u64,
    /// Mounts hidden from it, because they do not respond.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unseen: Vec<String>,
    /// Whether its manifest names checks.
    #[serde(default)]
    pub checked: bool,
    /// What the checks in its manifest found before the run; `None` if they could not be made.
    pub before: Option<Vec<Finding>>,
    /// The same after the run: an empty list means that all is well.
    pub after: Option<Vec<Finding>>,
}

impl RunReport {
    /// Whether the script succeeded: it ended by itself with a good code, and its checks find
    /// nothing any more.
    pub fn is_well(&self) -> bool {
        let mended = match (&self.before, &self.after) {
            // A dry run needs no check, and neither does a script whose manifest names none.
            _ if self.dry_run => true,
            (None, None) if !self.checked => true,
            (_, after) => after.as_ref().is_some_and(Vec::is_empty),
        };
        self.well && self.stopped.is_none() && mended
    }
}

/// A report that cannot be packed or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a run's report cannot be read")]
pub struct BadRunReport;

impl RunReport {
    /// Encodes it for travel: JSON compressed with zstd.
    ///
    /// # Errors
    /// When it would be too long.
    pub fn pack(&self) -> Result<Vec<u8>, BadRunReport> {
        let json = serde_json::to_vec(self).map_err(|_| BadRunReport)?;
        let packed = zstd::bulk::compress(&json, 1).map_err(|_| BadRunReport)?;
        if packed.len() > REPORT_BYTES || json.len() > REPORT_PLAIN_BYTES { Err(BadRunReport) } else { Ok(packed) }
    }

    /// The same, but truncates the output as far as needed to fit.
    ///
    /// # Errors
    /// When not even a report without output would fit.
    pub fn pack_to_fit(mut self) -> Result<Vec<u8>, BadRunReport> {
        loop {
            if let Ok(packed) = self.pack() {
                return Ok(packed);
            }
            let most = [&self.stdout, &self.stderr].map(|kept| kept.head.len().max(kept.tail.len()));
            let most = most.into_iter().max().unwrap_or_default() / 2;
            if most == 0 {
                return Err(BadRunReport);
            }
            for kept in [&mut self.stdout, &mut self.stderr] {
                kept.cut(most);
            }
        }
    }

    /// Decodes a report, with a limit on its decompressed size.
    ///
    /// # Errors
    /// When it is none.
    pub fn unpack(bytes: &[u8]) -> Result<Self, BadRunReport> {
        let json = crate::unpack::unpack(bytes).map_err(|_| BadRunReport)?;
        serde_json::from_slice(&json).map_err(|_| BadRunReport)
    }
}

/// Why a machine did not run a script: the body of a refusal's receipt, if there are more details
/// than the code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRun {
    /// Version of this format; fields are only added.
    pub v: u32,
    /// The cause, in the machine's words; at most 500 bytes.
    pub why: Text<500>,
}

impl NotRun {
    /// A cause, truncated if it is too long.
    pub fn because(why: &str) -> Self {
        Self { v: 1, why: Text::clipped(why) }
    }

    /// Encodes it for travel: JSON.
    pub fn pack(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Decodes it; `None` if it is something else.
    pub fn unpack(bytes: &[u8]) -> Option<Self> {
        // The limit is enough for a text of 500 bytes of which each is escaped.
        serde_json::from_slice(bytes.get(..bytes.len().min(4096))?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(stdout: Kept) -> RunReport {
        RunReport {
            v: 1,
            bundle: "hello".parse().expect("a name"),
            version: 1,
            dry_run: false,
            cage: Cage::Namespaces,
            exit: Some(0),
            well: true,
            means: None,
            signal: None,
            stopped: None,
            started_at: 0,
            took_ms: 1,
            stdout,
            stderr: Kept::default(),
            redacted: 0,
            unseen: Vec::new(),
            checked: false,
            before: None,
            after: None,
        }
    }

    #[test]
    fn a_report_that_is_too_long_is_sent_without_the_middle_of_its_output() {
        let head = "\u{1}ä".repeat(REPORT_PLAIN_BYTES / 8);
        let long = report(Kept { head: head.clone(), tail: String::new(), bytes: 7, sha256: None });
        assert!(long.pack().is_err());
        let read = RunReport::unpack(&long.pack_to_fit().expect("packed")).expect("read");
        assert!(head.starts_with(&read.stdout.head) && head.ends_with(&read.stdout.tail));
        assert!(read.stdout.head.len() > 100_000 && read.stdout.tail.len() > 100_000 && read.stdout.bytes == 7);
        let short = report(Kept { head: "hello".into(), ..Kept::default() });
        assert_eq!(RunReport::unpack(&short.clone().pack_to_fit().expect("packed")), Ok(short));
    }

    #[test]
    fn a_repair_succeeds_only_if_its_checks_find_nothing_afterwards() {
        let finding = || {
            vec![Finding {
                id: "disk.free".into(),
                instance: None,
                severity: crate::diagnosis::Severity::Crit,
                cause: Both { en: "full".into(), de: "voll".into() },
                advice: Both { en: "x".into(), de: "x".into() },
                evidence: std::collections::BTreeMap::new(),
                remedy: None,
                worse_unknown: false,
            }]
        };
        let with = |before, after| RunReport { before, after, ..report(Kept::default()) };
        assert!(with(None, None).is_well());
        assert!(!RunReport { checked: true, ..with(None, None) }.is_well(), "what nobody could check is not proved");
        assert!(with(Some(finding()), Some(Vec::new())).is_well());
        assert!(!with(Some(finding()), Some(finding())).is_well());
        assert!(!with(Some(finding()), None).is_well(), "what cannot be checked again is not proved");
        assert!(!RunReport { well: false, ..with(None, None) }.is_well());
        assert!(!RunReport { stopped: Some(Stopped::Time), ..with(None, None) }.is_well());
    }
}
