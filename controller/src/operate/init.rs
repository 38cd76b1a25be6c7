//! `fernwart init`: the three homes of a shop.

use crate::cli::{Exit, Failure, Place, chain};
use clap::Args;
use fernwart_certs::approve::{Contents, Draft, FirstRoot};
use fernwart_certs::catalogue::{Contact, Customers, Hub, Role, Shop, StaffEntry, StaffList};
use fernwart_certs::identity::staff_key_id;
use fernwart_certs::peer::Name;
use fernwart_certs::sha256;
use fernwart_client::{ApproverHome, StaffHome, StaffSettings, now};
use fernwart_hub::HubHome;
use fernwart_hub::home::Settings;
use fernwart_protocol::diagnosis::Language;
use fernwart_protocol::id::{Digest, PublicKey};
use fernwart_protocol::text::Text;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::SystemTime;

const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;

/// Begin a shop.
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
    #[arg(long = "approver", value_name = "PUBKEY", value_parser = crate::cli::approver_key)]
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

/// The port of `host:port`, and the address to listen on for those who call there.
fn place_of(address: &str) -> Option<(IpAddr, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let any = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<Ipv6Addr>().is_ok().then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        None => {
            let odd = |c: char| c == ':' || c.is_whitespace() || c.is_control();
            (!host.is_empty() && !host.contains(odd)).then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        }
    };
    any.zip(port.parse().ok().filter(|port| *port > 0))
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, "FW-CLI-09", chain(error))
}

/// Writes the homes; with a single approver also the first catalogue.
///
/// # Errors
/// When a shop is there already, or nothing can be written.
pub fn run(command: &Init, place: &Place) -> Result<Exit, Failure> {
    let usage = |what: String| Failure::new(Exit::Usage, "FW-CLI-01", what);
    let (hub_path, staff_path) = (place.path().join("hub"), place.path().join("staff"));
    if hub_path.join("hub.toml").exists() || StaffHome::exists(&staff_path) {
        return Err(usage(format!("{} holds a shop already; nothing was changed", place.path().display()))
            .now("choose another folder with --home"));
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
        let Some(place) = place_of(address) else {
            return Err(
                usage(format!("{address:?} is no address")).now("write host:port, for instance hub.example.de:443")
            );
        };
        places.push(place);
    }
    // Where no router maps one port to another, machines call the one that is listened on.
    let (any, port) = places.first().copied().unwrap_or((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 443));
    let listen = command.listen.unwrap_or_else(|| (any, port).into());

    let hub_home = HubHome::at(&hub_path);
    let hub_keys = hub_home.create(&Settings { listen, metrics: None }).map_err(|error| failed(&error))?;
    let hub = hub_keys.rotating.in_use(None).map_err(|error| failed(&error))?;
    let ca: Digest = sha256(hub.authority.certificate());
    let own = if command.approvers.is_empty() {
        Some(ApproverHome::create(&place.path().join("approver"), place.new_passphrase()?.as_deref())?)
    } else {
        None
    };
    let approvers = match &own {
        Some(home) => vec![home.public()],
        None => command.approvers.clone(),
    };

    let (order, mut identity) = StaffHome::prepare(&staff_path)?;
    let key = staff_key_id(&order.public(), &identity.key.digest());
    let issued = hub.authority.issue_member(Name::Staff(key), identity.key.spki(), SystemTime::now());
    identity.chain = issued.map_err(|error| failed(&error))?;

    let addresses: Vec<Text<255>> = command.addresses.iter().map(|address| Text::clipped(address)).collect();
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
        hub: Hub { v: 1, addresses: addresses.clone(), ca: vec![ca], evidence_keys: vec![hub.evidence.public()] },
        shop: Shop {
            v: 1,
            name: Text::clipped(&command.shop),
            contacts: command.contacts.iter().map(|text| contact(text)).collect(),
            hours: Text::clipped(&command.hours),
            language: command.lang,
        },
        scripts: std::collections::BTreeMap::new(),
    };
    let plan = FirstRoot {
        approvers,
        threshold: command.k,
        snapshot: hub_keys.roles.snapshot.public(),
        timestamp: hub_keys.roles.timestamp.public(),
    };
    let mut draft = Draft::first(&plan, &contents, now()).map_err(|error| failed(&error))?;
    let settings = StaffSettings { name: Text::clipped(&command.name), addresses, ca };
    StaffHome::settle(&staff_path, &settings, &identity)?;
    drop(hub);

    println_err(&format!("Three homes are in {}:", place.path().display()));
    println_err("  hub/        for the computer that runs the hub; no key here can run anything on a machine");
    println_err("  staff/      yours: your order key and certificate");
    match own {
        Some(home) => {
            println_err("  approver/   the key that approves; best kept on another computer or a stick");
            draft.sign(&place.unlock(home)?, None, None, now())?;
            crate::cli::publish_first(&draft, place)?;
            println_err(
                "One approver signs alone (1 of 1): whoever has that one key, and a link to the hub, can do everything.",
            );
            println_err("From two people on, begin with: fernwart init --approver KEY --approver KEY -k 2");
            println_err(&format!("Next: fernwart serve --home {}", hub_path.display()));
        }
        None => {
            let path = place.path().join("first-draft.json");
            let text = serde_json::to_vec_pretty(&draft).map_err(|error| failed(&error))?;
            std::fs::write(&path, text)?;
            println_err(&format!("{} of {n} approvers must sign; nothing is in force before.", command.k));
            println_err(&format!("Next: each runs fernwart catalogue sign --file {} --key THEIR-HOME", path.display()));
            println_err(&format!(
                "      then: fernwart catalogue publish --file {} --home {}",
                path.display(),
                place.path().display()
            ));
        }
    }
    Ok(Exit::Done)
}

fn println_err(text: &str) {
    eprintln!("{text}");
}
