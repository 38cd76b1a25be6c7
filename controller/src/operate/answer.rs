//! The process that answers one question for the hub: bounded in memory and time,
//! it can read one file and nothing more.

use crate::failure::{Exit, Failure};
use crate::runtime::block_on;
use clap::Args;
use fernwart_index::{AskError, Question, answer};
use fernwart_protocol::limits::{QUESTION_MEMORY, QUESTION_TIME};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// The name under which the hub starts it.
pub const NAME: &str = fernwart_hub::ANSWER;

/// Answer one question; for the hub alone.
#[derive(Args)]
pub struct AnswerQuery {
    /// What machines have told
    path: PathBuf,
}

/// Reads a question and writes its answer, or why there is none, as its last line.
///
/// # Errors
/// When the process cannot be bounded, or its streams fail.
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
            // Said by its end: the hub tells whoever asked.
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
