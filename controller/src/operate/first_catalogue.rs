//! Publishes an organisation's first catalogue into the hub's home.

use crate::failure::{Exit, Failure, chain};
use crate::homes::HomePaths;
use crate::runtime::block_on;
use fernwart_certs::approve::{Draft, PublishError};
use fernwart_client::{StaffHome, now};
use fernwart_hub::HubHome;
use fernwart_hub::{PublishedError, publish_first as publish_into};

/// Publishes an organisation's first catalogue into the hub's home, and stores it in the founder's
/// staff home beside it.
pub(crate) fn publish_first(draft: &Draft, homes: &HomePaths) -> Result<(), Failure> {
    let home = HubHome::at(&homes.hub());
    let keys = home.open().map_err(|error| Failure::from(fernwart_hub::StartError::Home(error)))?;
    let published = block_on(async {
        publish_into(home.catalogue(), keys.roles, draft, now()).await.map_err(|error| {
            let text = chain(&error);
            match error {
                PublishedError::Publish(PublishError::Unsigned { .. }) => {
                    Failure::new(Exit::Refused, "FW-CAT-03", text)
                        .now("another approver signs: fernwart catalogue sign --file FILE --key DIR")
                }
                PublishedError::Publish(PublishError::Stale { .. }) => Failure::new(Exit::Refused, "FW-CAT-04", text),
                _ if home.is_disk_full() => Failure::disk_full(text),
                _ => Failure::new(Exit::Failed, "FW-CAT-02", text),
            }
        })
    })?;
    let staff = homes.staff();
    if StaffHome::exists(&staff) {
        let home = StaffHome::open(&staff)?;
        home.keep(&published)?;
    }
    Ok(())
}
