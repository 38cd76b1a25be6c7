//! Machines and customers: listing, pinging, labels, groups, names, alarms.

use super::choosing::{agree_to_name, chosen, chosen_of, new_customer, one};
use super::output::{Cell, Rows, Shape, day, moment};
use super::{Exit, Failure, HomePaths, ShapeArgs, TargetArgs, say, span, with_session};
use clap::{Args, Subcommand};
use fernwart_client::now;
use fernwart_client::target::Target;
use fernwart_protocol::diagnosis::Language;
use fernwart_protocol::id::MachineId;
use fernwart_protocol::row::Row;
use fernwart_protocol::staff::{Label, MachineHealth, MachineRow, Membership, OtherHealth, Presence, Verdict};
use fernwart_protocol::text::{ALL, List, MachineName, Text, escaped};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// List machines.
#[derive(Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    shape: ShapeArgs,
}

fn presence(row: &Row<MachineRow>) -> (&'static str, String) {
    match row.presence {
        Presence::Online(rtt_us) => ("online", format!("quic {:.0}ms", f64::from(rtt_us) / 1000.0)),
        Presence::Away => ("away", String::new()),
    }
}

/// Lists show a diagnosis's age if it is older than this, seconds.
const STALE_S: i64 = 24 * 3600;

/// The age of a machine's newest complete diagnosis, seconds.
fn age_s(row: &Row<MachineRow>) -> Option<i64> {
    row.looked_at().map(|at| now().saturating_sub(at).max(0) / 1000)
}

fn days_or_hours(seconds: i64) -> String {
    if seconds < 2 * 86_400 { format!("{} h", seconds / 3600) } else { format!("{} d", seconds / 86_400) }
}

fn health(row: &Row<MachineRow>) -> String {
    match row.health() {
        MachineHealth::Known(Verdict::Unknown) => String::new(),
        MachineHealth::Known(Verdict::Well) => "ok".into(),
        MachineHealth::Known(Verdict::Warn(what)) => format!("warn: {what}"),
        MachineHealth::Known(Verdict::Crit(what)) => format!("crit: {what}"),
        MachineHealth::Other(Some(OtherHealth { word: OtherHealth::LOST, about })) => format!("unknown: {about}"),
        MachineHealth::Other(Some(OtherHealth { word, about })) => format!("other({word}): {about}"),
        MachineHealth::Other(None) => "other(?): update this program".into(),
    }
}

/// The fields of a machine for programs; people see the first of them.
const COLUMNS: [&str; 15] = [
    "name",
    "customer",
    "os",
    "state",
    "health",
    "link",
    "seen_at:seen",
    "health_age_s",
    "stale",
    "labels",
    "groups",
    "agent",
    "protocol",
    "certificate_until",
    "id",
];
const SHOWN: usize = 7;

fn cells(row: &Row<MachineRow>, is_table: bool) -> Vec<Cell> {
    let (state, link) = presence(row);
    let age = age_s(row);
    let is_stale = age.is_some_and(|age| age > STALE_S);
    let health = health(row);
    // A state stays until the next diagnosis, so show its age.
    let shown = match age.filter(|_| is_stale) {
        Some(age) => format!("{health} ({} ago)", days_or_hours(age)),
        None => health.clone(),
    };
    let link_of = match row.presence {
        Presence::Online(rtt_us) => json!({"transport": "quic", "rtt_ms": f64::from(rtt_us) / 1000.0}),
        Presence::Away => Value::Null,
    };
    let mut cells: Vec<Cell> = vec![
        row.name.as_str().into(),
        row.customer_name.as_raw().into(),
        row.os.as_raw().into(),
        state.into(),
        Cell::new(health, shown),
        Cell::new(link_of, link),
        Cell::ago(row.seen_at, now()),
    ];
    if !is_table {
        let labels: Map<String, Value> = row
            .labels
            .as_slice()
            .iter()
            .map(|(name, value)| (name.as_raw().to_owned(), value.as_raw().into()))
            .collect();
        let groups: Vec<Value> = row.groups.as_slice().iter().map(|group| group.as_raw().into()).collect();
        cells.extend([
            age.into(),
            is_stale.into(),
            Cell::new(labels, labels_of(row)),
            Cell::new(groups, groups_of(row)),
            row.agent.as_raw().into(),
            row.protocol().into(),
            Cell::day(row.certificate_until),
            row.id.to_string().into(),
        ]);
    }
    cells
}

