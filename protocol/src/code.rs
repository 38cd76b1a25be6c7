//! The closed table of what a peer is told when it hears "no".
//!
//! A code travels, never our own text or paths; each side words it for its
//! reader. Codes are appended, never changed.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! codes {
    ($(#[$enum_doc:meta])* $name:ident { $($variant:ident = $code:literal, $what:literal;)* }) => {
        $(#[$enum_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $(#[doc = $what] #[serde(rename = $code)] $variant,)* }

        impl $name {
            /// Every code, in the order of the wire.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable code.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// What it says, as half a sentence.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.what())
            }
        }
    };
}

codes! {
    /// Why a machine refused an order. The machine alone decides.
    Refusal {
        NotAnOrder = "FW-GATE-01", "the bytes are not an order";
        BadSignature = "FW-GATE-02", "the signature does not fit the order";
        UnknownStaff = "FW-GATE-03", "the key that signed is not on the staff list";
        StaffExpired = "FW-GATE-04", "the staff entry has run out";
        StaffLocked = "FW-GATE-05", "the key that signed is locked";
        BeyondRole = "FW-GATE-06", "the role does not allow this action";
        WrongCustomer = "FW-GATE-07", "the order is for another customer";
        WrongMachine = "FW-GATE-08", "the order is for another machine";
        NotYet = "FW-GATE-09", "the order is not valid yet";
        TooLate = "FW-GATE-10", "the order is no longer valid";
        Replayed = "FW-GATE-11", "the run id belongs to another order";
        CatalogueExpired = "FW-GATE-12", "the catalogue has run out";
        CatalogueBehind = "FW-GATE-13", "the technician has seen a newer catalogue";
        NotApproved = "FW-CAT-01", "nobody has approved this bundle";
        OwnerForbids = "FW-OWN-01", "the owner's policy says never";
        OwnerDeclined = "FW-OWN-02", "the owner said no";
        OwnerSilent = "FW-OWN-03", "the owner did not answer";
        PolicyUnreadable = "FW-OWN-04", "the owner's policy cannot be read, so only diagnosis is allowed";
        ClockImplausible = "FW-GATE-14", "the machine's clock is implausible";
        NoJournal = "FW-GATE-15", "the journal cannot be written";
        LedgerFull = "FW-GATE-16", "too many orders are kept already";
        MachineLocked = "FW-GATE-17", "the machine is locked";
        BadParameters = "FW-GATE-18", "the parameters do not fit what the script declares";
        NotFetched = "FW-CAT-10", "the machine could not fetch the approved script";
        ScriptExpired = "FW-CAT-11", "the script's own time has run out";
        OtherPlatform = "FW-CAT-12", "the script is not for this kind of machine";
        NoDryRun = "FW-CAT-13", "the script cannot show what it would do";
        NoCage = "FW-GATE-19", "the machine cannot hold the script within its limits";
        Paused = "FW-OWN-05", "the owner has paused the agent";
        TooManyChanges = "FW-OWN-06", "the owner allows no more changes today";
        NotListed = "FW-OWN-07", "the owner's policy does not list this script";
        OutsideWindow = "FW-OWN-08", "no window of the owner's opens in time";
        RecordsWentBack = "FW-GATE-20", "the machine's records do not know a run that had begun there: they went back";
    }
}

