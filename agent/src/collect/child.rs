//! Child processes with limits: a fixed program, no shell, an empty environment, a deadline.
//! Excess output is counted and discarded; output before the deadline is kept.

use super::bytes::{clipped, shown};
use fernwart_protocol::diagnosis::{Cause, Reason};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const PLACES: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];

/// Maximum number of output bytes kept of a child.
const OUTPUT: usize = 2 * 1024 * 1024;

/// Maximum number of bytes kept of its standard error.
const COMPLAINTS: usize = 8 * 1024;

/// How long a killed child may take to end. Only a child that waits for a device takes longer; it
/// is left behind.
const BURIAL: Duration = Duration::from_millis(100);

/// The path of a program in a system folder, if it is installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    PLACES.iter().map(|place| PathBuf::from(place).join(program)).find(|path| path.is_file())
}

/// The result of a child process.
#[derive(Debug, Default)]
pub(crate) struct ProcessOutput {
    /// Its standard output, bytes; empty if it was read line by line.
    pub(crate) out: Vec<u8>,
    /// Its standard error.
    pub(crate) complaints: String,
    /// Its exit code; none if a signal ended it, including ours.
    pub(crate) code: Option<i32>,
    /// Whether some of its output was discarded.
    pub(crate) is_cut: bool,
    /// Whether its deadline passed before it ended.
    pub(crate) is_late: bool,
}

impl ProcessOutput {
    /// Its output, if it succeeded in time and all of it was kept.
    ///
    /// # Errors
    /// Why there is no complete answer, with its own error message if it had one.
    pub(crate) fn complete(self, program: &str) -> Result<String, Cause> {
        match self {
            Self { is_late: true, .. } => Err(Cause::new(Reason::TimedOut, program)),
            Self { is_cut: true, .. } => Err(Cause::new(Reason::Unreadable, format!("{program}: too much output"))),
            Self { code: Some(0), out, .. } => Ok(shown(&out)),
            ended => Err(ended.failed(program)),
        }
    }

    /// Why it failed.
    pub(crate) fn failed(&self, program: &str) -> Cause {
        let code = self.code.map_or_else(|| "ended by a signal".to_owned(), |code| format!("exit code {code}"));
        let complaint = self.complaints.lines().rev().find(|line| line.contains(char::is_alphanumeric));
        let about = clipped(&format!("{program}: {}", complaint.map_or(code, str::to_owned)));
        let is_right = ["permission denied", "not permitted", "must be root", "are you root", "access denied"];
        let complaints = self.complaints.to_lowercase();
        match is_right.iter().any(|words| complaints.contains(words)) {
            true => Cause::new(Reason::NotPermitted, program),
            false => Cause::new(Reason::Unreadable, about),
        }
    }
}

/// Runs a system program and returns what it wrote.
///
/// # Errors
/// When it is not installed, does not start, or does not end even when killed.
pub(crate) fn run(program: &str, arguments: &[&str], until: Instant) -> Result<ProcessOutput, Cause> {
    let mut out = Vec::new();
    let mut is_cut = false;
    let ended = follow(program, arguments, until, |piece| {
        let room = OUTPUT.saturating_sub(out.len());
        is_cut |= piece.len() > room;
        out.extend_from_slice(piece.get(..piece.len().min(room)).unwrap_or_default());
    })?;
    Ok(ProcessOutput { out, is_cut, ..ended })
}

/// The same, but returns the output only of a successful run.
///
/// # Errors
/// See [`run`] and [`ProcessOutput::complete`].
pub(crate) fn ask(program: &str, arguments: &[&str], until: Instant) -> Result<String, Cause> {
    run(program, arguments, until)?.complete(program)
}

/// Maximum length of a line, bytes.
const LINE: usize = 256 * 1024;

/// Runs a system program and calls `each` for every line of its output.
///
/// # Errors
/// See [`run`].
pub(crate) fn lines(
    program: &str,
    arguments: &[&str],
    until: Instant,
    mut each: impl FnMut(&[u8]),
) -> Result<ProcessOutput, Cause> {
    let mut rest: Vec<u8> = Vec::new();
    let mut is_cut = false;
    let ended = follow(program, arguments, until, |piece| {
        let mut piece = piece;
        while let Some(at) = memchr::memchr(b'\n', piece) {
            let (line, after) = piece.split_at(at);
            if rest.is_empty() {
                each(line);
            } else {
                rest.extend_from_slice(line);
                each(&rest);
                rest.clear();
            }
            piece = after.get(1..).unwrap_or_default();
        }
        let room = LINE.saturating_sub(rest.len());
        is_cut |= piece.len() > room;
        rest.extend_from_slice(piece.get(..piece.len().min(room)).unwrap_or_default());
    })?;
    // A line that was incomplete at the deadline is dropped.
    if !rest.is_empty() && !ended.is_late {
        each(&rest);
    }
    Ok(ProcessOutput { is_cut, ..ended })
}

