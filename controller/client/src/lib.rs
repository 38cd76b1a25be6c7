//! A technician's side of the link: a home with keys, a catalogue verified
//! here, orders signed here, answers checked here.
//!
//! It does not trust the hub on what is approved or what a machine has answered. It imports
//! `certs`, `fleet` (states of runs) and `protocol`, never the hub.
//!
//! Programs for people use its typed operations, as values and streams; nothing here prints.
//! Single requests ([`Session::ask`]) are there for programs that test a hub.

mod answer;
mod error;
mod home;
mod job;
mod joining;
mod order;
mod session;
pub mod target;

pub use answer::{Answer, Answered, Seen};
pub use error::ClientError;
pub use fernwart_fleet::RunState;
pub use home::{ApproverHome, ClientHomeError, StaffHome, StaffSettings, Unlock};
pub use job::{Given, JobEvent, JobStream, Outcomes, SealedJob, Standing, Work};
pub use joining::{Newcomer, Offered};
pub use order::{OlderAgent, SignedOrder};
pub use session::records::{EventStream, ReceiptChain};
pub use session::{Session, Stream};

use fernwart_protocol::clock::Clock;
use fernwart_protocol::document::UnixMs;

/// Clock of this computer, Unix milliseconds.
pub fn now() -> UnixMs {
    Clock::System.now()
}
