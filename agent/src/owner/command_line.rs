//! The command line, in the user's language.

use crate::owner::user_error::UserError;
use crate::owner::words::Words;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use fernwart_protocol::diagnosis::Language;
use fernwart_protocol::document::SectionName;
use fernwart_protocol::span;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Lets your IT support look after this computer, to the extent you allow.
#[derive(Parser)]
#[command(
    name = "fernwart-agent",
    version,
    before_help = "Examples:\n  fernwart-agent status            who looks after this computer, and what they may do\n  fernwart-agent diagnose          check this computer now, without any connection",
    after_help = "Next: fernwart-agent status"
)]
pub struct Arguments {
    /// The agent's folder
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// The language of the texts: de or en
    #[arg(long, global = true, value_name = "LANGUAGE")]
    pub lang: Option<Language>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Join with an invitation of your IT support
    Enroll {
        /// The invitation: fw1-…, also where a mail has broken it into pieces
        #[arg(conflicts_with = "file", value_name = "INVITATION")]
        line: Vec<String>,
        /// Read the invitation from a file, or from standard input with -
        #[arg(long = "invitation", value_name = "FILE")]
        file: Option<PathBuf>,
        /// What may be repaired: ask, nightly, trusted, or a file of your own rules
        #[arg(long, value_name = "ask|nightly|trusted|FILE")]
        policy: Option<String>,
        /// Do not register the system service
        #[arg(long)]
        no_service: bool,
    },
    /// Run the agent (the system service does this)
    Run,
    /// Who looks after this computer, and what they may do
    Status,
    /// Check this computer now, without any connection
    Diagnose {
        /// In words, all facts as JSON, or for your monitoring
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
        /// Only these parts: disks, logs, updates …
        #[arg(long, value_name = "PART", value_delimiter = ',')]
        section: Vec<SectionName>,
    },
    /// Your rules
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// What has happened on this computer
    Journal {
        /// As JSON lines that fernwart journal verify can check
        #[arg(long)]
        export: bool,
    },
    /// What was done here, by whom, why, and with what result
    History {
        /// Details of this number
        number: Option<usize>,
    },
    /// What you are asked
    Questions,
    /// Say yes to a question, or to all repairs for a while: allow 3, allow repair --for 2h
    #[command(alias = "ja")]
    Allow {
        /// The question's number, or the word repair
        what: String,
        /// Allow all repairs for so long: 30m, 2h
        #[arg(long = "for", value_name = "TIME", value_parser = some_time)]
        span: Option<Duration>,
    },
    /// Say no to a question, or to all repairs: deny 3, deny repair
    #[command(alias = "nein")]
    Deny {
        /// The question's number, or the word repair
        what: String,
    },
    /// Let nobody do anything, for a while or until resume
    Pause {
        /// For so long: 2h
        #[arg(value_name = "TIME", value_parser = some_time)]
        span: Option<Duration>,
        /// How long: 30m, 2h
        #[arg(long = "for", value_name = "TIME", value_parser = some_time, conflicts_with = "span")]
        same: Option<Duration>,
    },
    /// Go on after a pause
    Resume,
    /// Is the agent itself working properly?
    Check {
        /// This computer's clock is right: believe it from now on
        #[arg(long)]
        trust_clock: bool,
    },
    /// Leave your IT support: they are told, and can do nothing here any more
    Leave {
        #[command(flatten)]
        wanted: Leaving,
    },
    /// Leave your IT support and remove this program
    #[command(alias = "deinstallieren")]
    Uninstall {
        #[command(flatten)]
        wanted: Leaving,
    },
    /// The version of this program
    Version,
}

#[derive(clap::Args)]
pub struct Leaving {
    /// Delete the record of what was done here, too
    #[arg(long)]
    pub purge: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Subcommand)]
