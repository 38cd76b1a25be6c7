//! Exposure: listening sockets, logins, firewall; certificates about to expire.

mod certificates;
mod firewall;
mod sockets;
mod sshd;
mod sudo;

use crate::collect::bytes::{clipped, read_bytes, shown};
use crate::collect::missing;
use fernwart_protocol::diagnosis::facts::{LIST, Listening, Security};
use fernwart_protocol::diagnosis::{Cause, Reason};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Instant;

/// Maximum number of open ports listed.
const OPEN: usize = 6;

pub(super) fn facts(until: Instant) -> Security {
    let mut security = Security::default();
    let count = |n: usize| u32::try_from(n).ok();
    match sockets::listening() {
        Ok(listening) => {
            security.open_ports = count(listening.len());
            let named = |socket: &Listening| match &socket.process {
                Some(process) => format!("{} {} ({process})", socket.protocol, socket.port),
                None => format!("{} {}", socket.protocol, socket.port),
            };
            security.open = listening.iter().take(OPEN).map(named).collect();
            security.listening = listening.into_iter().take(LIST).collect();
        }
        Err(why) => drop(security.why.insert("open_ports".into(), why)),
    }
    // Run in parallel, so that one that hangs does not delay the others.
    let (filters, grants, settings) = std::thread::scope(|scope| {
        let grants = apart(scope, || sudo::without_password(until));
        let settings = apart(scope, || sshd::settings(until));
        (firewall::filters(until), joined(grants), joined(settings))
    });
    match filters {
        Ok((filters, by)) => (security.firewall, security.firewall_by) = (Some(filters), by),
        Err(why) => drop(security.why.insert("firewall".into(), why)),
    }
    match grants {
        Ok(grants) => {
            security.sudo_without_password_count = count(grants.len());
            security.sudo_without_password = Some(grants.into_iter().take(LIST).collect());
        }
        Err(why) => {
            missing(&mut security.why, &["sudo_without_password", "sudo_without_password_count"], &why);
        }
    }
    match settings {
        Ok(settings) => {
            security.ssh_root_login = Some(settings.root_login);
            security.ssh_root_password = Some(settings.root_password);
            security.ssh_passwords = Some(settings.passwords);
        }
        Err(why) => {
            missing(&mut security.why, &["ssh_root_login", "ssh_root_password", "ssh_passwords"], &why);
        }
    }
    match read_bytes("/etc/passwd") {
        Ok(accounts) => {
            let roots = second_roots(&shown(&accounts));
            security.second_roots_count = count(roots.len());
            security.second_roots = Some(roots.into_iter().take(LIST).collect());
        }
        Err(error) => {
            let why = Cause::new(Reason::Unreadable, clipped(&format!("/etc/passwd: {error}")));
            missing(&mut security.why, &["second_roots", "second_roots_count"], &why);
        }
    }
    security.certificates = Some(certificates::used(std::path::Path::new("/etc"), until));
    security
}

type Apart<'scope, T> = std::io::Result<ScopedJoinHandle<'scope, Result<T, Cause>>>;

fn apart<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    ask: impl FnOnce() -> Result<T, Cause> + Send + 'scope,
) -> Apart<'scope, T> {
    std::thread::Builder::new().name("security".into()).stack_size(256 * 1024).spawn_scoped(scope, ask)
}

fn joined<T>(handle: Apart<'_, T>) -> Result<T, Cause> {
    let handle = handle.map_err(|error| Cause::new(Reason::Unreadable, error.to_string()))?;
    handle.join().unwrap_or_else(|_| Err(Reason::Unreadable.into()))
}

/// Accounts with root's uid besides root (passwd(5)).
fn second_roots(accounts: &str) -> Vec<String> {
    let root = |line: &str| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.trim().parse() == Ok(0u32) && name != "root" && !name.starts_with(['+', '-'])).then(|| clipped(name))
    };
    accounts.lines().filter_map(root).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_account_with_uid_0_is_found() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\nzero:x:00:0::/:/bin/sh\nm\\xfcller:x:0:0::/:/bin/sh\nmeyer:x:1000:1000::/home/meyer:/bin/sh\n+::0:0:::\nbroken\n";
        assert_eq!(second_roots(accounts), ["toor", "zero", "m\\xfcller"]);
    }
}
