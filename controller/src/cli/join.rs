//! `fernwart join`: a technician's or robot's keys are made here and stay here.

use super::output::{is_watched, shell_word};
use super::{Exit, Failure, HomePaths, block_on, prompt, say, span};
use crate::failure::chain;
use clap::Args;
use fernwart_certs::invitation::{Guest, Invitation, LONGEST};
use fernwart_client::{ClientError, Newcomer, StaffHome};
use fernwart_protocol::id::KeyId;
use fernwart_protocol::limits::COLLECT_WAIT;
use fernwart_protocol::text::Text;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// With `--no-wait`, how long to wait for the hub's answer.
const GLANCE: Duration = Duration::from_secs(1);

/// Join a shop.
#[derive(Args)]
pub(crate) struct Join {
    /// Read the invitation from a file, or from standard input with -; without it you are asked
    #[arg(long = "invitation", value_name = "FILE")]
    file: Option<PathBuf>,
    /// The name you go by
    #[arg(long, env = "USER", default_value = "technician")]
    name: String,
    /// Do not wait to be put on the staff list
    #[arg(long)]
    no_wait: bool,
    /// Wait so long to be put on the staff list
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = span::parse, conflicts_with = "no_wait")]
    timeout: Duration,
}

/// How long to wait to be put on the staff list.
#[derive(Debug, Clone, Copy)]
enum Wait {
    /// Ask once.
    Glance,
    /// At most this long.
    For(Duration),
}

impl Join {
    fn wait(&self) -> Wait {
        if self.no_wait { Wait::Glance } else { Wait::For(self.timeout) }
    }
}

fn read_line(command: &Join) -> Result<Invitation, Failure> {
    let most = LONGEST as u64 * 2;
    let mut text = String::new();
    let read = match &command.file {
        Some(path) if path.as_os_str() != "-" => {
            std::fs::File::open(path).and_then(|file| file.take(most).read_to_string(&mut text))
        }
        Some(_) => std::io::stdin().take(most).read_to_string(&mut text),
        None if prompt::is_possible() => {
            text = prompt::line("Paste the invitation (fw1-…): ", "nothing was made")?.unwrap_or_default();
            Ok(0)
        }
        None => {
            return Err(Failure::new(Exit::Usage, "FW-JOIN-20", "no invitation was given")
                .now("fernwart join --invitation FILE, or -"));
        }
    };
    let from = command.file.as_deref().unwrap_or(Path::new("-")).display();
    read.map_err(|error| {
        Failure::new(Exit::Usage, "FW-CLI-10", format!("the invitation cannot be read from {from}: {error}"))
            .now("name the file that holds the line fw1-…, or - for standard input")
    })?;
    let bad = |error: fernwart_certs::invitation::BadInvitation| {
        Failure::new(Exit::Usage, "FW-JOIN-21", error.to_string()).now("copy the whole line, from fw1- to its end")
    };
    let invitation: Invitation = text.parse().map_err(bad)?;
    if invitation.guest != Guest::Staff {
        return Err(Failure::new(Exit::Usage, "FW-JOIN-06", "this invitation is for a machine")
            .now("on the machine: sudo fernwart-agent enroll"));
    }
    Ok(invitation)
}

pub(crate) fn run(command: &Join, homes: &HomePaths) -> Result<Exit, Failure> {
    let path = homes.staff();
    if StaffHome::exists(&path) && !StaffHome::open(&path)?.identity.chain.is_empty() {
        if command.file.is_some() {
            let invitation = read_line(command)?;
            return block_on(async {
                collect(Newcomer::come_back(&path, &invitation).await?, Wait::Glance, false).await
            });
        }
        note!("{} is a complete staff home already; nothing was changed", path.display());
        note!("If the hub has other keys by now: fernwart join --invitation FILE, with a new invitation.");
        return Ok(Exit::Done);
    }
    if StaffHome::exists(&path) {
        // This home has joined; only the certificate is missing.
        return block_on(async { collect(Newcomer::resume(&path).await?, command.wait(), false).await });
    }
    let invitation = read_line(command)?;
    let name: Text<64> =
        command.name.parse().map_err(|_| Failure::new(Exit::Usage, "FW-CLI-01", "a name has at most 64 bytes"))?;
    block_on(join(&path, &invitation, name, command.wait()))
}

