//! What a customer sees of the agent: status, a diagnosis, the policy.

use crate::enroll;
use crate::executor::policy::{BadPolicy, Mode, Policy};
use crate::executor::state::{Parted, StateStore};
use crate::home::{Enrollment, Home};
use crate::local::{self, Answer, LastRun, Question, Status};
use crate::message::Rejection;
use crate::owner::words::{Words, action_word_in};
use fernwart_certs::catalogue::Shop;
use fernwart_certs::identity::{SigningKey, TlsIdentity};
use fernwart_certs::journal::{Entry, Line};
use fernwart_certs::keyfile::KeyFileError;
use fernwart_protocol::text::escaped;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Instant;

/// A shop's first contact in brackets, or nothing.
pub fn contact_in_brackets(shop: &Shop) -> String {
    shop.contacts
        .first()
        .map(|contact| format!(" ({})", contact_line(&contact.name, &contact.phone)))
        .unwrap_or_default()
}

fn contact_line(name: &impl std::fmt::Display, phone: &fernwart_protocol::text::Text<40>) -> String {
    if phone.is_empty() { name.to_string() } else { format!("{name}, {phone}") }
}

/// The agent's status as text. An account that may not read the enrollment gets only the running
/// agent's answer.
///
/// # Errors
/// When the running agent does not answer, or the state store cannot be read.
pub fn status(home: &Home, enrollment: Option<&Enrollment>, words: &Words) -> anyhow::Result<String> {
    let (running, store) = running_or_stored(home)?;
    let (shop, last, parted) = match (&running, &store) {
        (Some(status), _) => (status.shop.clone(), status.last.clone(), status.parted.clone()),
        (None, Some(store)) => {
            let catalogue = store.trusted()?.map(|trusted| trusted.view()).transpose()?;
            let shop = catalogue.map(|catalogue| catalogue.shop).unwrap_or_default();
            (shop, crate::executor::last_run::last_run_at_rest(store), store.parted()?)
        }
        (None, None) => Default::default(),
    };
    let name = shop.name.to_string();
    let hostname = escaped(&crate::platform::facts::hostname());
    let mut out = String::new();
    let mut row = |label: &str, text: &str| {
        // Writing into a String does not fail.
        let _ = writeln!(out, "  {:<17} {text}", words.say(label));
    };
    for contact in &shop.contacts {
        row("status-contact", &contact_line(&contact.name, &contact.phone));
    }
    if !shop.hours.is_empty() {
        row("status-hours", &shop.hours.to_string());
    }
    let link = match &parted {
        Some(parted) => parted_in_words(parted, words, &name),
        None => link_in_words(home, enrollment, words, running.as_ref(), &name),
    };
    row("status-link", &link);
    let questions = running.as_ref().map_or(0, |status| status.questions);
    if questions > 0 {
        row("status-questions", &words.say_with("status-questions-now", &[("count", &questions.to_string())]));
    }
    if running.as_ref().is_some_and(|status| status.unwritten > 0) {
        row("status-unwritten", &words.say("status-unwritten-now"));
    }
    let called = last.as_ref().and_then(|last| last.machine_name.clone());
    let last = last.map(|last| last_in_words(&last, words));
    row("status-last", &last.unwrap_or_else(|| words.say("status-never")));
    let until = |until: i64| match until {
        i64::MAX => words.say("until-resumed"),
        until => words.say_with("until", &[("at", &crate::owner::questions::local_time(until))]),
    };
    // A pause survives a restart of the agent.
    let paused = match &running {
        Some(status) => status.paused_until,
        None => crate::executor::paused_until(&crate::machine::HomeFiles(home.clone()))
            .filter(|until| *until > crate::now()),
    };
    if let Some(paused) = paused {
        row("status-paused", &until(paused));
    }
    if parted.is_none() {
        row("status-allowed", &rules_in_words(home, words, running.as_ref(), paused.is_some(), &until));
    }
    // A technician on the phone may use another name for it than its host name.
    let machine = match &called {
        Some(called) if !called.as_str().eq_ignore_ascii_case(&hostname) => {
            words.say_with("status-names", &[("own", &hostname), ("theirs", called.as_str())])
        }
        _ => hostname,
    };
    let head = if parted.is_some() { "status-head-parted" } else { "status-head" };
    let head = words.say_with(head, &[("machine", &machine), ("shop", &name)]);
    Ok(format!("{head}\n{out}"))
}

