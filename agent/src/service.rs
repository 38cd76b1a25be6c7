//! Registering the system service: systemd, where it runs.

use crate::home::Home;
use anyhow::Context;
use std::path::Path;
use std::process::{Command, Stdio};

const SERVICE: &str = "fernwart-agent.service";
const UNIT: &str = "/etc/systemd/system/fernwart-agent.service";

fn unit(program: &Path, home: &Home) -> String {
    format!(
        "[Unit]\n\
         Description=Fernwart agent: lets your IT support look after this computer, as far as you allow\n\
         After=network-online.target\n\
         Wants=network-online.target\n\
         \n\
         [Service]\n\
         ExecStart={} --home {} run\n\
         Restart=always\n\
         RestartSec=2\n\
         MemoryHigh=64M\n\
         Environment=MALLOC_ARENA_MAX=1\n\
         UMask=0077\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        program.display(),
        home.path().display()
    )
}

/// Registers and starts the service. False where there is no systemd to do it.
///
/// # Errors
/// When the unit cannot be written or does not start.
pub fn install(home: &Home) -> anyhow::Result<bool> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(false);
    }
    let program = std::env::current_exe().context("finding this program")?;
    let path = std::path::absolute(home.path()).context("finding the agent's folder")?;
    std::fs::write(UNIT, unit(&program, &Home::at(&path))).with_context(|| format!("writing {UNIT}"))?;
    // One that runs already, for a folder of before, goes on otherwise.
    for arguments in [&["daemon-reload"][..], &["enable", SERVICE], &["restart", SERVICE]] {
        let ended = Command::new("/usr/bin/systemctl").args(arguments).stdin(Stdio::null()).status();
        let ended = ended.context("asking systemd to start the service")?;
        anyhow::ensure!(ended.success(), "systemd did not start the service; see: journalctl -u fernwart-agent");
    }
    Ok(true)
}
