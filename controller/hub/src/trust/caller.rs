//! A technician who makes a request, and what the staff list allows.

use super::Trust;
use fernwart_certs::catalogue::{Customers, Role, StaffEntry};
use fernwart_fleet::{Job, Machine};
use fernwart_protocol::code::Denial;
use fernwart_protocol::id::{Digest, KeyId};

/// A technician's current entry on the published staff list.
pub(crate) struct Caller {
    pub(crate) entry: StaffEntry,
}

impl Caller {
    /// Looks up the current staff entry of this key, if it is still valid.
    pub(crate) fn current(trust: &Trust, key: KeyId, tls_key: Digest) -> Result<Self, Denial> {
        if trust.is_suspended(&key) {
            return Err(Denial::Suspended);
        }
        let catalogue = trust.published.catalogue().ok_or(Denial::NoCatalogue)?;
        let entry =
            catalogue.staff.find(&key).filter(|entry| entry.tls_key == tls_key && entry.until >= trust.records.now());
        entry.cloned().map(|entry| Self { entry }).ok_or(Denial::NotInStaffList)
    }

    /// Whether the role suffices.
    pub(crate) fn must_be(&self, role: Role) -> Result<(), Denial> {
        if self.entry.role >= role { Ok(()) } else { Err(Denial::BeyondRole) }
    }

    /// Whether this job is the caller's own, or the caller reaches all customers.
    pub(crate) fn may_see(&self, job: &Job) -> bool {
        job.key == self.entry.key || self.entry.customers == Customers::All
    }

    /// Whether this machine is within reach.
    pub(crate) fn reaches(&self, machine: &Machine) -> bool {
        self.entry.customers.include(&machine.customer)
    }
}
