//! All that names an operating system, behind functions that do not.
//!
//! A further system is a folder beside `linux` with the same functions.

pub mod linux;

pub use linux::{accounts, cage, clock, facts, memory, service};
pub(crate) use linux::{notice, opened, paths, watch};