fn follow(
    program: &str,
    arguments: &[&str],
    until: Instant,
    mut take: impl FnMut(&[u8]),
) -> Result<ProcessOutput, Cause> {
    let path = find(program).ok_or_else(|| Cause::new(Reason::NotInstalled, program))?;
    let started = Command::new(path)
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = started.map_err(|error| Cause::new(Reason::Unreadable, clipped(&format!("{program}: {error}"))))?;
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let mut ended = ProcessOutput::default();
    let mut complaints = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while stdout.is_some() || stderr.is_some() {
        let (is_out, is_err) = wait(stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd), until);
        if !is_out && !is_err {
            ended.is_late = true;
            break;
        }
        if is_out && let Some(from) = &mut stdout {
            match from.read(&mut buffer) {
                Ok(0) | Err(_) => stdout = None,
                Ok(length) => take(buffer.get(..length).unwrap_or_default()),
            }
        }
        if is_err && let Some(from) = &mut stderr {
            match from.read(&mut buffer) {
                Ok(0) | Err(_) => stderr = None,
                Ok(length) => {
                    let room = COMPLAINTS.saturating_sub(complaints.len()).min(length);
                    complaints.extend_from_slice(buffer.get(..room).unwrap_or_default());
                }
            }
        }
    }
    ended.complaints = shown(&complaints);
    let status = match ended.is_late {
        false => gone(&mut child, until),
        true => None,
    };
    match status.or_else(|| {
        ended.is_late = true;
        if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
            // It may have ended by itself.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        gone(&mut child, Instant::now() + BURIAL)
    }) {
        Some(status) => {
            ended.code = status.code();
            Ok(ended)
        }
        None => {
            // It waits for a device; a thread reaps it later.
            let bury = move || drop(child.wait());
            let _ = std::thread::Builder::new().name("bury".into()).stack_size(64 * 1024).spawn(bury);
            Err(Cause::new(Reason::Hangs, program))
        }
    }
}

/// Which of two pipes is readable or closed; neither if the deadline has passed.
fn wait(out: Option<BorrowedFd<'_>>, err: Option<BorrowedFd<'_>>, until: Instant) -> (bool, bool) {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (false, false);
        }
        let timeout = rustix::event::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut wanted: Vec<PollFd<'_>> =
            [out, err].into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match rustix::event::poll(&mut wanted, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => {
                let mut ready = wanted.iter().map(|fd| !fd.revents().is_empty());
                let is_out = out.is_some() && ready.next().unwrap_or_default();
                return (is_out, err.is_some() && ready.next().unwrap_or_default());
            }
            Err(_) => return (false, false),
        }
    }
}

/// The exit status of a child, if it ends in time.
fn gone(child: &mut Child, until: Instant) -> Option<ExitStatus> {
    let mut pause = Duration::from_micros(200);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => std::thread::sleep(pause),
            Ok(None) | Err(_) => return None,
        }
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon(ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    #[test]
    fn excess_output_is_cut_and_marked_and_every_line_is_passed_on() {
        let ended = run("seq", &["1", "700000"], soon(20_000)).expect("runs");
        assert_eq!((ended.out.len(), ended.is_cut, ended.code), (OUTPUT, true, Some(0)));
        assert!(ended.complete("seq").is_err(), "a part is no answer where all is wanted");
        let mut count = 0u64;
        let ended = lines("seq", &["1", "700000"], soon(20_000), |_| count += 1).expect("runs");
        assert_eq!((count, ended.is_cut, ended.code), (700_000, false, Some(0)));
    }

    #[test]
    fn output_before_the_deadline_is_kept() {
        let ended = run("sh", &["-c", "echo here; sleep 30"], soon(500)).expect("runs");
        assert_eq!((ended.out.as_slice(), ended.is_late, ended.code), (&b"here\n"[..], true, None));
        assert_eq!(ended.complete("sh").unwrap_err(), Cause::new(Reason::TimedOut, "sh"));
    }

    #[test]
    fn a_failure_keeps_the_programs_error_message() {
        let ended = run("sh", &["-c", "echo 'E: Unmet dependencies.' >&2; exit 100"], soon(5000)).expect("runs");
        assert_eq!(
            ended.complete("apt-get").unwrap_err(),
            Cause::new(Reason::Unreadable, "apt-get: E: Unmet dependencies.")
        );
        let ended = run("sh", &["-c", "echo 'nft: Operation not permitted' >&2; exit 1"], soon(5000)).expect("runs");
        assert_eq!(ended.complete("nft").unwrap_err(), Cause::new(Reason::NotPermitted, "nft"));
        assert_eq!(
            run("no-such-program", &[], soon(10)).unwrap_err(),
            Cause::new(Reason::NotInstalled, "no-such-program")
        );
    }
}
