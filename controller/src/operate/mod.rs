//! Starts things: an organisation's homes, the hub, the demonstration.

pub mod answer;
pub mod backup;
pub mod demo;
mod failures;
pub(crate) mod first_catalogue;
pub mod init;
pub mod next_keys;
pub mod serve;
