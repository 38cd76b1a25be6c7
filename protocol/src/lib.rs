//! The wire protocol and its QUIC transport.
//!
//! This crate defines messages, frames, documents and facts. It handles no keys, files, databases
//! or screens: `certs` decides who may send what, the agent and the hub decide what follows from
//! it. It must not import any other Fernwart crate.

pub mod clock;
pub mod code;
pub mod codec;
pub mod diagnosis;
pub mod document;
pub mod enroll;
pub mod event;
pub mod id;
pub mod limits;
pub mod link;
pub mod network;
pub mod row;
pub mod script;
pub mod span;
pub mod staff;
pub mod text;
pub mod to_agent;
pub mod to_hub;
mod unpack;
pub mod verdict;
pub mod version;
