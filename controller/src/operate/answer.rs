//! The process that answers one query for the hub. It is limited in memory and time, and reads one
//! file and nothing more.

use crate::failure::{Exit, Failure};
use crate::runtime::block_on;
use clap::Args;
use fernwart_index::{AskError, Question, answer};
use fernwart_protocol::limits::{QUESTION_MEMORY, QUESTION_TIME};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// The subcommand by which the hub starts it.
pub const NAME: &str = fernwart_hub::ANSWER;

/// Answer one question; for the hub alone.
#[derive(Args)]
pub struct AnswerQuery {
    /// What machines have told
    path: PathBuf,
}

/// Reads a query and writes its answer, or an error as its last line.
///
/// # Errors
/// When the limits cannot be set, or its streams fail.
pub fn run(command: &AnswerQuery) -> Result<Exit, Failure> {
    let bound = |resource, most: u64| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    bound(Resource::As, QUESTION_MEMORY).map_err(std::io::Error::from)?;
    bound(Resource::Cpu, QUESTION_TIME.as_secs() * 2).map_err(std::io::Error::from)?;
    bound(Resource::Core, 0).map_err(std::io::Error::from)?;
    let question: Question = serde_json::from_reader(std::io::stdin().lock()).map_err(std::io::Error::from)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    block_on(async {
        match answer(&command.path, &question, &mut out).await {
            Ok(()) => {}
            // Reported by the exit code; the hub answers the client.
            Err(AskError::Damaged(_)) => std::process::exit(fernwart_hub::UNREADABLE),
            Err(error @ AskError::Open(_)) => return Err(std::io::Error::other(error).into()),
            Err(error @ (AskError::TooLong(_) | AskError::TooLarge)) => {
                writeln!(out, "{}", serde_json::json!({"error": error.to_string(), "limit": true}))?;
            }
            Err(error) => writeln!(out, "{}", serde_json::json!({"error": error.to_string()}))?,
        }
        Ok(())
    })?;
    out.flush()?;
    Ok(Exit::Done)
}
