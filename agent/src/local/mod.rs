//! Asking the running agent, from its own machine: a socket in its folder.
//!
//! One line of JSON each way. The socket can be reached by whoever may enter
//! the folder: the administrator, and the accounts that the policy says are
//! asked. Whoever calls, the kernel's word on who that is decides.
pub mod accounts;
mod client;
pub mod messages;
mod server;

pub use accounts::is_account;
pub use client::{STARTS, ask, ask_within};
pub use messages::{Answer, Asked, Caller, JOURNAL_PAGE, LastRun, OwnerCommand, Question, Status};
pub(crate) use server::open_to;
pub use server::serve;
