//! Explains command lines that cannot be parsed.

use super::{Exit, Failure};
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands of similar programs, and the equivalent here.
const ELSEWHERE: &[(&[&str], &str, &str)] = &[
    (
        &["shell", "ssh", "session", "connect", "exec", "cmd", "command", "terminal", "rdp", "vnc"],
        "nobody gets a shell on a machine here: what runs there is a script that was approved",
        "fernwart script ls, then: fernwart run SCRIPT MACHINE",
    ),
    (
        &["push", "deploy", "patch", "update", "upgrade", "install", "fix", "rollout", "cp", "scp", "upload"],
        "fixes cannot be pushed yet; an approved script can be run on many machines",
        "fernwart run SCRIPT TARGET",
    ),
    (
        &["alert", "alerts", "alarm", "alarms", "fault", "faults", "notify", "watch", "monitor"],
        "there are no alerts yet; what happens can be followed, and health stands in the list",
        "fernwart ls, or: fernwart events -f",
    ),
    (&["list", "machines", "hosts", "nodes", "get", "inventory", "devices"], "there is no such command", "fernwart ls"),
    (&["logs", "log", "output", "results"], "there is no such command", "fernwart job logs JOB"),
    (&["status", "health", "check"], "there is no such command", "fernwart doctor, or: fernwart ls"),
    (&["describe", "info", "inspect"], "there is no such command", "fernwart show MACHINE"),
    (&["jobs", "history", "tasks"], "there is no such command", "fernwart job ls"),
    (&["users", "user", "team", "members"], "there is no such command", "fernwart staff ls"),
    (&["scripts"], "there is no such command", "fernwart script ls"),
    (&["delete", "remove", "rm", "unenroll", "forget"], "there is no such command", "fernwart retire MACHINE"),
    (&["add", "enroll", "register"], "there is no such command", "fernwart invite CUSTOMER"),
    (&["login", "auth", "setup"], "there is no such command", "fernwart join, or: fernwart init"),
];

/// clap's message, with a code and advice.
pub(super) fn failure(error: &clap::Error) -> Failure {
    let typed = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) if error.kind() == ErrorKind::InvalidSubcommand => word.as_str(),
        _ => "",
    };
    if let Some((_, what, now)) = ELSEWHERE.iter().find(|(words, ..)| words.contains(&typed)) {
        return Failure::new(Exit::Usage, "FW-CLI-01", format!("{typed:?}: {what}")).now(*now);
    }
    // clap's own message would list hidden commands too.
    if error.kind() == ErrorKind::MissingSubcommand {
        return Failure::new(Exit::Usage, "FW-CLI-01", "a command is missing").now("fernwart --help lists all");
    }
    let text = error.render().to_string();
    let mut lines = text.trim_end().lines().map(str::trim_end).filter(|line| !line.is_empty());
    let mut what = lines.next().map(|line| line.trim_start_matches("error: ").to_owned()).unwrap_or_default();
    let mut now = "fernwart --help".to_owned();
    for line in lines {
        match line.strip_prefix("Usage: ") {
            Some(usage) => now = usage.to_owned(),
            None if line.starts_with("For more information") => {}
            None => what = format!("{what}\n{line}"),
        }
    }
    Failure::new(Exit::Usage, "FW-CLI-01", what).now(now)
}

#[cfg(test)]
mod tests {
    use super::super::Arguments;
    use super::*;
    use clap::{CommandFactory, Parser};

    fn message(line: &str) -> String {
        let words = std::iter::once("fernwart").chain(line.split(' '));
        let error = Arguments::try_parse_from(words).map(|_| ()).expect_err("it cannot be understood");
        failure(&error).in_short()
    }

    #[test]
    fn an_invalid_command_line_is_reported_with_a_code() {
        for line in ["ls --colour", "job show", "job show x", "nonsense", "diagnose --fail-on never a"] {
            assert!(message(line).ends_with("[FW-CLI-01]"), "{}", message(line));
        }
        assert!(message("lss").contains("similar"), "{}", message("lss"));
    }

    #[test]
    fn commands_of_other_programs_are_answered_with_the_equivalent_here() {
        assert!(message("ssh kasse-1").contains("nobody gets a shell"), "{}", message("ssh kasse-1"));
        assert!(message("push fix kasse-1").contains("cannot be pushed yet"));
        let here = Arguments::command();
        for (words, ..) in ELSEWHERE {
            let own = words.iter().find(|word| here.find_subcommand(word).is_some());
            assert_eq!(own, None, "it is a command of ours");
        }
    }
}