fn labels_of(row: &Row<MachineRow>) -> String {
    let labels: Vec<_> = row.labels.as_slice().iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.join(" ")
}

fn groups_of(row: &Row<MachineRow>) -> String {
    let groups: Vec<_> = row.groups.as_slice().iter().map(|group| format!("@{group}")).collect();
    groups.join(" ")
}

pub(crate) fn ls(command: &Ls, homes: &HomePaths) -> Result<Exit, Failure> {
    let mut target = command.target.read()?;
    // Only for listing does an empty target mean all.
    if target.words.is_empty() && target.labels.is_empty() {
        target.words.push("all".into());
    }
    let machines = with_session(homes, async |session| {
        let machines = session.machines().await?;
        if machines.is_empty() { Ok(machines) } else { chosen_of(session, &target, &machines).await }
    })?;
    let is_table = command.shape.output == Shape::Table;
    let mut rows = Rows::new("machine", if is_table { &COLUMNS[..SHOWN] } else { &COLUMNS });
    machines.iter().for_each(|row| rows.push(cells(row, is_table)));
    if machines.is_empty() {
        note!("no machines yet; those that wait: fernwart pending; invite one: fernwart invite CUSTOMER");
    }
    rows.print(command.shape.output)
}

/// `1 machine`, `7 machines`.
pub(crate) fn machines_in_words(count: usize) -> String {
    if count == 1 { "1 machine".to_owned() } else { format!("{count} machines") }
}

/// Show one machine.
#[derive(Args)]
pub(crate) struct Show {
    /// Its name
    machine: String,
    #[command(flatten)]
    shape: ShapeArgs,
}

pub(crate) fn show(command: &Show, homes: &HomePaths) -> Result<Exit, Failure> {
    let row = with_session(homes, async |session| one(session, &command.machine).await)?;
    let (state, link) = presence(&row);
    if command.shape.output != Shape::Table {
        let mut rows = Rows::new("machine", &COLUMNS);
        rows.push(cells(&row, false));
        return rows.print(command.shape.output);
    }
    let mut out = format!("{} · {}\n", row.name, row.customer_name);
    let facts = [
        ("system", row.os.to_string()),
        ("state", format!("{state} {link}").trim().to_owned()),
        ("seen", moment(row.seen_at)),
        ("health", health(&row)),
        ("labels", labels_of(&row)),
        ("groups", groups_of(&row)),
        ("agent", format!("{} · takes orders up to protocol version {}", row.agent, row.protocol())),
        ("certificate", format!("until {}", day(row.certificate_until))),
        ("id", row.id.to_string()),
    ];
    for (name, value) in facts {
        let value = if value.is_empty() { "–" } else { &value };
        out += &format!("  {name:<12} {}\n", fernwart_protocol::text::escaped(value));
    }
    say(&out)
}

/// Measure the way to machines and back.
#[derive(Args)]
pub(crate) struct Ping {
    #[command(flatten)]
    target: TargetArgs,
    /// Wait so long for each
    #[arg(long, default_value = "5s", value_parser = span::parse)]
    timeout: Duration,
    #[command(flatten)]
    shape: ShapeArgs,
}

