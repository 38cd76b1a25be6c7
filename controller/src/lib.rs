//! The one binary of technicians, approvers and the hub's operator.
//!
//! `operate` starts things (init, serve, demo) and may name the hub; `cli` is
//! what people type and may name the client only.

#[macro_use]
mod note;

pub mod cli;
mod codes;
mod failure;
mod homes;
pub mod operate;
mod prompt;
mod runtime;
mod writing;
