//! Answers questions on the socket.

use super::messages::{Caller, OwnerCommand, QUESTION, Question};
use crate::executor::Handle;
use crate::executor::policy::Policy;
use crate::home::Home;
use crate::platform::accounts::{account, is_in_our_namespace, name_of};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tracing::warn;

/// Maximum number of concurrent callers.
const CALLERS: usize = 8;

/// How long a caller may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How often the policy is checked for accounts that may ask.
const ACCOUNTS: Duration = Duration::from_secs(5);

/// Answers on the socket until cancelled.
///
/// # Errors
/// When the socket cannot be made.
pub async fn serve(home: &Home, executor: Handle) -> io::Result<()> {
    let socket = home.socket();
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = tokio::net::UnixListener::bind(&socket)?;
    let policy = || home.read_policy().ok().and_then(|text| Policy::from_toml(&text).ok());
    let accounts = || policy().map(|policy| policy.asked().to_vec()).unwrap_or_default();
    open_to(home, &accounts())?;
    let mut open_for = None;
    let mut looks = tokio::time::interval(ACCOUNTS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let me = rustix::process::geteuid().as_raw();
    let callers = Arc::new(Semaphore::new(CALLERS));
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = looks.tick() => {
                // The owner may have named other accounts since. If nothing changed, this costs
                // one stat(2).
                let stamp = stamp(&home.policy());
                if stamp.is_none() || stamp != open_for {
                    let known = policy();
                    // A rejected policy is read again, and an error is retried.
                    match open_to(home, known.as_ref().map_or(&[], Policy::asked)) {
                        Ok(()) => open_for = stamp.filter(|_| known.is_some()),
                        Err(error) => warn!(%error, "the socket could not be opened to the accounts in the policy"),
                    }
                }
                continue;
            }
        };
        let Ok(caller) = stream.peer_cred() else { continue };
        let is_admin = caller.uid() == me || caller.uid() == 0;
        if !is_in_our_namespace(caller.pid()) || !is_admin && !accounts().contains(&name_of(caller.uid())) {
            continue;
        }
        // The administrator is admitted even if all places are taken.
        let place = match callers.clone().try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) if is_admin => None,
            Err(_) => continue,
        };
        let by = Caller { account: account(caller.uid(), caller.pid()), is_admin };
        let executor = executor.clone();
        tokio::spawn(async move {
            // A silent caller must not keep others waiting.
            let _ = tokio::time::timeout(TIMEOUT, answer(stream, executor, by)).await;
            drop(place);
        });
    }
}

/// Identifies a state of a file: inode, length, and time of the last change.
fn stamp(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let file = std::fs::symlink_metadata(path).ok()?;
    Some((file.ino(), file.len(), file.ctime(), file.ctime_nsec()))
}

/// Lets these accounts reach the socket and nothing else: the folder can be entered but not
/// listed, and its files become private.
///
/// # Errors
/// When the modes cannot be set.
fn open_to(home: &Home, accounts: &[String]) -> io::Result<()> {
    let (folder, socket) = if accounts.is_empty() { (0o700, 0o600) } else { (0o711, 0o666) };
    let set = |path: &Path, bits| std::fs::set_permissions(path, PermissionsExt::from_mode(bits));
    // A file that others could write is left as it is, so that this stays visible.
    let is_ours = |path: &Path| path.symlink_metadata().is_ok_and(|file| file.permissions().mode() & 0o022 == 0);
    if !accounts.is_empty() {
        // An account that can enter the folder must not read its files.
        for entry in std::fs::read_dir(home.path())?.flatten() {
            let (path, kind) = (entry.path(), entry.file_type()?);
            if (kind.is_file() || kind.is_dir()) && is_ours(&path) {
                match set(&path, if kind.is_dir() { 0o700 } else { 0o600 }) {
                    // A temporary file that was renamed in between.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    done => done?,
                }
            }
        }
    }
    set(&home.socket(), socket)?;
    if is_ours(home.path()) { set(home.path(), folder) } else { Ok(()) }
}

async fn answer(stream: tokio::net::UnixStream, executor: Handle, caller: Caller) -> Option<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(QUESTION)).read_line(&mut line).await.ok()?;
    let question = match serde_json::from_str(&line).ok()? {
        // An asked account may allow, deny and pause, but not vouch for the clock.
        Question::OwnerCommand { command: OwnerCommand::TrustClock, .. } if !caller.is_admin => return None,
        Question::OwnerCommand { command, .. } => Question::OwnerCommand { command, by: caller },
        Question::Leave { .. } => Question::Leave { by: caller },
        other => other,
    };
    let answer = executor.ask(question).await?;
    let mut text = serde_json::to_vec(&answer).ok()?;
    text.push(b'\n');
    write.write_all(&text).await.ok()
}
