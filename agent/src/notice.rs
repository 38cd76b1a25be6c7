//! A notice on the desktops of whoever sits at this computer.
//!
//! Each person who is logged in has a bus of their own; the notice is left
//! there by systemd's `busctl`, as that person, through the freedesktop
//! interface. Where there is no desktop, nothing happens.

use crate::local::Asked;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const BUSCTL: &str = "/usr/bin/busctl";

/// Shows one question to these accounts, or to all where none is named; tries
/// each person's bus once.
pub(crate) fn show(shop: &str, asked: &Asked, accounts: &[String]) {
    let Ok(people) = std::fs::read_dir("/run/user") else { return };
    let title = asked.title.as_ref().map_or_else(|| asked.action.word().to_owned(), |title| title.de.clone());
    let head = format!("{shop}: {title}?");
    let body = format!("{}\nfernwart-agent allow {n}   |   fernwart-agent deny {n}", asked.reason, n = asked.number);
    for person in people.flatten() {
        let bus = person.path().join("bus");
        let Ok(owner) = bus.metadata().map(|bus| (bus.uid(), bus.gid())) else { continue };
        if accounts.is_empty() || accounts.contains(&crate::local::name_of(owner.0)) {
            notify(&bus, owner, &head, &body);
        }
    }
}

/// `Notify(app, replaces, icon, summary, body, actions, hints, timeout)`, of the
/// Desktop Notifications Specification.
fn notify(bus: &Path, (uid, gid): (u32, u32), head: &str, body: &str) {
    let place = "org.freedesktop.Notifications";
    let child = Command::new(BUSCTL)
        // What follows is an order's words: nothing in them may be an option.
        .args(["--user", "--timeout=2", "--", "call", place, "/org/freedesktop/Notifications", place, "Notify"])
        .args(["susssasa{sv}i", "Fernwart", "0", "dialog-question", head, body, "0", "0", "-1"])
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