pub enum PolicyCommand {
    /// Whether your rules can be read, and what they say
    Check,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Output {
    Text,
    Json,
    Nagios,
    Checkmk,
}

/// The longest duration of a consent or pause.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Parses a duration that is not zero.
fn some_time(text: &str) -> Result<Duration, String> {
    // A bare number is ambiguous, so a unit is required.
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("write 30m, 2h or 3d".into());
    }
    match span::parse(text)? {
        Duration::ZERO => Err("write 30m, 2h or 3d".into()),
        // A longer one would be forgotten.
        span if span > LONGEST => Err("a year (1y) is the most".into()),
        span => Ok(span),
    }
}

/// The complete command line in this language.
pub fn full_command(words: &Words) -> clap::Command {
    let mut command = Arguments::command();
    command.build();
    match words.language {
        Language::En => command,
        Language::De => in_german(command, "help", words),
    }
}

/// Parses the command line; for help or version the program exits here.
pub fn read(mut typed: Vec<OsString>, words: &Words) -> Result<Arguments, UserError> {
    if let Some(word) = typed.iter_mut().find(|word| *word == "hilfe") {
        *word = "help".into();
    }
    let read =
        full_command(words).try_get_matches_from(typed).and_then(|matches| Arguments::from_arg_matches(&matches));
    read.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => error.exit(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument => UserError::no_such_command(in_short(&error)),
        _ => UserError::not_understood(in_short(&error)),
    })
}

/// The error and its suggestions, without the usage text.
fn in_short(error: &clap::Error) -> String {
    let text = error.to_string();
    let rest = |line: &&str| !line.starts_with("Usage") && !line.starts_with("For more information");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).take_while(rest);
    let mut short = String::new();
    for line in lines {
        short += match short.chars().last() {
            None => "",
            Some(':') => " ",
            Some(_) => "; ",
        };
        short += line.trim_start_matches("error: ");
    }
    short
}

/// The value of an option anywhere in the command line, before it is parsed. Used only to choose
/// the language of messages.
pub fn value_of(name: &str, typed: &[OsString]) -> Option<OsString> {
    let mut words = typed.iter().skip(1).take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        let Some(word) = word.to_str().and_then(|word| word.strip_prefix("--")) else { continue };
        match word.strip_prefix(name) {
            Some("") => return words.next().cloned(),
            Some(rest) if rest.starts_with('=') => return rest.get(1..).map(OsString::from),
            _ => {}
        }
    }
    None
}

/// The command line with German texts; their ids are made of the subcommands' names.
fn in_german(command: clap::Command, id: &str, words: &Words) -> clap::Command {
    let text = |part: &str| words.say(&format!("{id}{part}"));
    let mut command = command
        .about(text(""))
        .subcommand_help_heading("Befehle")
        .subcommand_value_name("BEFEHL")
        .help_template(words.say("help-template"))
        .mut_args(|arg| in_german_argument(arg, id, words));
    if command.get_before_help().is_some() {
        command = command.before_help(text("-before")).after_help(text("-after"));
    }
    let usage = command.render_usage().to_string().replace("[OPTIONS]", "[OPTIONEN]");
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    command.override_usage(usage).mut_subcommands(|sub| {
        // Clap lists all commands again below `help`.
        if sub.get_name() == "help" {
            return sub.about(words.say("help-help"));
        }
        let id = format!("{id}-{}", sub.get_name());
        in_german(sub, &id, words)
    })
}

