//! Where homes are. A home may hold others: `DIR` itself, or `DIR/staff`,
//! `DIR/approver`, `DIR/hub`, as `init` lays them.

use fernwart_client::{ApproverHome, StaffHome};
use std::path::{Path, PathBuf};

/// The folder that `--home` or the environment names, or the usual one.
#[derive(Debug, Clone)]
pub struct Place(PathBuf);

impl Place {
    /// From `--home`.
    pub fn new(home: Option<PathBuf>) -> Self {
        let usual = || {
            let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
            let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
            data.or_else(home).unwrap_or_else(|| PathBuf::from(".")).join("fernwart")
        };
        Self(home.unwrap_or_else(usual))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The staff home.
    pub fn staff(&self) -> PathBuf {
        if StaffHome::exists(&self.0) { self.0.clone() } else { self.0.join("staff") }
    }

    /// The approver's home.
    pub fn approver(&self) -> PathBuf {
        if ApproverHome::exists(&self.0) { self.0.clone() } else { self.0.join("approver") }
    }

    /// The hub's home.
    pub fn hub(&self) -> PathBuf {
        if self.0.join("hub.toml").exists() { self.0.clone() } else { self.0.join("hub") }
    }
}
