//! A stolen hub: the thief has every key of the hub's home and the technician's orders to replay, and
//! speaks to a real agent.

use super::attack;
use fernwart_agent::home::Home;
use fernwart_certs::approve::{Contents, Draft, HubRoles, publish, root_of};
use fernwart_certs::catalogue::{Role, Trusted};
use fernwart_certs::envelope::seal;
use fernwart_certs::identity::SigningKey;
use fernwart_certs::peer::{Name, read_certificate};
use fernwart_certs::sha256;
use fernwart_client::StaffHome;
use fernwart_hub::HubHome;
use fernwart_protocol::code::Goodbye;
use fernwart_protocol::document::{Action, Envelope, Order, Receipt};
use fernwart_protocol::id::{CustomerId, Digest, KeyId, MachineId, RunId};
use fernwart_protocol::link::{Link, Listener, Receiver, Sender};
use fernwart_protocol::text::{Blob, List, Text};
use fernwart_protocol::to_agent::{CatalogueFile, Control, Deliver, Fetched, Renewed};
use fernwart_protocol::to_hub::{self, Ask, Delivered};
use fernwart_protocol::version::{CURRENT, Hello, Version, tag};
use fernwart_tests::{Machine, World};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The stolen hub with its link to one agent; several share one port.
pub(crate) struct EvilHub {
    listener: Arc<Listener>,
    pub(crate) link: Link,
    pub(crate) control: Sender,
    /// The agent's half of the control stream; kept open.
    received: Receiver,
    pub(super) trusted: Trusted,
    pub(super) roles: Arc<HubRoles>,
    pub(crate) staff: Arc<StaffHome>,
    pub(super) machine: MachineId,
    pub(super) customer: CustomerId,
    /// The newest targets and timestamp that the agent says it follows.
    pub(super) follows: (Option<u64>, Option<u64>),
    /// What the thief claims in the hello.
    lie: Lie,
}

/// What a hub claims in its hello.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lie {
    /// How far its clock is ahead, milliseconds.
    ahead_ms: i64,
    /// The newest version it speaks.
    current: u16,
}

impl Lie {
    const NONE: Self = Self { ahead_ms: 0, current: CURRENT };
}

/// An agent whose hello was received.
struct Greeted {
    machine: MachineId,
    link: Link,
    control: Sender,
    received: Receiver,
    follows: (Option<u64>, Option<u64>),
}

/// How a machine answered an order.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    /// Refused before it was recorded in the state store.
    Refused(fernwart_protocol::code::Refusal),
    /// An outcome with its receipt.
    Outcome(Box<Receipt>, Envelope),
}

impl EvilHub {
    /// Takes the real hub's place.
    pub(crate) async fn take(world: &mut World, machine: &Machine) -> Self {
        Self::take_as(world, machine, CURRENT).await
    }

    /// The same, as a hub that speaks this version.
    pub(crate) async fn take_as(world: &mut World, machine: &Machine, current: u16) -> Self {
        let mut hubs = Self::take_with(world, &[machine], Lie { current, ..Lie::NONE }).await;
        hubs.pop().expect("one")
    }

    /// Listens on the hub's port without answering any hello.
    pub(crate) fn listen(world: &mut World) -> Listener {
        world.hub.kill_9();
        let home = HubHome::at(&world.shop().join("hub"));
        let keys = home.open().expect("the thief has the keys");
        let in_use = keys.rotating.in_use(None).expect("a first generation");
        let config = in_use.tls(SystemTime::now()).expect("TLS");
        Listener::bind(world.address, config, &keys.restart).expect("the port")
    }

    /// The next message on the agent's control stream that matches.
    pub(crate) async fn next_word(&mut self, is_it: impl Fn(&to_hub::Control) -> bool) -> to_hub::Control {
        loop {
            let word = tokio::time::timeout(Duration::from_secs(8), self.received.expect::<to_hub::Control>());
            let word = word.await.expect("a word").expect("understood");
            if is_it(&word) {
                return word;
            }
        }
    }

    /// The same with several agents, and with a false clock.
    pub(super) async fn take_all(world: &mut World, machines: &[&Machine], ahead_ms: i64) -> Vec<Self> {
        Self::take_with(world, machines, Lie { ahead_ms, ..Lie::NONE }).await
    }

