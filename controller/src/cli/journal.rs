//! `fernwart journal verify`: offline, without a hub or a home.

use super::{Exit, Failure, say};
use clap::{Args, Subcommand};
use fernwart_certs::journal::verify;
use std::path::PathBuf;

/// A machine's exported journal.
#[derive(Args)]
pub(crate) struct Journal {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Whether an exported journal holds together and is signed by its machine
    Verify {
        /// What `fernwart-agent journal --export` wrote, or -
        file: PathBuf,
    },
}

pub(crate) fn run(command: &Journal) -> Result<Exit, Failure> {
    let Command::Verify { file } = &command.command;
    let text =
        if file.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    let text = text.map_err(|error| {
        Failure::new(Exit::Usage, "FW-CLI-10", format!("{} cannot be read: {error}", file.display()))
    })?;
    match verify(text.lines()) {
        Ok(verified) => {
            let erased =
                if verified.erased > 0 { format!(", {} of them erased", verified.erased) } else { String::new() };
            say(&format!("whole: {} entries{erased}, signed by machine {}\n", verified.entries, verified.machine))
        }
        Err(error) => Err(Failure::new(Exit::Bad, "FW-JNL-01", format!("this journal does not hold: {error}"))),
    }
}
