//! Which machines a target means, and what became of a name; names for machines and customers.

use super::output::{ago, moment};
use super::prompt::Confirm;
use super::{Exit, Failure};
use fernwart_client::target::{BadTarget, Target, select};
use fernwart_client::{Session, now};
use fernwart_protocol::diagnosis::Language;
use fernwart_protocol::id::CustomerId;
use fernwart_protocol::row::Row;
use fernwart_protocol::staff::{CustomerRow, MachineRow};
use fernwart_protocol::text::{MachineName, Text};

/// The machines that a target selects. For an unknown name the error says what became of that
/// machine.
///
/// # Errors
/// When a word matches nothing, or no machine is left.
pub(crate) async fn chosen(session: &mut Session, target: &Target) -> Result<Vec<Row<MachineRow>>, Failure> {
    let machines = session.machines().await?;
    chosen_of(session, target, &machines).await
}

/// The same, with the machines already fetched.
pub(crate) async fn chosen_of(
    session: &mut Session,
    target: &Target,
    machines: &[Row<MachineRow>],
) -> Result<Vec<Row<MachineRow>>, Failure> {
    match select(target, machines) {
        Err(BadTarget::NoMatch { word, meant }) => Err(match what_became_of(session, &word, machines).await {
            Some((what, now)) => Failure::new(Exit::Usage, "FW-CLI-02", what).now(now),
            None => BadTarget::NoMatch { word, meant }.into(),
        }),
        selected => Ok(selected?),
    }
}

/// What became of a machine that had this name or waits to get it, and what to do.
async fn what_became_of(session: &mut Session, word: &str, machines: &[Row<MachineRow>]) -> Option<(String, String)> {
    let name: MachineName = word.parse().ok()?;
    // A technician who may not list pending machines gets the general answer.
    let (waiting, _) = session.pending().await.unwrap_or_default();
    if waiting.iter().any(|machine| machine.hostname.as_raw() == word) {
        return Some((format!("{word} is not admitted yet"), format!("fernwart admit {word}")));
    }
    let rows = session.formerly(&name).await.ok()?;
    let is_here = |row: &&Row<MachineRow>| machines.iter().any(|machine| machine.id == row.id);
    let renamed: Vec<&str> = rows.iter().filter(is_here).map(|row| row.name.as_str()).collect();
    if !renamed.is_empty() {
        let renamed = renamed.join(" or ");
        return Some((format!("{word} is called {renamed} now"), format!("the same with {renamed}")));
    }
    let retired = rows.first()?;
    let what = format!("{word} is retired, or its owner has left (last seen {})", moment(retired.seen_at));
    Some((what, "it comes back with a new invitation: fernwart invite".to_owned()))
}

/// One machine by its name, with a suggestion if it is misspelt.
pub(crate) async fn one(session: &mut Session, name: &str) -> Result<Row<MachineRow>, Failure> {
    let target = Target { words: vec![name.to_owned()], ..Target::default() };
    let selected = chosen(session, &target).await?;
    match selected.as_slice() {
        [row] => Ok(row.clone()),
        rows => Err(Failure::new(
            Exit::Usage,
            "FW-CLI-02",
            format!("{name:?} means {} machines; one is wanted", rows.len()),
        )),
    }
}

/// Asks for confirmation before a machine gets a name that a machine of another customer had:
/// people who know the name may mean the other machine.
///
/// # Errors
/// When nobody confirms, or the hub does not answer.
pub(crate) async fn agree_to_name(
    session: &mut Session,
    (wanted, customer): (&MachineName, CustomerId),
    (yes, nothing): (Option<&str>, &'static str),
) -> Result<(), Failure> {
    let Some(before) = session.formerly(wanted).await?.into_iter().find(|row| row.customer != customer) else {
        return Ok(());
    };
    let now_is = match before.name == *wanted {
        true => format!("that is retired (last seen {})", ago(before.seen_at, now())),
        false => format!("that is called {} now", before.name),
    };
    note!(
        "{wanted} was the name of a machine of {} {now_is}. What names it from then on means this one.",
        before.customer_name
    );
    Confirm { to: "to give it that name, or choose another", word: wanted.as_str(), yes, nothing }.ask()
}

pub(crate) fn new_customer(name: &str, language: Language) -> Result<CustomerRow, Failure> {
    let name: Text<120> = name
        .trim()
        .parse()
        .map_err(|_| Failure::new(Exit::Usage, "FW-CLI-01", "a customer's name has at most 120 bytes"))?;
    if name.is_empty() {
        return Err(Failure::new(Exit::Usage, "FW-CLI-01", "a customer needs a name"));
    }
    let id = CustomerId::from_bytes(fernwart_certs::random());
    Ok(CustomerRow { id, name, language: Text::clipped(language.as_str()), machines: 0 })
}
