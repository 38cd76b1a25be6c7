//! A bundle, the unit that the catalogue approves: a manifest with its files, each by its hash.

use crate::document::Document;
use crate::id::{Digest, KeyId};
use crate::text::{List, Text};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;

/// A text that is no valid name of a bundle or of a bundle's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// A bundle's.
    #[error("a name is written in small letters, digits and hyphens, begins with a letter, and has 2 to 63 of them")]
    Bundle,
    /// A file's.
    #[error("a file's name has letters, digits, dots, hyphens and underscores, and does not begin with a dot")]
    File,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $bad:expr, $holds:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                let holds: fn(&str) -> bool = $holds;
                if holds(text) { Ok(Self(text.to_owned())) } else { Err($bad) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// A bundle's name, as `service-restart`.
    BundleName,
    BadName::Bundle,
    |text| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (2..=63).contains(&text.len()) && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(fits)
    }
);

name!(
    /// The name of a bundle's file; bundles have no folders.
    FileName,
    BadName::File,
    |text| {
        let fits = |c: char| c.is_ascii_alphanumeric() || ['.', '-', '_'].contains(&c);
        (1..=100).contains(&text.len()) && !text.starts_with('.') && text.chars().all(fits)
    }
);

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleFile {
    /// Its name.
    pub name: FileName,
    /// SHA-256 of its content.
    pub sha256: Digest,
    /// Its length.
    pub bytes: u64,
}

/// An approved script. Orders and the catalogue refer to it by its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Its name, as in its manifest.
    pub name: BundleName,
    /// Its version, as in its manifest.
    pub version: u32,
    /// The manifest's text: approvers and machines read the same bytes.
    pub manifest: Text<32768>,
    /// Its files.
    pub files: List<BundleFile, 16>,
}

impl Document for Bundle {
    const KIND: &'static str = "bundle";
    /// A bundle has no signer of its own: the catalogue that names it is signed.
    fn signer(&self) -> KeyId {
        KeyId::from_bytes([0; 16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_bundle_and_file_names_are_rejected() {
        for good in ["disk-free", "a1", "time-sync"] {
            assert!(good.parse::<BundleName>().is_ok(), "{good}");
        }
        for bad in ["", "a", "Disk", "-x", "1a", "a/b", "a..b", "a b", &"a".repeat(64)] {
            assert_eq!(bad.parse::<BundleName>(), Err(BadName::Bundle), "{bad}");
        }
        for bad in ["", ".profile", "..", "a/b", "a b", "a\n", "ä"] {
            assert_eq!(bad.parse::<FileName>(), Err(BadName::File), "{bad}");
        }
        assert!("run.sh".parse::<FileName>().is_ok());
    }
}
