//! Lets programs on this machine ask the running agent, over a socket in its folder.
//!
//! One line of JSON each way. The administrator and the accounts named in the policy can reach
//! the socket. The caller's identity comes from the kernel (SO_PEERCRED), not from the caller.

mod client;
pub mod messages;
mod server;

pub use crate::platform::accounts::is_account;
pub use client::{STARTS, ask, ask_within};
pub use messages::{Answer, Asked, Caller, JOURNAL_PAGE, LastRun, OwnerCommand, Question, Status};
pub use server::serve;
