//! `staff.json`: which staff keys exist, and what they may do for which customers.

use fernwart_protocol::document::{ActionKind, UnixMs};
use fernwart_protocol::id::{CustomerId, Digest, KeyId, PublicKey};
use fernwart_protocol::text::Text;
use serde::{Deserialize, Serialize};

/// What a staff member may do. Each role includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Diagnose,
    /// Act.
    Repair,
    /// Invite, admit, label and retire machines, and manage customers.
    Lead,
}

impl Role {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Diagnose => "diagnose",
            Self::Repair => "repair",
            Self::Lead => "lead",
        }
    }

    /// Whether it may give orders of this kind.
    pub const fn may(self, kind: ActionKind) -> bool {
        match (self, kind) {
            (_, ActionKind::Look) | (Self::Repair | Self::Lead, ActionKind::Act) => true,
            (Self::Diagnose, ActionKind::Act) => false,
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "diagnose" => Ok(Self::Diagnose),
            "repair" => Ok(Self::Repair),
            "lead" => Ok(Self::Lead),
            _ => Err("roles are diagnose, repair and lead".into()),
        }
    }
}

/// The customers whose machines a staff member may access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Customers {
    /// All customers.
    All,
    /// Only these customers.
    Only(Vec<CustomerId>),
}

impl Customers {
    /// Whether this customer is among them.
    pub fn include(&self, customer: &CustomerId) -> bool {
        match self {
            Self::All => true,
            Self::Only(some) => some.contains(customer),
        }
    }
}

/// One staff member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaffEntry {
    /// The key id, which commits to both keys.
    pub key: KeyId,
    /// The key that signs their orders.
    pub order_key: PublicKey,
    /// SHA-256 of the TLS public key.
    pub tls_key: Digest,
    /// The name.
    pub name: Text<64>,
    /// What they may do.
    pub role: Role,
    /// Whose machines.
    pub customers: Customers,
    /// When the entry expires.
    pub until: UnixMs,
}

/// The staff list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaffList {
    /// Version of this format.
    pub v: u32,
    /// Its entries.
    pub staff: Vec<StaffEntry>,
}

impl StaffList {
    /// The entry of a key. Entries whose id does not commit to their own keys are ignored.
    pub fn find(&self, key: &KeyId) -> Option<&StaffEntry> {
        self.staff
            .iter()
            .find(|entry| entry.key == *key)
            .filter(|entry| crate::identity::staff_key_id(&entry.order_key, &entry.tls_key) == entry.key)
    }
}