pub(crate) fn ping(command: &Ping, homes: &HomePaths) -> Result<Exit, Failure> {
    let target = command.target.read()?;
    let mut silent = 0;
    let mut rows = Rows::new("pong", &["machine:name", "ms"]);
    with_session(homes, async |session| {
        let machines = chosen(session, &target).await?;
        let ids: Vec<MachineId> = machines.iter().map(|row| row.id).collect();
        let answers = session.ping(&ids, command.timeout).await?;
        for row in &machines {
            let took = answers.get(&row.id).copied().flatten();
            silent += usize::from(took.is_none());
            let ms = took.map(|us| Value::from(f64::from(us) / 1000.0)).unwrap_or_default();
            rows.push(vec![row.name.as_str().into(), ms.into()]);
        }
        Ok(())
    })?;
    rows.print(command.shape.output)?;
    Ok(if silent > 0 { Exit::NoAnswer } else { Exit::Done })
}

/// Label machines.
#[derive(Args)]
pub(crate) struct LabelArgs {
    /// Machines, then labels: kasse-1 site=kiel till-
    #[arg(required = true, value_name = "TARGET… LABEL…")]
    words: Vec<String>,
}

pub(crate) fn label(command: &LabelArgs, homes: &HomePaths) -> Result<Exit, Failure> {
    let (mut labels, mut words): (Vec<Label>, Vec<String>) = (Vec::new(), Vec::new());
    let too_long = |_| Failure::new(Exit::Usage, "FW-CLI-01", "a label's name and value have at most 63 bytes each");
    for word in &command.words {
        if let Some((name, value)) = word.split_once('=') {
            labels.push((name.parse().map_err(too_long)?, value.parse().map_err(too_long)?));
        } else if let Some(name) = word.strip_suffix('-') {
            labels.push((name.parse().map_err(too_long)?, Text::default()));
        } else {
            words.push(word.clone());
        }
    }
    if labels.is_empty() {
        return Err(
            Failure::new(Exit::Usage, "FW-CLI-01", "no label was given").now("fernwart label kasse-1 site=kiel")
        );
    }
    let labels = List::try_from(labels).map_err(|_| Failure::new(Exit::Usage, "FW-CLI-01", "at most 32 labels"))?;
    let target = Target { words, ..Target::default() };
    let count = with_session(homes, async |session| {
        let machines = chosen(session, &target).await?;
        for row in &machines {
            session.label(row.id, labels.clone()).await?;
        }
        Ok(machines.len())
    })?;
    note!("{} labelled", machines_in_words(count));
    Ok(Exit::Done)
}

