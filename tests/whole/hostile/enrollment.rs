//! Invitations that are reused, altered or expired; keys that request too much.

use super::{attack, incoming, others_are_undisturbed, pin};
use fernwart_certs::identity::{SealingKey, SigningKey, TlsKey, machine_id};
use fernwart_certs::invitation::Invitation;
use fernwart_certs::join::{ProofKey, prove_claim, prove_join, unsigned};
use fernwart_protocol::code::Denial;
use fernwart_protocol::enroll::{Claim, Join, Reply, Request};
use fernwart_protocol::id::{Digest, MachineId, TokenId};
use fernwart_protocol::link::{Door, Link};
use fernwart_protocol::text::{Blob, List, Text};
use fernwart_tests::{World, run};

struct Keys {
    evidence: SigningKey,
    sealing: SealingKey,
    tls: TlsKey,
}

impl Keys {
    fn new() -> Self {
        Self {
            evidence: SigningKey::generate().expect("a key"),
            sealing: SealingKey::generate().expect("a key"),
            tls: TlsKey::generate().expect("a key"),
        }
    }

    fn join(&self, token: TokenId) -> Join {
        Join {
            token,
            proof: Digest::from_bytes([0; 32]),
            tls_key: Blob::try_from(self.tls.spki().to_vec()).expect("short"),
            evidence_key: self.evidence.public(),
            sealing_key: self.sealing.public(),
            signature: unsigned(),
            hostname: Text::clipped("evil"),
            os: Text::clipped("test"),
        }
    }
}

async fn link(world: &World) -> (Link, [u8; 32]) {
    let nobody = TlsKey::generate().expect("a key");
    let link = incoming(world, Door::Enroll, Vec::new(), &nobody).await.expect("a link");
    let binding = link.binding().expect("a binding");
    (link, binding)
}

async fn ask(link: &Link, request: &Request) -> Reply {
    let (mut send, mut receive) = link.open().await.expect("a stream");
    send.send(request).await.expect("sent");
    send.finish();
    receive.expect().await.expect("a reply")
}

/// Sends a valid join request, but for `change`, which alters it after it was proved.
async fn join(world: &World, invitation: &Invitation, keys: &Keys, change: impl Fn(&mut Join)) -> Reply {
    let (link, binding) = link(world).await;
    let mut join = prove_join(keys.join(invitation.token), &binding, &invitation.secret.proof_key(), &keys.evidence);
    change(&mut join);
    ask(&link, &Request::Join(join)).await
}

#[test]
fn an_invitation_admits_only_the_key_and_link_it_was_proved_with() {
    let world = World::new();
    let _bystander = world.add_machine("kasse-1");
    let line = world.invitation(&["Bäckerei Meyer"]);
    let invitation: Invitation = line.parse().expect("an invitation");
    attack(async {
        let keys = Keys::new();
        // Evil, one bit each: token, proof, signature; and keys changed after proving.
        let denied = |denial| Reply::Denied(denial);
        let flip = |digest: &Digest| {
            let mut bytes = *digest.as_bytes();
            bytes[7] ^= 1;
            Digest::from_bytes(bytes)
        };
        let reply = join(&world, &invitation, &keys, |join| {
            let mut bytes = *join.token.as_bytes();
            bytes[7] ^= 1;
            join.token = TokenId::from_bytes(bytes);
        })
        .await;
        assert_eq!(reply, denied(Denial::TokenUnknown));
        let reply = join(&world, &invitation, &keys, |join| join.proof = flip(&join.proof)).await;
        assert_eq!(reply, denied(Denial::TokenProof));
        let reply = join(&world, &invitation, &keys, |join| join.signature = unsigned()).await;
        assert_eq!(reply, denied(Denial::KeysRefused));
        let other = Keys::new();
        let reply = join(&world, &invitation, &keys, |join| join.evidence_key = other.evidence.public()).await;
        assert_eq!(reply, denied(Denial::TokenProof), "another identity than was proved");
        let (spare, binding) = link(&world).await;
        let stale = prove_join(keys.join(invitation.token), &binding, &invitation.secret.proof_key(), &keys.evidence);
        drop(spare);
        let (fresh, _) = link(&world).await;
        assert_eq!(ask(&fresh, &Request::Join(stale)).await, denied(Denial::TokenProof), "proved on another link");

        // Proof that only the changes were wrong: unchanged it works, even twice for one key.
        assert_eq!(join(&world, &invitation, &keys, |_| {}).await, Reply::Pending);
        assert_eq!(join(&world, &invitation, &keys, |_| {}).await, Reply::Pending);
        // Evil: a second key with a used invitation.
        assert_eq!(join(&world, &invitation, &other, |_| {}).await, denied(Denial::TokenSpent));
        // Evil: the same machine with another TLS key, after people may have compared the words.
        let changed = Keys { evidence: SigningKey::generate().expect("a key"), ..Keys::new() };
        let (fresh, binding) = link(&world).await;
        let mut again = keys.join(invitation.token);
        again.tls_key = Blob::try_from(changed.tls.spki().to_vec()).expect("short");
        let again = prove_join(again, &binding, &invitation.secret.proof_key(), &keys.evidence);
        assert_eq!(ask(&fresh, &Request::Join(again)).await, denied(Denial::KeysRefused));
    });
    let waiting = world.technician(&["pending", "-o", "jsonl"]).exits(0).json_lines();
    assert_eq!(waiting.len(), 1, "only the first key waits");
    others_are_undisturbed(&world, "kasse-1");
}

