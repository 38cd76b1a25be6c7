//! The `enroll` command: joins, asks for the policy, and installs the service.

use crate::enroll;
use crate::executor::policy;
use crate::executor::state::StateStore;
use crate::home::{Home, HomeError};
use crate::local::{self, Answer, Question};
use crate::message::Rejection;
use crate::owner::say;
use crate::owner::status;
use crate::owner::user_error::UserError;
use crate::owner::words::Words;
use crate::platform::service;
use fernwart_certs::identity::{SigningKey, TlsIdentity};
use fernwart_certs::invitation::{Guest, Invitation, LONGEST};
use fernwart_certs::keyfile;
use fernwart_protocol::diagnosis::Language;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The invitation from the command line or a file.
pub(super) fn read_invitation(pieces: &[String], file: Option<PathBuf>) -> Result<Invitation, UserError> {
    // Up to two bytes a letter, and as many line ends and quotes.
    let longest = LONGEST as u64 * 4;
    let mut bytes = pieces.concat().into_bytes();
    match file {
        _ if !pieces.is_empty() => {}
        Some(path) => {
            let read = if path.as_os_str() == "-" {
                std::io::stdin().take(longest).read_to_end(&mut bytes)
            } else {
                read_at_most(&path, longest).map(|read| bytes = read).map(|()| bytes.len())
            };
            read.map_err(|error| UserError::unreadable(&path, &error))?;
        }
        None => return Err(UserError::no_invitation()),
    }
    let invitation: Invitation = String::from_utf8_lossy(&bytes).parse()?;
    if !pieces.is_empty() && !invitation.may_stand_in_argv() {
        return Err(UserError::invitation_in_argv());
    }
    Ok(invitation)
}

/// The language of the invited customer.
pub(super) fn language_of(invitation: &Invitation) -> Language {
    match &invitation.guest {
        Guest::Machine { language, .. } => *language,
        Guest::Staff => Language::En,
    }
}

