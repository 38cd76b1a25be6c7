//! The staff list: who may give orders, until when, and how they lose it.

use super::approve::put_through;
use super::output::{Rows, day};
use super::{Exit, Failure, Place, ShapeArgs, span, with_session};
use clap::{Args, Subcommand};
use fernwart_certs::approve::Contents;
use fernwart_certs::catalogue::{Customers, Role, StaffEntry};
use fernwart_certs::envelope::seal;
use fernwart_certs::identity::{key_id, staff_key_id};
use fernwart_client::{ApproverHome, Session, now};
use fernwart_protocol::document::{Lock, Locked};
use fernwart_protocol::id::KeyId;
use fernwart_protocol::staff::Request;
use fernwart_protocol::text::{List, Text};
use fernwart_protocol::version::Version;
use std::time::Duration;

/// Longest a staff entry lasts.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Who may give orders.
#[derive(Args)]
pub(crate) struct Staff {
    #[command(subcommand)]
    command: StaffCommand,
}

#[derive(Subcommand)]
enum StaffCommand {
    /// Put somebody who has joined onto the staff list, or change an entry
    Add {
        /// The name
        name: String,
        /// The key id they told you
        #[arg(long, value_name = "ID")]
        key_id: KeyId,
        /// What they may do: diagnose, repair or lead
        #[arg(long)]
        role: Role,
        /// Only these customers' machines
        #[arg(long, value_name = "CUSTOMER")]
        customer: Vec<String>,
        /// Until when, at most a year: 90d
        #[arg(long, default_value = "365d", value_parser = span::parse)]
        until: Duration,
    },
    /// Cut somebody off at once: links, hub, and with an approver's key every machine
    Suspend {
        /// The name or key id
        name: String,
    },
    /// Take somebody off the staff list
    Rm {
        /// The name or key id
        name: String,
    },
    /// The staff list
    Ls(ShapeArgs),
}

pub(crate) fn staff(command: &Staff, place: &Place) -> Result<Exit, Failure> {
    match &command.command {
        StaffCommand::Add { name, key_id, role, customer, until } => {
            let name: Text<64> =
                name.parse().map_err(|_| Failure::new(Exit::Usage, "FW-CLI-01", "a name has at most 64 bytes"))?;
            if *until > YEAR {
                return Err(
                    Failure::new(Exit::Usage, "FW-CLI-01", "a staff entry lasts at most a year").now("--until 365d")
                );
            }
            with_session(place, async |session| {
                session.sync().await?;
                let entry = entry(session, name, *key_id, *role, customer, *until).await?;
                let mut contents = Contents::of(&session.catalogue);
                contents.staff.staff.retain(|known| known.key != entry.key);
                contents.staff.staff.push(entry);
                put_through(session, &contents, place).await?;
                Ok(Exit::Done)
            })
        }
        StaffCommand::Suspend { name } => suspend(name, place),
        StaffCommand::Rm { name } => with_session(place, async |session| {
            session.sync().await?;
            let key = listed(session, name)?.key;
            let mut contents = Contents::of(&session.catalogue);
            contents.staff.staff.retain(|known| known.key != key);
            if !contents.staff.staff.iter().any(|entry| entry.role == Role::Lead) {
                return Err(Failure::new(
                    Exit::Usage,
                    "FW-CAT-09",
                    "this is the last lead; nobody could look after the shop afterwards",
                )
                .now("put another lead on the list first: fernwart staff add"));
            }
            put_through(session, &contents, place).await?;
            Ok(Exit::Done)
        }),
        StaffCommand::Ls(shape) => {
            let entries = with_session(place, async |session| {
                session.sync().await?;
                Ok(session.catalogue.staff.staff.clone())
            })?;
            let mut rows = Rows::new("staff", &["name", "role", "customers", "until", "key"]);
            for entry in entries {
                let reach = match &entry.customers {
                    Customers::All => "all".to_owned(),
                    Customers::Only(some) => some.len().to_string(),
                };
                let (role, until) = (entry.role.as_str(), day(entry.until));
                rows.push(vec![
                    entry.name.as_raw().into(),
                    role.into(),
                    reach.into(),
                    until.into(),
                    entry.key.to_string().into(),
                ]);
            }
            rows.print(shape.output)
        }
    }
}

