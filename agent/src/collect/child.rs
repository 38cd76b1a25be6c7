//! Bounded child processes: a fixed program, no shell, an empty environment,
//! an end in time, and no more output than wanted.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PLACES: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];

/// Most output read from a child, bytes.
const OUTPUT: u64 = 2 * 1024 * 1024;

/// Whether a program is installed in a system folder, and where.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    PLACES.iter().map(|place| PathBuf::from(place).join(program)).find(|path| path.is_file())
}

/// Runs a system program and returns what it wrote.
///
/// # Errors
/// In words, when it is not there, fails to start, is not done in time, or ends
/// with a code that says so: what it wrote then is no answer.
pub(super) fn run(program: &str, arguments: &[&str], deadline: Instant) -> Result<String, String> {
    match run_status(program, arguments, deadline)? {
        (output, Some(0)) => Ok(output),
        (_, Some(code)) => Err(format!("{program} failed with exit code {code}")),
        (_, None) => Err(format!("{program} was ended by a signal")),
    }
}

/// The same, whatever the exit code; it is none where a signal ended it.
pub(super) fn run_status(
    program: &str,
    arguments: &[&str],
    deadline: Instant,
) -> Result<(String, Option<i32>), String> {
    let path = find(program).ok_or_else(|| format!("{program} is not installed"))?;
    let mut child = Command::new(path)
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{program} does not start: {error}"))?;
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    if let Some(output) = child.stdout.take() {
        let read = move || {
            let mut bytes = Vec::new();
            let _ = output.take(OUTPUT).read_to_end(&mut bytes);
            // Fails only when nobody waits any more.
            let _ = sender.send(bytes);
        };
        let reader = std::thread::Builder::new().name("child".into()).stack_size(64 * 1024).spawn(read);
        reader.map_err(|error| error.to_string())?;
    }
    // Ends a moment before the section must.
    let wait = deadline.saturating_duration_since(Instant::now()).saturating_sub(Duration::from_millis(100));
    let output = receiver.recv_timeout(wait);
    if output.is_err() {
        let _ = child.kill();
    }
    let ended = child.wait();
    match (output, ended) {
        (Ok(bytes), Ok(status)) => Ok((String::from_utf8_lossy(&bytes).into_owned(), status.code())),
        (Err(_), _) => Err(format!("{program} was not done in time")),
        (_, Err(error)) => Err(format!("{program}: {error}")),
    }
}
