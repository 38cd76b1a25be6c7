//! Runs the commands that people type at the machine.

use super::command_line::{Arguments, Command, Leaving, Output, PolicyCommand};
use super::leaving::{self, Records};
use super::user_error::UserError;
use super::words::Words;
use super::{check, complain, history, joining, questions, report, say, status};
use crate::executor::ExecutorError;
use crate::home::{Enrollment, Home, HomeError};
use crate::local::{self, Answer, OwnerCommand, Question};
use crate::machine::journal_at_rest;
use crate::platform::service;
use anyhow::{Context, bail};
use fernwart_certs::journal::Line;
use fernwart_protocol::document::SectionName;
use fernwart_protocol::text::{chain, escaped_lines};
use std::process::ExitCode;
use std::time::Instant;

/// Runs a command.
///
/// # Errors
/// What to show the user.
pub fn run(arguments: Arguments, home: &Home, words: &Words) -> anyhow::Result<ExitCode> {
    let enrollment = home.enrollment().map_err(UserError::from);
    match arguments.command {
        Command::Enroll { line, file, policy, no_service } => {
            let invitation = joining::read_invitation(&line, file)?;
            let words = Words::new(arguments.lang.unwrap_or(joining::language_of(&invitation)));
            let joined = joining::enroll(home, &invitation, policy, no_service, &words);
            Ok(joined.unwrap_or_else(|error| complain(&UserError::of(&error), &words)))
        }
        Command::Run => {
            enrollment?;
            if let Ok(Some(_)) = local::ask(&home.socket(), &Question::Status) {
                return Err(UserError::running_already().into());
            }
            crate::run::run(home)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status => {
            // An asked account may not read the folder, but the agent answers it.
            if let Err(user_error) = &enrollment {
                let answers = local::ask(&home.socket(), &Question::Status).is_ok_and(|answer| answer.is_some());
                if !user_error.lacks_rights() || !answers {
                    return Err(user_error.clone().into());
                }
            }
            say(&status::status(home, enrollment.as_ref().ok(), words)?)
        }
        Command::Diagnose { output, section } => diagnose(home, output, &section, words),
        Command::Policy { command: PolicyCommand::Check } => check_policy(home, words),
        Command::Journal { export } => journal(home, &enrollment?, export, words),
        Command::History { number } => {
            let (lines, agent) =
                journal_lines(home, || home.enrollment().map_err(|error| UserError::from(error).into()))?;
            say(&history::in_words(&lines, number, words, agent).ok_or_else(UserError::no_such_run)?)
        }
        Command::Questions => {
            reachable(home, enrollment)?;
            say(&questions::questions(home, words)?)
        }
        Command::Allow { what, span } => give(home, enrollment, words, || questions::allow(&what, span)),
        Command::Deny { what } => give(home, enrollment, words, || questions::deny(&what)),
        Command::Pause { span, same } => {
            let span = span.or(same).map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
            give(home, enrollment, words, || Ok(OwnerCommand::Pause(span)))
        }
        Command::Resume => give(home, enrollment, words, || Ok(OwnerCommand::Resume)),
        Command::Check { trust_clock } => {
            let enrollment = enrollment?;
            if trust_clock {
                say(&questions::command(home, OwnerCommand::TrustClock, words)?)?;
            }
            let checked = check::check(home, &enrollment, words)?;
            say(&checked.text)?;
            Ok(if checked.well { ExitCode::SUCCESS } else { ExitCode::from(1) })
        }
        Command::Leave { wanted } => say(&leaving::leave(home, &enrollment?, records(&wanted), wanted.yes, words)?),
        Command::Uninstall { wanted } => uninstall(home, enrollment, &wanted, words),
        Command::Version => say(&format!("fernwart-agent {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

/// Gives the running agent a command of its owner.
fn give(
    home: &Home,
    enrollment: Result<Enrollment, UserError>,
    words: &Words,
    command: impl FnOnce() -> Result<OwnerCommand, UserError>,
) -> anyhow::Result<ExitCode> {
    reachable(home, enrollment)?;
    say(&questions::command(home, command()?, words)?)
}

fn diagnose(home: &Home, output: Output, sections: &[SectionName], words: &Words) -> anyhow::Result<ExitCode> {
    let report = report::diagnose(sections, &home.socket());
    match output {
        Output::Text => say(&report::in_words(&report, words))?,
        Output::Json => say(&(serde_json::to_string(&report)? + "\n"))?,
        // Their own exit codes: 0 ok, 1 warning, 2 critical, 3 unknown.
        Output::Nagios => {
            say(&report.as_plugin())?;
            return Ok(ExitCode::from(report.state().plugin_code()));
        }
        Output::Checkmk => return say(&report.as_local_checks()),
    };
    // An unknown check that could be critical is not reported as success.
    Ok(if report.could_be_critical() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Leaves, and removes the program where no package manager does that.
fn uninstall(
    home: &Home,
    enrollment: Result<Enrollment, UserError>,
    wanted: &Leaving,
    words: &Words,
) -> anyhow::Result<ExitCode> {
    match enrollment {
        Ok(enrollment) => {
            say(&leaving::leave(home, &enrollment, records(wanted), wanted.yes, words)?)?;
        }
        // It has left before. If the folder may not be read, that is unknown.
        Err(_) if matches!(home.enrollment(), Err(HomeError::NotEnrolled(_))) => service::remove(home)?,
        Err(user_error) => return Err(user_error.into()),
    };
    use service::Removed;
    let text = match service::remove_program()? {
        Removed::Done => words.say("uninstalled"),
        Removed::Package(command) => words.say_with("uninstall-package", &[("command", command)]),
        Removed::Not(path) => {
            words.say_with("uninstalled-not", &[("path", &escaped_lines(&path.display().to_string()))])
        }
    };
    say(&(text + "\n"))
}

fn records(wanted: &Leaving) -> Records {
    if wanted.purge { Records::Purged } else { Records::Kept }
}

fn check_policy(home: &Home, words: &Words) -> anyhow::Result<ExitCode> {
    home.enrollment().map_err(UserError::from)?;
    match status::policy(home) {
        Ok(policy) => {
            let (look, act) = (words.mode(policy.look()), words.mode(policy.act()));
            let mut out = words.say_with("policy-ok", &[("look", &look), ("act", &act)]) + "\n";
            let names: Vec<String> = policy.asked().iter().map(|name| escaped_lines(name)).collect();
            if !names.is_empty() {
                out += &(words.say_with("policy-asked", &[("accounts", &names.join(", "))]) + "\n");
            }
            // Accounts may come from other sources than /etc/passwd, so this is only a warning.
            for name in policy.asked().iter().filter(|name| !local::is_account(name)) {
                out += &(words.say_with("policy-no-account", &[("account", &escaped_lines(name))]) + "\n");
            }
            say(&out)
        }
        Err(error) => {
            let path = home.policy().display().to_string();
            say(&format!("{}\n{}\n", words.say_with("policy-bad", &[("path", &path)]), chain(&error)))?;
            Ok(ExitCode::from(1))
        }
    }
}

/// An account that may use the socket need not be able to read the folder.
fn reachable(home: &Home, enrollment: Result<Enrollment, UserError>) -> Result<(), UserError> {
    if home.socket().exists() { Ok(()) } else { enrollment.map(drop) }
}

fn journal_lines(
    home: &Home,
    enrollment: impl Fn() -> anyhow::Result<Enrollment>,
) -> anyhow::Result<(Vec<Line>, history::Agent)> {
    let ask = |question: &Question| match local::ask(&home.socket(), question)? {
        None => Ok(None),
        Some(Answer::Journal(lines)) => Ok(Some(lines)),
        Some(Answer::Failed(why) | Answer::NotKept(why)) => bail!(why),
        Some(
            Answer::Status(_)
            | Answer::Asked(_)
            | Answer::Updates(_)
            | Answer::Done
            | Answer::NoSuchQuestion
            | Answer::NotYours,
        ) => {
            bail!("the agent answered something else")
        }
    };
    let mut lines = Vec::new();
    let begun = Instant::now();
    loop {
        // Older entries may be missing.
        let last = lines.last().map_or(Some(0), Line::seq).context("a line of the journal cannot be read")?;
        let from = last + 1;
        match ask(&Question::Journal { from })? {
            None => match journal_at_rest(home, enrollment()?.machine) {
                Ok(lines) => return Ok((lines, history::Agent::Stopped)),
                Err(ExecutorError::StateStore(error)) if error.is_held() && begun.elapsed() < local::STARTS => {}
                Err(error) => return Err(error.into()),
            },
            Some(page) if !page.is_empty() => lines.extend(page),
            Some(_) => {
                let end = ask(&Question::JournalHead)?.and_then(|end| end.into_iter().next()).context("no end")?;
                // A line may have been added between the two requests.
                if end.seq() == Some(last) {
                    lines.push(end);
                    return Ok((lines, history::Agent::Running));
                }
            }
        }
    }
}

fn journal(home: &Home, enrollment: &Enrollment, export: bool, words: &Words) -> anyhow::Result<ExitCode> {
    let (lines, _) = journal_lines(home, || Ok(enrollment.clone()))?;
    if export {
        let mut out = String::new();
        for line in lines {
            out += &(serde_json::to_string(&line)? + "\n");
        }
        return say(&out);
    }
    say(&status::journal_in_words(&lines, words))
}
