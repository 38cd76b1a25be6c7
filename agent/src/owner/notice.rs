//! A notice on the desktops of whoever sits at this computer: what they are
//! asked, and what was done where their rules say that they are told.
//!
//! Each person who is logged in has a bus of their own; the notice is left
//! there by systemd's `busctl`, as that person, through the freedesktop
//! interface. Where there is no desktop, nothing happens.

use crate::local::Asked;
use crate::owner::words::Words;
use fernwart_protocol::diagnosis::Both;
use fernwart_protocol::document::{Action, Outcome};
use fernwart_protocol::text::{Text, escaped};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const BUSCTL: &str = "/usr/bin/busctl";

/// Where people's buses are.
const PEOPLE: &str = "/run/user";

/// What there is to say.
#[derive(Debug, Clone)]
pub(crate) enum Notice {
    /// A question.
    Asks(Asked),
    /// Something was done.
    Did(Done),
}

/// Something that was done.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    /// What.
    pub(crate) action: Action,
    /// What it is called, from its manifest.
    pub(crate) title: Option<Both>,
    /// Who ordered it.
    pub(crate) staff: Text<64>,
    /// Why.
    pub(crate) reason: Text<500>,
    /// How it ended.
    pub(crate) outcome: Outcome,
}

impl Notice {
    /// Head and body. Each begins with words of ours: what an order says stands
    /// behind them, and cannot pass for more.
    fn in_words(&self, shop: &str, words: &Words) -> (String, String) {
        match self {
            Self::Asks(asked) => {
                let (number, reason) = (asked.number.to_string(), escaped(asked.reason.as_raw()));
                let title = words.title(&asked.action, asked.title.as_ref());
                (
                    words.say_with("notice-asks", &[("shop", shop), ("title", &title)]),
                    words.say_with("notice-asks-how", &[("reason", &reason), ("number", &number)]),
                )
            }
            Self::Did(done) => {
                let (staff, reason) = (escaped(done.staff.as_raw()), escaped(done.reason.as_raw()));
                let title = words.title(&done.action, done.title.as_ref());
                let outcome = words.outcome(done.outcome);
                (
                    words.say_with("notice-did", &[("shop", shop), ("title", &title), ("outcome", &outcome)]),
                    words.say_with("notice-did-how", &[("staff", &staff), ("reason", &reason)]),
                )
            }
        }
    }
}

/// Shows it to these accounts, or to all where none is named; tries each
/// person's bus once.
pub(crate) fn show(shop: &str, notice: &Notice, accounts: &[String], words: &Words) {
    let Ok(people) = std::fs::read_dir(PEOPLE) else { return };
    let (head, body) = notice.in_words(&escaped(shop), words);
    for person in people.flatten() {
        let bus = person.path().join("bus");
        let Ok(owner) = bus.metadata().map(|bus| (bus.uid(), bus.gid())) else { continue };
        if accounts.is_empty() || accounts.contains(&crate::local::accounts::name_of(owner.0)) {
            notify(&bus, owner, &head, &body);
        }
    }
}

/// `Notify(app, replaces, icon, summary, body, actions, hints, timeout)`, of the
/// Desktop Notifications Specification.
fn notify(bus: &Path, (uid, gid): (u32, u32), head: &str, body: &str) {
    let place = "org.freedesktop.Notifications";
    // Desktops may read the body as markup.
    let body = body.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let child = Command::new(BUSCTL)
        // What follows is an order's words: nothing in them may be an option.
        .args(["--user", "--timeout=2", "--", "call", place, "/org/freedesktop/Notifications", place, "Notify"])
        .args(["susssasa{sv}i", "Fernwart", "0", "dialog-question", head, &body, "0", "0", "-1"])
        .env_clear()
        .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", bus.display()))
        .uid(uid)
        .gid(gid)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    // Without a desktop nobody answers there; the terminal still does.
    drop(child);
}
