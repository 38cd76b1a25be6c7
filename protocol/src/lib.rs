//! What is said on the wire, and the link it is said over.
//!
//! This crate knows words, frames, documents and facts. It knows no key, no
//! file, no database and no screen: who may say a thing is `certs`' business,
//! what follows from it is the agent's and the hub's. It may import nothing of
//! the other Fernwart crates.

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
pub mod version;