fn in_german_argument(arg: clap::Arg, id: &str, words: &Words) -> clap::Arg {
    let name = arg.get_id().as_str().to_owned();
    let heading = if arg.is_positional() { "Angaben" } else { "Optionen" };
    let everywhere = matches!(name.as_str(), "help" | "version" | "home" | "lang");
    let text = words.say(&if everywhere { format!("help-any-{name}") } else { format!("{id}-of-{name}") });
    let arg = arg.help(text).help_heading(heading).hide_possible_values(true).hide_default_value(true);
    let value = match name.as_str() {
        "home" => "ORDNER",
        "lang" => "SPRACHE",
        "line" => "EINLADUNG",
        "file" => "DATEI",
        "policy" => "ask|nightly|trusted|DATEI",
        "output" => "text|json|nagios|checkmk",
        "section" => "TEIL",
        "number" => "NUMMER",
        "what" => "NUMMER|repair",
        "span" | "same" => "DAUER",
        _ => return arg,
    };
    arg.value_name(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_text(command: &mut clap::Command, seen: &mut Vec<String>, full_command: &mut String) {
        let texts = [command.get_about(), command.get_before_help(), command.get_after_help()];
        seen.extend(texts.into_iter().flatten().map(ToString::to_string));
        seen.extend(command.get_arguments().map(|arg| arg.get_help().map(ToString::to_string).unwrap_or_default()));
        *full_command += &command.render_long_help().to_string();
        for sub in command.get_subcommands_mut() {
            match sub.get_name() {
                "help" => seen.push(sub.get_about().map(ToString::to_string).unwrap_or_default()),
                _ => every_text(sub, seen, full_command),
            }
        }
    }

    #[test]
    fn every_command_and_option_is_explained_in_german() {
        let (mut english, mut german, mut help) = (Vec::new(), Vec::new(), String::new());
        let mut command = Arguments::command();
        command.build();
        every_text(&mut command, &mut english, &mut help);
        help.clear();
        every_text(&mut in_german(command, "help", &Words::new(Language::De)), &mut german, &mut help);
        assert_eq!(english.len(), german.len());
        for (english, german) in english.iter().zip(&german) {
            assert!(!german.is_empty() && german != english, "{english}: {german}");
        }
        assert!(help.contains("Befehle:") && help.contains("Aufruf: fernwart-agent allow [OPTIONEN] <NUMMER|repair>"));
        for left in ["help-", "Usage", "OPTIONS", "Options:", "Commands:", "Arguments:", "<TIME", "<DIR", "default:"] {
            assert!(!help.contains(left), "{left}: {help}");
        }
    }

    #[test]
    fn a_command_line_error_is_reported_briefly() {
        let error_of = |words: &[&str]| {
            let typed = [&["fernwart-agent"], words].concat().iter().map(OsString::from).collect();
            match read(typed, &Words::new(Language::De)) {
                Err(user_error) => user_error.in_words(&Words::new(Language::De)),
                Ok(_) => panic!("{words:?} was understood"),
            }
        };
        for (words, heading, cause) in [
            (&["stauts"][..], "Diesen Befehl gibt es so nicht", "'status'"),
            (&["status", "--nosuch"], "Diesen Befehl gibt es so nicht", "'--nosuch'"),
            (&["allow"], "fehlt eine Angabe, oder sie passt nicht", "provided: <NUMMER|repair>)"),
            (&["pause", "--for", "2"], "fehlt eine Angabe, oder sie passt nicht", "write 30m, 2h or 3d)"),
            (&["--lang", "fr", "status"], "fehlt eine Angabe, oder sie passt nicht", "'fr'"),
        ] {
            let error_of = error_of(words);
            assert!(error_of.contains(heading) && error_of.contains(cause), "{words:?}: {error_of}");
        }
    }

    #[test]
    fn an_option_is_found_at_any_position() {
        let typed = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let found = |words: &[&str]| value_of("lang", &typed(words));
        assert_eq!(found(&["fernwart-agent", "--lang", "de", "status"]), Some("de".into()));
        assert_eq!(found(&["fernwart-agent", "status", "--lang=de"]), Some("de".into()));
        assert_eq!(found(&["fernwart-agent", "status", "--language", "de"]), None);
        assert_eq!(found(&["fernwart-agent", "status", "--lang"]), None);
        assert_eq!(found(&["fernwart-agent", "enroll", "--", "--lang", "de"]), None);
    }
}
