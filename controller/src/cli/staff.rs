//! The staff list: who may give orders and until when, and how to remove them.

use super::approve::put_through;
use super::output::{Cell, Rows};
use super::prompt::Confirm;
use super::{Exit, Failure, HomePaths, ShapeArgs, span, with_session};
use clap::{Args, Subcommand};
use fernwart_certs::approve::Contents;
use fernwart_certs::catalogue::{Customers, Role, StaffEntry};
use fernwart_certs::envelope::seal;
use fernwart_certs::identity::{key_id, staff_key_id};
use fernwart_client::{ApproverHome, Session, now};
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::{Lock, Locked};
use fernwart_protocol::id::KeyId;
use fernwart_protocol::script::BundleName;
use fernwart_protocol::text::{List, Text};
use fernwart_protocol::version::Version;
use serde_json::Value;
use std::time::Duration;

/// Maximum lifetime of a staff entry.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Who may give orders.
#[derive(Args)]
pub(crate) struct Staff {
    #[command(subcommand)]
    command: StaffCommand,
}

#[derive(Args)]
struct Add {
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
    /// Scripts that they may run although the role is diagnose, each by its name
    #[arg(long, value_name = "SCRIPT")]
    script: Vec<BundleName>,
    /// Until when, at most a year: 90d. Without it an entry keeps its end, and a new one gets a year
    #[arg(long, value_name = "TIME", value_parser = span::parse)]
    until: Option<Duration>,
}

#[derive(Subcommand)]
enum StaffCommand {
    /// Put somebody who has joined onto the staff list, or change an entry
    Add(Add),
    /// Cut somebody off at once: links, hub, and with an approver's key every machine
    Suspend {
        /// The name or key id
        name: String,
    },
    /// Let somebody in again who was suspended
    Resume {
        /// The name or key id
        name: String,
    },
    /// Turn somebody away who has joined and waits to get onto the list
    Reject {
        /// The name or key id, as pending shows it
        name: String,
        /// Yes, this one: the name (needed without a terminal)
        #[arg(long, value_name = "NAME", require_equals = true)]
        yes: Option<String>,
    },
    /// Take somebody off the staff list
    Rm {
        /// The name or key id
        name: String,
        /// Yes, this entry: its name (needed without a terminal)
        #[arg(long, value_name = "NAME", require_equals = true)]
        yes: Option<String>,
    },
    /// The staff list
    Ls(ShapeArgs),
}

pub(crate) fn staff(command: &Staff, homes: &HomePaths) -> Result<Exit, Failure> {
    match &command.command {
        StaffCommand::Add(given) => add(given, homes),
        StaffCommand::Suspend { name } => suspend(name, homes),
        StaffCommand::Resume { name } => resume(name, homes),
        StaffCommand::Reject { name, yes } => reject(name, yes.as_deref(), homes),
        StaffCommand::Rm { name, yes } => rm(name, yes.as_deref(), homes),
        StaffCommand::Ls(shape) => ls(shape, homes),
    }
}

fn add(given: &Add, homes: &HomePaths) -> Result<Exit, Failure> {
    let name: Text<64> =
        given.name.parse().map_err(|_| Failure::new(Exit::Usage, "FW-CLI-01", "a name has at most 64 bytes"))?;
    if given.until.is_some_and(|until| until > YEAR) {
        return Err(Failure::new(Exit::Usage, "FW-CLI-01", "a staff entry lasts at most a year").now("--until 365d"));
    }
    if !given.script.is_empty() && given.role != Role::Diagnose {
        let what = format!("the role {} may run every script already", given.role.as_str());
        return Err(Failure::new(Exit::Usage, "FW-CLI-01", what).now("--role diagnose --script NAME"));
    }
    with_session(homes, async |session| {
        session.sync().await?;
        if let Some(name) = given.script.iter().find(|name| !session.catalogue.scripts.contains_key(*name)) {
            let what = format!("script {:?} is not in the catalogue", name.as_str());
            return Err(Failure::new(Exit::Usage, "FW-CAT-01", what).now("fernwart script ls"));
        }
        let entry = entry(session, name, given.key_id, given.role, &given.customer, given.until).await?;
        let mut contents = Contents::of(&session.catalogue);
        contents.grants.remove(&entry.key);
        if !given.script.is_empty() {
            contents.grants.insert(entry.key, given.script.iter().cloned().collect());
        }
        contents.staff.staff.retain(|known| known.key != entry.key);
        contents.staff.staff.push(entry);
        put_through(session, &contents, homes).await?;
        Ok(Exit::Done)
    })
}

