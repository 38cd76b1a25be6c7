//! Admission of machines and staff: invitations, the pending list, the four words; and retiring
//! machines.

use super::choosing::{agree_to_name, new_customer, one};
use super::output::{Cell, Rows, ago, moment};
use super::prompt::Confirm;
use super::{Exit, Failure, HomePaths, Shape, ShapeArgs, say, span, with_session};
use clap::Args;
use fernwart_certs::invitation::{Guest, Invitation, Secret};
use fernwart_certs::join::four_words;
use fernwart_client::target::nearest_of;
use fernwart_client::{Session, now};
use fernwart_protocol::diagnosis::Language;
use fernwart_protocol::id::{Digest, TokenId};
use fernwart_protocol::network::Network;
use fernwart_protocol::staff::{Admission, CustomerRow, Label, PendingMachine, Presence, Token, TokenKind};
use fernwart_protocol::text::{List, MachineName, Text};
use serde_json::Value;
use std::time::Duration;

/// Parses the lifetime of an invitation.
fn some_time(text: &str) -> Result<Duration, String> {
    span::parse(text).and_then(|span| if span.is_zero() { Err("at least 1s".into()) } else { Ok(span) })
}

/// Make an invitation.
#[derive(Args)]
pub(crate) struct Invite {
    /// The customer; entered if not known yet
    #[arg(required_unless_present = "staff")]
    customer: Option<String>,
    /// Invite a technician or robot instead
    #[arg(long, conflicts_with_all = ["customer", "machines", "admit_automatically", "labels"])]
    staff: bool,
    /// For so many machines
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    machines: u32,
    /// Valid for so long
    #[arg(long = "for", default_value = "48h", value_parser = some_time)]
    valid: Duration,
    /// Only from this network, as 192.0.2.0/24
    #[arg(long, value_name = "CIDR")]
    from_net: Option<Network>,
    /// Let machines in without a person comparing words
    #[arg(long)]
    admit_automatically: bool,
    /// Labels the machines get
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// The language of a customer that is entered now
    #[arg(long)]
    lang: Option<Language>,
    /// The line alone, for scripts
    #[arg(long)]
    quiet: bool,
}

pub(crate) fn invite(command: &Invite, homes: &HomePaths) -> Result<Exit, Failure> {
    let usage = |what: &str| Failure::new(Exit::Usage, "FW-CLI-01", what);
    let mut labels: Vec<Label> = Vec::new();
    for label in &command.labels {
        let (name, value) = label.split_once('=').ok_or_else(|| usage("a label is NAME=VALUE"))?;
        labels.push((Text::clipped(name), Text::clipped(value)));
    }
    let labels = List::try_from(labels).map_err(|_| usage("at most 32 labels"))?;
    let admission = if command.admit_automatically { Admission::Automatic } else { Admission::ByPerson };
    let until = now().saturating_add(i64::try_from(command.valid.as_millis()).unwrap_or(i64::MAX));
    let (line, whom) = with_session(homes, async |session| {
        // The newest approved addresses and pins, verified here.
        session.sync().await?;
        let (guest, admits, whom) = match &command.customer {
            None => (Guest::Staff, TokenKind::Staff, "a technician or robot".to_owned()),
            Some(name) => {
                let language = command.lang.unwrap_or(session.catalogue.shop.language);
                let customer = known_or_new(session, name, language).await?;
                let language = customer.language.as_raw().parse().unwrap_or_default();
                let admits = TokenKind::Machine { customer: customer.id, labels: labels.clone(), admission };
                let whom = customer.name.to_string();
                (
                    Guest::Machine { customer: customer.id, customer_name: customer.name, language, admission },
                    admits,
                    whom,
                )
            }
        };
        let secret = Secret::generate();
        let catalogue = &session.catalogue;
        let invitation = Invitation {
            guest,
            addresses: List::try_from(catalogue.hub.addresses.iter().take(4).cloned().collect::<Vec<_>>())
                .unwrap_or_default(),
            ca: catalogue.hub.ca.first().copied().unwrap_or(Digest::from_bytes([0; 32])),
            root_version: catalogue.versions.root,
            root: catalogue.root,
            token: TokenId::from_bytes(fernwart_certs::random()),
            secret,
            uses: command.machines.max(1),
            until,
        };
        let token = Token {
            id: invitation.token,
            proof_key: Digest::from_bytes(secret.proof_key().0),
            admits,
            uses: invitation.uses,
            until,
            from_net: command.from_net.map(|net| Text::clipped(&net.to_string())),
        };
        session.invite(token).await?;
        let line = invitation.to_line().map_err(|error| Failure::new(Exit::Failed, "FW-CLI-09", error.to_string()))?;
        Ok((line, whom))
    })?;
    if command.quiet {
        return say(&format!("{line}\n"));
    }
    let count = match (command.staff, command.machines) {
        (true, _) => String::new(),
        (false, 1) => ": one machine".into(),
        (false, n) => format!(": {n} machines"),
    };
    let how = match (command.staff, command.machines > 1 || command.admit_automatically) {
        (true, _) => format!("  On their computer   fernwart join     (it asks for this line)\n{line}\n"),
        (false, false) => format!("  On the machine   sudo fernwart-agent enroll {line}\n"),
        (false, true) => {
            format!(
                "  Save this line in a file; on each machine   sudo fernwart-agent enroll --invitation FILE\n{line}\n"
            )
        }
    };
    say(&format!("Invitation for {whom}{count}, until {}\n{how}", moment(until)))?;
    let next = match (command.staff, command.admit_automatically) {
        (true, _) => "fernwart pending     (shows the key id for fernwart staff add)",
        (false, false) => "fernwart pending     (shows the machine and four words to compare on the phone)",
        (false, true) => "fernwart ls     (they are let in by themselves)",
    };
    note!("Next: {next}");
    Ok(Exit::Done)
}

