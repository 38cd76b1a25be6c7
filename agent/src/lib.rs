//! The agent: a light daemon on a customer's machine.
//!
//! Two halves that communicate through the serialisable messages of [`message`], and through byte
//! channels ([`channel`]) for a script's live output: the
//! *uplink* (TLS key, network, frames) and the *executor* (evidence key, gate, owner's consent,
//! scripts, receipts). They are tasks of one process, designed so that they can become two. The
//! agent imports `protocol` and `certs`, never the controller.

pub mod action;
pub mod channel;
pub mod collect;
pub mod enroll;
pub mod executor;
pub mod home;
pub mod identity;
pub mod local;
pub mod machine;
pub mod message;
pub mod owner;
pub mod platform;
pub(crate) mod redact;
pub mod run;
pub mod uplink;

use fernwart_protocol::clock::Clock;
use fernwart_protocol::document::UnixMs;

/// The machine's clock, Unix milliseconds. Pure code must not call it.
pub fn now() -> UnixMs {
    Clock::System.now()
}