    async fn take_with(world: &mut World, machines: &[&Machine], lie: Lie) -> Vec<Self> {
        let listener = Arc::new(Self::listen(world));
        let keys = HubHome::at(&world.shop().join("hub")).open().expect("the thief has the keys");
        let staff = Arc::new(StaffHome::open(&world.shop().join("staff")).expect("a home"));
        let trusted = staff.trusted().expect("readable").expect("a catalogue");
        let roles = Arc::new(keys.roles);
        let mut hubs: Vec<Self> = Vec::new();
        let enrolled = |machine: &&Machine| Home::at(&machine.home).enrollment().expect("enrolled");
        let wanted: Vec<_> = machines.iter().map(enrolled).collect();
        while hubs.len() < wanted.len() {
            let greeted = Self::greet(&listener, &trusted, lie).await;
            let Some(known) = wanted.iter().find(|known| known.machine == greeted.machine) else { continue };
            hubs.retain(|hub| hub.machine != greeted.machine);
            hubs.push(Self {
                listener: listener.clone(),
                link: greeted.link,
                control: greeted.control,
                received: greeted.received,
                trusted: trusted.clone(),
                roles: roles.clone(),
                staff: staff.clone(),
                machine: known.machine,
                customer: known.customer,
                follows: greeted.follows,
                lie,
            });
        }
        // In the order in which they were named.
        hubs.sort_by_key(|hub| wanted.iter().position(|known| known.machine == hub.machine));
        hubs
    }

    /// Waits for the restarted agent to reconnect.
    pub(super) async fn greet_again(&mut self) {
        self.link.close(Goodbye::Done);
        let greeted = Self::greet(&self.listener, &self.trusted, self.lie).await;
        (self.link, self.control, self.received) = (greeted.link, greeted.control, greeted.received);
        self.follows = greeted.follows;
    }

    async fn greet(listener: &Listener, trusted: &Trusted, lie: Lie) -> Greeted {
        loop {
            let incoming =
                tokio::time::timeout(Duration::from_secs(40), listener.accept()).await.expect("the agent comes back");
            let Ok(link) = incoming.expect("open").finish().await else { continue };
            let Ok((mut send, mut receive)) = link.accept().await else { continue };
            let Ok(Ask::Control(theirs, _)) = receive.expect::<Ask>().await else { continue };
            let shown = link.peer_certificates();
            let [leaf, ca, ..] = shown.as_slice() else { continue };
            let Ok(Name::Machine(machine)) = read_certificate(leaf, ca).map(|output| output.name) else { continue };
            let follows = (theirs.number(tag::TARGETS), theirs.number(tag::TIMESTAMP));
            let versions = trusted.floors.versions();
            let clock = u64::try_from(fernwart_agent::now() + lie.ahead_ms).expect("after 1970");
            let tags = [(tag::CLOCK, clock), (tag::TARGETS, versions.targets), (tag::TIMESTAMP, versions.timestamp)];
            let hello = Hello { current: lie.current, ..Hello::new(&tags) };
            link.settle(&theirs).expect("a version in common");
            send.send(&Control::Hello(hello)).await.expect("sent");
            return Greeted { machine, link, control: send, received: receive, follows };
        }
    }

    /// An order as the technician would give it, but for `change`.
    pub(super) fn order(&self, change: impl Fn(&mut Order)) -> Order {
        let now = fernwart_agent::now();
        let mut order = Order {
            run: RunId::from_bytes(fernwart_certs::random()),
            machine: self.machine,
            machine_name: "kasse-1".parse().expect("a name"),
            customer: self.customer,
            action: Action::Diagnose {
                sections: List::try_from(vec!["memory".parse().expect("a section")]).expect("one"),
            },
            key: self.staff.key_id(),
            reason: Text::clipped("a test"),
            targets_version: self.trusted.floors.versions().targets,
            not_before: now - 60_000,
            not_after: now + 60_000,
            sealed: None,
            session_key: None,
        };
        change(&mut order);
        order
    }

    pub(crate) fn signed(&self, change: impl Fn(&mut Order)) -> Envelope {
        seal(&self.order(change), &self.staff.order_key, Version::OLDEST).expect("signed")
    }

