//! Notices on the desktops of the users of this computer.
//!
//! Each user who is logged in has a D-Bus session bus. systemd's `busctl` sends the notice there,
//! as that user, through the freedesktop interface. Without a desktop nothing happens.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const BUSCTL: &str = "/usr/bin/busctl";

/// The folder of the users' buses.
const PEOPLE: &str = "/run/user";

/// Shows a notice to these accounts, or to all if none is named. Tries each user's bus once.
pub(crate) fn show(head: &str, body: &str, accounts: &[String]) {
    let Ok(people) = std::fs::read_dir(PEOPLE) else { return };
    for person in people.flatten() {
        let bus = person.path().join("bus");
        let Ok(owner) = bus.metadata().map(|bus| (bus.uid(), bus.gid())) else { continue };
        if accounts.is_empty() || accounts.contains(&super::accounts::name_of(owner.0)) {
            notify(&bus, owner, head, body);
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
