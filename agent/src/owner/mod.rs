//! What a customer types and reads: state, history, questions, records, and the texts.
//!
//! Nothing here decides: the executor does, and is asked over the local socket.

pub mod check;
pub mod history;
pub mod leaving;
pub(crate) mod notice;
pub mod questions;
pub mod report;
pub mod status;
pub mod user_error;
pub mod words;