    /// Delivers an order and waits for its answer.
    pub(crate) async fn deliver(&self, envelope: &Envelope) -> Answer {
        let (mut send, mut receive) = self.link.open().await.expect("a stream");
        send.send(&Deliver::Order(envelope.clone())).await.expect("sent");
        loop {
            let word =
                tokio::time::timeout(Duration::from_secs(8), receive.expect::<Delivered>()).await.expect("an answer");
            match word.expect("a word") {
                Delivered::State(_) | Delivered::Note(_) => {}
                Delivered::Refused(refusal) => return Answer::Refused(refusal),
                Delivered::Outcome(settle) => {
                    use fernwart_protocol::document::Document;
                    let receipt = Receipt::from_bytes(settle.receipt.bytes.as_bytes()).expect("a receipt");
                    return Answer::Outcome(Box::new(receipt), settle.receipt);
                }
            }
        }
    }

    /// Announces a newer catalogue, and serves these files on request.
    pub(super) async fn offer(&mut self, timestamp: u64, files: &[(String, Vec<u8>)]) {
        self.control.send(&Control::CatalogueChanged { timestamp }).await.expect("sent");
        // The agent also offers outcomes that were never countersigned; they are ignored.
        let mut send = loop {
            let asked = tokio::time::timeout(Duration::from_secs(5), self.link.accept()).await.expect("asked");
            let (send, mut receive) = asked.expect("a stream");
            if matches!(receive.expect::<Ask>().await.expect("a question"), Ask::Fetch(_)) {
                break send;
            }
        };
        for (name, bytes) in files {
            let bytes = Blob::try_from(bytes.clone()).expect("short");
            let file = CatalogueFile { name: Text::clipped(name), bytes };
            if send.send(&Fetched::File(file)).await.is_err() {
                // The agent has aborted.
                return;
            }
        }
        let _ = send.delivered().await;
    }

    /// A catalogue with an invented technician: the hub's roles are signed with its keys, the targets with
    /// a key of the thief's own.
    pub(super) async fn invented_staff(
        &self,
        thief: &SigningKey,
        entry: fernwart_certs::catalogue::StaffEntry,
    ) -> (u64, Vec<(String, Vec<u8>)>) {
        let before = self.trusted.view().expect("a catalogue");
        let mut contents = Contents::of(&before);
        contents.staff.staff.push(entry);
        let mut draft = Draft::next(&before, &contents, None, fernwart_agent::now()).expect("a draft");
        let root = root_of(&self.trusted).expect("a root");
        assert!(draft.sign(thief, Some(&root), None, fernwart_agent::now()).is_err(), "the thief is no approver");
        // The hub's own program refuses to publish it, so the files are assembled here: an honest
        // publication in which the targets are replaced.
        let honest = Draft::next(&before, &Contents::of(&before), None, fernwart_agent::now()).expect("a draft");
        assert!(publish(&honest, Some(&self.trusted), &self.roles, fernwart_agent::now()).await.is_err());
        let targets = {
            let form = tough_role(&draft);
            let signature = thief.sign(&form);
            serde_json::to_vec(&serde_json::json!({
                "signed": serde_json::from_slice::<serde_json::Value>(&form).expect("JSON"),
                "signatures": [{"keyid": "00".repeat(32), "sig": signature.to_string()}],
            }))
            .expect("written")
        };
        let number = before.versions.targets + 1;
        let timestamp = before.versions.timestamp + 10;
        let (snapshot_file, timestamp_file) = self.wrap(number, &targets, timestamp);
        let mut files = vec![
            (format!("{number}.targets.json"), targets),
            (format!("{timestamp}.snapshot.json"), snapshot_file),
            ("timestamp.json".to_owned(), timestamp_file),
        ];
        files.extend(draft.files.iter().map(|(name, text)| (name.clone(), text.clone().into_bytes())));
        (timestamp, files)
    }

