//! Certificates at doors they are not for.

use super::{attack, closed, dial_with, end_of, identity, incoming, others_are_undisturbed, pin, speak, stolen_ca};
use fernwart_certs::CertificateDer;
use fernwart_certs::identity::{TlsIdentity, TlsKey};
use fernwart_certs::issue::Authority;
use fernwart_certs::peer::{Name, read_certificate};
use fernwart_certs::tls::{self, Clock};
use fernwart_protocol::code::Goodbye;
use fernwart_protocol::id::MachineId;
use fernwart_protocol::link::{Door, LinkError};
use fernwart_tests::{World, wait_until};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

fn id_of(identity: &TlsIdentity) -> MachineId {
    match read_certificate(&identity.chain[0], &identity.chain[1]).expect("a certificate").name {
        Name::Machine(id) => id,
        Name::Staff(_) => panic!("not a machine"),
    }
}

/// A client certificate made with our CA's key but another template.
fn crooked(
    world: &World,
    key: &TlsKey,
    change: impl Fn(&mut rcgen::CertificateParams),
) -> Vec<CertificateDer<'static>> {
    let home = world.shop().join("hub");
    let ca_der = CertificateDer::from(std::fs::read(home.join("ca.der")).expect("the CA"));
    let pkcs8 = std::fs::read(home.join("ca.key")).expect("the CA's key");
    let pkcs8 = rustls::pki_types::PrivatePkcs8KeyDer::from(pkcs8);
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let honest = Authority::read(&home.join("ca.key"), &home.join("ca.der")).expect("the CA");
    let sample = honest.issue_member(Name::Machine(MachineId::from_bytes([1; 16])), key.spki(), SystemTime::now());
    assert!(sample.is_ok(), "the stolen CA works");
    let mut params = rcgen::CertificateParams::default();
    let uri = Name::Machine(MachineId::from_bytes([1; 16])).uri();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().expect("a URI"))];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    change(&mut params);
    let mut ca_params = rcgen::CertificateParams::default();
    ca_params.distinguished_name = rcgen::DistinguishedName::new();
    ca_params.distinguished_name.push(rcgen::DnType::CommonName, common_name(&ca_der));
    ca_params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    ca_params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let issuer = rcgen::Issuer::new(ca_params, pair);
    struct Point(Vec<u8>);
    impl rcgen::PublicKeyData for Point {
        fn der_bytes(&self) -> &[u8] {
            &self.0
        }
        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            &rcgen::PKCS_ECDSA_P256_SHA256
        }
    }
    let point = Point(key.spki()[26..].to_vec());
    vec![params.signed_by(&point, &issuer).expect("signed").der().clone(), ca_der]
}

/// Reads the CA's common name from its DER: the only text that begins so.
fn common_name(ca: &CertificateDer<'_>) -> String {
    let text = String::from_utf8_lossy(ca).into_owned();
    let at = text.find("Fernwart hub ").expect("the name");
    text[at..at + "Fernwart hub ".len() + 8].to_owned()
}

#[test]
fn each_door_refuses_certificates_of_other_peer_kinds() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let agent = identity(&machine.home.join("tls.identity"));
    let staff = identity(&world.shop().join("staff/staff.identity"));
    attack(async {
        let nobody = TlsKey::generate().expect("a key");
        // Evil: no certificate at all. Proof: the enrollment door takes it.
        assert!(incoming(&world, Door::Enroll, Vec::new(), &nobody).await.is_ok());
        for door in [Door::Agent, Door::Staff] {
            assert_eq!(end_of(incoming(&world, door, Vec::new(), &nobody).await).await, closed(Goodbye::NotAdmitted));
        }
        // Evil: an agent at the technicians' door and the reverse. Proof: each is good at its own.
        assert_eq!(
            end_of(incoming(&world, Door::Staff, agent.chain.clone(), &agent.key).await).await,
            closed(Goodbye::NotAdmitted)
        );
        assert_eq!(
            end_of(incoming(&world, Door::Agent, staff.chain.clone(), &staff.key).await).await,
            closed(Goodbye::NotAdmitted)
        );
        assert_eq!(
            end_of(incoming(&world, Door::Enroll, agent.chain.clone(), &agent.key).await).await,
            closed(Goodbye::NotAdmitted)
        );
        let own = incoming(&world, Door::Staff, staff.chain.clone(), &staff.key).await.expect("let in");
        assert!(tokio::time::timeout(Duration::from_millis(300), own.closed()).await.is_err(), "the technician stays");
    });
    others_are_undisturbed(&world, "kasse-1");
}

