//! The owner takes this computer out of care.
//!
//! ```text
//! space reserved ─▶ agent leaves ─▶ hub informed ─▶ service removed ─▶ keys destroyed ─▶ records moved
//! ```
//! If interrupted, the command can be repeated and continues where it stopped.

use crate::executor::state::{Parted, StateStore};
use crate::home::{Enrollment, Home};
use crate::local::{self, Answer, Question};
use crate::machine::journal_at_rest;
use crate::message::Rejection;
use crate::owner::user_error::UserError;
use crate::owner::words::Words;
use crate::platform::service;
use anyhow::Context;
use fernwart_certs::keyfile;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait for the hub's confirmation.
const TIMEOUT: Duration = Duration::from_secs(12);

/// How long the agent may take to stop: twice its grace period for running work.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// Prefix of the folders of records, and the file name of the journal in them.
const LEFT: &str = "left-";
const JOURNAL: &str = "journal.jsonl";

/// A file that reserves space for the records until they are written.
const ROOM: &str = "left.room";

/// Minimum and maximum of the reserved space, bytes. The minimum is reserved once more for the
/// agent.
const ROOM_LEAST: u64 = 256 * 1024;
const ROOM_MOST: u64 = 12 * 1024 * 1024;

const AGAIN: Duration = Duration::from_millis(100);

/// What happens to the records of past runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Records {
    /// They are kept, in a folder beside.
    Kept,
    /// They are deleted.
    Purged,
}

/// Takes this computer out of care; returns the text for its owner.
///
/// # Errors
/// When it is not confirmed, or fails.
pub fn leave(
    home: &Home,
    enrollment: &Enrollment,
    records: Records,
    yes: bool,
    words: &Words,
) -> anyhow::Result<String> {
    let status = match local::ask(&home.socket(), &Question::Status) {
        Ok(Some(Answer::Status(status))) => Some(status),
        _ => None,
    };
    let shop = match &status {
        Some(status) => status.shop.name.to_string(),
        None => shop_at_rest(home),
    };
    let shop = if shop.is_empty() { words.say("your-it") } else { shop };
    confirm(&shop, records, yes, words)?;
    let room = if records == Records::Kept { Some(Room::take(home)?) } else { None };
    // The hub knows already if a lead has signed the retirement.
    let knows = |parted: Option<&Parted>| parted.is_some_and(|parted| !parted.by.is_empty());
    let is_informed = match &status {
        Some(status) if knows(status.parted.as_ref()) => true,
        Some(status) => inform_hub(home, status.linked)?,
        None => {
            let parted = StateStore::open(&home.store()).ok().and_then(|store| store.parted().ok()).flatten();
            knows(parted.as_ref())
        }
    };
    service::remove(home)?;
    stop(home)?;
    // From here on the records need the reserved space.
    drop(room);
    let place = match records {
        Records::Kept => Some(put_aside(home, enrollment)?),
        Records::Purged => {
            purge(home)?;
            None
        }
    };
    let mut out = words.say_with("left", &[("shop", &shop)]) + "\n";
    out += &(words.say_with(if is_informed { "left-told" } else { "left-untold" }, &[("shop", &shop)]) + "\n");
    out += &match place {
        Some(place) => words.say_with("left-records", &[("path", &place.display().to_string())]),
        None => words.say("left-purged"),
    };
    Ok(out + "\n")
}

fn shop_at_rest(home: &Home) -> String {
    let view = || StateStore::open(&home.store()).ok()?.trusted().ok()??.view().ok();
    view().map(|catalogue| catalogue.shop.name.to_string()).unwrap_or_default()
}

fn confirm(shop: &str, records: Records, yes: bool, words: &Words) -> anyhow::Result<()> {
    let kept = if records == Records::Kept { "leave-what" } else { "leave-what-purged" };
    print(&(words.say_with(kept, &[("shop", shop)]) + "\n"))?;
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(UserError::unconfirmed().into());
    }
    print(&format!("{} ", words.say("leave-prompt")))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "yes" | "ja" => Ok(()),
        _ => Err(UserError::unconfirmed().into()),
    }
}

fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Space reserved for the records, since the later steps cannot be undone. Released when dropped.
struct Room(PathBuf);

