//! The one binary of technicians, approvers and the hub's operator.
//!
//! `operate` starts things (init, serve, demo) and may use the hub crate; `cli` implements the
//! commands and may use the client crate only.

#[macro_use]
mod note;

pub mod cli;
mod codes;
mod escaping;
mod failure;
mod homes;
pub mod operate;
mod prompt;
mod runtime;
mod writing;