#[test]
fn forged_expired_and_misissued_certificates_are_refused() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let id = id_of(&identity(&machine.home.join("tls.identity")));
    attack(async {
        let key = TlsKey::generate().expect("a key");
        // Evil: another CA's, with the right name in it.
        let other = TlsKey::generate().expect("a key");
        let other_ca = Authority::create(&other, SystemTime::now()).expect("a CA");
        let other = Authority::new(&other, other_ca).expect("an authority");
        let chain = other.issue_member(Name::Machine(id), key.spki(), SystemTime::now()).expect("issued");
        let reported = || world.hub.log().matches("a handshake failed").count();
        let before = reported();
        let end = end_of(incoming(&world, Door::Agent, chain, &key).await).await;
        assert!(matches!(end, LinkError::Handshake(_)), "{end:?}");
        wait_until("the hub tells of it", || reported() == before + 1);
        // Evil: run out a year ago. Alert 45 is certificate_expired.
        let then = SystemTime::now() - Duration::from_secs(400 * 24 * 3600);
        let chain = stolen_ca(&world).issue_member(Name::Machine(id), key.spki(), then).expect("issued");
        assert_eq!(end_of(incoming(&world, Door::Agent, chain, &key).await).await, LinkError::Handshake(45));
        // Evil: right CA, right name, but for servers only.
        let chain = crooked(&world, &key, |params| {
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        });
        let end = end_of(incoming(&world, Door::Agent, chain, &key).await).await;
        assert!(matches!(end, LinkError::Handshake(_)), "{end:?}");
        // Evil: right CA, two names.
        let chain = crooked(&world, &key, |params| {
            let uri = Name::Machine(id).uri();
            params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().expect("a URI")));
        });
        assert_eq!(end_of(incoming(&world, Door::Agent, chain, &key).await).await, closed(Goodbye::NotAdmitted));
        // Evil: right CA, right name of a real machine, but another key than it has joined with.
        let chain = stolen_ca(&world).issue_member(Name::Machine(id), key.spki(), SystemTime::now()).expect("issued");
        assert_eq!(end_of(incoming(&world, Door::Agent, chain, &key).await).await, closed(Goodbye::Revoked));
        // Evil: right CA, a machine nobody knows.
        let nobody = Name::Machine(MachineId::from_bytes([9; 16]));
        let chain = stolen_ca(&world).issue_member(nobody, key.spki(), SystemTime::now()).expect("issued");
        assert_eq!(end_of(incoming(&world, Door::Agent, chain, &key).await).await, closed(Goodbye::Revoked));
    });
    others_are_undisturbed(&world, "kasse-1");
}

/// Counts the session tickets that were used to resume.
#[derive(Debug)]
struct CountingStore(rustls::client::ClientSessionMemoryCache, Arc<AtomicUsize>);

