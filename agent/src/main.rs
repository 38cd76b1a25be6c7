//! The agent's program: reads the command line and runs the command.

use fernwart_agent::home::{self, Home};
use fernwart_agent::owner::user_error::UserError;
use fernwart_agent::owner::words::{Words, language_of_user};
use fernwart_agent::owner::{UNKNOWN, command_line, commands, complain, is_plugin, pieces};
use fernwart_agent::platform::{cage, memory};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
    memory::keep_little();
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
    commands::run(arguments, &home, &words).unwrap_or_else(|error| complain(&UserError::of(&error), &words))
}
