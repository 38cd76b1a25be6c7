//! Name, operating system, uptime.

use super::{clipped, read};
use fernwart_protocol::diagnosis::facts::System;
use fernwart_protocol::text::Text;
use std::path::Path;

/// Files by which distributions say that a restart is due.
const RESTART: [&str; 2] = ["/run/reboot-required", "/var/run/reboot-required"];

pub(super) fn facts() -> System {
    System {
        hostname: clipped(&sysinfo::System::host_name().unwrap_or_default()),
        os: os_in_a_word().as_raw().to_owned(),
        os_name: clipped(&release("PRETTY_NAME")),
        kernel: clipped(&sysinfo::System::kernel_version().unwrap_or_default()),
        arch: sysinfo::System::cpu_arch(),
        uptime_s: sysinfo::System::uptime().unwrap_or_default(),
        restart_required: RESTART.iter().any(|file| Path::new(file).exists()),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// A field of os-release(5).
fn release(field: &str) -> String {
    let text = read("/etc/os-release").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix('='));
    line.unwrap_or_default().trim_matches('"').to_owned()
}

/// The operating system in a word: `debian-12`.
pub fn os_in_a_word() -> Text<64> {
    let (id, version) = (release("ID"), release("VERSION_ID"));
    match (id.is_empty(), version.is_empty()) {
        (true, _) => Text::clipped(std::env::consts::OS),
        (false, true) => Text::clipped(&id),
        (false, false) => Text::clipped(&format!("{id}-{version}")),
    }
}