impl rustls::client::ClientSessionStore for CountingStore {
    fn set_kx_hint(&self, name: rustls::pki_types::ServerName<'static>, group: rustls::NamedGroup) {
        self.0.set_kx_hint(name, group);
    }
    fn kx_hint(&self, name: &rustls::pki_types::ServerName<'_>) -> Option<rustls::NamedGroup> {
        self.0.kx_hint(name)
    }
    fn set_tls12_session(
        &self,
        name: rustls::pki_types::ServerName<'static>,
        value: rustls::client::Tls12ClientSessionValue,
    ) {
        self.0.set_tls12_session(name, value);
    }
    fn tls12_session(
        &self,
        name: &rustls::pki_types::ServerName<'_>,
    ) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.0.tls12_session(name)
    }
    fn remove_tls12_session(&self, name: &rustls::pki_types::ServerName<'static>) {
        self.0.remove_tls12_session(name);
    }
    fn insert_tls13_ticket(
        &self,
        name: rustls::pki_types::ServerName<'static>,
        value: rustls::client::Tls13ClientSessionValue,
    ) {
        self.0.insert_tls13_ticket(name, value);
    }
    fn take_tls13_ticket(
        &self,
        name: &rustls::pki_types::ServerName<'static>,
    ) -> Option<rustls::client::Tls13ClientSessionValue> {
        let ticket = self.0.take_tls13_ticket(name);
        self.1.fetch_add(usize::from(ticket.is_some()), Ordering::SeqCst);
        ticket
    }
}

#[test]
fn a_retired_machine_is_cut_off_even_with_a_tls_session_ticket() {
    let (world, _other, mut machine) = World::with_one_linked_and_one_stopped();
    let agent = identity(&machine.home.join("tls.identity"));
    attack(async {
        let used = Arc::new(AtomicUsize::new(0));
        let tls = || {
            let mut tls =
                tls::member(vec![pin(&world)], Clock::MustBeRight, agent.chain.clone(), &agent.key).expect("TLS");
            tls.resumption = rustls::client::Resumption::disabled();
            tls
        };
        let store = Arc::new(CountingStore(rustls::client::ClientSessionMemoryCache::new(8), used.clone()));
        let mut resuming = tls();
        resuming.resumption = rustls::client::Resumption::store(store);
        let first = dial_with(&world, Door::Agent, resuming.clone()).await.expect("let in");
        drop(speak(&first).await);
        first.close(Goodbye::Done);
        assert_eq!(used.load(Ordering::SeqCst), 0);
        let second = dial_with(&world, Door::Agent, resuming.clone()).await.expect("let in");
        let _streams = speak(&second).await;
        assert_eq!(used.load(Ordering::SeqCst), 1, "the second link was resumed with a ticket");

        world.technician(&["retire", "kasse-2", "--yes=kasse-2"]).exits(0);
        let cut = tokio::time::timeout(Duration::from_secs(5), second.closed()).await.expect("cut");
        assert_eq!(cut, closed(Goodbye::Revoked));
        // Evil: a session ticket from before the retirement, and then a full handshake.
        let end = end_of(dial_with(&world, Door::Agent, resuming).await).await;
        assert_eq!((used.load(Ordering::SeqCst), end), (2, closed(Goodbye::Revoked)));
        assert_eq!(end_of(dial_with(&world, Door::Agent, tls()).await).await, closed(Goodbye::Revoked));
    });
    others_are_undisturbed(&world, "kasse-1");
    let output = world.technician(&["show", "kasse-2"]).exits(2);
    assert!(output.err.contains("FW-CLI-02"), "{}", output.err);
    // The enrollment door does not accept it either, with its old evidence key.
    machine.restart();
    wait_until("it is told", || machine.agent.log().contains("retired"));
    assert!(!world.is_online("kasse-2"));
}

#[test]
fn the_hub_accepts_no_tls_early_data() {
    let world = World::new();
    let staff = identity(&world.shop().join("staff/staff.identity"));
    attack(async {
        let mut tls = tls::member(vec![pin(&world)], Clock::MustBeRight, staff.chain.clone(), &staff.key).expect("TLS");
        tls.resumption = rustls::client::Resumption::in_memory_sessions(8);
        tls.enable_early_data = true;
        tls.alpn_protocols = vec![Door::Staff.alpn().to_vec()];
        let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("QUIC");
        let config = quinn::ClientConfig::new(Arc::new(quic));
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        let name = fernwart_protocol::link::HUB_SERVER_NAME;
        let first = endpoint.connect_with(config.clone(), world.address, name).expect("dialled").await.expect("linked");
        // A request, so that the session ticket has arrived.
        let (mut send, mut receive) = first.open_bi().await.expect("a stream");
        send.finish().expect("ended");
        let _ = receive.read_to_end(64).await;
        first.close(0u32.into(), b"");
        // Evil: early data on the ticket, which an attacker could replay.
        let second = endpoint.connect_with(config, world.address, name).expect("dialled");
        assert!(second.into_0rtt().is_err(), "the ticket does not allow it");
    });
}