fn rm(name: &str, yes: Option<&str>, homes: &HomePaths) -> Result<Exit, Failure> {
    with_session(homes, async |session| {
        session.sync().await?;
        let entry = listed(session, name)?;
        let key = entry.key;
        let mut contents = Contents::of(&session.catalogue);
        contents.staff.staff.retain(|known| known.key != key);
        contents.grants.remove(&key);
        if !contents.staff.staff.iter().any(|entry| entry.role == Role::Lead) {
            return Err(Failure::new(
                Exit::Usage,
                "FW-CAT-09",
                "this is the last lead; nobody could look after the shop afterwards",
            )
            .now("put another lead on the list first: fernwart staff add"));
        }
        note!(
            "{} ({}, key {key}) would be taken off the staff list: no order of this key is followed any more.",
            entry.name,
            entry.role.as_str()
        );
        let word = entry.name.as_raw();
        Confirm { to: "to take it off", word, yes, nothing: "nothing was changed" }.ask()?;
        put_through(session, &contents, homes).await?;
        Ok(Exit::Done)
    })
}

fn ls(shape: &ShapeArgs, homes: &HomePaths) -> Result<Exit, Failure> {
    let (entries, grants, cut_off) = with_session(homes, async |session| {
        session.sync().await?;
        let cut_off = session.suspensions().await?;
        Ok((session.catalogue.staff.staff.clone(), session.catalogue.grants.clone(), cut_off))
    })?;
    let columns = ["name", "role", "scripts", "customers", "until", "state", "key"];
    let mut rows = Rows::new("staff", &columns);
    for entry in entries {
        let state = match (&cut_off, entry.until <= now()) {
            (Some(cut_off), _) if cut_off.iter().any(|one| one.key == entry.key) => "suspended",
            (_, true) => "expired",
            (Some(_), false) => "active",
            // The hub reports suspensions only to leads.
            (None, false) => "",
        };
        let reach = match &entry.customers {
            Customers::All => Cell::from("all"),
            Customers::Only(some) => {
                let ids: Vec<Value> = some.iter().map(|id| id.to_string().into()).collect();
                Cell::new(ids, some.len().to_string())
            }
        };
        let role = entry.role.as_str();
        // Empty if only the role decides.
        let scripts = grants.get(&entry.key).map(|scripts| {
            let names: Vec<&str> = scripts.iter().map(BundleName::as_str).collect();
            Cell::new(names.clone(), names.join(", "))
        });
        rows.push(vec![
            entry.name.as_raw().into(),
            role.into(),
            scripts.unwrap_or_else(|| None::<&str>.into()),
            reach,
            Cell::day(entry.until),
            Some(state).filter(|state| !state.is_empty()).into(),
            entry.key.to_string().into(),
        ]);
    }
    rows.print(shape.output)
}