impl Room {
    fn take(home: &Home) -> Result<Self, UserError> {
        // The records are the journal as text, and the journal's size is limited.
        let length = std::fs::metadata(home.store()).map_or(0, |store| store.len()).clamp(ROOM_LEAST, ROOM_MOST);
        let room = Self(home.path().join(ROOM));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let taken = rustix::fs::open(&room.0, flags, Mode::RUSR | Mode::WUSR).and_then(|file| {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length + ROOM_LEAST)?;
            // The part beyond `length` becomes free again, for what the running agent still
            // writes.
            rustix::fs::ftruncate(&file, length)
        });
        match taken {
            // If reserving is unsupported, writing the records may fail later.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Ok(room),
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                Err(UserError::no_room(std::io::Error::from(error).to_string()))
            }
            Err(error) => Err(UserError::not_written(std::io::Error::from(error).to_string())),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // It may have been removed together with the keys.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Tells the running agent to leave. Returns whether the hub has confirmed it.
fn inform_hub(home: &Home, is_linked: bool) -> Result<bool, UserError> {
    match local::ask(&home.socket(), &Question::Leave { by: local::Caller::default() }) {
        Ok(Some(Answer::Done)) => {}
        Ok(Some(Answer::NotYours)) => return Err(UserError::not_yours()),
        Ok(Some(Answer::Failed(why))) => return Err(UserError::not_written(why)),
        Ok(Some(_)) | Err(_) => return Err(UserError::silent()),
        Ok(None) => return Ok(false),
    }
    let until = Instant::now() + TIMEOUT;
    while is_linked && Instant::now() < until {
        match local::ask(&home.socket(), &Question::Status) {
            Ok(Some(Answer::Status(status))) if status.rejected == Some(Rejection::Retired) => return Ok(true),
            Ok(Some(_)) => std::thread::sleep(AGAIN),
            Ok(None) | Err(_) => break,
        }
    }
    Ok(false)
}

/// Stops the agent that runs on this folder, however it was started.
fn stop(home: &Home) -> anyhow::Result<()> {
    let socket = home.socket();
    // An account that may write to this folder could have put another file there.
    if !std::fs::symlink_metadata(&socket).is_ok_and(|file| file.file_type().is_socket()) {
        return Ok(());
    }
    let Ok(stream) = std::os::unix::net::UnixStream::connect(&socket) else { return Ok(()) };
    let peer = rustix::net::sockopt::socket_peercred(&stream).context("asking who runs here")?;
    drop(stream);
    // It may have ended by itself.
    let _ = rustix::process::kill_process(peer.pid, rustix::process::Signal::TERM);
    let until = Instant::now() + STOPS_WITHIN;
    while std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        anyhow::ensure!(Instant::now() < until, "the agent goes on running; its keys are not destroyed under it");
        std::thread::sleep(AGAIN);
    }
    Ok(())
}

/// The files written by the agent. The last one says that this computer has joined.
fn own_files(home: &Home) -> [PathBuf; 4] {
    [home.store(), home.consent(), home.policy(), home.enrollment_file()]
}

fn destroy_keys(home: &Home) -> anyhow::Result<()> {
    for key in [home.evidence_key(), home.sealing_key(), home.tls_identity()] {
        absent(&key, std::fs::remove_file(&key))?;
    }
    let room = home.path().join(ROOM);
    absent(&room, std::fs::remove_file(&room))?;
    absent(&home.blobs(), std::fs::remove_dir_all(home.blobs()))?;
    absent(&home.socket(), std::fs::remove_file(home.socket()))
}

/// Deletes all files of the agent, and its folder if that is empty then.
fn purge(home: &Home) -> anyhow::Result<()> {
    let home = Home::at(&home.real_path());
    destroy_keys(&home)?;
    for entry in std::fs::read_dir(home.path()).with_context(|| format!("reading {}", home.path().display()))?.flatten()
    {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(LEFT));
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            absent(&entry.path(), std::fs::remove_dir_all(entry.path()))?;
        }
    }
    for path in own_files(&home) {
        absent(&path, std::fs::remove_file(&path))?;
    }
    match std::fs::remove_dir(home.path()) {
        // Somebody else's files are in it, or it is a mount point.
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::ResourceBusy) =>
        {
            Ok(())
        }
        removed => absent(home.path(), removed),
    }
}

/// Destroys the keys and moves the records of past runs aside; returns where they are. Continues
/// an interrupted attempt.
fn put_aside(home: &Home, enrollment: &Enrollment) -> anyhow::Result<PathBuf> {
    let place = place_aside(home)?;
    let journal = place.join(JOURNAL);
    if !journal.exists() {
        // Its signed end needs the evidence key, so it is written before the key is destroyed.
        let lines = journal_at_rest(home, enrollment.machine)?;
        let lines: Result<Vec<String>, _> = lines.iter().map(|line| Ok(serde_json::to_string(line)? + "\n")).collect();
        let text: String = lines.map_err(|error: serde_json::Error| error)?.concat();
        keyfile::replace(&journal, text.as_bytes())?;
    }
    destroy_keys(home)?;
    for path in own_files(home) {
        let Some(name) = path.file_name() else { continue };
        absent(&path, std::fs::rename(&path, place.join(name)))?;
    }
    Ok(journal)
}

/// A new folder for the records, or that of an interrupted attempt.
fn place_aside(home: &Home) -> anyhow::Result<PathBuf> {
    let file = home.enrollment_file();
    let enrollment = file.file_name().unwrap_or_default();
    let unfinished =
        std::fs::read_dir(home.path()).into_iter().flatten().flatten().map(|entry| entry.path()).find(|path| {
            let is_ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(LEFT));
            is_ours && path.symlink_metadata().is_ok_and(|file| file.is_dir()) && !path.join(enrollment).exists()
        });
    if let Some(place) = unfinished {
        return Ok(place);
    }
    let day = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d").to_string();
    let name = |number: u32| if number == 1 { format!("{LEFT}{day}") } else { format!("{LEFT}{day}-{number}") };
    let place = (1..).map(|number| home.path().join(name(number))).find(|place| place.symlink_metadata().is_err());
    let place = place.context("finding a place for the records")?;
    let making = || format!("making {}", place.display());
    std::fs::DirBuilder::new().mode(0o700).create(&place).with_context(making)?;
    Ok(place)
}

/// A missing file need not be removed.
fn absent(path: &Path, done: std::io::Result<()>) -> anyhow::Result<()> {
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("putting {} aside", path.display()))
        }
        _ => Ok(()),
    }
}
