//! Notices on the desktops of the users of this computer: questions, and what was done, if the
//! policy says `notify`.
//!
//! Each user who is logged in has a D-Bus session bus. systemd's `busctl` sends the notice there,
//! as that user, through the freedesktop interface. Without a desktop nothing happens.

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

/// The folder of the users' buses.
const PEOPLE: &str = "/run/user";

/// The content of a notice.
#[derive(Debug, Clone)]
pub(crate) enum Notice {
    /// A question.
    Asks(Asked),
    /// Something was done.
    Did(Done),
}

/// A finished run.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    /// The action.
    pub(crate) action: Action,
    /// Its title, from its manifest.
    pub(crate) title: Option<Both>,
    /// Who ordered it.
    pub(crate) staff: Text<64>,
    /// The technician's reason.
    pub(crate) reason: Text<500>,
    /// How it ended.
    pub(crate) outcome: Outcome,
}

impl Notice {
    /// Title and body. Each begins with our own words, so that text from an order cannot pass for
    /// ours.
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

/// Shows a notice to these accounts, or to all if none is named. Tries each user's bus once.
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
        // The next arguments contain text from an order, which must not be read as options.
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
    // Nobody answers without a desktop; the question is still shown at the terminal.
    drop(child);
}
