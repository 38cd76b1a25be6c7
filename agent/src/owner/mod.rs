//! What a customer types and reads: state, history, questions, records, and the texts.
//!
//! Decisions are made by the executor, which is asked over the local socket.

pub mod check;
#[expect(missing_docs, reason = "clap would show them as help, whose texts are in words/*.ftl")]
pub mod command_line;
pub mod commands;
pub mod history;
mod joining;
pub mod leaving;
pub(crate) mod notice;
pub mod pieces;
pub mod questions;
pub mod report;
pub mod status;
pub mod user_error;
pub mod words;

use anyhow::Context;
use fernwart_protocol::text::escaped_lines;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use user_error::UserError;
use words::Words;

/// The exit code of a monitoring plugin for an unknown state.
pub const UNKNOWN: u8 = 3;

/// Whether the output is for a monitoring system. Judged by the raw command line, which may be
/// invalid.
pub fn is_plugin() -> bool {
    let typed: Vec<OsString> = std::env::args_os().collect();
    let joined = ["-onagios", "-o=nagios", "--output=nagios"];
    typed
        .windows(2)
        .any(|two| matches!(two, [option, how] if (option == "-o" || option == "--output") && how == "nagios"))
        || typed.iter().any(|word| joined.iter().any(|one| word == one))
}

/// Shows what went wrong. To a monitoring system it is an unknown state.
pub fn complain(user_error: &UserError, words: &Words) -> ExitCode {
    let text = escaped_lines(&user_error.in_words(words));
    // Standard error may be closed.
    let _ = write!(std::io::stderr(), "{text}");
    if is_plugin() {
        // Plugins are read by their first line; standard output may be closed.
        let line = text.lines().next().unwrap_or_default().replace('|', "/");
        let _ = writeln!(std::io::stdout(), "FERNWART UNKNOWN - {line}");
        return ExitCode::from(UNKNOWN);
    }
    ExitCode::from(user_error.exit)
}

/// Writes to standard output; a closed reader is no error.
///
/// # Errors
/// When it cannot be written.
pub fn say(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("writing"),
        _ => Ok(ExitCode::SUCCESS),
    }
}
