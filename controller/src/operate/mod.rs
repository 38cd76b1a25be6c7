//! Starting things: a shop's homes, the hub, the demonstration.

pub mod demo;
pub mod init;
pub mod serve;
