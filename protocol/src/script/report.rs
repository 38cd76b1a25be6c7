//! What a run of a script tells: how it ended, what it wrote, and whether what
//! was wrong is well.

use super::bundle::BundleName;
use crate::diagnosis::{Both, Finding};
use crate::document::UnixMs;
use crate::id::Digest;
use crate::limits::{REPORT_BYTES, REPORT_PLAIN_BYTES};
use serde::{Deserialize, Serialize};

/// What held a script in its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cage {
    /// A transient unit of systemd's.
    Systemd,
    /// A control group (version 2).
    ControlGroup,
    /// Namespaces and per-process limits, with a watch over their sum.
    Namespaces,
}

/// Why a script did not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// Its time was over.
    Time,
    /// It used too much memory.
    Memory,
    /// It had too many processes.
    Processes,
    /// It was filling the disk.
    Disk,
    /// It was taken back.
    Cancelled,
}

/// What was kept of an output stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its beginning, as text; what is no UTF-8 is replaced.
    pub head: String,
    /// Its end, where the middle was dropped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tail: String,
    /// All of it, bytes, as the script wrote them.
    pub bytes: u64,
    /// SHA-256 of all of it, as the script wrote it.
    pub sha256: Option<Digest>,
}

/// What a run of a script tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Version of this shape.
    pub v: u32,
    /// Which script.
    pub bundle: BundleName,
    /// Its version.
    pub version: u32,
    /// Whether it only showed what it would do.
    pub dry_run: bool,
    /// What held it.
    pub cage: Cage,
    /// Its exit code, if it ended by itself.
    pub exit: Option<i32>,
    /// Whether the code is a good one, as the manifest says.
    pub well: bool,
    /// What the code means, as the manifest says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub means: Option<Both>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why it was ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// When it began.
    pub started_at: UnixMs,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// What it wrote.
    pub stdout: Kept,
    /// What it wrote as errors.
    pub stderr: Kept,
    /// Secrets that were taken out of what it wrote.
    pub redacted: u64,
    /// What the checks its manifest names found before; nothing where they
    /// could not be made.
    pub before: Option<Vec<Finding>>,
    /// The same afterwards: none found means that all is well.
    pub after: Option<Vec<Finding>>,
}

impl RunReport {
    /// Whether the script did what it should: it ended well by itself, and
    /// what it should mend is well.
    pub fn is_well(&self) -> bool {
        let mended = match (&self.before, &self.after) {
            // What was only shown, or never checked, speaks for itself.
            _ if self.dry_run => true,
            (None, None) => true,
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
    /// As it travels: one zstd'd JSON.
    ///
    /// # Errors
    /// When it would be too long.
    pub fn pack(&self) -> Result<Vec<u8>, BadRunReport> {
        let json = serde_json::to_vec(self).map_err(|_| BadRunReport)?;
        let packed = zstd::bulk::compress(&json, 1).map_err(|_| BadRunReport)?;
        if packed.len() > REPORT_BYTES || json.len() > REPORT_PLAIN_BYTES { Err(BadRunReport) } else { Ok(packed) }
    }

    /// Reads one, never unpacking more than it may hold.
    ///
    /// # Errors
    /// When it is none.
    pub fn unpack(bytes: &[u8]) -> Result<Self, BadRunReport> {
        let json = zstd::bulk::decompress(bytes, REPORT_PLAIN_BYTES).map_err(|_| BadRunReport)?;
        serde_json::from_slice(&json).map_err(|_| BadRunReport)
    }
}
