//! `fernwart join`: a technician's or robot's keys are made here and stay here.

use super::chain;
use super::output::{is_watched, shell_word};
use super::{Exit, Failure, HomePaths, block_on, prompt, say, span};
use crate::failure::denied;
use clap::Args;
use fernwart_certs::CertificateDer;
use fernwart_certs::catalogue::{Files, Trusted, advance};
use fernwart_certs::identity::{SigningKey, TlsIdentity, staff_key_id};
use fernwart_certs::invitation::{Guest, Invitation, LONGEST};
use fernwart_certs::join::{prove_join_staff, prove_staff_claim, unsigned};
use fernwart_certs::tls::{self, Clock};
use fernwart_client::{ClientError, StaffHome, StaffSettings};
use fernwart_protocol::code::Goodbye;
use fernwart_protocol::enroll::{JoinStaff, Reply, Request, StaffClaim};
use fernwart_protocol::id::{Digest, KeyId};
use fernwart_protocol::limits::{COLLECT_WAIT, HANDSHAKE_TIMEOUT, OFFER_FILES};
use fernwart_protocol::link::{Dialer, Door, Link, dial_any};
use fernwart_protocol::text::{Blob, Text};
use fernwart_protocol::to_agent::CatalogueFile;
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
    read.map_err(|error| Failure::new(Exit::Usage, "FW-CLI-10", format!("the invitation cannot be read: {error}")))?;
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
            return block_on(come_back(&path, &invitation));
        }
        note!("{} is a complete staff home already; nothing was changed", path.display());
        note!("If the hub has other keys by now: fernwart join --invitation FILE, with a new invitation.");
        return Ok(Exit::Done);
    }
    if StaffHome::exists(&path) {
        // This home has joined; only the certificate is missing.
        return block_on(resume(&path, command.wait()));
    }
    let invitation = read_line(command)?;
    let name: Text<64> =
        command.name.parse().map_err(|_| Failure::new(Exit::Usage, "FW-CLI-01", "a name has at most 64 bytes"))?;
    block_on(join(&path, &invitation, name, command.wait()))
}

async fn dial(addresses: &[Text<255>], ca: Digest) -> Result<Link, Failure> {
    let tls = tls::newcomer(vec![ca], Clock::MustBeRight).map_err(ClientError::Tls)?;
    let dialled = dial_any(addresses, Door::Enroll, &tls, HANDSHAKE_TIMEOUT, Dialer::new).await;
    Ok(dialled.map_err(ClientError::from)?.0)
}

async fn ask(link: &Link, request: &Request) -> Result<(Reply, Files), ClientError> {
    let (mut send, mut receive) = link.open().await.map_err(ClientError::Link)?;
    send.send(request).await.map_err(ClientError::Frame)?;
    send.finish();
    let reply: Reply = receive.expect().await.map_err(ClientError::Frame)?;
    let mut files = Files::default();
    for _ in 0..OFFER_FILES {
        match receive.next::<CatalogueFile>().await.map_err(ClientError::Frame)? {
            Some(file) => files.insert(file.name.as_raw(), file.bytes.into_bytes()),
            None => break,
        }
    }
    Ok((reply, files))
}

/// Registers this home's keys at the hub. Returns the catalogue files it offers.
async fn introduce(
    link: &Link,
    invitation: &Invitation,
    order: &SigningKey,
    identity: &TlsIdentity,
    name: &Text<64>,
) -> Result<Files, Failure> {
    let binding = link.binding().map_err(ClientError::Link)?;
    let tls_key = Blob::try_from(identity.key.spki().to_vec())
        .map_err(|_| Failure::new(Exit::Failed, "FW-JOIN-23", "the TLS key is too long"))?;
    let request = JoinStaff {
        token: invitation.token,
        proof: Digest::from_bytes([0; 32]),
        tls_key,
        order_key: order.public(),
        signature: unsigned(),
        name: name.clone(),
    };
    let request = prove_join_staff(request, &binding, &invitation.secret.proof_key(), order);
    match ask(link, &Request::JoinStaff(request)).await? {
        (Reply::Denied(denial), _) => Err(denied(denial)),
        (_, files) => Ok(files),
    }
}

async fn join(path: &Path, invitation: &Invitation, name: Text<64>, wait: Wait) -> Result<Exit, Failure> {
    let (order, identity) = StaffHome::prepare(path)?;
    let link = dial(invitation.addresses.as_slice(), invitation.ca).await?;
    let files = introduce(&link, invitation, &order, &identity, &name).await?;
    let believe = |error: fernwart_certs::catalogue::CatalogueError| {
        Failure::new(Exit::Refused, "FW-CAT-06", format!("what the hub offers was not approved: {}", chain(&error)))
    };
    let begun = Trusted::begin(invitation.root_version, &invitation.root, &files).map_err(believe)?;
    let (trusted, catalogue) = advance(&begun, &files).await.map_err(believe)?;
    StaffHome::keep_in(path, &trusted)?;
    let settings =
        StaffSettings { name: name.clone(), addresses: invitation.addresses.as_slice().to_vec(), ca: invitation.ca };
    StaffHome::settle(path, &settings, &identity)?;
    let key = staff_key_id(&order.public(), &identity.key.digest());
    say(&format!(
        "You have joined {}. Your keys were made here and stay in {}.\n  Key id   {key}\n",
        catalogue.shop.name,
        path.display()
    ))?;
    show_key(&name, key);
    collect(path, &settings, order, identity, &trusted, &link, (wait, true)).await
}