/// Builds the entry for a key id from keys whose hash is that id.
async fn entry(
    session: &mut Session,
    name: Text<64>,
    key: KeyId,
    role: Role,
    customers: &[String],
    until: Option<Duration>,
) -> Result<StaffEntry, Failure> {
    let ends = |span: Duration| now().saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX));
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
        let kept = Some(known.until).filter(|until| *until > now());
        let until = until.map(ends).or(kept).unwrap_or_else(|| ends(YEAR));
        return Ok(StaffEntry { name, role, customers, until, ..known.clone() });
    }
    let (_, waiting) = session.pending().await?;
    let joined = waiting.into_iter().find(|joined| joined.key == key);
    // The id commits to both keys, so a hub cannot substitute others.
    match joined.filter(|joined| staff_key_id(&joined.order_key, &joined.tls_key) == key) {
        Some(joined) => {
            let until = ends(until.unwrap_or(YEAR));
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

fn suspend(name: &str, homes: &HomePaths) -> Result<Exit, Failure> {
    let approver = ApproverHome::open(&homes.approver()).ok();
    with_session(homes, async |session| {
        session.sync().await?;
        let entry = listed(session, name)?;
        session.suspend(entry.key).await?;
        note!("{} is cut off at this hub.", entry.name);
        match approver {
            Some(home) => {
                let approver = homes.unlock(home)?;
                let locked = Locked::Keys(List::try_from(vec![entry.key]).unwrap_or_default());
                let key = key_id(&approver.public());
                let lock = Lock { locked, key, reason: Text::clipped("suspended"), at: now() };
                // A lock goes to machines of every version.
                let envelope = seal(&lock, &approver, Version::OLDEST).map_err(fernwart_client::ClientError::Sign)?;
                session.lock(envelope).await?;
                note!(
                    "Every machine has been told to refuse this key; machines that are away hear it when they return."
                );
            }
            None => note!(
                "No approver's key is here, so machines still know the key.\nNext: an approver runs fernwart staff suspend too"
            ),
        }
        note!("Next: fernwart staff rm {name}");
        Ok(Exit::Done)
    })
}

fn resume(name: &str, homes: &HomePaths) -> Result<Exit, Failure> {
    with_session(homes, async |session| {
        session.sync().await?;
        let entry = listed(session, name)?;
        let Some(cut_off) = session.suspensions().await? else {
            let what = "who is suspended is told to leads only, and by a hub of this version";
            return Err(
                Failure::new(Exit::Refused, Denial::BeyondRole.code(), what).now("ask a lead; or update the hub")
            );
        };
        let Some(suspended) = cut_off.iter().find(|one| one.key == entry.key) else {
            note!("{} is not suspended; nothing was changed", entry.name);
            return Ok(Exit::Done);
        };
        session.resume(entry.key).await?;
        note!("{} is let in at the hub again.", entry.name);
        if suspended.locked {
            note!(
                "Machines go on refusing this key: an approver has locked it, which nothing takes back.\nNext: {name} joins anew with another home (new keys): fernwart invite --staff"
            );
        }
        Ok(Exit::Done)
    })
}

fn reject(name: &str, yes: Option<&str>, homes: &HomePaths) -> Result<Exit, Failure> {
    with_session(homes, async |session| {
        let (_, waiting) = session.pending().await?;
        let alike: Vec<_> =
            waiting.iter().filter(|one| one.name.as_raw() == name || one.key.to_string() == name).collect();
        let one = match alike.as_slice() {
            [one] => *one,
            [] => {
                let what = format!("nobody called {name:?} waits to get onto the staff list");
                return Err(Failure::new(Exit::Usage, "FW-JOIN-11", what).now("fernwart pending"));
            }
            _ => {
                let what = format!("several who wait are called {name:?}; use the key id");
                return Err(Failure::new(Exit::Usage, "FW-JOIN-11", what).now("fernwart pending"));
            }
        };
        note!(
            "{} (key {}) would be turned away. Until their invitation ends they can join with it again.",
            one.name,
            one.key
        );
        Confirm { to: "to turn them away", word: name, yes, nothing: "nothing was changed" }.ask()?;
        session.reject_staff(one.key).await?;
        note!("{} is turned away", one.name);
        Ok(Exit::Done)
    })
}
