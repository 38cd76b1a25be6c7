//! A technician's side of the link: a home with keys, a catalogue verified
//! here, orders signed here, answers checked here.
//!
//! It does not trust the hub on what is approved or what a machine has answered. It imports
//! `certs`, `fleet` (states of runs) and `protocol`, never the hub.

mod answer;
mod batch;
mod following;
mod home;
mod order;
mod session;
pub mod target;

pub use answer::{Answer, Answered, Seen, judge_news};
pub use batch::Batch;
pub use fernwart_fleet::RunState;
pub use following::{Following, Received};
pub use home::{ApproverHome, ClientHomeError, StaffHome, StaffSettings, Unlock};
pub use order::{OlderAgent, SignedOrder};
pub use session::{ClientError, Session, Stream};

use fernwart_protocol::clock::Clock;
use fernwart_protocol::document::UnixMs;

/// Clock of this computer, Unix milliseconds.
pub fn now() -> UnixMs {
    Clock::System.now()
}
