//! `fernwart init`: creates the three homes of an organisation.

use crate::failure::{Exit, Failure, chain};
use crate::homes::HomePaths;
use clap::Args;
use fernwart_certs::approve::{Contents, Draft, FirstRoot};
use fernwart_certs::catalogue::{Contact, Customers, Hub, Role, Shop, StaffEntry, StaffList};
use fernwart_certs::identity::staff_key_id;
use fernwart_certs::keyfile::{self, KeyFileError};
use fernwart_certs::peer::Name;
use fernwart_certs::sha256;
use fernwart_client::{ApproverHome, StaffHome, StaffSettings, now};
use fernwart_hub::home::Settings;
use fernwart_hub::{HubHome, StartError};
use fernwart_protocol::diagnosis::Language;
use fernwart_protocol::id::{Digest, PublicKey};
use fernwart_protocol::text::Text;
use rustix::fs::{FlockOperation, flock};
use rustls_pki_types::DnsName;
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::SystemTime;

const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;

/// Create an organisation.
#[derive(Args)]
pub struct Init {
    /// The firm's name, as customers see it
    #[arg(long, default_value = "My IT support")]
    shop: String,
    /// Where machines reach the hub: host:port (several may be given)
    #[arg(long = "address", value_name = "HOST:PORT", required = true)]
    addresses: Vec<String>,
    /// The UDP address the hub listens on [default: everywhere, on the port of the first --address]
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// A contact person: "Name, phone, mail"
    #[arg(long = "contact", value_name = "NAME[, PHONE[, MAIL]]")]
    contacts: Vec<String>,
    /// When you can be reached, as people say it
    #[arg(long, default_value = "")]
    hours: String,
    /// The firm's language
    #[arg(long, default_value = "de")]
    lang: Language,
    /// Your own name on the staff list
    #[arg(long, env = "USER", default_value = "lead")]
    name: String,
    /// An approver's public key (fwa1-…), from fernwart approver new; several may be given
    #[arg(long = "approver", value_name = "PUBKEY", value_parser = crate::homes::approver_key)]
    approvers: Vec<PublicKey>,
    /// How many approvers must sign
    #[arg(short, long, default_value_t = 1)]
    k: u64,
}

fn contact(text: &str) -> Contact {
    let mut parts = text.split(',').map(str::trim);
    Contact {
        name: Text::clipped(parts.next().unwrap_or_default()),
        phone: Text::clipped(parts.next().unwrap_or_default()),
        mail: Text::clipped(parts.next().unwrap_or_default()),
    }
}

/// The port of `host:port`, and the wildcard address to listen on for it.
fn place_of(address: &str) -> Option<(IpAddr, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let any = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<Ipv6Addr>().is_ok().then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        None if host.parse::<Ipv4Addr>().is_ok() => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        // A name may have addresses of both families, and `::` accepts both.
        None => DnsName::try_from(host).is_ok().then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    any.zip(port.parse().ok().filter(|port| digits && *port > 0))
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, "FW-CLI-09", chain(error))
}

/// The organisation's folder, locked against a concurrent init.
struct Site<'a> {
    homes: &'a HomePaths,
    _held: File,
}

impl<'a> Site<'a> {
    fn enter(homes: &'a HomePaths) -> Result<Self, Failure> {
        let unwritable = |error: io::Error| Failure::from_file(&KeyFileError::writing(homes.path(), error));
        DirBuilder::new().recursive(true).mode(0o700).create(homes.path()).map_err(unwritable)?;
        let held = File::open(homes.path()).map_err(unwritable)?;
        flock(&held, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            let what = format!("a shop is being made in {} already", homes.path().display());
            Failure::new(Exit::Usage, "FW-CLI-01", what).now("wait for it, or choose another folder with --home")
        })?;
        Ok(Self { homes, _held: held })
    }

    /// Creates the staging folder and removes what an earlier attempt left.
    fn begin(&self) -> io::Result<Staging> {
        let path = self.homes.path().join(MAKING);
        absent(fs::remove_dir_all(&path))?;
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Staging(self.homes.elsewhere(path)))
    }

    fn made(&self) -> PathBuf {
        self.homes.path().join(MADE)
    }

    /// Commits: the rename makes the homes permanent. They are moved to their places now or, if
    /// interrupted, at the next attempt.
    fn settle(&self, staging: &Staging) -> io::Result<()> {
        fs::rename(staging.0.path(), self.made())?;
        File::open(self.homes.path())?.sync_all()?;
        self.finish().map(drop)
    }

    /// Moves committed homes to their places. Returns false if there are none.
    fn finish(&self) -> io::Result<bool> {
        match self.made().symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
            Ok(data) if !data.is_dir() => return Err(ErrorKind::NotADirectory.into()),
            Ok(_) => {}
        }
        for name in [STAFF, APPROVER, DRAFT, HUB] {
            absent(fs::rename(self.made().join(name), self.homes.path().join(name)))?;
        }
        fs::remove_dir(self.made())?;
        File::open(self.homes.path())?.sync_all()?;
        Ok(true)
    }
}

