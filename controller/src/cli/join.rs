//! `fernwart join`: a technician's or robot's keys are made here and stay here.

use super::fail::{chain, denied};
use super::{Exit, Failure, Place, block_on, say};
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
use fernwart_protocol::id::Digest;
use fernwart_protocol::limits::{COLLECT_WAIT, HANDSHAKE_TIMEOUT, OFFER_FILES};
use fernwart_protocol::link::{Dialer, Door, Link};
use fernwart_protocol::text::{Blob, Text};
use fernwart_protocol::to_agent::CatalogueFile;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// With `--no-wait` the hub has this long to say that one is on the list.
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
}

fn read_line(command: &Join) -> Result<Invitation, Failure> {
    let most = LONGEST as u64 * 2;
    let mut text = String::new();
    let read = match &command.file {
        Some(path) if path.as_os_str() != "-" => {
            std::fs::File::open(path).and_then(|file| file.take(most).read_to_string(&mut text))
        }
        Some(_) => std::io::stdin().take(most).read_to_string(&mut text),
        None if std::io::stdin().is_terminal() => {
            eprint!("Paste the invitation (fw1-…): ");
            std::io::stdin().read_line(&mut text)
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

pub(crate) fn run(command: &Join, place: &Place) -> Result<Exit, Failure> {
    let path = place.staff();
    if StaffHome::exists(&path) && !StaffHome::open(&path)?.identity.chain.is_empty() {
        if command.file.is_some() {
            let invitation = read_line(command)?;
            return block_on(come_back(&path, &invitation));
        }
        eprintln!("{} is a complete staff home already; nothing was changed", path.display());
        eprintln!("If the hub has other keys by now: fernwart join --invitation FILE, with a new invitation.");
        return Ok(Exit::Done);
    }
    if StaffHome::exists(&path) {
        // Joined before; only the certificate is missing.
        return block_on(resume(&path, command.no_wait));
    }
    let invitation = read_line(command)?;
    let name: Text<64> =
        command.name.parse().map_err(|_| Failure::new(Exit::Usage, "FW-CLI-01", "a name has at most 64 bytes"))?;
    block_on(join(&path, &invitation, name, command.no_wait))
}

async fn dial(addresses: &[Text<255>], ca: Digest) -> Result<Link, Failure> {
    let mut last = ClientError::NoAddress(String::new());
    for name in addresses {
        let Ok(addresses) = tokio::net::lookup_host(name.as_raw().to_owned()).await else { continue };
        for address in addresses {
            let failed = |source| ClientError::Dial { address: name.to_string(), source };
            let tls = tls::newcomer(vec![ca], Clock::MustBeRight).map_err(ClientError::Tls)?;
            let dialer = Dialer::new(address).map_err(failed)?;
            match dialer.dial(address, Door::Enroll, tls, HANDSHAKE_TIMEOUT).await {
                Ok(link) => return Ok(link),
                Err(source) => last = failed(source),
            }
        }
    }
    Err(last.into())
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

/// Makes one's keys known at the hub, and takes what it offers.
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

async fn join(path: &Path, invitation: &Invitation, name: Text<64>, no_wait: bool) -> Result<Exit, Failure> {
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
    eprintln!(
        "Tell a lead the key id (on the phone or face to face). They type:\n  fernwart staff add {name} --key-id {key} --role repair"
    );
    collect(path, &settings, order, identity, &trusted, &link, no_wait).await
}

/// Goes on where an earlier join has stopped.
async fn resume(path: &Path, no_wait: bool) -> Result<Exit, Failure> {
    let home = StaffHome::open(path)?;
    let trusted = home.trusted()?.unwrap_or_default();
    let link = dial(&home.settings.addresses, home.settings.ca).await?;
    collect(path, &home.settings, home.order_key, home.identity, &trusted, &link, no_wait).await
}

/// Finds a hub again whose keys were all replaced meanwhile: an invitation says
/// which they are now, the same order key takes a new certificate, and what it
/// offers must follow the catalogue this home knows.
async fn come_back(path: &Path, invitation: &Invitation) -> Result<Exit, Failure> {
    let home = StaffHome::open(path)?;
    let trusted = home.trusted()?.unwrap_or_default();
    let (addresses, ca) = (invitation.addresses.as_slice().to_vec(), invitation.ca);
    let settings = StaffSettings { name: home.settings.name.clone(), addresses, ca };
    let link = dial(&settings.addresses, settings.ca).await?;
    introduce(&link, invitation, &home.order_key, &home.identity, &settings.name).await?;
    collect(path, &settings, home.order_key, home.identity, &trusted, &link, true).await
}

/// Waits to be put on the staff list, and takes the certificate.
async fn collect(
    path: &Path,
    settings: &StaffSettings,
    order: SigningKey,
    mut identity: TlsIdentity,
    trusted: &Trusted,
    link: &Link,
    no_wait: bool,
) -> Result<Exit, Failure> {
    let failed = |what: &str| Failure::new(Exit::Failed, "FW-JOIN-23", what);
    let believe = |error: fernwart_certs::catalogue::CatalogueError| {
        Failure::new(Exit::Refused, "FW-CAT-06", format!("what the hub offers was not approved: {}", chain(&error)))
    };
    let binding = link.binding().map_err(ClientError::Link)?;
    let key = staff_key_id(&order.public(), &identity.key.digest());
    loop {
        let claim = prove_staff_claim(StaffClaim { key, signature: unsigned() }, &binding, &order);
        let request = Request::CollectStaff(claim);
        let wait = if no_wait { GLANCE } else { COLLECT_WAIT * 2 };
        let Ok(answer) = tokio::time::timeout(wait, ask(link, &request)).await else {
            eprintln!("Then run fernwart join again.");
            return Ok(Exit::Done);
        };
        let (reply, files) = answer?;
        match reply {
            Reply::Denied(denial) => return Err(denied(denial)),
            Reply::Pending => {}
            Reply::Certificate(chain) => {
                let chain: Vec<_> = chain.into_iter().map(|der| CertificateDer::from(der.into_bytes())).collect();
                let wrong = || failed("the hub's certificate is not for this key");
                let [leaf, ca] = chain.as_slice() else { return Err(wrong()) };
                let said = fernwart_certs::peer::read_certificate(leaf, ca).map_err(|_| wrong())?;
                if said.name != fernwart_certs::peer::Name::Staff(key)
                    || said.tls_key != identity.key.digest()
                    || !fernwart_certs::peer::may_issue(ca, &[settings.ca], &link.peer_certificates())
                {
                    return Err(wrong());
                }
                let (trusted, _) = advance(trusted, &files).await.map_err(believe)?;
                StaffHome::keep_in(path, &trusted)?;
                identity.chain = chain;
                StaffHome::settle(path, settings, &identity)?;
                link.close(Goodbye::Done);
                say("You are on the staff list.\n")?;
                eprintln!("Next: fernwart ls");
                return Ok(Exit::Done);
            }
        }
    }
}