codes! {
    /// Why the hub said no to a technician, a machine or a newcomer.
    Denial {
        NotUnderstood = "FW-HUB-01", "the request was not understood";
        Incompatible = "FW-HUB-02", "the two programs have no protocol version in common";
        BeyondRole = "FW-HUB-03", "the role does not allow this";
        NoSuchMachine = "FW-HUB-04", "no such machine";
        NoSuchJob = "FW-HUB-05", "no such job";
        NoSuchCustomer = "FW-HUB-06", "no such customer";
        NameTaken = "FW-HUB-07", "the name is taken";
        StoreFull = "FW-HUB-08", "the hub's disk is full or its store cannot be written";
        StoreFailed = "FW-HUB-09", "the hub's store failed";
        ShuttingDown = "FW-HUB-10", "the hub is shutting down";
        TooMany = "FW-HUB-11", "a limit is reached";
        Suspended = "FW-HUB-12", "the staff key is suspended";
        NoCatalogue = "FW-HUB-13", "the hub has no published catalogue";
        CatalogueRefused = "FW-CAT-02", "the catalogue draft does not verify";
        CatalogueUnsigned = "FW-CAT-03", "signatures are missing";
        CatalogueStale = "FW-CAT-04", "the draft builds on an older catalogue";
        NoSuchDraft = "FW-CAT-05", "no such draft";
        OtherOutcome = "FW-HUB-14", "another outcome of this run is stored already";
        TokenUnknown = "FW-JOIN-01", "the invitation is unknown here";
        TokenExpired = "FW-JOIN-02", "the invitation has expired";
        TokenSpent = "FW-JOIN-03", "the invitation was used up by another machine";
        TokenProof = "FW-JOIN-04", "the proof of the invitation does not fit";
        TokenNetwork = "FW-JOIN-05", "the invitation is for another network";
        TokenKind = "FW-JOIN-06", "the invitation is for something else";
        KeysRefused = "FW-JOIN-07", "the keys are not of the kind or the holder they must be";
        MachineUnknown = "FW-JOIN-08", "this machine has not joined here";
        MachineRetired = "FW-JOIN-09", "this machine was retired";
        MachineRejected = "FW-JOIN-10", "this machine was rejected";
        NotPending = "FW-JOIN-11", "the machine is not waiting to be admitted";
        NotInStaffList = "FW-JOIN-12", "the key is not on the published staff list yet";
        NoSuchBlob = "FW-HUB-15", "the hub does not hold this file";
        UnfitParameters = "FW-HUB-16", "the parameters do not fit what the script declares";
        UnknownScript = "FW-HUB-17", "the catalogue holds no such script in this version";
        TooManyTags = "FW-HUB-32", "the machine takes no more labels or groups";
        QuestionsBusy = "FW-HUB-33", "the hub is busy with other questions, or still takes in what machines have told";
    }
}

/// Why a link was closed, as QUIC carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goodbye {
    /// All is well, the sender is leaving.
    Done,
    /// The peer said what no honest peer says.
    Misbehaved,
    /// No certificate, or none that admits to this door.
    NotAdmitted,
    /// The certificate has run out; it may only be renewed.
    CertificateExpired,
    /// The machine or key is no longer welcome.
    Revoked,
    /// The same peer has come on a newer link.
    Replaced,
    /// A limit is reached; try again later.
    Overloaded,
    /// No protocol version in common.
    Incompatible,
    /// Two computers use this identity; a person has to look into it.
    Quarantined,
    /// The peer sends or reads slower than is waited for.
    TooSlow,
    /// A code this build does not know.
    Unknown(u32),
}

impl Goodbye {
    /// One word, for counting.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Misbehaved => "misbehaved",
            Self::NotAdmitted => "not_admitted",
            Self::CertificateExpired => "certificate_expired",
            Self::Revoked => "revoked",
            Self::Replaced => "replaced",
            Self::Overloaded => "overloaded",
            Self::Incompatible => "incompatible",
            Self::Quarantined => "quarantined",
            Self::TooSlow => "too_slow",
            Self::Unknown(_) => "unknown",
        }
    }

    /// The number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::Done => 0,
            Self::Misbehaved => 1,
            Self::NotAdmitted => 2,
            Self::CertificateExpired => 3,
            Self::Revoked => 4,
            Self::Replaced => 5,
            Self::Overloaded => 6,
            Self::Incompatible => 7,
            Self::Quarantined => 8,
            Self::TooSlow => 9,
            Self::Unknown(number) => number,
        }
    }

    /// From the number on the wire.
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Done,
            1 => Self::Misbehaved,
            2 => Self::NotAdmitted,
            3 => Self::CertificateExpired,
            4 => Self::Revoked,
            5 => Self::Replaced,
            6 => Self::Overloaded,
            7 => Self::Incompatible,
            8 => Self::Quarantined,
            9 => Self::TooSlow,
            other => Self::Unknown(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_code_is_its_own() {
        let all = Refusal::ALL.iter().map(|r| r.code()).chain(Denial::ALL.iter().map(|d| d.code()));
        let mut seen = HashSet::new();
        for code in all {
            assert!(seen.insert(code), "{code} stands twice");
        }
    }

    #[test]
    fn a_goodbye_keeps_its_number() {
        for number in 0..12 {
            assert_eq!(Goodbye::from_number(number).number(), number);
        }
    }
}
