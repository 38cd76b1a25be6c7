//! The codes with which a peer refuses or denies something.
//!
//! Only the code is sent, never our own text or paths; each side words it for its reader. Codes are
//! appended, never changed. An unknown code of a newer program is read as [`OtherCode`], displayed
//! as such and acknowledged like any other. A peer that does not know a code receives an older,
//! less exact one.

use crate::version::{Version, variants};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A code that this program does not know: a newer one has sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OtherCode {
    /// As it came in a frame.
    Number(u32),
    /// As it came in a document.
    Named(CodeName),
}

/// A code as documents name it: at most 15 of A-Z, 0-9 and -.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodeName {
    /// ASCII, padded with zeros.
    bytes: [u8; 15],
}

impl CodeName {
    fn as_str(&self) -> &str {
        let text = std::str::from_utf8(&self.bytes).unwrap_or_default();
        text.trim_end_matches('\0')
    }
}

impl fmt::Debug for CodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a code has 1 to 15 of A-Z, 0-9 and -")]
pub struct BadCode;

impl fmt::Display for OtherCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "other({number})"),
            Self::Named(name) => f.write_str(name.as_str()),
        }
    }
}

impl FromStr for OtherCode {
    type Err = BadCode;
    fn from_str(text: &str) -> Result<Self, BadCode> {
        if let Some(number) = text.strip_prefix("other(").and_then(|rest| rest.strip_suffix(')')) {
            return number.parse().map(Self::Number).map_err(|_| BadCode);
        }
        let is_of_code = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || !text.bytes().all(is_of_code) {
            return Err(BadCode);
        }
        let mut bytes = [0; 15];
        bytes.get_mut(..text.len()).ok_or(BadCode)?.copy_from_slice(text.as_bytes());
        Ok(Self::Named(CodeName { bytes }))
    }
}

macro_rules! codes {
    (
        $(#[$enum_doc:meta])* $name:ident, $unknown:literal, in general $general:ident {
            $($variant:ident = $code:literal, $what:literal $(, before it $older:ident)?;)*
        }
    ) => {
        $(#[$enum_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = $what] $variant,)*
            /// A code of a newer program.
            Other(OtherCode),
        }

        impl $name {
            /// The enum's name in serde and in [`variants`].
            pub(crate) const NAME: &'static str = stringify!($name);

            /// Every code that this program knows, in wire order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The older code to send to a peer that does not know this one.
            const fn before(self) -> Option<Self> {
                match self {
                    $($(Self::$variant => Some(Self::$older),)?)*
                    Self::Other(_) => Some(Self::$general),
                    _ => None,
                }
            }

            /// The code to send to a peer of this version.
            pub fn known_to(self, peer: Version) -> Self {
                let mut code = self;
                while let (false, Some(older)) = (code.is_known_to(peer), code.before()) {
                    code = older;
                }
                code
            }

            /// Whether a peer of this version knows it.
            pub fn is_known_to(self, peer: Version) -> bool {
                self.number().is_some_and(|number| {
                    variants::known(Self::NAME, peer).is_some_and(|count| number < count)
                })
            }

            /// The first version that knows it; `None` for a code that this program does not know.
            pub fn since(self) -> Option<Version> {
                self.number().and_then(|number| variants::since(Self::NAME, number))
            }

            /// The number to send to a peer of this version for the code with this number.
            pub(crate) fn number_for(number: u32, peer: Version) -> u32 {
                Self::from_number(number).known_to(peer).number().unwrap_or(number)
            }

            /// Its number on the wire; `None` for a code known only by its name.
            fn number(self) -> Option<u32> {
                match self {
                    Self::Other(OtherCode::Number(number)) => Some(number),
                    Self::Other(OtherCode::Named(_)) => None,
                    known => Self::ALL.iter().position(|code| *code == known).and_then(|at| u32::try_from(at).ok()),
                }
            }

            fn from_number(number: u32) -> Self {
                let known = usize::try_from(number).ok().and_then(|at| Self::ALL.get(at));
                known.copied().unwrap_or(Self::Other(OtherCode::Number(number)))
            }

            /// The stable code, or the display form of a code that this program does not know.
            pub fn code(&self) -> Cow<'static, str> {
                match self {
                    $(Self::$variant => Cow::Borrowed($code),)*
                    Self::Other(other) => Cow::Owned(other.to_string()),
                }
            }

            /// The stable code as a metrics label, from a closed list: "other" for every code that
            /// this program does not know.
            pub const fn label(&self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)*
                    Self::Other(_) => "other",
                }
            }

            /// Its meaning, as half a sentence.
            pub const fn what(&self) -> &'static str {
                match self {
                    $(Self::$variant => $what,)*
                    Self::Other(_) => $unknown,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.what())
            }
        }

        impl FromStr for $name {
            type Err = BadCode;
            /// From [`Self::code`].
            fn from_str(text: &str) -> Result<Self, BadCode> {
                match text {
                    $($code => Ok(Self::$variant),)*
                    other => other.parse().map(|other| match other {
                        OtherCode::Number(number) => Self::from_number(number),
                        named => Self::Other(named),
                    }),
                }
            }
        }

        /// A number in frames, the code in JSON.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                if to.is_human_readable() {
                    return to.serialize_str(&self.code());
                }
                // A code known only by its name has no number: send the general code.
                let number = self.number().or(Self::$general.number()).unwrap_or_default();
                to.serialize_unit_variant(Self::NAME, number, self.label())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                if from.is_human_readable() {
                    let text = Cow::<'de, str>::deserialize(from)?;
                    return text.parse().map_err(D::Error::custom);
                }
                u32::deserialize(from).map(Self::from_number)
            }
        }
    };
}

