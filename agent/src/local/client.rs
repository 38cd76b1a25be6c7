//! The client of the local socket.

use super::messages::{ANSWER, Answer, Question};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::time::Duration;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long to keep asking an agent that is starting: it holds its records but does not answer
/// yet.
pub const STARTS: Duration = Duration::from_secs(4);

/// Asks the running agent; nothing if none is running.
///
/// # Errors
/// When one is running but does not answer.
pub fn ask(socket: &Path, question: &Question) -> io::Result<Option<Answer>> {
    ask_within(socket, question, TIMEOUT)
}

/// The same, with another time limit.
///
/// # Errors
/// As [`ask`].
pub fn ask_within(socket: &Path, question: &Question, limit: Duration) -> io::Result<Option<Answer>> {
    let stream = match std::os::unix::net::UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(limit))?;
    let mut text = serde_json::to_string(question)?;
    text.push('\n');
    (&stream).write_all(text.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER)).read_line(&mut line)?;
    Ok(Some(serde_json::from_str(&line)?))
}
