//! The command line. Data goes to standard output, everything else to standard error.

mod admission;
mod approve;
mod choosing;
mod code;
mod diagnose;
mod doctor;
mod events;
mod facts;
mod fields;
mod help;
mod jobs;
mod join;
mod journal;
mod machines;
mod output;
mod parallel;
mod query;
mod run;
mod script;
pub(crate) use fernwart_protocol::span;
mod staff;
mod tally;
mod terminal;
mod usage;

pub use crate::failure::{Exit, Failure, chain};
pub use crate::homes::HomePaths;
pub(crate) use crate::prompt;
pub(crate) use crate::runtime::block_on;
pub(crate) use crate::writing::say;

use crate::operate;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use fernwart_client::{Session, StaffHome};
use output::Shape;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Remote maintenance in which the hub is a courier, the machine's owner has
/// the last word, and nothing is lost or runs twice.
#[derive(Parser)]
#[command(
    name = "fernwart",
    version,
    disable_help_subcommand = true,
    before_help = "Examples:\n  fernwart demo                      see it work on this computer\n  fernwart diagnose kasse-2          what is wrong with a machine, and why",
    after_help = help::topics()
)]
pub struct Arguments {
    /// The folder with your keys (or the hub's, for serve)
    #[arg(long, global = true, value_name = "DIR", env = "FERNWART_HOME")]
    home: Option<PathBuf>,
    /// A file with the passphrase of an approver's key, mode 0600
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    passphrase_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

/// The commands, by what they are for.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start a hub and three agents here, diagnose this computer, clean up
    Demo(operate::demo::Demo),
    /// Create an organisation: the hub's, the approver's and your own home
    Init(operate::init::Init),
    /// Run the hub
    Serve(operate::serve::Serve),
    #[command(hide = true, name = operate::answer::NAME)]
    AnswerQuery(operate::answer::AnswerQuery),
    Backup(operate::backup::Backup),
    Restore(operate::backup::Restore),
    /// Replace the hub's CA and evidence key; on the hub's computer
    NextKeys(operate::next_keys::NextKeys),
    /// Join an organisation as technician or robot
    Join(join::Join),
    /// Check this home, the hub and what runs out, and say what to do
    Doctor(ShapeArgs),
    /// List machines
    Ls(machines::Ls),
    /// Show one machine
    Show(machines::Show),
    Facts(facts::Facts),
    Query(query::Query),
    /// Measure the way to machines and back
    Ping(machines::Ping),
    /// Label machines: site=kiel, or site- to take it away
    Label(machines::LabelArgs),
    /// Put machines into a group, or take them out
    Group(machines::GroupArgs),
    /// Give a machine another name
    Rename(machines::Rename),
    Acknowledge(machines::Acknowledge),
    /// List and add customers
    Customer(machines::Customer),
    /// Make an invitation for machines of a customer, or for staff
    Invite(admission::Invite),
    /// List who waits to be admitted
    Pending(admission::PendingArgs),
    /// Let a machine in, after its four words were compared
    Admit(admission::Admit),
    /// Turn a waiting machine away
    Reject(admission::Parting),
    /// Take a machine out of service for good
    Retire(admission::Parting),
    /// Find out what is wrong with machines, and why
    Diagnose(diagnose::Diagnose),
    /// Run an approved script, or what repairs a finding
    Run(run::Run),
    /// List approved scripts, check and try new ones
    Script(script::Script),
    /// List, read, follow, repeat and cancel jobs
    Job(jobs::Job),
    Events(events::Events),
    /// Make and show an approver's key
    Approver(approve::Approver),
    /// Show, propose, sign and publish what is approved
    Catalogue(approve::CatalogueArgs),
    /// List and change who may give orders
    Staff(staff::Staff),
    /// Show, export and verify what was done on a machine
    Journal(journal::Journal),
    /// List all limits with their values
    Limits(ShapeArgs),
    /// Write completions for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual page
    Man,
    /// Explain a command, a topic, or a code as in [FW-GATE-06]
    Help {
        /// run, job logs, targets, exit-codes, json, FW-GATE-06
        #[arg(value_name = "TOPIC")]
        topic: Vec<String>,
    },
    /// Print the version of this program
    Version,
}

