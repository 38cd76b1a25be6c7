//! What the agent's program does when it is called.

mod command_line;

use anyhow::{Context, bail};
use command_line::{Arguments, Command, Output, PolicyCommand};
use fernwart_agent::executor::journal_at_rest;
use fernwart_agent::executor::policy;
use fernwart_agent::home::{self, Enrollment, Home};
use fernwart_agent::local::{self, Answer, Question, Word};
use fernwart_agent::trouble::Trouble;
use fernwart_agent::words::{Words, language_of_user};
use fernwart_agent::{action::cage, check, enroll, history, owner, run, service, status};
use fernwart_certs::identity::{SigningKey, TlsIdentity};
use fernwart_certs::invitation::{Invitation, LONGEST};
use fernwart_certs::journal::Line;
use fernwart_protocol::diagnosis::Language;
use fernwart_protocol::text::chain;
use std::ffi::OsString;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// This program on its way to becoming a script: no command of anybody's.
fn caged() -> Option<ExitCode> {
    let mut words = std::env::args().skip(1);
    let code = match (words.next().as_deref(), words.next(), words.next()) {
        (Some(cage::OUTER), Some(spec), None) => cage::outer(&spec),
        (Some(cage::INNER), Some(spec), Some(pulse)) => cage::inner(&spec, &pulse),
        _ => return None,
    };
    Some(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn main() -> ExitCode {
    if let Some(code) = caged() {
        return code;
    }
    // Whatever was open where it was started is nothing to what it starts.
    if let Err(error) = cage::keep_to_itself(None) {
        eprintln!("/proc/self/fd: {error}");
        return ExitCode::from(5);
    }
    // Nothing this program makes is anybody else's to read.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let begun: Vec<OsString> = std::env::args_os().collect();
    let folder = command_line::value_of("home", &begun).or_else(|| std::env::var_os("FERNWART_AGENT_HOME"));
    let home = Home::at(folder.as_deref().map_or(Path::new(home::DEFAULT), Path::new));
    let asked = command_line::value_of("lang", &begun).and_then(|word| word.to_str()?.parse().ok());
    let known = || home.enrollment().ok().map(|enrollment| enrollment.language);
    let words = Words::new(asked.or_else(known).unwrap_or_else(language_of_user));
    let arguments = match command_line::read(begun, &words) {
        Ok(arguments) => arguments,
        Err(trouble) => return complain(&trouble, &words),
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::INFO)
        .with_target(false)
        .init();
    match act(arguments, &home, &words) {
        Ok(code) => code,
        Err(error) => match error.downcast_ref::<Trouble>() {
            Some(trouble) => complain(trouble, &words),
            None => complain(&Trouble::other(format!("{error:#}")), &words),
        },
    }
}

fn complain(trouble: &Trouble, words: &Words) -> ExitCode {
    eprint!("{}", trouble.in_words(words));
    ExitCode::from(trouble.exit)
}

fn act(arguments: Arguments, home: &Home, words: &Words) -> anyhow::Result<ExitCode> {
    let enrollment = home.enrollment().map_err(Trouble::from);
    match arguments.command {
        Command::Enroll { line, file, policy, no_service } => {
            enroll(home, read_invitation(line, file)?, policy, no_service, arguments.lang)
        }
        Command::Run => {
            enrollment?;
            if let Ok(Some(_)) = local::ask(&home.socket(), &Question::Status) {
                return Err(Trouble::running_already().into());
            }
            run::run(home)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status => {
            let enrollment = enrollment?;
            say(&status::status(home, &enrollment, words)?)
        }
        Command::Diagnose { output } => {
            let report = status::diagnose();
            match output {
                Output::Text => say(&status::report_in_words(&report, words))?,
                Output::Json => say(&(serde_json::to_string(&report)? + "\n"))?,
            };
            let critical = report.worst() == Some(fernwart_protocol::diagnosis::Severity::Crit);
            Ok(if critical { ExitCode::from(1) } else { ExitCode::SUCCESS })
        }
        Command::Policy { command: PolicyCommand::Check } => check_policy(home, words),
        Command::Journal { export } => journal(home, &enrollment?, export, words),
        Command::History { number } => {
            let lines = journal_lines(home, || enrollment.map_err(anyhow::Error::from))?;
            say(&history::in_words(&lines, number, words).ok_or_else(Trouble::no_such_run)?)
        }
        Command::Questions => {
            reachable(home, enrollment)?;
            say(&owner::questions(home, words)?)
        }
        Command::Allow { what, span } => {
            reachable(home, enrollment)?;
            say(&owner::word(home, owner::allow(&what, span)?, words)?)
        }
        Command::Deny { what } => {
            reachable(home, enrollment)?;
            say(&owner::word(home, owner::deny(&what)?, words)?)
        }
        Command::Pause { span, same } => {
            reachable(home, enrollment)?;
            let span = span.or(same).map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
            say(&owner::word(home, Word::Pause(span), words)?)
        }
        Command::Resume => {
            reachable(home, enrollment)?;
            say(&owner::word(home, Word::Resume, words)?)
        }
        Command::Check { trust_clock } => {
            let enrollment = enrollment?;
            if trust_clock {
                say(&owner::word(home, Word::TrustClock, words)?)?;
            }
            let checked = check::check(home, &enrollment, words)?;
            say(&checked.text)?;
            Ok(if checked.well { ExitCode::SUCCESS } else { ExitCode::from(1) })
        }
        Command::Version => say(&format!("fernwart-agent {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

/// Writes to standard output; a reader that has gone away is no failure.
fn say(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("writing"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn read_invitation(line: Option<String>, file: Option<PathBuf>) -> Result<Invitation, Trouble> {
    let longest = LONGEST as u64 * 2;
    let mut text = String::new();
    match (&line, file) {
        (Some(line), _) => text.clone_from(line),
        (None, Some(path)) => {
            let read = if path.as_os_str() == "-" {
                std::io::stdin().take(longest).read_to_string(&mut text)
            } else {
                std::fs::File::open(&path).and_then(|file| file.take(longest).read_to_string(&mut text))
            };
            read.map_err(|error| Trouble::unreadable(&path, &error))?;
        }
        (None, None) => return Err(Trouble::no_invitation()),
    }
    let invitation: Invitation = text.parse()?;
    if line.is_some() && !invitation.may_stand_in_argv() {
        return Err(Trouble::invitation_in_argv());
    }
    Ok(invitation)
}

fn enroll(
    home: &Home,
    invitation: Invitation,
    policy: Option<String>,
    no_service: bool,
    lang: Option<Language>,
) -> anyhow::Result<ExitCode> {
    let language = lang.unwrap_or(match &invitation.guest {
        fernwart_certs::invitation::Guest::Machine { language, .. } => *language,
        fernwart_certs::invitation::Guest::Staff => Language::En,
    });
    let words = Words::new(language);
    let _held = home.hold().map_err(|error| Trouble::from(error).or_full(home))?;
    if let Ok(known) = home.enrollment() {
        // Of another version of its approvers' root nobody can tell whose it is.
        if known.root_version == invitation.root_version && known.root != invitation.root {
            return Err(Trouble::belongs_elsewhere(known.customer_name.as_raw()).into());
        }
        let mut out = words.say_with("enroll-again", &[("customer", &known.customer_name.to_string())]) + "\n";
        // Somebody on the phone may still wait for the words.
        let waits = TlsIdentity::read(&home.tls_identity()).is_ok_and(|identity| identity.chain.is_empty());
        if let (true, Ok(key)) = (waits, SigningKey::read(&home.evidence_key())) {
            let four = enroll::words(&key, &known).join(" · ");
            out += &format!("  {}\n", words.say_with("enroll-step-3", &[("words", &four)]));
        }
        return say(&out);
    }
    let prepared = policy.as_deref().map(policy_text).transpose()?;
    if prepared.is_none() && !std::io::stdin().is_terminal() {
        return Err(Trouble::no_policy().into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let joined = runtime.block_on(enroll::join(home, &invitation, |step| {
        let line = match step {
            enroll::Step::Keys => format!("  {}", words.say("enroll-step-1")),
            enroll::Step::Linked(_) => format!("  {}", words.say("enroll-step-2")),
        };
        // A reader that has gone away does not stop the joining.
        let _ = say(&(line + "\n"));
    }));
    let joined = joined.map_err(|error| Trouble::from(error).or_full(home))?;
    let shop = joined.catalogue.shop.name.to_string();
    let contact = status::contact_in_brackets(&joined.catalogue.shop);
    let customer = joined.enrollment.customer_name.to_string();
    let head = words.say_with("enroll-for", &[("customer", &customer), ("shop", &shop), ("contact", &contact)]);
    say(&format!("{head}\n"))?;
    let text = match prepared {
        Some(text) => text,
        None => ask_policy(&words, &shop)?,
    };
    let mode = policy::Policy::from_toml(&text)?.act();
    let kept = home.write_policy(&text).and_then(|()| home.write_enrollment(&joined.enrollment));
    kept.map_err(|error| Trouble::from(error).or_full(home))?;
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

fn policy_text(choice: &str) -> Result<String, Trouble> {
    let text = match choice {
        "ask" => policy::ASK.to_owned(),
        "nightly" => policy::NIGHTLY.to_owned(),
        "trusted" => policy::TRUSTED.to_owned(),
        // A word that is none of the three, and no file either.
        file => std::fs::read_to_string(file).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Trouble::no_such_policy(file),
            _ => Trouble::unreadable(Path::new(file), &error),
        })?,
    };
    policy::Policy::from_toml(&text).map_err(|error| Trouble::bad_policy(&error))?;
    Ok(text)
}

fn ask_policy(words: &Words, shop: &str) -> anyhow::Result<String> {
    let mut out = words.say_with("policy-question", &[("shop", shop)]) + "\n";
    for id in ["policy-ask", "policy-nightly", "policy-trusted"] {
        out += &format!("  {}\n", words.say(id));
    }
    say(&format!("{out}{} ", words.say("policy-prompt")))?;
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(policy_text(match answer.trim() {
        "2" => "nightly",
        "3" => "trusted",
        _ => "ask",
    })?)
}

fn check_policy(home: &Home, words: &Words) -> anyhow::Result<ExitCode> {
    home.enrollment().map_err(Trouble::from)?;
    match status::policy(home) {
        Ok(policy) => {
            let (look, act) = (words.mode(policy.look()), words.mode(policy.act()));
            say(&(words.say_with("policy-ok", &[("look", &look), ("act", &act)]) + "\n"))
        }
        Err(error) => {
            let path = home.policy().display().to_string();
            say(&format!("{}\n{}\n", words.say_with("policy-bad", &[("path", &path)]), chain(&error)))?;
            Ok(ExitCode::from(1))
        }
    }
}

/// Whoever may speak to the running agent need not read its folder.
fn reachable(home: &Home, enrollment: Result<Enrollment, Trouble>) -> Result<(), Trouble> {
    if home.socket().exists() { Ok(()) } else { enrollment.map(drop) }
}

fn journal_lines(home: &Home, enrollment: impl FnOnce() -> anyhow::Result<Enrollment>) -> anyhow::Result<Vec<Line>> {
    let ask = |question: &Question| match local::ask(&home.socket(), question)? {
        None => Ok(None),
        Some(Answer::Journal(lines)) => Ok(Some(lines)),
        Some(Answer::Failed(why) | Answer::NotKept(why)) => bail!(why),
        Some(Answer::Status(_) | Answer::Asked(_) | Answer::Done | Answer::NoSuchQuestion | Answer::NotYours) => {
            bail!("the agent answered something else")
        }
    };
    let mut lines = Vec::new();
    loop {
        let from = lines.len() as u64 + 1;
        match ask(&Question::Journal { from })? {
            None => return Ok(journal_at_rest(home, enrollment()?.machine)?),
            Some(page) if !page.is_empty() => lines.extend(page),
            Some(_) => {
                let end = ask(&Question::JournalHead)?.and_then(|end| end.into_iter().next()).context("no end")?;
                // A line may have come between the two questions.
                if end.seq() == Some(lines.len() as u64) {
                    lines.push(end);
                    return Ok(lines);
                }
            }
        }
    }
}

fn journal(home: &Home, enrollment: &Enrollment, export: bool, words: &Words) -> anyhow::Result<ExitCode> {
    let lines = journal_lines(home, || Ok(enrollment.clone()))?;
    if export {
        let mut out = String::new();
        for line in lines {
            out += &(serde_json::to_string(&line)? + "\n");
        }
        return say(&out);
    }
    say(&status::journal_in_words(&lines, words))
}