    /// Snapshot and timestamp around any targets, signed with the hub's keys.
    pub(super) fn wrap(&self, number: u64, targets: &[u8], version: u64) -> (Vec<u8>, Vec<u8>) {
        let sign = |body: serde_json::Value, key: &SigningKey| role_signed_by(&body, &[key]);
        let meta = |version: u64, bytes: &[u8]| serde_json::json!({"version": version, "length": bytes.len(), "hashes": {"sha256": sha256(bytes).to_string()}});
        let snapshot = sign(
            serde_json::json!({"_type": "snapshot", "spec_version": "1.0.0", "version": version, "expires": "2036-01-01T00:00:00Z",
                "meta": {"targets.json": meta(number, targets)}}),
            &self.roles.snapshot,
        );
        let timestamp = sign(
            serde_json::json!({"_type": "timestamp", "spec_version": "1.0.0", "version": version, "expires": "2036-01-01T00:00:00Z",
                "meta": {"snapshot.json": meta(version, &snapshot)}}),
            &self.roles.timestamp,
        );
        (snapshot, timestamp)
    }

    pub(super) fn entry_of(&self, order: &SigningKey, role: Role) -> fernwart_certs::catalogue::StaffEntry {
        let tls_key = Digest::from_bytes([5; 32]);
        fernwart_certs::catalogue::StaffEntry {
            key: fernwart_certs::identity::staff_key_id(&order.public(), &tls_key),
            order_key: order.public(),
            tls_key,
            name: Text::clipped("nobody"),
            role,
            customers: fernwart_certs::catalogue::Customers::All,
            until: i64::MAX,
        }
    }

    pub(super) async fn stop(self) {
        Self::stop_all(vec![self]).await;
    }