/// The shape of a list.
#[derive(Args, Clone, Copy)]
pub(crate) struct ShapeArgs {
    /// How to write it
    #[arg(short, long, value_enum, default_value_t = Shape::Table)]
    output: Shape,
}

/// Which machines are meant.
#[derive(Args, Clone, Default)]
pub(crate) struct TargetArgs {
    /// Machines: names, 'kasse-*', @group, customer:NAME, or all
    #[arg(value_name = "TARGET")]
    words: Vec<String>,
    /// Narrow by labels: site=kiel,os!=windows
    #[arg(short = 'l', long = "label", value_name = "LABELS")]
    labels: Option<String>,
    /// Read names from a file, or from standard input with -
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Leave these out
    #[arg(long, value_name = "TARGET")]
    except: Vec<String>,
    /// At most N machines
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl TargetArgs {
    pub(crate) fn read(&self) -> Result<fernwart_client::target::Target, Failure> {
        let mut words = self.words.clone();
        if let Some(path) = &self.from {
            let text = if path.as_os_str() == "-" {
                std::io::read_to_string(std::io::stdin())
            } else {
                std::fs::read_to_string(path)
            };
            let text = text.map_err(|error| {
                Failure::new(Exit::Usage, "FW-CLI-10", format!("names cannot be read from {}: {error}", path.display()))
            })?;
            words.extend(text.split_whitespace().map(str::to_owned));
        }
        let labels = self.labels.as_deref().map(fernwart_client::target::conditions).transpose()?;
        Ok(fernwart_client::target::Target {
            words,
            labels: labels.unwrap_or_default(),
            except: self.except.clone(),
            limit: self.limit,
        })
    }
}

/// Parses the command line, runs the command and returns its exit code.
pub fn run() -> ExitCode {
    let parsed = help::grouped().try_get_matches().and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        // An incomplete command shows the help; that is not a failure.
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            eprint!("{}", error.render());
            return Exit::Usage.into();
        }
        // The message repeats what was typed, so it is escaped.
        Err(error) if error.use_stderr() => {
            usage::failure(&error).print();
            return Exit::Usage.into();
        }
        Err(error) => error.exit(),
    };
    match act(arguments) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            failure.exit.into()
        }
    }
}

/// Opens a session with the hub, runs `work`, and closes the session.
pub(crate) fn with_session<T>(
    homes: &HomePaths,
    work: impl AsyncFnOnce(&mut Session) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_session_within(homes, TIMEOUT, work)
}

/// How long a hub may take to answer the first connection attempt.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The same with another timeout for the first connection attempt.
pub(crate) fn with_session_within<T>(
    homes: &HomePaths,
    timeout: Duration,
    work: impl AsyncFnOnce(&mut Session) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let home = StaffHome::open(&homes.staff())?;
    block_on(async {
        let mut session = Session::open(home, timeout).await?;
        warn_of_expiry(&session);
        renew_if_due(&mut session).await;
        let result = work(&mut session).await;
        session.close().await;
        result
    })
}

/// Shown when the hub has gone while a job is followed.
pub(crate) const HUB_GONE: &str = "the hub has gone; waiting for it. What has begun goes on";

/// Shown when it is back.
pub(crate) const HUB_BACK: &str = "the hub is back";

/// Renews a certificate that ends within sixty days, or whose CA is being replaced.
async fn renew_if_due(session: &mut Session) {
    let ends = session.home().identity.lasts().map_or(0, |(_, until)| until);
    if (ends - fernwart_client::now() < WARN_MS || session.hub_has_newer_ca())
        && let Err(error) = session.renew().await
    {
        note!("warning: your certificate ends on {} and was not renewed: {}", output::day(ends), chain(&error));
    }
}

const WARN_MS: i64 = 60 * 24 * 3600 * 1000;

/// How long before its end to warn about a staff entry: sixty days, or the last fifth of its time
/// if that is shorter. `begun` is when it began.
pub(crate) const fn warn_before(begun: i64, until: i64) -> i64 {
    let fifth = until.saturating_sub(begun) / 5;
    if fifth < WARN_MS { fifth } else { WARN_MS }
}