/// The entry for a key, from keys that truly make up its id.
async fn entry(
    session: &mut Session,
    name: Text<64>,
    key: KeyId,
    role: Role,
    customers: &[String],
    until: Duration,
) -> Result<StaffEntry, Failure> {
    let until = now().saturating_add(i64::try_from(until.as_millis()).unwrap_or(i64::MAX));
    let customers = if customers.is_empty() {
        Customers::All
    } else {
        let known = session.customers().await?;
        let mut ids = Vec::new();
        for name in customers {
            let found = known.iter().find(|row| row.name.as_raw().to_lowercase() == name.to_lowercase());
            let found = found.ok_or_else(|| {
                Failure::new(Exit::Usage, "FW-HUB-06", format!("no customer {name:?}")).now("fernwart customer ls")
            })?;
            ids.push(found.id);
        }
        Customers::Only(ids)
    };
    if let Some(known) = session.catalogue.staff.find(&key) {
        return Ok(StaffEntry { name, role, customers, until, ..known.clone() });
    }
    let (_, waiting) = session.pending().await?;
    let joined = waiting.into_iter().find(|joined| joined.key == key);
    // The id commits to both keys: a hub that hands out others is found out.
    match joined.filter(|joined| staff_key_id(&joined.order_key, &joined.tls_key) == key) {
        Some(joined) => {
            Ok(StaffEntry { key, order_key: joined.order_key, tls_key: joined.tls_key, name, role, customers, until })
        }
        None => Err(Failure::new(Exit::Usage, "FW-JOIN-12", format!("nobody with the key id {key} has joined"))
            .now("they run fernwart join first; then: fernwart pending")),
    }
}

fn listed(session: &Session, name: &str) -> Result<StaffEntry, Failure> {
    let staff = &session.catalogue.staff.staff;
    let found: Vec<_> =
        staff.iter().filter(|entry| entry.name.as_raw() == name || entry.key.to_string() == name).collect();
    match found.as_slice() {
        [entry] => Ok((*entry).clone()),
        [] => Err(Failure::new(Exit::Usage, "FW-CLI-02", format!("nobody called {name:?} is on the staff list"))
            .now("fernwart staff ls")),
        _ => {
            Err(Failure::new(Exit::Usage, "FW-CLI-02", format!("several entries are called {name:?}; use the key id"))
                .now("fernwart staff ls"))
        }
    }
}

fn suspend(name: &str, place: &Place) -> Result<Exit, Failure> {
    let approver = ApproverHome::open(&place.approver()).ok();
    with_session(place, async |session| {
        session.sync().await?;
        let entry = listed(session, name)?;
        session.tell(&Request::Suspend(entry.key)).await?;
        eprintln!("{} is cut off at this hub.", entry.name);
        match approver {
            Some(home) => {
                let approver = place.unlock(home)?;
                let locked = Locked::Keys(List::try_from(vec![entry.key]).unwrap_or_default());
                let key = key_id(&approver.public());
                let lock = Lock { locked, key, reason: Text::clipped("suspended"), at: now() };
                // A lock goes to all machines, whatever version they run.
                let envelope = seal(&lock, &approver, Version::OLDEST).map_err(fernwart_client::ClientError::Sign)?;
                session.tell(&Request::Lock(envelope)).await?;
                eprintln!(
                    "Every machine has been told to refuse this key; machines that are away hear it when they return."
                );
            }
            None => eprintln!(
                "No approver's key is here, so machines still know the key.\nNext: an approver runs fernwart staff suspend too"
            ),
        }
        eprintln!("Next: fernwart staff rm {name}");
        Ok(Exit::Done)
    })
}