async fn known_or_new(session: &mut Session, name: &str, language: Language) -> Result<CustomerRow, Failure> {
    let customers = session.customers().await?;
    let known = customers.into_iter().find(|row| row.name.as_raw().to_lowercase() == name.trim().to_lowercase());
    if let Some(known) = known {
        return Ok(known);
    }
    let row = new_customer(name, language)?;
    session.add_customer(row.clone()).await?;
    Ok(row)
}

/// Who waits.
#[derive(Args)]
pub(crate) struct PendingArgs {
    #[command(flatten)]
    shape: ShapeArgs,
}

/// The four words, computed from the keys that the hub reports. They match the machine's words only
/// if the hub has swapped no key.
fn words_of(session: &Session, machine: &PendingMachine, language: Language) -> String {
    let newcomer = &machine.newcomer;
    four_words(&newcomer.evidence_key, &newcomer.tls_key, &session.catalogue.root, &newcomer.customer, language)
        .join(" · ")
}

pub(crate) fn pending(command: &PendingArgs, homes: &HomePaths) -> Result<Exit, Failure> {
    let is_table = command.shape.output == Shape::Table;
    let shown = ["name", "customer:for", "os", "address:from", "words", "since:waiting"];
    let more = ["kind", "key"];
    let columns: Vec<&str> = shown.into_iter().chain(more.into_iter().filter(|_| !is_table)).collect();
    let mut rows = Rows::new("pending", &columns);
    let mut push = |mut row: Vec<Cell>, more: [Cell; 2]| {
        row.extend(more.into_iter().filter(|_| !is_table));
        rows.push(row);
    };
    let mut any_machine = false;
    let mut any_staff = false;
    with_session(homes, async |session| {
        session.sync().await?;
        let customers = session.customers().await?;
        let (machines, staff) = session.pending().await?;
        for machine in &machines {
            any_machine = true;
            let customer = customers.iter().find(|row| row.id == machine.newcomer.customer);
            let language = customer.and_then(|row| row.language.as_raw().parse().ok()).unwrap_or_default();
            let row = vec![
                machine.hostname.as_raw().into(),
                customer.map(|row| row.name.as_raw()).unwrap_or_default().into(),
                machine.os.as_raw().into(),
                machine.address.as_raw().into(),
                words_of(session, machine, language).into(),
                Cell::ago(machine.at, now()),
            ];
            push(row, ["machine".into(), Value::Null.into()]);
        }
        for member in &staff {
            any_staff = true;
            let nothing = || Cell::from(Value::Null);
            let (customer, words) = match is_table {
                true => ("staff".into(), format!("key id {}", member.key).into()),
                false => (nothing(), nothing()),
            };
            let name = member.name.as_raw().into();
            let row = vec![name, customer, nothing(), nothing(), words, Cell::ago(member.at, now())];
            push(row, ["staff".into(), member.key.to_string().into()]);
        }
        Ok(())
    })?;
    rows.print(command.shape.output)?;
    match (any_machine, any_staff) {
        (false, false) => note!("nobody waits"),
        (true, _) => {
            note!("Compare the four words on the phone. Next: fernwart admit NAME   (or: fernwart reject NAME)")
        }
        (false, true) => note!(
            "Next: fernwart staff add NAME --key-id ID --role diagnose|repair|lead   (or: fernwart staff reject NAME)"
        ),
    }
    Ok(Exit::Done)
}

/// Let a machine in.
#[derive(Args)]
pub(crate) struct Admit {
    /// The machine, as `pending` shows it
    machine: String,
    /// Under another name
    #[arg(long = "as", value_name = "NAME")]
    name: Option<MachineName>,
    /// The four words you were told, to be checked here
    #[arg(long, value_name = "WORDS")]
    words: Option<String>,
    /// Yes, this name, though a machine of another customer had it before
    #[arg(long, value_name = "NAME", require_equals = true)]
    yes: Option<String>,
}

async fn waiting_machine(session: &mut Session, name: &str) -> Result<PendingMachine, Failure> {
    let (machines, _) = session.pending().await?;
    let meant = nearest_of(name, machines.iter().map(|machine| machine.hostname.as_raw()));
    let found = machines.into_iter().find(|m| m.hostname.as_raw() == name || m.newcomer.machine.to_string() == name);
    found.ok_or_else(|| {
        let failure = Failure::new(Exit::Usage, "FW-JOIN-11", format!("no machine {name:?} waits to be admitted"));
        match meant {
            Some(meant) => failure.now(format!("did you mean {meant}?  all who wait: fernwart pending")),
            None => failure.now("fernwart pending"),
        }
    })
}

