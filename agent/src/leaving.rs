//! The owner ends the care for this computer.
//!
//! ```text
//! word to the running agent ─▶ hub is told ─▶ service removed, agent stopped ─▶ keys destroyed ─▶ records put aside
//! ```
//! Cut off anywhere it can be said again, and goes on where it stopped.

use crate::executor::books::Books;
use crate::executor::journal_at_rest;
use crate::home::{Enrollment, Home};
use crate::local::{self, Answer, Question};
use crate::message::Turned;
use crate::service;
use crate::trouble::Trouble;
use crate::words::Words;
use anyhow::Context;
use fernwart_certs::keyfile;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the hub may take to hear it, and the agent to stop.
const PATIENCE: Duration = Duration::from_secs(10);
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
    confirm(&shop, records, yes, words)?;
    let is_told = match &status {
        Some(status) => status.parted.is_some() && !status.linked || tell(home, status.linked)?,
        None => Books::open(&home.books()).ok().and_then(|books| books.parted().ok()).flatten().is_some(),
    };
    service::remove(home)?;
    stop(home);
    let place = match records {
        Records::Kept => Some(put_aside(home, enrollment)?),
        Records::Purged => {
            std::fs::remove_dir_all(home.path()).with_context(|| format!("removing {}", home.path().display()))?;
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
    let view = || Books::open(&home.books()).ok()?.trusted().ok()??.view().ok();
    view().map(|catalogue| catalogue.shop.name.to_string()).unwrap_or_default()
}

fn confirm(shop: &str, records: Records, yes: bool, words: &Words) -> anyhow::Result<()> {
    let kept = if records == Records::Kept { "leave-what" } else { "leave-what-purged" };
    print(&(words.say_with(kept, &[("shop", shop)]) + "\n"))?;
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Trouble::unconfirmed().into());
    }
    print(&format!("{} ", words.say("leave-prompt")))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "yes" | "ja" => Ok(()),
        _ => Err(Trouble::unconfirmed().into()),
    }
}

fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Has the running agent leave. Whether the hub has heard it.
fn tell(home: &Home, is_linked: bool) -> Result<bool, Trouble> {
    match local::ask(&home.socket(), &Question::Leave { by: local::Speaker::default() }) {
        Ok(Some(Answer::Done)) => {}
        Ok(Some(Answer::NotYours)) => return Err(Trouble::not_yours()),
        Ok(Some(Answer::Failed(why))) => return Err(Trouble::not_written(why)),
        Ok(Some(_)) | Err(_) => return Err(Trouble::silent()),
        Ok(None) => return Ok(false),
    }
    let until = Instant::now() + PATIENCE;
    while is_linked && Instant::now() < until {
        match local::ask(&home.socket(), &Question::Status) {
            Ok(Some(Answer::Status(status))) if status.turned == Some(Turned::Retired) => return Ok(true),
            Ok(Some(_)) => std::thread::sleep(AGAIN),
            Ok(None) | Err(_) => break,
        }
    }
    Ok(false)
}

/// Stops an agent that runs on this folder, by whatever it was started.
fn stop(home: &Home) {
    let socket = home.socket();
    let Ok(stream) = std::os::unix::net::UnixStream::connect(&socket) else { return };
    let Ok(peer) = rustix::net::sockopt::socket_peercred(&stream) else { return };
    // It may have gone by itself.
    let _ = rustix::process::kill_process(peer.pid, rustix::process::Signal::TERM);
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until && local::ask(&socket, &Question::Asked).is_ok_and(|answer| answer.is_some()) {
        std::thread::sleep(AGAIN);
    }
}

/// Destroys the keys, and puts aside what tells of what was done: where it lies.
fn put_aside(home: &Home, enrollment: &Enrollment) -> anyhow::Result<PathBuf> {
    let day = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d").to_string();
    let name = |number: u32| if number == 1 { format!("left-{day}") } else { format!("left-{day}-{number}") };
    let place = (1..).map(|number| home.path().join(name(number))).find(|place| !place.exists());
    let place = place.context("finding a place for the records")?;
    let making = || format!("making {}", place.display());
    std::fs::create_dir(&place).with_context(making)?;
    std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o700)).with_context(making)?;
    // The signed end needs the key: so it is written while there is one.
    if let Ok(lines) = journal_at_rest(home, enrollment.machine) {
        let lines: Result<Vec<String>, _> = lines.iter().map(|line| Ok(serde_json::to_string(line)? + "\n")).collect();
        let text: String = lines.map_err(|error: serde_json::Error| error)?.concat();
        keyfile::replace(&place.join("journal.jsonl"), text.as_bytes())?;
    }
    for key in [home.evidence_key(), home.sealing_key(), home.tls_identity()] {
        absent(&key, std::fs::remove_file(&key))?;
    }
    absent(&home.blobs(), std::fs::remove_dir_all(home.blobs()))?;
    // The last is what says that this computer has joined.
    for path in [home.books(), home.says(), home.policy(), home.enrollment_file()] {
        let Some(name) = path.file_name() else { continue };
        absent(&path, std::fs::rename(&path, place.join(name)))?;
    }
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
