//! `hub.json` and `shop.json`: how the hub is found and known, and whom the
//! customer sees. They are approved, so no hub can alter them.

use fernwart_protocol::diagnosis::Language;
use fernwart_protocol::id::{Digest, KeyId, PublicKey};
use fernwart_protocol::text::Text;
use serde::{Deserialize, Serialize};

/// The hub's particulars.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// Version of this shape.
    pub v: u32,
    /// Where it is: `host:port`, tried in turn.
    pub addresses: Vec<Text<255>>,
    /// SHA-256 of each CA certificate in use.
    pub ca: Vec<Digest>,
    /// Keys that countersign receipts.
    pub evidence_keys: Vec<PublicKey>,
}

impl Hub {
    /// Whether one key came before another: the hub signs with the newest that is
    /// approved, and a former one signs nothing new. One that is not known any
    /// more came before nothing.
    pub fn came_before(&self, one: &KeyId, other: &KeyId) -> bool {
        let place = |id: &KeyId| self.evidence_keys.iter().position(|key| crate::identity::key_id(key) == *id);
        place(other).is_some_and(|other| place(one).is_none_or(|one| one < other))
    }

    /// The evidence key with this id.
    pub fn evidence_key(&self, id: &KeyId) -> Option<&PublicKey> {
        self.evidence_keys.iter().find(|key| crate::identity::key_id(key) == *id)
    }
}

/// The shop's particulars.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shop {
    /// Version of this shape.
    pub v: u32,
    /// The firm.
    pub name: Text<120>,
    /// Who answers, first the one in charge.
    pub contacts: Vec<Contact>,
    /// When they answer, as people say it.
    pub hours: Text<200>,
    /// The firm's language.
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
    /// The address for mail.
    #[serde(default)]
    pub mail: Text<120>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::key_id;

    #[test]
    fn a_key_that_the_hub_has_parted_with_came_before_the_one_it_signs_with() {
        let keys = [1, 2, 3].map(|n| PublicKey::from_bytes([n; 32]));
        let [old, new, unknown] = keys.map(|key| key_id(&key));
        let hub = Hub { evidence_keys: keys[..2].to_vec(), ..Hub::default() };
        assert!(hub.came_before(&old, &new) && hub.came_before(&unknown, &new));
        assert!(!hub.came_before(&new, &old) && !hub.came_before(&new, &new));
        // What was signed with last is not on the list any more: that list rules.
        assert!(!hub.came_before(&old, &unknown));
    }
}