#[test]
fn a_join_request_cannot_obtain_a_ca_or_another_machines_certificate() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let invitation: Invitation =
        world.invitation(&["Bäckerei Meyer", "--machines", "9", "--admit-automatically"]).parse().expect("one");
    attack(async {
        // Evil: a certificate request that wants CA:true, in the place of a key. Proof: it is one.
        let pair = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let request = params.serialize_request(&pair).expect("a request");
        assert!(request.der().windows(3).any(|bytes| bytes == [0x55, 0x1d, 0x13]), "basicConstraints stands in it");
        let greedy = request.der().to_vec();
        assert!(greedy.len() <= 256, "{}", greedy.len());
        let keys = Keys::new();
        let (fresh, binding) = link(&world).await;
        let mut join_request = keys.join(invitation.token);
        join_request.tls_key = Blob::try_from(greedy).expect("short");
        let proved = prove_join(join_request, &binding, &invitation.secret.proof_key(), &keys.evidence);
        assert_eq!(ask(&fresh, &Request::Join(proved)).await, Reply::Denied(Denial::KeysRefused));
        // An honest key gets a certificate for the id that follows from it, and no CA.
        let keys = Keys::new();
        let Reply::Certificate(chain) = join(&world, &invitation, &keys, |_| {}).await else { panic!("admitted") };
        let chain: Vec<_> =
            chain.into_iter().map(|der| fernwart_certs::CertificateDer::from(der.into_bytes())).collect();
        let output = fernwart_certs::peer::read_certificate(&chain[0], &chain[1]).expect("ours");
        assert_eq!(output.name, fernwart_certs::peer::Name::Machine(machine_id(&keys.evidence.public())));

        // Evil: claiming another machine's certificate with one's own key.
        let text = std::fs::read_to_string(machine.home.join("agent.toml")).expect("enrolled");
        let victim: MachineId = text
            .lines()
            .find_map(|line| line.strip_prefix("machine = "))
            .expect("an id")
            .trim_matches('"')
            .parse()
            .expect("an id");
        for wrap in [Request::Collect as fn(Claim) -> Request, Request::Return] {
            let (fresh, binding) = link(&world).await;
            let tls_key = Blob::try_from(keys.tls.spki().to_vec()).expect("short");
            let claim = Claim { machine: victim, tls_key, signature: unsigned() };
            let claim = prove_claim(claim, &binding, &keys.evidence);
            assert_eq!(ask(&fresh, &wrap(claim)).await, Reply::Denied(Denial::KeysRefused));
        }
    });
    others_are_undisturbed(&world, "kasse-1");
}

#[test]
fn an_altered_or_expired_invitation_enrolls_nothing() {
    let world = World::new();
    let line = world.invitation(&["Bäckerei Meyer"]);
    let enroll = |home: &str, line: &str| world.owner_in(home, &["enroll", line, "--policy", "ask", "--no-service"]);
    // A typing error is reported as such.
    let typo = format!("{}A{}", &line[..60], &line[61..]);
    let output = enroll("typo", &typo).exits(2);
    assert!(output.err.contains("FW-JOIN-21"), "{}", output.err);
    // Evil: rebuilt invitations with another pin, root, or address.
    let honest: Invitation = line.parse().expect("an invitation");
    assert_eq!(honest.ca, pin(&world));
    let altered = |change: &dyn Fn(&mut Invitation)| {
        let mut evil = honest.clone();
        change(&mut evil);
        evil.to_line().expect("a line")
    };
    let pin = altered(&|evil| evil.ca = Digest::from_bytes([1; 32]));
    let output = enroll("pin", &pin).exits(4);
    assert!(output.err.contains("reaching the hub"), "{}", output.err);
    let root = altered(&|evil| evil.root = Digest::from_bytes([1; 32]));
    let output = enroll("root", &root).exits(3);
    assert!(output.err.contains("the root is not the one"), "{}", output.err);
    let elsewhere = Text::clipped("127.0.0.1:9");
    let address = altered(&|evil| evil.addresses = List::try_from(vec![elsewhere.clone()]).expect("one"));
    enroll("address", &address).exits(4);
    // At the other address another shop's hub answers.
    let elsewhere = World::new();
    let there = Text::clipped(&elsewhere.address.to_string());
    let lured = altered(&|evil| evil.addresses = List::try_from(vec![there.clone()]).expect("one"));
    enroll("lured", &lured).exits(4);
    assert_eq!(elsewhere.technician(&["pending", "-o", "name"]).exits(0).out, "", "nobody has joined there");
    for home in ["typo", "pin", "root", "address", "lured"] {
        assert!(!world.path().join(home).join("agent.toml").exists(), "nothing counts");
    }
    // Expired.
    let short = world.invitation(&["Bäckerei Meyer", "--for", "1ms"]);
    let output = enroll("late", &short).exits(3);
    assert!(output.err.contains("expired"), "{}", output.err);
    let forced = {
        let mut evil: Invitation = short.parse().expect("an invitation");
        evil.until = i64::MAX;
        evil.to_line().expect("a line")
    };
    let output = enroll("later", &forced).exits(3);
    assert!(output.err.contains("FW-JOIN-02"), "{}", output.err);
}