/// Ignores that a file is missing.
fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The staging folder; removed on drop unless it was renamed.
struct Staging(HomePaths);

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.path());
    }
}

/// The staging folder, and its name after the commit; nobody else uses these names.
const MAKING: &str = ".fernwart-init";
const MADE: &str = ".fernwart-init.made";

const STAFF: &str = "staff";
const APPROVER: &str = "approver";
const DRAFT: &str = "first-draft.json";
const HUB: &str = "hub";

/// What is checked and computed before anything is created.
struct Plan {
    addresses: Vec<Text<255>>,
    listen: SocketAddr,
    /// The passphrase of the new approver's key; `None` if it is unprotected.
    passphrase: Option<String>,
}

fn plan(command: &Init, homes: &HomePaths) -> Result<Plan, Failure> {
    let usage = |what: String| Failure::new(Exit::Usage, "FW-CLI-01", what);
    if homes.path().join(HUB).join("hub.toml").exists() || StaffHome::exists(&homes.path().join(STAFF)) {
        return Err(usage(format!("{} holds a shop already; nothing was changed", homes.path().display()))
            .now("choose another folder with --home"));
    }
    for name in [STAFF, if command.approvers.is_empty() { APPROVER } else { DRAFT }, HUB] {
        let path = homes.path().join(name);
        // Remove an empty folder.
        let _ = fs::remove_dir(&path);
        if path.symlink_metadata().is_ok() {
            return Err(usage(format!("{} is there already; nothing was changed", path.display()))
                .now("choose another folder with --home, or move that one away"));
        }
    }
    for (flag, text, most) in [("--shop", &command.shop, 120), ("--name", &command.name, 64)] {
        let what = match text.trim() {
            "" => "is empty",
            _ if text.len() > most => "is too long",
            _ if text.contains(char::is_control) => "holds what is no text",
            _ => continue,
        };
        return Err(usage(format!("{flag} {what}; nothing was made")).now(format!("{flag} as people know it")));
    }
    let distinct: HashSet<_> = command.approvers.iter().collect();
    if distinct.len() != command.approvers.len() {
        return Err(usage("one approver was given twice; each person has one key".to_owned()));
    }
    let n = command.approvers.len().max(1) as u64;
    if command.k == 0 || command.k > n {
        return Err(usage(format!("{} of {n} approvers cannot sign", command.k))
            .now("-k between 1 and the number of --approver"));
    }
    let mut places = Vec::new();
    for address in &command.addresses {
        let Some(homes) = place_of(address) else {
            return Err(
                usage(format!("{address:?} is no address")).now("write host:port, for instance hub.example.de:443")
            );
        };
        places.push(homes);
    }
    // Unless a router maps ports, machines connect to the port listened on.
    let (any, port) = places.first().copied().unwrap_or((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 443));
    let listen = command.listen.unwrap_or_else(|| (any, port).into());
    let addresses = command.addresses.iter().map(|address| Text::clipped(address)).collect();
    // Ask before anything is created that Ctrl-C could leave behind.
    let passphrase = if command.approvers.is_empty() { homes.new_passphrase()? } else { None };
    Ok(Plan { addresses, listen, passphrase })
}

