//! What names Linux, behind functions that do not.
//!
//! A further system is a folder beside `linux` with the same functions. What all Unix systems have
//! is also used in `action` (processes and signals), `collect` (programs), `local` (the socket)
//! and `machine` (files): a system that is no Unix needs those behind functions, too.

pub mod linux;

pub use linux::{accounts, cage, clock, facts, memory, service};
pub(crate) use linux::{notice, opened, paths, watch};