#[test]
fn a_hub_that_swaps_a_machines_keys_shows_different_confirmation_words() {
    let mut world = World::new();
    let line = world.invitation(&["Bäckerei Meyer"]);
    let output =
        world.owner_in("kasse-1", &["enroll", &line, "--policy", "ask", "--no-service", "--lang", "de"]).exits(0);
    let reported = output
        .out
        .lines()
        .find(|line| line.contains("3/3"))
        .expect("the words")
        .split(": ")
        .nth(1)
        .expect("words")
        .trim()
        .to_owned();
    let shown = |world: &World| {
        let waiting = world.technician(&["pending", "-o", "jsonl"]).exits(0).json_lines();
        waiting[0]["words"].as_str().expect("words").to_owned()
    };
    assert_eq!(shown(&world), reported, "an honest hub shows what the machine says");
    // Evil: the hub puts its own key in the machine's place.
    for column in ["evidence_key", "tls_key"] {
        let evil = SigningKey::generate().expect("a key").public();
        let store = world.shop().join("hub/store.sqlite");
        let sql = format!("UPDATE machines SET {column} = '{evil}'");
        world.hub.stop();
        run(std::process::Command::new("sqlite3").arg(&store).arg(&sql)).exits(0);
        world.restart_hub();
        let swapped = shown(&world);
        assert_ne!(swapped, reported, "{column}");
        let name = world.technician(&["pending", "-o", "name"]).exits(0).out.trim().to_owned();
        let output = world.technician(&["admit", &name, "--words", &reported]).exits(3);
        assert!(output.err.contains("the words differ"), "{}", output.err);
    }
}

#[test]
fn the_proof_key_of_one_invitation_fails_for_another() {
    let world = World::new();
    let (one, two): (Invitation, Invitation) =
        (world.invitation(&["A"]).parse().expect("one"), world.invitation(&["B"]).parse().expect("two"));
    attack(async {
        let keys = Keys::new();
        let (fresh, binding) = link(&world).await;
        let ProofKey(key) = one.secret.proof_key();
        let proved = prove_join(keys.join(two.token), &binding, &ProofKey(key), &keys.evidence);
        assert_eq!(ask(&fresh, &Request::Join(proved)).await, Reply::Denied(Denial::TokenProof));
    });
}

#[test]
fn an_invitation_for_one_network_lets_nobody_in_from_another() {
    let world = World::new();
    let enroll = |home: &str, line: &str| world.owner_in(home, &["enroll", line, "--policy", "ask", "--no-service"]);
    let elsewhere = world.invitation(&["Bäckerei Meyer", "--from-net", "192.0.2.0/24"]);
    let refused = enroll("kasse-1", &elsewhere).exits(3);
    assert!(refused.err.contains("FW-JOIN-05"), "{}", refused.err);
    assert_eq!(world.technician(&["pending", "-o", "name"]).exits(0).out, "", "nobody waits");
    // An invitation for this computer's network works.
    let here = world.invitation(&["Bäckerei Meyer", "--from-net", "127.0.0.0/8"]);
    enroll("kasse-2", &here).exits(0);
    assert_eq!(world.technician(&["pending", "-o", "name"]).exits(0).out.lines().count(), 1);
    let wrong = world.technician(&["invite", "Bäckerei Meyer", "--from-net", "192.0.2.0/99"]).exits(2);
    assert!(wrong.err.contains("192.0.2.0/24"), "{}", wrong.err);
}

#[test]
fn an_invitation_for_two_machines_lets_in_two_and_not_a_third() {
    let world = World::new();
    let line = world.invitation(&["Bäckerei Meyer", "--machines", "2"]);
    let file = world.path().join("line");
    std::fs::write(&file, &line).expect("written");
    let file = file.to_str().expect("text");
    let enroll = |home: &str| {
        world.owner_in(home, &["enroll", "--invitation", file, "--policy", "ask", "--no-service", "--lang", "en"])
    };
    enroll("one").exits(0);
    enroll("two").exits(0);
    // Enrolling the same machine again is harmless; a third machine is refused.
    enroll("two").exits(0);
    let output = enroll("three").exits(3);
    assert!(output.err.contains("FW-JOIN-03"), "{}", output.err);
    assert_eq!(world.technician(&["pending", "-o", "name"]).exits(0).out.lines().count(), 2);
}
