//! Explains why a hub does not start.

use crate::failure::{Exit, Failure, chain};
use fernwart_certs::issue::IssueError;
use fernwart_hub::PublishedError;
use fernwart_hub::{HomeError, StartError};
use std::io::ErrorKind;

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let text = chain(&error);
        match &error {
            StartError::Home(HomeError::NotAHub(_)) => Self::new(Exit::Usage, "FW-HUB-20", text)
                .now("name the folder that holds hub.toml with --home; fernwart init makes a new hub"),
            StartError::Home(HomeError::InUse(_)) => {
                Self::new(Exit::Failed, "FW-HUB-21", text).now("stop the other one first")
            }
            StartError::Home(HomeError::StoreLost(_) | HomeError::ForeignStore(_)) => {
                Self::new(Exit::Refused, "FW-HUB-36", text).now("bring it back out of a backup: fernwart restore")
            }
            StartError::Home(HomeError::ForeignKey(_)) => Self::new(Exit::Refused, "FW-HUB-22", text)
                .now("move it to the computer of the person it belongs to, and delete it here"),
            StartError::Home(HomeError::Key(error)) => match error.system() {
                None => Self::new(Exit::Refused, "FW-HUB-23", text).now("look who has changed it, then put it right"),
                Some(ErrorKind::NotFound) => {
                    Self::new(Exit::Failed, "FW-HUB-23", text).now("bring it back out of a backup: fernwart restore")
                }
                Some(_) => Self::from_file(error),
            },
            StartError::Catalogue(PublishedError::File(error)) if error.system().is_none() => {
                Self::new(Exit::Refused, "FW-HUB-23", text).now("look who has changed it, then put it right")
            }
            StartError::Home(HomeError::Authority(IssueError::File(error))) if error.system().is_none() => {
                Self::new(Exit::Refused, "FW-HUB-23", text).now("look who has changed it, then put it right")
            }
            StartError::DamagedStore(_) => {
                Self::new(Exit::Refused, "FW-HUB-36", text).now("bring it back out of a backup: fernwart restore")
            }
            StartError::Home(HomeError::Authority(_)) => {
                Self::new(Exit::Refused, "FW-HUB-23", text).now("bring it back out of a backup: fernwart restore")
            }
            StartError::Home(HomeError::Io(error)) if error.system().kind() == ErrorKind::PermissionDenied => {
                Self::new(Exit::Failed, "FW-HUB-25", text).now("run it as the user whose folder it is")
            }
            StartError::Home(HomeError::NotApproved(_)) => Self::new(Exit::Refused, "FW-HUB-26", text)
                .now("restore the hub's keys, or have others approved: fernwart catalogue show --to DIR"),
            StartError::Home(HomeError::InProgress) => Self::new(Exit::Refused, "FW-HUB-27", text)
                .now("fernwart next-keys --finish --to DIR, once every machine has been linked"),
            StartError::Home(HomeError::NothingInProgress) => {
                Self::new(Exit::Refused, "FW-HUB-28", text).now("fernwart next-keys --to DIR begins one")
            }
            StartError::NewerStore(_) => Self::new(Exit::Refused, "FW-HUB-35", text)
                .now("start the newer version again; or bring back a backup from before: fernwart restore"),
            StartError::Listen { .. } => {
                Self::new(Exit::Failed, "FW-HUB-24", text).now("choose another address with --listen")
            }
            StartError::Home(HomeError::Settings { .. }) => {
                Self::new(Exit::Usage, "FW-HUB-31", text).now("correct the line it names in hub.toml")
            }
            StartError::MetricsOpen(_) => {
                Self::new(Exit::Usage, "FW-HUB-29", text).now("have a collector on this computer ask for them")
            }
            StartError::ListenMetrics { .. } => {
                Self::new(Exit::Failed, "FW-HUB-30", text).now("choose another address with --metrics")
            }
            _ => Self::new(Exit::Failed, "FW-HUB-25", text)
                .now("look at the file it names, and whether there is room on the disk (df -h)"),
        }
    }
}
