//! The owner's commands at the terminal: list questions, allow, deny, pause, resume.

use crate::executor::policy::Mode;
use crate::home::Home;
use crate::local::{self, Answer, Asked, Caller, OwnerCommand, Question};
use crate::owner::user_error::UserError;
use crate::owner::words::Words;
use fernwart_protocol::document::Action;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::text::escaped;
use std::fmt::Write;
use std::time::Duration;

fn ask(home: &Home, question: &Question) -> Result<Answer, UserError> {
    let silent =
        |error: &std::io::Error| matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
    let answer = local::ask(&home.socket(), question).map_err(|error| match silent(&error) {
        true => UserError::silent(),
        false => UserError::unreadable(&home.socket(), &error),
    })?;
    match answer.ok_or_else(UserError::not_running)? {
        Answer::NoSuchQuestion => Err(UserError::no_such_question()),
        Answer::NotYours => Err(UserError::not_yours()),
        Answer::NotKept(why) => Err(UserError::not_kept(why)),
        Answer::Failed(why) => Err(UserError::not_written(why)),
        answer => Ok(answer),
    }
}

/// The open questions to the owner, as text.
///
/// # Errors
/// When the agent is not running.
pub fn questions(home: &Home, words: &Words) -> Result<String, UserError> {
    let Answer::Asked(asked) = ask(home, &Question::Asked)? else { return Err(UserError::not_running()) };
    if asked.is_empty() {
        return Ok(words.say("questions-none") + "\n");
    }
    let mut out = String::new();
    for asked in &asked {
        // Writing into a String does not fail.
        let _ = writeln!(out, "{}", in_words(asked, words));
    }
    Ok(out + &words.say("questions-now") + "\n")
}

/// Width of an indented text, in columns.
const WIDTH: usize = 72;

/// Wraps a text between words to lines of at most `width` characters.
fn wrapped(text: &str, width: usize) -> String {
    let (mut out, mut column) = (String::with_capacity(text.len() + 8), 0);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            out.push('\n');
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

fn in_words(asked: &Asked, words: &Words) -> String {
    let name = match &asked.action {
        Action::Script { bundle, .. } => bundle.to_string(),
        Action::Diagnose { .. } => words.say("action-diagnose"),
    };
    let title = words.title(&asked.action, asked.title.as_ref());
    let with = match &asked.action {
        Action::Script { parameters, .. } => {
            let all: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
            all.join(" ")
        }
        Action::Diagnose { .. } => String::new(),
    };
    let number = asked.number.to_string();
    let who = [("staff", asked.staff.to_string()), ("shop", asked.shop.to_string())];
    let who = who.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut out = words.say_with("question", &[&who[..], &[("number", &number), ("title", &title)]].concat());
    let mut line = |text: &str| {
        for row in text.lines() {
            // Writing into a String does not fail.
            let _ = write!(out, "\n      {row}");
        }
    };
    if let Some(explain) = &asked.explain {
        line(&wrapped(&escaped(words.language.of(explain)), WIDTH));
    }
    let reason = asked.reason.to_string();
    if !reason.is_empty() {
        line(&words.say_with("question-reason", &[("reason", &reason)]));
    }
    line(&words.say_with("question-script", &[("script", format!("{name} {with}").trim_end())]));
    line(&words.say_with("question-until", &[("until", &local_time(asked.until))]));
    out
}

/// A local time for people; with its date if that is not today.
pub(crate) fn local_time(at: fernwart_protocol::document::UnixMs) -> String {
    let zoned = |at| jiff::Timestamp::from_millisecond(at).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    let (at, now) = (zoned(at), zoned(crate::now()));
    at.strftime(if at.date() == now.date() { "%H:%M" } else { "%Y-%m-%d %H:%M" }).to_string()
}

/// Sends a command to the agent; returns the text about its effect.
///
/// # Errors
/// When the agent is not running, or there is no such question.
pub fn command(home: &Home, command: OwnerCommand, words: &Words) -> Result<String, UserError> {
    ask(home, &Question::OwnerCommand { command, by: Caller::default() })?;
    let status = match local::ask(&home.socket(), &Question::Status) {
        Ok(Some(Answer::Status(status))) => Some(status),
        _ => None,
    };
    let but = match (command, &status) {
        (OwnerCommand::AllowAll(_), Some(status)) => match (status.paused_until, status.act) {
            _ if status.parted.is_some() => format!("\n{}", words.say("said-but-parted")),
            (Some(_), _) => format!("\n{}", words.say("said-but-paused")),
            (None, Mode::Never) => format!("\n{}", words.say("said-but-never")),
            _ => String::new(),
        },
        _ => String::new(),
    };
    // The times now in force. They may differ from the command: an asked account allows less than
    // an administrator, and cannot shorten an administrator's pause.
    let held = |of: fn(&local::Status) -> Option<UnixMs>| status.as_deref().and_then(of);
    let until = |ms: u64, of: fn(&local::Status) -> Option<UnixMs>| {
        let wanted = crate::now().saturating_add(i64::try_from(ms).unwrap_or(i64::MAX));
        local_time(held(of).filter(|at| *at != UnixMs::MAX).unwrap_or(wanted))
    };
    Ok(match command {
        OwnerCommand::Allow(_, None) => words.say("said-allow"),
        OwnerCommand::Allow(_, Some(span)) | OwnerCommand::AllowAll(span) => {
            words.say_with("said-allow-all", &[("until", &until(span, |status| status.allowed_until))])
        }
        OwnerCommand::Deny(_) => words.say("said-deny"),
        OwnerCommand::DenyAll => words.say("said-deny-all"),
        OwnerCommand::Pause(None) => words.say("said-pause"),
        // The administrator has paused without an end, which others cannot shorten.
        OwnerCommand::Pause(Some(_)) if held(|status| status.paused_until) == Some(UnixMs::MAX) => {
            words.say("said-pause")
        }
        OwnerCommand::Pause(Some(span)) => {
            words.say_with("said-pause-until", &[("until", &until(span, |status| status.paused_until))])
        }
        OwnerCommand::Resume => words.say("said-resume"),
        OwnerCommand::TrustClock => words.say("said-trust-clock"),
    } + &but
        + "\n")
}

/// The argument of `allow`: the number of a question, or `repair` for all for a while.
///
/// # Errors
/// When it is neither.
pub fn allow(what: &str, span: Option<Duration>) -> Result<OwnerCommand, UserError> {
    let ms = span.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    match (what, ms) {
        ("repair", Some(ms)) => Ok(OwnerCommand::AllowAll(ms)),
        ("repair", None) => Err(UserError::how_long()),
        (number, ms) => {
            number.parse().map(|number| OwnerCommand::Allow(number, ms)).map_err(|_| UserError::no_such_question())
        }
    }
}

/// The argument of `deny`: the number of a question, or `repair` for all.
///
/// # Errors
/// When it is neither.
pub fn deny(what: &str) -> Result<OwnerCommand, UserError> {
    match what {
        "repair" => Ok(OwnerCommand::DenyAll),
        number => number.parse().map(OwnerCommand::Deny).map_err(|_| UserError::no_such_question()),
    }
}