/// Put machines into a group, or take them out.
#[derive(Args)]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Subcommand)]
enum GroupCommand {
    /// All groups, and how many machines are in each
    Ls(ShapeArgs),
    /// Put machines into a group
    Add {
        /// The group
        group: String,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Take machines out of a group
    Rm {
        /// The group
        group: String,
        #[command(flatten)]
        target: TargetArgs,
    },
}

pub(crate) fn group(command: &GroupArgs, homes: &HomePaths) -> Result<Exit, Failure> {
    let (group, target, membership) = match &command.command {
        GroupCommand::Ls(shape) => return groups(*shape, homes),
        GroupCommand::Add { group, target } => (group, target.read()?, Membership::In),
        GroupCommand::Rm { group, target } => (group, target.read()?, Membership::Out),
    };
    let name: Text<63> = group
        .trim_start_matches('@')
        .parse()
        .map_err(|_| Failure::new(Exit::Usage, "FW-CLI-01", "a group's name has at most 63 bytes"))?;
    let count = with_session(homes, async |session| {
        let machines: Vec<MachineId> = chosen(session, &target).await?.iter().map(|row| row.id).collect();
        session.group(&name, &machines, membership).await?;
        Ok(machines.len())
    })?;
    let direction = match membership {
        Membership::In => "in",
        Membership::Out => "out of",
    };
    note!("{} {direction} @{name}", machines_in_words(count));
    Ok(Exit::Done)
}

fn groups(shape: ShapeArgs, homes: &HomePaths) -> Result<Exit, Failure> {
    let mut count = BTreeMap::new();
    for row in with_session(homes, async |session| Ok(session.machines().await?))? {
        for group in row.into_base().groups {
            *count.entry(group).or_insert(0) += 1;
        }
    }
    let mut rows = Rows::new("group", &["group", "machines"]);
    count.into_iter().for_each(|(group, machines)| {
        rows.push(vec![Cell::new(group.as_raw(), format!("@{group}")), i64::from(machines).into()])
    });
    rows.print(shape.output)
}

/// Say that somebody has looked into an alarm about a machine's records.
#[derive(Args)]
pub(crate) struct Acknowledge {
    /// The machine
    machine: String,
}

pub(crate) fn acknowledge(command: &Acknowledge, homes: &HomePaths) -> Result<Exit, Failure> {
    let (before, after) = with_session(homes, async |session| {
        let before = one(session, &command.machine).await?;
        session.acknowledge(before.id).await?;
        // It is acknowledged, whether or not the machine can be looked up again.
        let after = one(session, &command.machine).await.ok();
        Ok((before, after))
    })?;
    let name = &before.name;
    match (before.health(), after.map(|after| after.health())) {
        // An alarm stands in place of the health until it is acknowledged.
        (before, Some(after)) if before == after => {
            note!("{name}: there was no alarm; findings of a diagnosis go away when they are repaired")
        }
        (MachineHealth::Known(Verdict::Crit(alarm)), _) => note!("{name}: acknowledged: {}", escaped(alarm.as_raw())),
        _ => note!("{name}: acknowledged"),
    }
    Ok(Exit::Done)
}

/// Give a machine another name.
#[derive(Args)]
pub(crate) struct Rename {
    /// Its name now
    machine: String,
    /// Its new name
    name: MachineName,
    /// Yes, this name, though a machine of another customer had it before
    #[arg(long, value_name = "NAME", require_equals = true)]
    yes: Option<String>,
}

pub(crate) fn rename(command: &Rename, homes: &HomePaths) -> Result<Exit, Failure> {
    if command.name.as_str() == ALL {
        let what = "no machine is named all: that word means every one of them";
        return Err(Failure::new(Exit::Usage, "FW-CLI-01", what));
    }
    with_session(homes, async |session| {
        let row = one(session, &command.machine).await?;
        let agreed = (command.yes.as_deref(), "nothing was changed");
        agree_to_name(session, (&command.name, row.customer), agreed).await?;
        Ok(session.rename(row.id, command.name.clone()).await?)
    })?;
    note!("{} is now {}", command.machine, command.name);
    Ok(Exit::Done)
}

/// Customers.
#[derive(Args)]
pub(crate) struct Customer {
    #[command(subcommand)]
    command: CustomerCommand,
}

#[derive(Subcommand)]
enum CustomerCommand {
    /// Enter a customer
    Add {
        /// The name
        name: String,
        /// The language of what the customer reads
        #[arg(long, default_value = "de")]
        lang: Language,
    },
    /// List customers
    Ls(ShapeArgs),
}

pub(crate) fn customer(command: &Customer, homes: &HomePaths) -> Result<Exit, Failure> {
    match &command.command {
        CustomerCommand::Add { name, lang } => {
            let row = new_customer(name, *lang)?;
            with_session(homes, async |session| Ok(session.add_customer(row).await?))?;
            note!("customer {name:?} entered.\nNext: fernwart invite {name:?}");
            Ok(Exit::Done)
        }
        CustomerCommand::Ls(shape) => {
            let customers = with_session(homes, async |session| Ok(session.customers().await?))?;
            let mut rows = Rows::new("customer", &["name", "language", "machines", "id"]);
            for row in customers {
                let id = row.id.to_string();
                rows.push(vec![row.name.as_raw().into(), row.language.as_raw().into(), row.machines.into(), id.into()]);
            }
            rows.print(shape.output)
        }
    }
}