    /// Closes the links and releases the port.
    pub(super) async fn stop_all(hubs: Vec<Self>) {
        let listener = hubs.first().expect("one").listener.clone();
        let address = listener.local_addr().expect("an address");
        for hub in &hubs {
            hub.link.close(Goodbye::Done);
        }
        listener.close().await;
        drop((listener, hubs));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while std::net::UdpSocket::bind(address).is_err() {
            assert!(tokio::time::Instant::now() < deadline, "the thief lets go of the port");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A role's JSON with the signatures of these keys, entitled or not.
pub(super) fn role_signed_by(body: &serde_json::Value, keys: &[&SigningKey]) -> Vec<u8> {
    let form = canonical(body);
    let signatures: Vec<_> = keys
        .iter()
        .map(|key| {
            let id = fernwart_certs::approve::proposer_id(&key.public()).expect("an id");
            serde_json::json!({"keyid": id, "sig": key.sign(&form).to_string()})
        })
        .collect();
    serde_json::to_vec(&serde_json::json!({"signed": body, "signatures": signatures})).expect("written")
}

fn tough_role(draft: &Draft) -> Vec<u8> {
    canonical(&serde_json::to_value(&draft.targets).expect("JSON")["signed"])
}

/// Canonical JSON of ASCII without floats: keys sorted, no spaces. `serde_json` sorts keys by itself.
fn canonical(value: &serde_json::Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("written")
}

#[test]
fn a_stolen_hub_cannot_add_a_technician_to_the_catalogue() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    attack(async {
        let mut hub = EvilHub::take(&mut world, &machine).await;
        let thief = SigningKey::generate().expect("a key");
        let entry = hub.entry_of(&thief, Role::Lead);
        // Proof that the thief's wrapping is sound: the approved targets in it are followed.
        let before = hub.trusted.view().expect("a catalogue").versions;
        let name = format!("{}.targets.json", before.targets);
        let approved = hub.trusted.files[&name].clone();
        let (snapshot, timestamp) = hub.wrap(before.targets, &approved, before.timestamp + 5);
        let files = vec![
            (format!("{}.snapshot.json", before.timestamp + 5), snapshot),
            ("timestamp.json".to_owned(), timestamp),
        ];
        hub.offer(before.timestamp + 5, &files).await;
        fernwart_tests::wait_until("the agent follows honest targets in the thief's wrapping", || {
            machine.agent.log().contains("following a newer catalogue")
        });

        let (timestamp, files) = hub.invented_staff(&thief, entry.clone()).await;
        hub.offer(timestamp, &files).await;
        fernwart_tests::wait_until("it is refused and noted", || {
            machine.journal().iter().any(|(kind, _)| kind == "catalogue_refused")
        });
        let forged = {
            let order = hub.order(|order| order.key = entry.key);
            seal(&order, &thief, Version::OLDEST).expect("signed")
        };
        assert_eq!(hub.deliver(&forged).await, Answer::Refused(fernwart_protocol::code::Refusal::UnknownStaff));
        // Everything else still works.
        assert!(
            matches!(hub.deliver(&hub.signed(|_| {})).await, Answer::Outcome(receipt, _) if receipt.outcome.as_str() == "ok")
        );
        hub.stop().await;
    });
    // After a restart nothing of what was rejected is kept.
    world.restart_hub();
    fernwart_tests::wait_until("it is linked to the true hub", || world.is_online("kasse-1"));
    assert!(matches!(world.technician(&["diagnose", "kasse-1"]).code, 0 | 1));
}

#[test]
fn an_agent_offers_pending_outcomes_one_at_a_time() {
    use fernwart_protocol::code::Denial;
    use fernwart_protocol::to_agent::Stored;
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    attack(async {
        let mut hub = EvilHub::take(&mut world, &machine).await;
        for _ in 0..4 {
            // Received, but never countersigned.
            let order = hub.signed(|_| {});
            assert!(matches!(hub.deliver(&order).await, Answer::Outcome(..)));
        }
        hub.greet_again().await;
        let mut settled = std::collections::HashSet::new();
        while settled.len() < 4 {
            let asked = tokio::time::timeout(Duration::from_secs(5), hub.link.accept()).await.expect("in its turn");
            let (mut send, mut receive) = asked.expect("a stream");
            let Ask::Outcome(settle) = receive.expect::<Ask>().await.expect("a question") else { continue };
            // Sent together, each of them could time out on a slow line.
            let next = tokio::time::timeout(Duration::from_millis(300), hub.link.accept()).await;
            assert!(next.is_err(), "another one before the first is over");
            settled.insert(settle.receipt.signature);
            send.send(&Stored::NotNow(Denial::StoreFull)).await.expect("sent");
            let _ = send.delivered().await;
        }
        hub.stop().await;
    });
}

#[test]
fn an_agent_refuses_a_certificate_that_names_another_machine() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    machine.agent.stop();
    // Its certificate is due for renewal, so it will ask the thief for one.
    let path = machine.home.join("tls.identity");
    let mut identity = fernwart_certs::identity::TlsIdentity::read(&path).expect("an identity");
    let id = Home::at(&machine.home).enrollment().expect("enrolled").machine;
    let then = SystemTime::now() - Duration::from_secs(60 * 24 * 3600);
    identity.chain =
        super::stolen_ca(&world).issue_member(Name::Machine(id), identity.key.spki(), then).expect("issued");
    identity.write(&path).expect("written");
    let before = std::fs::read(&path).expect("read");
    machine.restart();
    attack(async {
        let hub = EvilHub::take(&mut world, &machine).await;
        let (mut send, mut receive) =
            tokio::time::timeout(Duration::from_secs(5), hub.link.accept()).await.expect("asked").expect("a stream");
        let Ask::Renew(spki) = receive.expect::<Ask>().await.expect("a question") else { panic!("renewal is due") };
        let other = Name::Machine(MachineId::from_bytes([9; 16]));
        let chain = super::stolen_ca(&world).issue_member(other, spki.as_bytes(), SystemTime::now()).expect("issued");
        let chain: Vec<_> = chain.iter().map(|der| Blob::try_from(der.to_vec()).expect("short")).collect();
        send.send(&Renewed::Certificate(List::try_from(chain).expect("two"))).await.expect("sent");
        let _ = send.delivered().await;
        drop((send, receive));
        fernwart_tests::wait_until("it is refused", || machine.agent.log().contains("not for this machine and key"));
        assert_eq!(std::fs::read(&path).expect("read"), before, "key and certificate are as before");
        // The link stays and works.
        assert!(matches!(hub.deliver(&hub.signed(|_| {})).await, Answer::Outcome(..)));
        hub.stop().await;
    });
}

/// A key id that nobody has.
pub(super) fn nobody() -> KeyId {
    KeyId::from_bytes([0xee; 16])
}