#[test]
fn a_machine_with_an_expired_certificate_gets_a_new_one_by_itself() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    machine.agent.stop();
    let path = machine.home.join("tls.identity");
    let mut agent = identity(&path);
    let id = id_of(&agent);
    let then = SystemTime::now() - Duration::from_secs(400 * 24 * 3600);
    agent.chain = stolen_ca(&world).issue_member(Name::Machine(id), agent.key.spki(), then).expect("issued");
    agent.write(&path).expect("written");
    let (_, until) = agent.lasts().expect("a certificate");
    assert!(until < fernwart_agent::now(), "it has run out");
    machine.restart();
    wait_until("it is back", || world.is_online("kasse-1"));
    let (_, until) = identity(&path).lasts().expect("a certificate");
    assert!(until > fernwart_agent::now());
    assert!(world.hub.log().contains("expired certificate has come back"), "the hub tells of it");
}

#[test]
fn a_machine_renews_its_certificate_by_itself_with_a_new_key() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    machine.agent.stop();
    let path = machine.home.join("tls.identity");
    let mut agent = identity(&path);
    let old_key = agent.key.digest();
    let then = SystemTime::now() - Duration::from_secs(60 * 24 * 3600);
    agent.chain = stolen_ca(&world).issue_member(Name::Machine(id_of(&agent)), agent.key.spki(), then).expect("issued");
    agent.write(&path).expect("written");
    let (from, _) = agent.lasts().expect("a certificate");
    assert!(from < fernwart_agent::now() - 50 * 24 * 3_600_000, "it is old");
    machine.restart();
    wait_until("it is renewed", || identity(&path).key.digest() != old_key);
    wait_until("it is linked with the new one", || machine.agent.log().matches("INFO linked").count() >= 3);
    let (from, _) = identity(&path).lasts().expect("a certificate");
    assert!(from > fernwart_agent::now() - 3_600_000);
    others_are_undisturbed(&world, "kasse-1");
}

#[test]
fn a_suspended_technician_is_cut_off_at_the_hub_and_at_every_machine() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let line = world.invitation_for_staff();
    let home = world.path().join("ole");
    let ole = |arguments: &[&str]| fernwart_tests::run(&mut fernwart_tests::staff_command(&home, arguments));
    let joined = ole(&["join", "--invitation", &line, "--name", "ole", "--no-wait"]).exits(0);
    let key = joined.out.split_whitespace().last().expect("a key id").to_owned();
    world.technician(&["staff", "add", "ole", "--key-id", &key, "--role", "repair"]).exits(0);
    ole(&["join", "--invitation", &line, "--name", "ole"]).exits(0);
    assert!(matches!(ole(&["diagnose", "kasse-1"]).code, 0 | 1));
    world.technician(&["staff", "suspend", "ole"]).exits(0);
    let output = ole(&["ls"]).exits(3);
    assert!(output.err.contains("FW-CLI-06") || output.err.contains("FW-HUB-12"), "{}", output.err);
    wait_until("the machine has the lock", || machine.journal().iter().any(|(kind, _)| kind == "locked"));
    world.technician(&["staff", "rm", "ole", "--yes=ole"]).exits(0);
    let listed = world.technician(&["staff", "ls", "-o", "name"]).exits(0).out;
    assert_eq!(listed, "jana\n");
}