/// Joins, unless this machine has joined already, and starts the service.
pub(super) fn enroll(
    home: &Home,
    invitation: &Invitation,
    policy: Option<String>,
    no_service: bool,
    words: &Words,
) -> anyhow::Result<ExitCode> {
    if let Some(message) = joined_already(home, invitation, words)? {
        return say(&message);
    }
    enroll::check(invitation).map_err(UserError::from)?;
    let prepared = policy.as_deref().map(policy_text).transpose()?;
    if prepared.is_none() && !std::io::stdin().is_terminal() {
        return Err(UserError::no_policy().into());
    }
    if let Some(other) = service::serves_another(home).filter(|_| !no_service) {
        return Err(UserError::service_taken(&other).into());
    }
    let _held = home.hold().map_err(|error| UserError::from(error).or_full(home))?;
    // Another process may have finished joining meanwhile.
    if let Some(message) = joined_already(home, invitation, words)? {
        return say(&message);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let joined = runtime.block_on(enroll::join(home, invitation, |step| {
        let line = match step {
            enroll::Step::Keys => format!("  {}", words.say("enroll-step-1")),
            enroll::Step::Linked(_) => format!("  {}", words.say("enroll-step-2")),
        };
        // A closed standard output does not stop the joining.
        let _ = say(&(line + "\n"));
    }));
    let joined = joined.map_err(|error| UserError::from(error).or_full(home))?;
    let shop = joined.catalogue.shop.name.to_string();
    let contact = status::contact_in_brackets(&joined.catalogue.shop);
    let customer = joined.enrollment.customer_name.to_string();
    let head = words.say_with("enroll-for", &[("customer", &customer), ("shop", &shop), ("contact", &contact)]);
    say(&format!("{head}\n"))?;
    let text = match prepared {
        Some(text) => text,
        None => ask_policy(words, &shop)?,
    };
    let mode = policy::Policy::from_toml(&text)?.act();
    let kept = home.write_policy(&text).and_then(|()| home.write_enrollment(&joined.enrollment));
    kept.map_err(|error| UserError::from(error).or_full(home))?;
    let act = words.say(match mode {
        policy::Mode::Ask => "act-ask",
        policy::Mode::Window => "act-nightly",
        policy::Mode::Notify | policy::Mode::Allow => "act-trusted",
        policy::Mode::Never => "act-never",
    });
    let mut out = String::new();
    if joined.admitted {
        out += &(words.say_with("enroll-admitted", &[("shop", &shop)]) + "\n");
    } else {
        out += &format!("  {}\n", words.say_with("enroll-step-3", &[("words", &joined.words.join(" · "))]));
        out += &(words.say_with("enroll-waiting", &[("shop", &shop)]) + " ");
    }
    let rights = if joined.admitted { "enroll-rights-now" } else { "enroll-rights" };
    out += &(words.say_with(rights, &[("shop", &shop), ("act", &act)]) + "\n");
    out += &format!("  {}\n", words.say("enroll-commands"));
    let started = !no_service && service::install(home)?;
    out += &(words.say(if started { "enroll-service" } else { "enroll-no-service" }) + "\n");
    say(&out)
}

/// The text for a machine that has joined already; none for a new one.
fn joined_already(home: &Home, invitation: &Invitation, words: &Words) -> Result<Option<String>, UserError> {
    let known = match home.enrollment() {
        Ok(known) => known,
        Err(HomeError::NotEnrolled(_)) => return Ok(None),
        // An unreadable enrollment may belong to somebody, so it is not overwritten.
        Err(error) => return Err(error.into()),
    };
    let status = local::ask(&home.socket(), &Question::Status);
    let is_parted = match &status {
        Ok(Some(Answer::Status(status))) => status.parted.is_some(),
        Ok(None) => {
            StateStore::open(&home.store()).is_ok_and(|store| store.parted().is_ok_and(|parted| parted.is_some()))
        }
        Ok(Some(_)) | Err(_) => false,
    };
    if is_parted {
        return Err(UserError::rejected_by_hub(home));
    }
    // Customer ids are unique across organisations.
    if matches!(&invitation.guest, Guest::Machine { customer, .. } if *customer != known.customer) {
        return Err(UserError::joined_for_another(known.customer_name.to_string()));
    }
    match status {
        Ok(Some(Answer::Status(status))) => match status.rejected {
            Some(Rejection::Rejected | Rejection::Retired) => return Err(UserError::rejected_by_hub(home)),
            Some(Rejection::Unknown | Rejection::KeptOut) | None => {}
        },
        Ok(Some(_)) | Err(_) => {}
        // The store is not opened, since an agent that is starting or stopping may hold it.
        Ok(None) if std::fs::metadata(home.store()).is_ok_and(|store| store.len() > 0) => {}
        Ok(None) => return Err(UserError::no_store(home)),
    }
    let folder = home.path().display().to_string();
    let named = [("customer", known.customer_name.as_raw()), ("folder", folder.as_str())];
    let mut out = words.say_with("enroll-again", &named) + "\n";
    // Somebody on the phone may still need the words.
    let waits = TlsIdentity::read(&home.tls_identity()).is_ok_and(|identity| identity.chain.is_empty());
    if let (true, Ok(key)) = (waits, SigningKey::read(&home.evidence_key())) {
        let four = enroll::words(&key, &known).join(" · ");
        out += &format!("  {}\n", words.say_with("enroll-step-3", &[("words", &four)]));
    }
    Ok(Some(out))
}

/// Reads at most this many bytes of a file, which may be endless.
fn read_at_most(path: &Path, bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut read = Vec::new();
    std::fs::File::open(path)?.take(bytes).read_to_end(&mut read)?;
    Ok(read)
}

/// Reads a policy file, limited to the maximum size of settings.
fn read_policy(path: &Path) -> std::io::Result<String> {
    let bytes = read_at_most(path, keyfile::SETTINGS + 1)?;
    if bytes.len() as u64 > keyfile::SETTINGS {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    String::from_utf8(bytes).map_err(|_| std::io::ErrorKind::InvalidData.into())
}

fn policy_text(choice: &str) -> Result<String, UserError> {
    let text = match choice {
        "ask" => policy::ASK.to_owned(),
        "nightly" => policy::NIGHTLY.to_owned(),
        "trusted" => policy::TRUSTED.to_owned(),
        // A path, or a mistyped word.
        file => read_policy(Path::new(file)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => UserError::no_such_policy(file),
            _ => UserError::unreadable(Path::new(file), &error),
        })?,
    };
    policy::Policy::from_toml(&text).map_err(|error| UserError::bad_policy(&error))?;
    Ok(text)
}

fn ask_policy(words: &Words, shop: &str) -> anyhow::Result<String> {
    let mut out = words.say_with("policy-question", &[("shop", shop)]) + "\n";
    for id in ["policy-ask", "policy-nightly", "policy-trusted"] {
        out += &format!("  {}\n", words.say(id));
    }
    say(&out)?;
    loop {
        say(&format!("{} ", words.say("policy-prompt")))?;
        std::io::stdout().flush()?;
        let mut answer = String::new();
        if std::io::stdin().lock().read_line(&mut answer)? == 0 {
            return Err(UserError::no_policy().into());
        }
        let choice = match answer.trim() {
            "" | "1" => "ask",
            "2" => "nightly",
            "3" => "trusted",
            _ => {
                say(&(words.say("policy-odd") + "\n"))?;
                continue;
            }
        };
        return Ok(policy_text(choice)?);
    }
}
