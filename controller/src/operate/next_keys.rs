//! `fernwart next-keys`: replaces the hub's CA and evidence key. No machine is locked out, and the
//! hub cannot do it without approvers.

use crate::failure::{Exit, Failure};
use crate::homes::HomePaths;
use crate::runtime::block_on;
use clap::Args;
use fernwart_certs::catalogue::target;
use fernwart_hub::{HubHome, rotation};
use std::path::PathBuf;

/// Replace the hub's CA and evidence key; on the hub's computer.
#[derive(Args)]
#[command(
    after_help = "1  fernwart next-keys --to DIR           makes the keys; the hub may go on\n2  fernwart catalogue propose DIR          and sign: machines learn of the new keys\n3  start the hub again                     it uses them; nobody is cut off\n4  fernwart next-keys --finish --to DIR    once all machines were linked; propose again\n5  start the hub again                     the old CA is worth nothing any more"
)]
pub struct NextKeys {
    /// Where hub.json is written that has to be approved
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Part with the old CA
    #[arg(long)]
    finish: bool,
}

/// Makes the keys, or ends the change.
///
/// # Errors
/// When no change can be started or finished now, or a file cannot be written.
pub fn run(command: &NextKeys, homes: &HomePaths) -> Result<Exit, Failure> {
    std::fs::create_dir_all(&command.to)?;
    let home = HubHome::at(&homes.hub());
    let hub = block_on(async {
        let next = if command.finish { rotation::finished(&home).await } else { rotation::make_next(&home).await };
        Ok(next?)
    })?;
    let path = command.to.join(target::HUB);
    let text = serde_json::to_string_pretty(&hub).map_err(std::io::Error::other)?;
    std::fs::write(&path, text + "\n")?;
    let message = if command.finish {
        "Once this is approved, machines that were not linked since the change ask for a new certificate by themselves;\n\
         technicians who were not move their staff home away and join again."
    } else {
        "The new keys are in the hub's folder; nothing uses them yet. Put them into the hub's backup."
    };
    let to = command.to.display();
    note!("{message}\nNext: fernwart catalogue propose {to}     then, once it is published, start the hub again");
    Ok(Exit::Done)
}