/// A catalogue that cannot be believed gets no advice here for homes that know an earlier one.
fn no_catalogue(error: ClientError) -> Failure {
    match error {
        ClientError::Catalogue(error) => {
            let what = format!("what the hub offers was not approved: {}", chain(&error));
            Failure::new(Exit::Refused, "FW-CAT-06", what)
                .now("ask the lead who has invited you whether this is their hub")
        }
        error => error.into(),
    }
}

async fn join(path: &Path, invitation: &Invitation, name: Text<64>, wait: Wait) -> Result<Exit, Failure> {
    let (newcomer, organisation) = Newcomer::join(path, invitation, name).await.map_err(no_catalogue)?;
    let key = newcomer.key_id();
    say(&format!(
        "You have joined {organisation}. Your keys were made here and stay in {}.\n  Key id   {key}\n",
        path.display()
    ))?;
    show_key(newcomer.name(), key);
    collect(newcomer, wait, true).await
}

fn show_key(name: &Text<64>, key: KeyId) {
    let name = shell_word(name.as_raw());
    note!(
        "Tell a lead the key id (on the phone or face to face). They type:\n  fernwart staff add {name} --key-id {key} --role repair"
    );
}

/// The progress shown while waiting.
fn waiting(wait: Wait) -> ProgressBar {
    let target = match wait {
        Wait::For(_) if is_watched() => ProgressDrawTarget::stderr(),
        _ => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("{spinner} waiting to be put on the staff list  {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Waits to be put on the staff list, and stores the certificate. Prints the key id unless that was
/// done just now.
async fn collect(mut newcomer: Newcomer, wait: Wait, mut is_shown: bool) -> Result<Exit, Failure> {
    let (key, name) = (newcomer.key_id(), newcomer.name().clone());
    let begun = Instant::now();
    let progress = waiting(wait);
    loop {
        let mut request = Box::pin(newcomer.offered());
        let at_once = tokio::time::timeout(GLANCE, &mut request).await;
        if at_once.is_err() && !is_shown {
            is_shown = true;
            progress.suspend(|| {
                note!("You have joined, and are not on the staff list yet.\n  Key id   {key}");
                show_key(&name, key);
            });
        }
        let left = match wait {
            Wait::Glance => Duration::ZERO,
            Wait::For(limit) => limit.saturating_sub(begun.elapsed()).min(COLLECT_WAIT * 2),
        };
        let answer = match at_once {
            Ok(answer) => Ok(answer),
            Err(_) => tokio::time::timeout(left, &mut request).await,
        };
        drop(request);
        match answer {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(offered))) => {
                newcomer.complete(offered).await?;
                progress.finish_and_clear();
                say("You are on the staff list.\n")?;
                note!("Next: fernwart ls");
                return Ok(Exit::Done);
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                progress.finish_and_clear();
                return not_listed(wait, begun.elapsed(), key);
            }
        }
    }
}

/// The end of waiting without an answer.
fn not_listed(wait: Wait, waited: Duration, key: KeyId) -> Result<Exit, Failure> {
    match wait {
        Wait::Glance => {
            note!("Then run fernwart join again.");
            Ok(Exit::Done)
        }
        Wait::For(limit) if waited < limit => {
            Err(Failure::new(Exit::NoAnswer, "FW-CLI-05", "the hub did not answer in time"))
        }
        Wait::For(limit) => {
            let what = format!("nobody has put this key on the staff list within {}", span::in_words(limit));
            Err(Failure::new(Exit::NoAnswer, "FW-JOIN-12", what)
                .now(format!("a lead adds key id {key}; then run fernwart join again")))
        }
    }
}