/// Spells out umlauts, as people type them on keyboards that have none.
fn plainly(word: &str) -> String {
    word.to_lowercase().replace('ä', "ae").replace('ö', "oe").replace('ü', "ue").replace('ß', "ss")
}

pub(crate) fn admit(command: &Admit, homes: &HomePaths) -> Result<Exit, Failure> {
    let name = with_session(homes, async |session| {
        session.sync().await?;
        let machine = waiting_machine(session, &command.machine).await?;
        if let Some(typed) = &command.words {
            let typed: Vec<String> =
                typed.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect();
            let fits = [Language::De, Language::En].into_iter().any(|language| {
                words_of(session, &machine, language)
                    .split(" · ")
                    .map(plainly)
                    .eq(typed.iter().map(String::as_str).map(plainly))
            });
            if !fits {
                return Err(Failure::new(Exit::Refused, "FW-JOIN-07", "the words differ: this is not the machine you are talking about, or somebody sits in between; it was not admitted")
                    .now(format!("fernwart reject {}", command.machine)));
            }
        }
        let wanted = command.name.clone().unwrap_or_else(|| MachineName::from_hostname(machine.hostname.as_raw()));
        let customer = machine.newcomer.customer;
        agree_to_name(session, (&wanted, customer), (command.yes.as_deref(), "it was not admitted")).await?;
        Ok(session.admit(machine.newcomer.machine, wanted).await?)
    })?;
    note!("{name} is admitted.\nNext: fernwart diagnose {name}");
    Ok(Exit::Done)
}

/// Reported when nobody confirms.
const NOTHING: &str = "nothing was changed";

/// A machine that one parts with.
#[derive(Args)]
#[command(
    before_help = "Examples:\n  fernwart retire kasse-2                  shows which machine it is, and asks\n  fernwart retire kasse-2 --yes=kasse-2    in a script"
)]
pub(crate) struct Parting {
    /// Its name
    machine: String,
    /// Yes, this machine (needed without a terminal)
    #[arg(long, value_name = "NAME", require_equals = true)]
    yes: Option<String>,
}

pub(crate) fn reject(command: &Parting, homes: &HomePaths) -> Result<Exit, Failure> {
    with_session(homes, async |session| {
        let machine = waiting_machine(session, &command.machine).await?;
        let customers = session.customers().await?;
        let customer = customers.iter().find(|row| row.id == machine.newcomer.customer);
        note!(
            "{} ({}, {}, from {}, waiting since {}) would be turned away. It can only come with a new invitation.",
            machine.hostname,
            customer.map(|row| row.name.to_string()).unwrap_or_default(),
            machine.os,
            machine.address,
            ago(machine.at, now()),
        );
        let (word, yes) = (command.machine.as_str(), command.yes.as_deref());
        Confirm { to: "to turn it away", word, yes, nothing: NOTHING }.ask()?;
        Ok(session.reject(machine.newcomer.machine).await?)
    })?;
    note!("{} is turned away", command.machine);
    Ok(Exit::Done)
}

pub(crate) fn retire(command: &Parting, homes: &HomePaths) -> Result<Exit, Failure> {
    with_session(homes, async |session| {
        let (row, is_retired) = match one(session, &command.machine).await {
            Ok(row) => (row, false),
            Err(failure) => {
                // A retired machine that is still away may need a new signature: the first signer
                // may have left the staff list.
                let name = command.machine.parse().ok();
                let mut before = match &name {
                    Some(name) => session.formerly(name).await?,
                    None => Vec::new(),
                };
                before.retain(|row| name.as_ref() == Some(&row.name));
                match <[_; 1]>::try_from(before) {
                    Ok([row]) => (row, true),
                    Err(_) => return Err(failure),
                }
            }
        };
        let state = match row.presence {
            Presence::Online(_) => "online".to_owned(),
            Presence::Away => format!("away, last seen {}", ago(row.seen_at, now())),
        };
        let what =
            if is_retired { "is retired already, and would be signed for again" } else { "would be retired for good" };
        note!("{} ({}, {}, {state}) {what}:", row.name, row.customer_name, row.os);
        note!(
            "  a script that runs there is ended, its link is cut, and its certificate is worth nothing;\n  orders that wait for it are never given; it comes back only with a new invitation, as a new machine"
        );
        let yes = command.yes.as_deref();
        Confirm { to: "to retire it", word: row.name.as_str(), yes, nothing: NOTHING }.ask()?;
        Ok(session.retire(&row).await?)
    })?;
    note!("{} is retired; its link is cut and its certificate is worth nothing here", command.machine);
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_be_typed_without_umlauts() {
        assert_eq!(plainly("Hügel"), plainly("Huegel"));
        assert_ne!(plainly("hügel"), plainly("hagel"));
    }
}
