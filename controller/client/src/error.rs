//! Why a request failed.

use crate::home::ClientHomeError;
use crate::order::OlderAgent;
use fernwart_certs::catalogue::CatalogueError;
use fernwart_certs::envelope::EnvelopeError;
use fernwart_certs::sealed;
use fernwart_certs::tls::TlsError;
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::link::{DialError, FrameError, LinkError, NotReached};
use fernwart_protocol::text::MachineName;
use fernwart_protocol::version::NoCommonVersion;

/// A request could not be made or answered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A machine has not published its sealing key.
    #[error("{0} has not said yet which key opens secrets for it; it does so once it is linked with a newer agent")]
    NoSealingKey(MachineName),
    /// Secrets cannot be encrypted for a machine.
    #[error("sealing secrets for a machine")]
    Sealing(#[source] sealed::SealError),
    /// The home cannot be used.
    #[error("using this home")]
    Home(#[source] ClientHomeError),
    /// This home has no certificate yet.
    #[error("this home has joined but nobody has put it on the staff list yet")]
    NotAdmitted,
    /// This home's organisation has no catalogue yet.
    #[error("this home has no catalogue: nothing is published yet, or its catalogue.json is gone")]
    NothingPublished,
    /// TLS cannot be configured.
    #[error("configuring the link")]
    Tls(#[source] TlsError),
    /// The hub cannot be reached.
    #[error("the hub at {address} does not answer")]
    Dial {
        /// Where it should be.
        address: String,
        /// What happened.
        #[source]
        source: DialError,
    },
    /// None of the hub's names has an address.
    #[error("the hub's name {0} has no address")]
    NoAddress(String),
    /// The link has ended.
    #[error("the link to the hub has ended")]
    Link(#[source] LinkError),
    /// The hub violates the protocol.
    #[error("speaking with the hub")]
    Frame(#[source] FrameError),
    /// The hub denies the request.
    #[error("{0}")]
    Denied(Denial),
    /// The hub speaks another version.
    #[error("the hub speaks another version")]
    Version(#[source] NoCommonVersion),
    /// The hub is too old for the request; nothing was sent.
    #[error("the hub runs an older version, which knows no {what}")]
    OlderHub {
        /// What it does not know.
        what: &'static str,
    },
    /// A machine's agent is too old for the order; nothing was signed.
    #[error("{machine}: {why}")]
    OlderAgent {
        /// The machine.
        machine: MachineName,
        /// Its program, and what that does not know.
        why: OlderAgent,
    },
    /// The hub's catalogue fails verification.
    #[error("verifying the hub's catalogue")]
    Catalogue(#[source] CatalogueError),
    /// The hub has an older catalogue than this home and refuses the newer one.
    #[error("the hub has catalogue {hub}, this home {home}, which the hub does not take back ({denial})")]
    FellBack {
        /// The version the hub has.
        hub: u64,
        /// The version known here.
        home: u64,
        /// The hub's denial.
        denial: Denial,
    },
    /// An order cannot be signed.
    #[error("signing an order")]
    Sign(#[source] EnvelopeError),
    /// The hub answered something else than was asked.
    #[error("the hub answered something else than was asked")]
    Unexpected,
    /// A draft is longer than the hub takes.
    #[error("the draft is too long")]
    DraftTooLong,
    /// The newcomer's TLS key is longer than the hub takes.
    #[error("the TLS key is too long")]
    KeyTooLong,
    /// The certificate for a newcomer is not for the newcomer's key.
    #[error("the hub's certificate is not for this key")]
    WrongCertificate,
    /// More than a job can hold.
    #[error("too many machines for one job")]
    TooMany,
}

impl From<NotReached> for ClientError {
    fn from(error: NotReached) -> Self {
        match error {
            NotReached::NoAddress(name) => Self::NoAddress(name),
            NotReached::Dial { name, source } => Self::Dial { address: name, source },
        }
    }
}

impl ClientError {
    /// Whether the hub or the network is down.
    pub fn is_no_answer(&self) -> bool {
        match self {
            Self::Dial { source: DialError::Link { source, .. }, .. } | Self::Link(source) => !matches!(
                source,
                LinkError::Closed(Goodbye::Revoked | Goodbye::NotAdmitted | Goodbye::CertificateExpired)
                    | LinkError::Handshake(_)
                    | LinkError::HandshakeHere(_)
            ),
            Self::NoAddress(_) | Self::Frame(FrameError::Cut) => true,
            _ => false,
        }
    }
}
