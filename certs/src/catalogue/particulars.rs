//! `hub.json` and `shop.json`: how to reach and authenticate the hub, and the organisation's name
//! and contacts for the customer. They are approved, so no hub can alter them.

use fernwart_protocol::diagnosis::Language;
use fernwart_protocol::id::{Digest, KeyId, PublicKey};
use fernwart_protocol::text::Text;
use serde::{Deserialize, Serialize};

/// The hub's addresses and keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// Version of this format.
    pub v: u32,
    /// Its addresses: `host:port`, tried in order.
    pub addresses: Vec<Text<255>>,
    /// SHA-256 of each CA certificate in use.
    pub ca: Vec<Digest>,
    /// Keys that countersign receipts.
    pub evidence_keys: Vec<PublicKey>,
}

impl Hub {
    /// Whether `one` is an older key than `other`. The hub signs with its newest approved key only.
    /// A key that is not listed is older than every listed one; nothing is older than a key that is
    /// not listed.
    pub fn came_before(&self, one: &KeyId, other: &KeyId) -> bool {
        let place = |id: &KeyId| self.evidence_keys.iter().position(|key| crate::identity::key_id(key) == *id);
        place(other).is_some_and(|other| place(one).is_none_or(|one| one < other))
    }

    /// The evidence key with this id.
    pub fn evidence_key(&self, id: &KeyId) -> Option<&PublicKey> {
        self.evidence_keys.iter().find(|key| crate::identity::key_id(key) == *id)
    }
}

/// The organisation's name and contacts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shop {
    /// Version of this format.
    pub v: u32,
    /// The organisation's name.
    pub name: Text<120>,
    /// Contact persons, the one in charge first.
    pub contacts: Vec<Contact>,
    /// When they can be reached, as free text.
    pub hours: Text<200>,
    /// The organisation's language.
    pub language: Language,
}

/// One contact person.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// The name.
    pub name: Text<120>,
    /// The telephone number.
    #[serde(default)]
    pub phone: Text<40>,
    /// The mail address.
    #[serde(default)]
    pub mail: Text<120>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::key_id;

    #[test]
    fn a_key_that_the_hub_has_replaced_is_older_than_its_present_key() {
        let keys = [1, 2, 3].map(|n| PublicKey::from_bytes([n; 32]));
        let [old, new, unknown] = keys.map(|key| key_id(&key));
        let hub = Hub { evidence_keys: keys[..2].to_vec(), ..Hub::default() };
        assert!(hub.came_before(&old, &new) && hub.came_before(&unknown, &new));
        assert!(!hub.came_before(&new, &old) && !hub.came_before(&new, &new));
        // The list decides: nothing is older than a key that is not on it.
        assert!(!hub.came_before(&old, &unknown));
    }
}