fn show_key(name: &Text<64>, key: KeyId) {
    let name = shell_word(name.as_raw());
    note!(
        "Tell a lead the key id (on the phone or face to face). They type:\n  fernwart staff add {name} --key-id {key} --role repair"
    );
}

/// Continues an earlier join.
async fn resume(path: &Path, wait: Wait) -> Result<Exit, Failure> {
    let home = StaffHome::open(path)?;
    let trusted = home.trusted()?.unwrap_or_default();
    let link = dial(&home.settings.addresses, home.settings.ca).await?;
    collect(path, &home.settings, home.order_key, home.identity, &trusted, &link, (wait, false)).await
}

/// Reconnects to a hub whose keys were all replaced since: the invitation names the new ones, the
/// same order key gets a new certificate, and the hub's catalogue must follow the one that this
/// home knows.
async fn come_back(path: &Path, invitation: &Invitation) -> Result<Exit, Failure> {
    let home = StaffHome::open(path)?;
    let trusted = home.trusted()?.unwrap_or_default();
    let (addresses, ca) = (invitation.addresses.as_slice().to_vec(), invitation.ca);
    let settings = StaffSettings { name: home.settings.name.clone(), addresses, ca };
    let link = dial(&settings.addresses, settings.ca).await?;
    introduce(&link, invitation, &home.order_key, &home.identity, &settings.name).await?;
    collect(path, &settings, home.order_key, home.identity, &trusted, &link, (Wait::Glance, false)).await
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
async fn collect(
    path: &Path,
    settings: &StaffSettings,
    order: SigningKey,
    mut identity: TlsIdentity,
    trusted: &Trusted,
    link: &Link,
    (wait, is_shown): (Wait, bool),
) -> Result<Exit, Failure> {
    let failed = |what: &str| Failure::new(Exit::Failed, "FW-JOIN-23", what);
    let believe = |error: fernwart_certs::catalogue::CatalogueError| {
        Failure::new(Exit::Refused, "FW-CAT-06", format!("what the hub offers was not approved: {}", chain(&error)))
    };
    let binding = link.binding().map_err(ClientError::Link)?;
    let key = staff_key_id(&order.public(), &identity.key.digest());
    let begun = Instant::now();
    let progress = waiting(wait);
    let mut is_shown = is_shown;
    loop {
        let claim = prove_staff_claim(StaffClaim { key, signature: unsigned() }, &binding, &order);
        let request = Request::CollectStaff(claim);
        let mut answer = std::pin::pin!(ask(link, &request));
        let at_once = tokio::time::timeout(GLANCE, &mut answer).await;
        if at_once.is_err() && !is_shown {
            is_shown = true;
            progress.suspend(|| {
                note!("You have joined, and are not on the staff list yet.\n  Key id   {key}");
                show_key(&settings.name, key);
            });
        }
        let left = match wait {
            Wait::Glance => Duration::ZERO,
            Wait::For(limit) => limit.saturating_sub(begun.elapsed()).min(COLLECT_WAIT * 2),
        };
        let answer = match at_once {
            Ok(answer) => Ok(answer),
            Err(_) => tokio::time::timeout(left, answer).await,
        };
        let (reply, files) = match answer {
            Ok(answer) => answer?,
            Err(_) => {
                progress.finish_and_clear();
                match wait {
                    Wait::Glance => note!("Then run fernwart join again."),
                    Wait::For(limit) if begun.elapsed() < limit => {
                        return Err(Failure::new(Exit::NoAnswer, "FW-CLI-05", "the hub did not answer in time"));
                    }
                    Wait::For(limit) => {
                        let what =
                            format!("nobody has put this key on the staff list within {}", span::in_words(limit));
                        return Err(Failure::new(Exit::NoAnswer, "FW-JOIN-12", what)
                            .now(format!("a lead adds key id {key}; then run fernwart join again")));
                    }
                }
                return Ok(Exit::Done);
            }
        };
        match reply {
            Reply::Denied(denial) => return Err(denied(denial)),
            Reply::Pending => {}
            Reply::Certificate(chain) => {
                let chain: Vec<_> = chain.into_iter().map(|der| CertificateDer::from(der.into_bytes())).collect();
                let wrong = || failed("the hub's certificate is not for this key");
                let [leaf, ca] = chain.as_slice() else { return Err(wrong()) };
                let certificate = fernwart_certs::peer::read_certificate(leaf, ca).map_err(|_| wrong())?;
                if certificate.name != fernwart_certs::peer::Name::Staff(key)
                    || certificate.tls_key != identity.key.digest()
                    || !fernwart_certs::peer::may_issue(ca, &[settings.ca], &link.peer_certificates())
                {
                    return Err(wrong());
                }
                let (trusted, _) = advance(trusted, &files).await.map_err(believe)?;
                StaffHome::keep_in(path, &trusted)?;
                identity.chain = chain;
                StaffHome::settle(path, settings, &identity)?;
                progress.finish_and_clear();
                link.close(Goodbye::Done);
                say("You are on the staff list.\n")?;
                note!("Next: fernwart ls");
                return Ok(Exit::Done);
            }
        }
    }
}
