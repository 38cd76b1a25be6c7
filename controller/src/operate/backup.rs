//! `fernwart backup` and `fernwart restore`: a complete copy of a hub.

use crate::failure::{Exit, Failure, chain};
use crate::homes::HomePaths;
use crate::runtime::block_on;
use clap::Args;
use fernwart_hub::HubHome;
use fernwart_hub::backup::{BackupError, back_up, put_back};
use std::path::PathBuf;

/// Copy the hub, as it runs, into a new folder
#[derive(Args)]
#[command(
    after_help = "The copy holds the hub's keys: keep it as you keep the hub.\nNext: fernwart --home HUB restore DIR, where the hub was lost"
)]
pub struct Backup {
    /// The folder to make
    #[arg(value_name = "DIR")]
    to: PathBuf,
}

/// Make a hub's folder from a backup
#[derive(Args)]
pub struct Restore {
    /// The backup
    #[arg(value_name = "DIR")]
    from: PathBuf,
}

fn failure(error: &BackupError) -> Failure {
    let text = chain(error);
    match error {
        BackupError::Exists(_) | BackupError::Inside(_) => Failure::new(Exit::Usage, "FW-BAK-01", text)
            .now("name a folder that is not there yet, or move that one away"),
        BackupError::NotAHub(_) | BackupError::Damaged(_) => {
            Failure::new(Exit::Usage, "FW-BAK-02", text).now("name the hub's folder, or another backup")
        }
        BackupError::Store(_) | BackupError::Io { .. } => {
            Failure::new(Exit::Failed, "FW-BAK-03", text).now("is there room on the disk, and may you write there?")
        }
    }
}

/// Takes a backup.
///
/// # Errors
/// When it cannot be taken completely.
pub fn back_up_hub(command: &Backup, homes: &HomePaths) -> Result<Exit, Failure> {
    let home = HubHome::at(&homes.hub());
    block_on(async { back_up(&home, &command.to).await.map_err(|error| failure(&error)) })?;
    note!("The hub is in {}. It holds the hub's keys: keep it as you keep the hub.", command.to.display());
    Ok(Exit::Done)
}

/// Restores one.
///
/// # Errors
/// When there is a hub already, or the backup is incomplete.
pub fn restore_hub(command: &Restore, homes: &HomePaths) -> Result<Exit, Failure> {
    let home = HubHome::at(&homes.new_hub());
    let now = fernwart_client::now();
    let over = block_on(async { put_back(&command.from, &home, now).await.map_err(|error| failure(&error)) })?;
    note!(
        "The hub is back in {}. Machines give it what they have since the backup: outcomes, the catalogue,\n\
         locks. Nothing runs twice. It does not know who was admitted, retired, suspended or cancelled since:\n\
         say that again.",
        home.path().display()
    );
    if over > 0 {
        note!("{over} orders that waited for machines are not delivered: fernwart job ls, then job retry JOB");
    }
    note!("Next: fernwart serve --home {}", home.path().display());
    Ok(Exit::Done)
}