/// Prints warnings, with every command, about what expires soon.
fn warn_of_expiry(session: &Session) {
    let now = fernwart_client::now();
    let expiries = session.catalogue.expiries;
    for (what, until) in [("the catalogue's root", expiries.root), ("the catalogue's targets", expiries.targets)] {
        if until - now < WARN_MS {
            note!("warning: {what} runs out on {}; approvers must sign anew", output::day(until));
        }
    }
    if let Some(entry) = session.catalogue.staff.find(&session.key_id())
        && entry.until - now < warn_before(session.home().entry_since(entry.until, now), entry.until)
    {
        note!("warning: your staff entry runs out on {}", output::day(entry.until));
    }
}

fn act(arguments: Arguments) -> Result<Exit, Failure> {
    let homes = HomePaths::new(arguments.home).with_passphrase_file(arguments.passphrase_file);
    match arguments.command {
        Command::Demo(demo) => operate::demo::run(&demo),
        Command::Init(init) => operate::init::run(&init, &homes),
        Command::Serve(serve) => operate::serve::run(&serve, &homes),
        Command::Backup(backup) => operate::backup::back_up_hub(&backup, &homes),
        Command::Restore(restore) => operate::backup::restore_hub(&restore, &homes),
        Command::NextKeys(next) => operate::next_keys::run(&next, &homes),
        Command::Join(join) => join::run(&join, &homes),
        Command::Doctor(shape) => doctor::run(shape.output, &homes),
        Command::Ls(command) => machines::ls(&command, &homes),
        Command::Show(command) => machines::show(&command, &homes),
        Command::Facts(command) => facts::run(&command, &homes),
        Command::Query(command) => query::run(&command, &homes),
        Command::AnswerQuery(command) => operate::answer::run(&command),
        Command::Ping(command) => machines::ping(&command, &homes),
        Command::Label(command) => machines::label(&command, &homes),
        Command::Group(command) => machines::group(&command, &homes),
        Command::Rename(command) => machines::rename(&command, &homes),
        Command::Acknowledge(command) => machines::acknowledge(&command, &homes),
        Command::Customer(command) => machines::customer(&command, &homes),
        Command::Invite(command) => admission::invite(&command, &homes),
        Command::Pending(command) => admission::pending(&command, &homes),
        Command::Admit(command) => admission::admit(&command, &homes),
        Command::Reject(command) => admission::reject(&command, &homes),
        Command::Retire(command) => admission::retire(&command, &homes),
        Command::Diagnose(command) => diagnose::run(&command, &homes),
        Command::Run(command) => run::run(&command, &homes),
        Command::Script(command) => script::run(&command, &homes),
        Command::Job(command) => jobs::job(&command, &homes),
        Command::Events(command) => events::run(&command, &homes),
        Command::Approver(command) => approve::approver(&command, &homes),
        Command::Catalogue(command) => approve::catalogue(&command, &homes),
        Command::Staff(command) => staff::staff(&command, &homes),
        Command::Journal(command) => journal::run(&command, &homes),
        Command::Limits(shape) => limits(shape.output),
        Command::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "fernwart", &mut text);
            say(&String::from_utf8_lossy(&text))
        }
        Command::Man => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Arguments::command()).render(&mut text)?;
            say(&String::from_utf8_lossy(&text))
        }
        Command::Help { topic } => help::explain(&topic),
        Command::Version => say(&format!("fernwart {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

/// Writes a manual page for each command, and completions for the usual shells.
///
/// # Errors
/// When they cannot be written.
pub fn write_pages(pages: &std::path::Path, completions: &std::path::Path) -> std::io::Result<()> {
    use clap_complete::Shell;
    clap_mangen::generate_to(Arguments::command(), pages)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Arguments::command(), "fernwart", completions)?;
    }
    Ok(())
}

fn limits(shape: Shape) -> Result<Exit, Failure> {
    let mut rows = output::Rows::new("limit", &["name", "value", "unit"]);
    for limit in fernwart_protocol::limits::TABLE {
        rows.push(vec![limit.name.into(), limit.value.into(), limit.unit.into()]);
    }
    rows.print(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expiry_warning_starts_in_proportion_to_the_entrys_lifetime() {
        const DAY: i64 = 24 * 3600 * 1000;
        assert_eq!(warn_before(0, 365 * DAY), WARN_MS);
        assert_eq!(warn_before(0, 30 * DAY), 6 * DAY);
        assert_eq!(warn_before(9 * DAY, 9 * DAY), 0);
    }
}