codes! {
    /// Why a machine refused an order. The machine alone decides.
    Refusal, "a reason that this program does not know: update it to read more", in general NotAnOrder {
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
        CatalogueBehind = "FW-GATE-13", "this machine's catalogue is older than the one the order was made with";
        NotApproved = "FW-CAT-01", "nobody has approved this bundle";
        OwnerForbids = "FW-OWN-01", "the owner's policy says never";
        OwnerDeclined = "FW-OWN-02", "the owner said no";
        OwnerSilent = "FW-OWN-03", "the owner did not answer";
        PolicyUnreadable = "FW-OWN-04", "the owner's policy cannot be read, so nothing but diagnosis is allowed";
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
        NewerOrder = "FW-GATE-21", "the order needs a newer agent than this machine has", before it NotAnOrder;
        FilesChanged = "FW-GATE-22", "the files of the machine's agent were changed since it started", before it NoJournal;
    }
}

codes! {
    /// Why the hub said no to a technician, a machine or a newcomer.
    Denial, "a reason that this program does not know: update it to read more", in general Incompatible {
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
        NewerDocument = "FW-HUB-34", "what was signed needs a newer hub", before it Incompatible;
    }
}

impl fmt::Display for Goodbye {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(number) => write!(f, "other({number})"),
            known => f.write_str(known.as_str()),
        }
    }
}

/// Why a link was closed, as QUIC carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goodbye {
    /// Normal end: the sender is leaving.
    Done,
    /// The peer broke the protocol.
    Misbehaved,
    /// No certificate, or none that is valid for this door.
    NotAdmitted,
    /// The certificate has run out; it may only be renewed.
    CertificateExpired,
    /// The machine or key is no longer admitted.
    Revoked,
    /// The same peer has opened a newer link.
    Replaced,
    /// A limit is reached; try again later.
    Overloaded,
    /// No protocol version in common.
    Incompatible,
    /// Two computers use this identity; a person has to look into it.
    Quarantined,
    /// The peer sends or reads slower than the minimum rate.
    TooSlow,
    /// A code of a newer program.
    Other(u32),
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
            Self::Other(_) => "other",
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
            Self::Other(number) => number,
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
            other => Self::Other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use std::collections::HashSet;

    #[test]
    fn every_code_is_unique() {
        let all = Refusal::ALL.iter().map(|r| r.code()).chain(Denial::ALL.iter().map(|d| d.code()));
        let mut seen = HashSet::new();
        for code in all {
            assert!(seen.insert(code.clone()), "{code} stands twice");
            let other: OtherCode = code.parse().expect("as short as codes are");
            assert_eq!(other.to_string(), code);
        }
    }

    #[test]
    fn an_unknown_code_is_decoded_displayed_and_forwarded_unchanged() {
        let number = 57u32.to_le_bytes();
        let refusal: Refusal = decode(&number).expect("read");
        assert_eq!((refusal.code().as_ref(), refusal.label()), ("other(57)", "other"));
        assert_eq!(refusal.code().parse(), Ok(refusal), "as the store keeps it");
        assert_eq!(encode(&refusal).expect("written"), number);
        let named: Denial = serde_json::from_str(r#""FW-HUB-99""#).expect("read");
        assert_eq!(named.code(), "FW-HUB-99");
        assert_eq!(serde_json::to_string(&named).expect("written"), r#""FW-HUB-99""#);
        for bad in ["", "fw-hub-1", "FW-HUB-1234567890", "other(x)", "FW HUB"] {
            assert_eq!(bad.parse::<Denial>(), Err(BadCode), "{bad}");
        }
        assert_eq!("other(3)".parse(), Ok(Refusal::StaffExpired), "known since");
    }

    #[test]
    fn a_peer_receives_an_older_code_that_it_knows() {
        let old = Version::OLDEST;
        assert_eq!(Refusal::NewerOrder.known_to(old), Refusal::NotAnOrder);
        assert_eq!(Refusal::NewerOrder.known_to(Version::NEWEST), Refusal::NewerOrder);
        assert_eq!(Denial::NewerDocument.known_to(old), Denial::Incompatible);
        assert_eq!(Denial::Other(OtherCode::Number(99)).known_to(old), Denial::Incompatible);
        // Each code has a fallback that the oldest version knows.
        for refusal in Refusal::ALL {
            assert!(refusal.known_to(old).is_known_to(old), "{refusal:?}");
        }
        for denial in Denial::ALL {
            assert!(denial.known_to(old).is_known_to(old), "{denial:?}");
        }
    }

    #[test]
    fn a_goodbye_keeps_its_number() {
        for number in 0..12 {
            assert_eq!(Goodbye::from_number(number).number(), number);
        }
        assert_eq!(Goodbye::from_number(57).to_string(), "other(57)");
        for number in 0..10 {
            assert_ne!(Goodbye::from_number(number).as_str(), "other");
        }
    }
}
