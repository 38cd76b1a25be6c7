//! Writes to standard output.

use crate::failure::{Exit, Failure};
use std::io::Write as _;

/// Writes to standard output. A closed pipe is not an error.
pub(crate) fn say(text: &str) -> Result<Exit, Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Done),
    }
}
