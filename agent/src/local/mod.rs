//! Asking the running agent, from its own machine: a socket in its folder.
//!
//! One line of JSON each way. The administrator and the accounts that the policy names can
//! reach the socket. Who calls is read from the kernel (SO_PEERCRED), not from the caller.

pub mod accounts;
mod client;
pub mod messages;
mod server;

pub use accounts::is_account;
pub use client::{STARTS, ask, ask_within};
pub use messages::{Answer, Asked, Caller, JOURNAL_PAGE, LastRun, OwnerCommand, Question, Status};
pub use server::serve;
