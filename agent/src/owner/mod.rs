//! What a customer types and reads: state, history, questions, records, and the texts.
//!
//! Decisions are made by the executor, which is asked over the local socket.

pub mod check;
pub mod history;
pub mod leaving;
pub(crate) mod notice;
pub mod questions;
pub mod report;
pub mod status;
pub mod user_error;
pub mod words;
