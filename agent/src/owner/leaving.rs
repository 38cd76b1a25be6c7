//! The owner ends the care for this computer.
//!
//! ```text
//! room for the record ─▶ word to the running agent ─▶ hub is told ─▶ service removed, agent stopped ─▶ keys destroyed ─▶ records put aside
//! ```
//! Cut off anywhere it can be said again, and goes on where it stopped.

use crate::executor::journal_at_rest;
use crate::executor::state::{Parted, StateStore};
use crate::home::{Enrollment, Home};
use crate::local::{self, Answer, Question};
use crate::message::Rejection;
use crate::owner::user_error::UserError;
use crate::owner::words::Words;
use crate::service;
use anyhow::Context;
use fernwart_certs::keyfile;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the hub may take to hear it.
const TIMEOUT: Duration = Duration::from_secs(12);

/// How long the agent may take to stop: twice what it takes for what is under way.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// How the folders of records begin, and the journal in them is called.
const LEFT: &str = "left-";
const JOURNAL: &str = "journal.jsonl";

/// Room for the record, held until it is written.
const ROOM: &str = "left.room";

/// The least and the most that is held, bytes; the least again is left to the agent.
const ROOM_LEAST: u64 = 256 * 1024;
const ROOM_MOST: u64 = 12 * 1024 * 1024;

const AGAIN: Duration = Duration::from_millis(100);

/// What becomes of the records of what was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Records {
    /// They stay, in a folder beside.
    Kept,
    /// They are deleted, too.
    Purged,
}

/// Ends the care: what is said to its owner.
///
/// # Errors
/// When it is not confirmed, or could not be done.
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
    // A lead has signed for it, or the hub has said that it knows.
    let knows = |parted: Option<&Parted>| parted.is_some_and(|parted| !parted.by.is_empty());
    let is_told = match &status {
        Some(status) if knows(status.parted.as_ref()) => true,
        Some(status) => tell(home, status.linked)?,
        None => {
            let parted = StateStore::open(&home.store()).ok().and_then(|store| store.parted().ok()).flatten();
            knows(parted.as_ref())
        }
    };
    service::remove(home)?;
    stop(home)?;
    // From here on the record takes its place.
    drop(room);
    let place = match records {
        Records::Kept => Some(put_aside(home, enrollment)?),
        Records::Purged => {
            purge(home)?;
            None
        }
    };
    let mut out = words.say_with("left", &[("shop", &shop)]) + "\n";
    out += &(words.say_with(if is_told { "left-told" } else { "left-untold" }, &[("shop", &shop)]) + "\n");
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

/// Room that the record will find: what is done afterwards cannot be undone. Given back
/// however leaving ends.
struct Room(PathBuf);

impl Room {
    fn take(home: &Home) -> Result<Self, UserError> {
        // The record is what the journal says, as text; the journal is bounded.
        let length = std::fs::metadata(home.store()).map_or(0, |store| store.len()).clamp(ROOM_LEAST, ROOM_MOST);
        let room = Self(home.path().join(ROOM));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let taken = rustix::fs::open(&room.0, flags, Mode::RUSR | Mode::WUSR).and_then(|file| {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length + ROOM_LEAST)?;
            // What the running agent still writes has room, too.
            rustix::fs::ftruncate(&file, length)
        });
        match taken {
            // Where that cannot be asked, writing decides.
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
        // It may have gone with the keys.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Has the running agent leave. Whether the hub has heard it.
fn tell(home: &Home, is_linked: bool) -> Result<bool, UserError> {
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

/// Stops an agent that runs on this folder, by whatever it was started.
fn stop(home: &Home) -> anyhow::Result<()> {
    let socket = home.socket();
    // Whoever may write in this folder could have put another name there.
    if !std::fs::symlink_metadata(&socket).is_ok_and(|file| file.file_type().is_socket()) {
        return Ok(());
    }
    let Ok(stream) = std::os::unix::net::UnixStream::connect(&socket) else { return Ok(()) };
    let peer = rustix::net::sockopt::socket_peercred(&stream).context("asking who runs here")?;
    drop(stream);
    // It may have gone by itself.
    let _ = rustix::process::kill_process(peer.pid, rustix::process::Signal::TERM);
    let until = Instant::now() + STOPS_WITHIN;
    while std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        anyhow::ensure!(Instant::now() < until, "the agent goes on running; its keys are not destroyed under it");
        std::thread::sleep(AGAIN);
    }
    Ok(())
}

/// What the agent has written here; the last is what says that this computer has joined.
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

/// Deletes all that the agent has written, and its folder where nothing else is in it.
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
        // Somebody else has put something there, or it is a disk of its own.
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::ResourceBusy) =>
        {
            Ok(())
        }
        removed => absent(home.path(), removed),
    }
}

/// Destroys the keys, and puts aside what tells of what was done: where that lies. It goes
/// on where an earlier try was cut off.
fn put_aside(home: &Home, enrollment: &Enrollment) -> anyhow::Result<PathBuf> {
    let place = place_aside(home)?;
    let journal = place.join(JOURNAL);
    if !journal.exists() {
        // The signed end needs the key, so it is written while there is one.
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

/// A folder of its own for this time; that of a try that was cut off.
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

/// What is not there needs not be taken away.
fn absent(path: &Path, done: std::io::Result<()>) -> anyhow::Result<()> {
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("putting {} aside", path.display()))
        }
        _ => Ok(()),
    }
}