/// The running agent's answer, or the state store of one that is not running.
fn running_or_stored(home: &Home) -> anyhow::Result<(Option<Status>, Option<StateStore>)> {
    let begun = Instant::now();
    loop {
        if let Some(Answer::Status(status)) = local::ask(&home.socket(), &Question::Status)? {
            return Ok((Some(*status), None));
        }
        match StateStore::open(&home.store()) {
            Ok(store) => return Ok((None, Some(store))),
            Err(error) if error.is_held() && begun.elapsed() < local::STARTS => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn last_in_words(last: &LastRun, words: &Words) -> String {
    let at = jiff::Timestamp::from_millisecond(last.at).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    let action = words.say(&format!("action-{}", last.action));
    format!("{}  {action}: {}", at.strftime("%Y-%m-%d %H:%M"), words.outcome(last.outcome))
}

fn parted_in_words(parted: &Parted, words: &Words, shop: &str) -> String {
    let id = if parted.by.is_empty() { "status-left" } else { "status-parted" };
    let at = jiff::Timestamp::from_millisecond(parted.at).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    words.say_with(id, &[("shop", shop), ("at", &at.strftime("%Y-%m-%d").to_string())])
}

fn link_in_words(
    home: &Home,
    enrollment: Option<&Enrollment>,
    words: &Words,
    running: Option<&Status>,
    shop: &str,
) -> String {
    let admitted = TlsIdentity::read(&home.tls_identity()).is_ok_and(|identity| !identity.chain.is_empty());
    if let Some(rejected) = running.and_then(|status| status.rejected) {
        let id = match rejected {
            Rejection::Rejected => "status-rejected",
            Rejection::Retired => "status-retired",
            Rejection::Unknown => "status-unknown",
            Rejection::KeptOut => "status-kept-out",
        };
        return words.say_with(id, &[("shop", shop)]);
    }
    match (admitted || enrollment.is_none(), running) {
        (false, _) => {
            let four = SigningKey::read(&home.evidence_key());
            let four = four.ok().zip(enrollment).map(|(key, known)| enroll::words(&key, known).join(" · "));
            words.say_with("status-pending", &[("shop", shop), ("words", &four.unwrap_or_default())])
        }
        (true, None) => stopped(home, words),
        (true, Some(status)) if status.linked => words.say_with("status-linked", &[("shop", shop)]),
        (true, Some(_)) => words.say("status-unlinked"),
    }
}

/// The text that the agent is not running, with the command to start it.
pub(crate) fn stopped(home: &Home, words: &Words) -> String {
    words.say_with("status-stopped", &[("command", crate::platform::service::start_command(home))])
}

/// What the policy allows, as text. An asked account may not read the policy, so it gets the
/// running agent's answer.
fn rules_in_words(
    home: &Home,
    words: &Words,
    running: Option<&Status>,
    is_paused: bool,
    until: &dyn Fn(i64) -> String,
) -> String {
    let (look, act) = match (policy(home), running) {
        (Ok(policy), _) => (policy.look(), policy.act()),
        (Err(PolicyError::File(error)), Some(status))
            if status.policy_readable && error.system() == Some(std::io::ErrorKind::PermissionDenied) =>
        {
            (status.look, status.act)
        }
        (Err(PolicyError::File(error)), _) if !error.is_missing() => {
            return words.say_with("status-policy-untrusted", &[("why", &words.file(&error))]);
        }
        (Err(_), _) => {
            let path = home.policy().display().to_string();
            return words.say_with("status-policy-unreadable", &[("path", &path)]);
        }
    };
    // If the policy says never, or needs no consent, a consent changes nothing.
    let allowed = running.and_then(|status| status.allowed_until);
    let act = match allowed.filter(|_| !is_paused && matches!(act, Mode::Ask | Mode::Window)) {
        Some(allowed) => format!("{}, {}", words.mode(Mode::Allow), until(allowed)),
        None => words.mode(act),
    };
    words.say_with("status-policy", &[("look", &words.mode(look)), ("act", &act)])
}

/// Why the policy in the file is not in force.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file is missing, or others may have written it.
    #[error(transparent)]
    File(KeyFileError),
    /// The file is not a valid policy.
    #[error(transparent)]
    Rules(BadPolicy),
}

/// The policy in the file.
///
/// # Errors
/// When it cannot be read, or is rejected.
pub fn policy(home: &Home) -> Result<Policy, PolicyError> {
    Policy::from_toml(&home.read_policy().map_err(PolicyError::File)?).map_err(PolicyError::Rules)
}

/// The journal as text, newest line last.
pub fn journal_in_words(lines: &[Line], words: &Words) -> String {
    // The line that ends a run does not name its action.
    let mut actions: HashMap<String, String> = HashMap::new();
    let mut out = String::new();
    for line in lines {
        let Line::Entry { line, body, .. } = line else { continue };
        let Ok(entry) = serde_json::from_str::<Entry>(line) else { continue };
        let body: Value = body.as_deref().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
        let text = |name: &str| escaped(body.get(name).and_then(Value::as_str).unwrap_or_default());
        let run = text("run");
        let action = action_word_in(&body).or_else(|| actions.get(&run).cloned());
        let action = action.unwrap_or_else(|| "other".to_owned());
        actions.insert(run, action.clone());
        let who = if entry.kind.as_raw() == "joined" { text("customer_name") } else { text("staff") };
        let why = if text("reason").is_empty() { String::new() } else { format!(": {}", text("reason")) };
        let version = body.pointer("/versions/targets").map(Value::to_string);
        let outcome = words.say(&format!("outcome-{}", text("outcome")));
        let decided = match body.get("word") {
            Some(Value::Object(word)) => word.keys().next().cloned(),
            Some(Value::String(word)) => Some(word.clone()),
            _ => None,
        };
        let decided = decided.map(|word| words.say(&format!("word-{word}"))).unwrap_or_default();
        let with = [
            ("who", who.as_str()),
            ("why", &why),
            ("action", &words.say(&format!("action-{action}"))),
            ("outcome", &outcome),
            ("by", &text("by")),
            ("word", &decided),
            ("count", &body.get("count").map(Value::to_string).unwrap_or_default()),
            ("code", &version.unwrap_or_else(|| text("code"))),
        ];
        let at = jiff::Timestamp::from_millisecond(entry.at).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
        let text = words.say_with(&format!("journal-{}", entry.kind), &with);
        // Writing into a String does not fail.
        let _ = writeln!(out, "{:>5}  {}  {text}", entry.seq, at.strftime("%Y-%m-%d %H:%M"));
    }
    out
}
