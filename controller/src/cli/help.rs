//! Help: the commands by purpose, and topics that concern several of them.

use super::{Arguments, Exit, Failure, fields, say};
use clap::{Command, CommandFactory};
use fernwart_client::target::nearest_of;

/// The commands by purpose, in the order of `fernwart --help`.
const GROUPS: &[(&str, &[&str])] = &[
    ("See", &["ls", "show", "diagnose", "facts", "query", "ping", "events", "journal"]),
    ("Act", &["run", "job", "acknowledge"]),
    ("Approve", &["catalogue", "script", "staff", "approver"]),
    (
        "Set up",
        &["init", "join", "invite", "pending", "admit", "reject", "retire", "rename", "label", "group", "customer"],
    ),
    ("Hub", &["serve", "doctor", "backup", "restore", "next-keys"]),
    ("Other", &["demo", "help", "limits", "completion", "man", "version"]),
];

/// Topics that concern several commands.
const TOPICS: &[(&str, &str, &str)] = &[
    (
        "targets",
        "which machines a command means",
        "Machines are named by words, all of which count:\n\
         \x20 kasse-3                        this machine\n\
         \x20 'kasse-*'                      all whose name fits\n\
         \x20 @kassen                        a group (fernwart group ls)\n\
         \x20 'customer:Bäckerei Meyer'      all of a customer: the whole name, or a pattern as 'customer:Bäckerei*'\n\
         \x20 all                            every machine; nothing else ever means all\n\
         \n\
         Narrowed with\n\
         \x20 -l site=kiel,os!=windows       labels: NAME=VALUE, NAME!=VALUE, NAME, !NAME\n\
         \x20 --except WORD                  without these\n\
         \x20 --limit N                      at most N machines\n\
         \x20 --from FILE                    names out of a file; - is standard input\n\
         \n\
         Try it without doing anything: fernwart ls TARGET\n",
    ),
    (
        "exit-codes",
        "what a command ends with",
        "\x20 0    done, and all is well\n\
         \x20 1    done, and something is not well (findings from --fail-on on; a script that failed)\n\
         \x20 2    what was typed cannot be understood, or was not confirmed; nothing was sent\n\
         \x20 3    refused: by the hub, or by a machine\n\
         \x20 4    no answer in time from the hub or a machine that counts (--require says which count)\n\
         \x20 5    fernwart itself failed\n\
         \x20 130  stopped with Ctrl-C, or a question was answered with no\n\
         \n\
         Of several, the first that applies of 3, 4, 5, 1. diagnose -o nagios ends as a plugin does: 0 ok, 1 warning, 2 critical, 3 unknown.\n",
    ),
    (
        "json",
        "what programs read",
        "-o json writes one document at the end, -o jsonl one object a line as they come, -o csv and -o name what they say.\n\
         Every object has v (the version of its shape, now 1) and type. A later program adds fields and types, and changes none: pass over what you do not know.\n\
         Types are text, number, bool, time (RFC 3339, UTC), object, list; with ? it may be null or missing.\n",
    ),
];

/// The command line with its commands by purpose.
pub(super) fn grouped() -> Command {
    let command = Arguments::command();
    let mut groups = String::new();
    for (purpose, names) in GROUPS {
        groups += &format!("\n{purpose}:\n");
        for name in *names {
            let about = command.find_subcommand(name).and_then(|found| found.get_about()).map(ToString::to_string);
            groups += &format!("  {name:<12} {}\n", about.unwrap_or_default());
        }
    }
    let template =
        format!("{{before-help}}{{about}}\n\nUsage: {{usage}}\n{groups}\nOptions:\n{{options}}\n\n{{after-help}}");
    command.help_template(template)
}

/// `fernwart help`: general, or on a command, a topic or a code.
pub(super) fn explain(words: &[String]) -> Result<Exit, Failure> {
    let Some(first) = words.first() else { return say(&grouped().render_help().to_string()) };
    if let Some((name, _, text)) = TOPICS.iter().find(|(name, ..)| name == first) {
        let more = if *name == "json" { fields::in_words() } else { String::new() };
        return say(&format!("{text}{more}"));
    }
    let mut command = Arguments::command();
    command.build();
    let mut found = &mut command;
    for word in words {
        match found.find_subcommand_mut(word) {
            Some(below) => found = below,
            None => return other(first),
        }
    }
    say(&found.clone().render_long_help().to_string())
}

/// Explains a code, if the word is one.
fn other(word: &str) -> Result<Exit, Failure> {
    if word.to_lowercase().starts_with("fw-") || word.to_lowercase().starts_with("other(") {
        return super::code::explain(word);
    }
    let commands = GROUPS.iter().flat_map(|(_, names)| names.iter().copied());
    let known = commands.chain(TOPICS.iter().map(|(name, ..)| *name));
    let meant = nearest_of(word, known).map(|meant| format!("did you mean {meant}?  ")).unwrap_or_default();
    let what = format!("there is no help on {word:?}");
    Err(Failure::new(Exit::Usage, "FW-CLI-01", what).now(format!("{meant}fernwart help")))
}

/// The list of topics for the end of the general help.
pub(super) fn topics() -> String {
    let lines = TOPICS.iter().map(|(name, what, _)| format!("  fernwart help {name:<12} {what}\n"));
    format!(
        "Help on more:\n  fernwart help {:<12} what a code in brackets means\n{}\nNext: fernwart demo, or fernwart help COMMAND",
        "FW-GATE-06",
        lines.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_one_group_and_has_a_description() {
        let command = Arguments::command();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        grouped.sort_unstable();
        let mut all: Vec<&str> =
            command.get_subcommands().filter(|one| !one.is_hide_set()).map(Command::get_name).collect();
        all.sort_unstable();
        assert_eq!(grouped, all);
        for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
            let about = one.get_about().map(ToString::to_string).unwrap_or_default();
            let verb = about.split(' ').next().unwrap_or_default();
            let is_other = ["What", "Who", "All", "The", "Jobs", "Customers", "Approvers", "Scripts:", "One"];
            assert!(!verb.is_empty() && !is_other.contains(&verb), "{}: {about}", one.get_name());
            assert!(about.chars().count() <= 85, "{}: {about}", one.get_name());
        }
    }

    #[test]
    fn help_exists_for_every_command_topic_and_code() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for line in ["run", "job logs", "targets", "exit-codes", "json", "FW-GATE-06", "fw-cli-01"] {
            assert!(matches!(explain(&words(line)), Ok(Exit::Done)), "{line}");
        }
        for line in ["rum", "job lugs", "FW-GATE-999"] {
            assert!(explain(&words(line)).is_err(), "{line}");
        }
    }
}
