//! The agent's program: reads the command line and runs the command.

mod command_line;
mod joining;
mod pieces;

use anyhow::{Context, bail};
use command_line::{Arguments, Command, Output, PolicyCommand};
use fernwart_agent::executor::{ExecutorError, journal_at_rest};
use fernwart_agent::home::{self, Enrollment, Home, HomeError};
use fernwart_agent::local::{self, Answer, OwnerCommand, Question};
use fernwart_agent::owner::leaving::{self, Records};
use fernwart_agent::owner::user_error::UserError;
use fernwart_agent::owner::words::{Words, language_of_user};
use fernwart_agent::owner::{check, history, questions, report, status};
use fernwart_agent::{action::cage, run, service};
use fernwart_certs::journal::Line;
use fernwart_protocol::text::{chain, escaped_lines};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Runs the cage's outer or inner program, which are not commands for users.
fn caged() -> Option<ExitCode> {
    let words: Vec<OsString> = std::env::args_os().skip(1).take(4).collect();
    let words: Vec<&str> = words.iter().map(|word| word.to_str()).collect::<Option<_>>()?;
    let code = match words.as_slice() {
        [cage::OUTER, spec] => cage::outer(spec),
        [cage::INNER, spec, pulse] => cage::inner(spec, pulse),
        _ => return None,
    };
    Some(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn main() -> ExitCode {
    if let Some(code) = caged() {
        return code;
    }
    // Keeps children from inheriting descriptors that were open at the start.
    if let Err(error) = cage::keep_to_itself(None) {
        let _ = writeln!(std::io::stderr(), "/proc/self/fd: {error}");
        return ExitCode::from(if is_plugin() { UNKNOWN } else { 5 });
    }
    fernwart_agent::memory::keep_little();
    // Files created by this program are private.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let typed = pieces::put_together(std::env::args_os().collect());
    let at = |named: Option<PathBuf>| {
        let folder = named.or_else(|| std::env::var_os("FERNWART_AGENT_HOME").map(PathBuf::from));
        Home::at(folder.as_deref().unwrap_or(Path::new(home::DEFAULT)))
    };
    // Errors in the command line need a language, too.
    let words = {
        let asked = command_line::value_of("lang", &typed).and_then(|word| word.to_str()?.parse().ok());
        let home = at(command_line::value_of("home", &typed).map(PathBuf::from));
        let known = || home.enrollment().ok().map(|enrollment| enrollment.language);
        Words::new(asked.or_else(known).unwrap_or_else(language_of_user))
    };
    let arguments = match command_line::read(typed, &words) {
        Ok(arguments) => arguments,
        Err(user_error) => return complain(&user_error, &words),
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::INFO)
        .with_target(false)
        .init();
    let home = at(arguments.home.clone());
    act(arguments, &home, &words).unwrap_or_else(|error| complain(&UserError::of(&error), &words))
}

/// The exit code of a monitoring plugin for an unknown state.
const UNKNOWN: u8 = 3;

/// Whether the output is for a monitoring system. Judged by the raw command line, which may be
/// invalid.
fn is_plugin() -> bool {
    let typed: Vec<OsString> = std::env::args_os().collect();
    let joined = ["-onagios", "-o=nagios", "--output=nagios"];
    typed
        .windows(2)
        .any(|two| matches!(two, [option, how] if (option == "-o" || option == "--output") && how == "nagios"))
        || typed.iter().any(|word| joined.iter().any(|one| word == one))
}

fn complain(user_error: &UserError, words: &Words) -> ExitCode {
    let text = escaped_lines(&user_error.in_words(words));
    // Standard error may be closed.
    let _ = write!(std::io::stderr(), "{text}");
    if is_plugin() {
        // Plugins are read by their first line; standard output may be closed.
        let line = text.lines().next().unwrap_or_default().replace('|', "/");
        let _ = writeln!(std::io::stdout(), "FERNWART UNKNOWN - {line}");
        return ExitCode::from(UNKNOWN);
    }
    ExitCode::from(user_error.exit)
}

fn act(arguments: Arguments, home: &Home, words: &Words) -> anyhow::Result<ExitCode> {
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
            run::run(home)?;
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
        Command::Diagnose { output, section } => {
            let report = report::diagnose(&section, &home.socket());
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
        Command::Allow { what, span } => {
            reachable(home, enrollment)?;
            say(&questions::command(home, questions::allow(&what, span)?, words)?)
        }
        Command::Deny { what } => {
            reachable(home, enrollment)?;
            say(&questions::command(home, questions::deny(&what)?, words)?)
        }
        Command::Pause { span, same } => {
            reachable(home, enrollment)?;
            let span = span.or(same).map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
            say(&questions::command(home, OwnerCommand::Pause(span), words)?)
        }
        Command::Resume => {
            reachable(home, enrollment)?;
            say(&questions::command(home, OwnerCommand::Resume, words)?)
        }
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
        Command::Uninstall { wanted } => {
            match enrollment {
                Ok(enrollment) => {
                    say(&leaving::leave(home, &enrollment, records(&wanted), wanted.yes, words)?)?;
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
        Command::Version => say(&format!("fernwart-agent {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

fn records(wanted: &command_line::Leaving) -> Records {
    if wanted.purge { Records::Purged } else { Records::Kept }
}

/// Writes to standard output; a closed reader is no error.
fn say(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("writing"),
        _ => Ok(ExitCode::SUCCESS),
    }
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