/// Makes the homes; with a single approver also the first catalogue.
fn make(command: &Init, plan: &Plan, homes: &HomePaths) -> Result<(), Failure> {
    let staff_path = homes.path().join(STAFF);
    let hub_home = HubHome::at(&homes.path().join(HUB));
    let settings =
        Settings { listen: plan.listen, metrics: None, retention: fernwart_hub::retention::Retention::default() };
    let hub_keys = hub_home.create(&settings).map_err(|error| Failure::from(StartError::Home(error)))?;
    let hub = hub_keys.rotating.in_use(None).map_err(|error| failed(&error))?;
    let ca: Digest = sha256(hub.authority.certificate());
    let own = match command.approvers.is_empty() {
        true => Some(ApproverHome::create(&homes.path().join(APPROVER), plan.passphrase.as_deref())?),
        false => None,
    };

    let (order, mut identity) = StaffHome::prepare(&staff_path)?;
    let key = staff_key_id(&order.public(), &identity.key.digest());
    let issued = hub.authority.issue_member(Name::Staff(key), identity.key.spki(), SystemTime::now());
    identity.chain = issued.map_err(|error| failed(&error))?;

    let contents = Contents {
        staff: StaffList {
            v: 1,
            staff: vec![StaffEntry {
                key,
                order_key: order.public(),
                tls_key: identity.key.digest(),
                name: Text::clipped(&command.name),
                role: Role::Lead,
                customers: Customers::All,
                until: now() + YEAR_MS,
            }],
        },
        hub: Hub { v: 1, addresses: plan.addresses.clone(), ca: vec![ca], evidence_keys: vec![hub.evidence.public()] },
        shop: Shop {
            v: 1,
            name: Text::clipped(&command.shop),
            contacts: command.contacts.iter().map(|text| contact(text)).collect(),
            hours: Text::clipped(&command.hours),
            language: command.lang,
        },
        scripts: std::collections::BTreeMap::new(),
        grants: fernwart_certs::catalogue::Grants::new(),
    };
    let first = FirstRoot {
        approvers: own.as_ref().map_or_else(|| command.approvers.clone(), |home| vec![home.public()]),
        threshold: command.k,
        snapshot: hub_keys.roles.snapshot.public(),
        timestamp: hub_keys.roles.timestamp.public(),
    };
    let mut draft = Draft::first(&first, &contents, now()).map_err(|error| failed(&error))?;
    let name = Text::clipped(&command.name);
    StaffHome::settle(&staff_path, &StaffSettings { name, addresses: plan.addresses.clone(), ca }, &identity)?;
    drop(hub);
    match own {
        Some(home) => {
            draft.sign(&homes.unlock(home)?, None, None, now())?;
            crate::operate::first_catalogue::publish_first(&draft, homes)
        }
        None => {
            let text = serde_json::to_vec_pretty(&draft).map_err(|error| failed(&error))?;
            keyfile::replace(&homes.path().join(DRAFT), &text).map_err(|error| Failure::from_file(&error))
        }
    }
}

/// Writes the homes, all or none.
///
/// # Errors
/// When an organisation exists there already, or nothing can be written; then nothing is left.
pub fn run(command: &Init, homes: &HomePaths) -> Result<Exit, Failure> {
    let site = Site::enter(homes)?;
    let unwritable = |error: io::Error| Failure::from_file(&KeyFileError::writing(homes.path(), error));
    if site.finish().map_err(unwritable)? {
        note!("An earlier init was cut off at its very end; it is finished now.");
    }
    let plan = plan(command, homes)?;
    let staging = site.begin().map_err(unwritable)?;
    make(command, &plan, &staging.0)?;
    site.settle(&staging).map_err(unwritable)?;

    let home = homes.path();
    println_err(&format!("Three homes are in {}:", home.display()));
    println_err("  hub/        for the computer that runs the hub; no key here can run anything on a machine");
    println_err("  staff/      yours: your order key and certificate");
    if command.approvers.is_empty() {
        println_err("  approver/   the key that approves; best kept on another computer or a stick");
        println_err(
            "One approver signs alone (1 of 1): anyone with that one key, and a link to the hub, can do everything.",
        );
        println_err("From two people on, begin with: fernwart init --approver KEY --approver KEY -k 2");
        println_err(&format!("Next: fernwart serve --home {}", home.join(HUB).display()));
    } else {
        let (path, n) = (home.join(DRAFT), command.approvers.len());
        println_err(&format!("{} of {n} approvers must sign; nothing is in force before.", command.k));
        println_err(&format!("Next: each runs fernwart catalogue sign --file {} --key THEIR-HOME", path.display()));
        println_err(&format!(
            "      then: fernwart catalogue publish --file {} --home {}",
            path.display(),
            home.display()
        ));
    }
    Ok(Exit::Done)
}

fn println_err(text: &str) {
    note!("{text}");
}
