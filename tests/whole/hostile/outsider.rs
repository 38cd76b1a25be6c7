//! Tests the hub with an independent implementation of QUIC and TLS: aioquic, as an honest client and as an
//! attacker.

use super::{identity, others_are_undisturbed};
use fernwart_certs::identity::{TlsIdentity, TlsKey};
use fernwart_certs::issue::Authority;
use fernwart_certs::peer::Name;
use fernwart_protocol::codec;
use fernwart_protocol::id::KeyId;
use fernwart_protocol::staff::{Reply, Request};
use fernwart_protocol::version::Hello;
use fernwart_tests::rogues::frame;
use fernwart_tests::{World, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The Python with aioquic that `tests/run` installs; `None`, with a printed note, if it is missing. With
/// `CI=true` it must be there.
fn foreign_python() -> Option<PathBuf> {
    let here = std::env::current_exe().expect("this program has a path");
    let found = here.ancestors().map(|folder| folder.join("python/bin/python")).find(|python| python.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "aioquic is not here: tests/run installs it");
        println!("left out: aioquic is not here; tests/run installs it");
    }
    found
}

/// An identity as files that any program can read.
fn files(folder: &Path, name: &str, identity: &TlsIdentity) -> Value {
    let write = |file: String, bytes: &[u8]| {
        let path = folder.join(file);
        std::fs::write(&path, bytes).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let chain: Vec<String> = identity
        .chain
        .iter()
        .enumerate()
        .map(|(place, certificate)| write(format!("{name}-{place}.der"), certificate.as_ref()))
        .collect();
    json!({"chain": chain, "key": write(format!("{name}.key"), identity.key.private_key().secret_der())})
}

/// An identity from the attacker's own CA.
fn forged() -> TlsIdentity {
    let ca_key = TlsKey::generate().expect("a key");
    let ca = Authority::create(&ca_key, SystemTime::now()).expect("a CA");
    let authority = Authority::new(&ca_key, ca).expect("an authority");
    let mut identity = TlsIdentity::generate().expect("an identity");
    let name = Name::Staff(KeyId::from_bytes([7; 16]));
    identity.chain = authority.issue_member(name, identity.key.spki(), SystemTime::now()).expect("issued");
    identity
}

/// The messages of a stream, one after another.
fn replies(mut bytes: &[u8]) -> Vec<Reply> {
    let mut next = || {
        let (length, rest) = bytes.split_at_checked(4)?;
        let length = u32::from_be_bytes(length.try_into().expect("four")) as usize;
        let (body, rest) = rest.split_at(length);
        bytes = rest;
        Some(body)
    };
    codec::decode::<Hello>(next().expect("a hello")).expect("a hello");
    std::iter::from_fn(next).map(|body| codec::decode(body).expect("a reply")).collect()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().expect("hex").as_bytes();
    hex.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).expect("ASCII"), 16).expect("hex")).collect()
}

#[test]
fn a_foreign_quic_client_is_served_and_protocol_violations_are_closed() {
    let Some(python) = foreign_python() else { return };
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let staff = identity(&world.shop().join("staff/staff.identity"));
    let hello = frame(&codec::encode(&Hello::new(&[])).expect("encoded"));
    let request = frame(&codec::encode(&Request::Machines).expect("encoded"));
    let hex: String = hello.iter().chain(&request).map(|byte| format!("{byte:02x}")).collect();
    let given = json!({
        "host": world.address.ip().to_string(), "port": world.address.port(),
        "ca": world.shop().join("hub/ca.der"), "ask": hex,
        "staff": files(world.path(), "foreign-staff", &staff),
        "forged": files(world.path(), "foreign-forged", &forged()),
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/whole/hostile/stranger.py");
    let output = run(Command::new(python).arg(script).arg(given.to_string())).exits(0);
    println!("{}", output.out);
    let lines = output.json_lines();
    let reported = |what: &str| {
        let line = lines.iter().find(|line| line["what"] == what);
        line.unwrap_or_else(|| panic!("{what} was not tried: {output:?}"))
    };

    // An honest client is served before and after a QUIC key update.
    for turn in ["asks, turn 0", "asks, turn 1"] {
        let replies = replies(&bytes(&reported(turn)["heard"]));
        let [Reply::MachineRows(rows), Reply::Done] = replies.as_slice() else { panic!("{replies:?}") };
        assert_eq!(rows.as_slice().iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["kasse-1"]);
    }
    assert_eq!(lines.iter().filter(|line| line["what"] == "asks, turn 1").count(), 2, "at the end as at the beginning");

    // RFC 8446, 4.2.10 and 6; RFC 9000, 20. 0x178 is no_application_protocol, 0x130
    // unknown_ca; 2 is our own "not admitted".
    let early = &reported("tickets")["early"];
    let tickets = early.as_array().expect("a list");
    assert!(!tickets.is_empty() && tickets.iter().all(|most| most.is_null() || most == 0), "{early}");
    for (what, by, ends) in [
        ("no door", "tls", &[0x178][..]),
        ("another door", "tls", &[0x178]),
        ("agent door, no certificate", "application", &[2]),
        ("staff door, no certificate", "application", &[2]),
        ("agent door, staff's certificate", "application", &[2]),
        ("staff door, a certificate of one's own making", "tls", &[0x130, 0x12a, 0x12b, 0x12e]),
        ("agent door, a certificate of one's own making", "tls", &[0x130, 0x12a, 0x12b, 0x12e]),
        ("a stream beyond the limit", "transport", &[0x4]),
        ("a stream of one direction", "transport", &[0x4]),
        ("a stream that is the hub's to open", "transport", &[0x5]),
        ("data beyond the window", "transport", &[0x3]),
        ("handshake bytes far ahead", "transport", &[0xd]),
        ("a frame that does not exist", "transport", &[0x7]),
        ("a datagram that nobody agreed on", "transport", &[0xa]),
        ("handshake done, from a client", "transport", &[0xa]),
        ("a new token, from a client", "transport", &[0xa]),
        ("an acknowledgement of what was never sent", "transport", &[0xa]),
        ("more streams than can be", "transport", &[0x7]),
        ("an id retired that was never given", "transport", &[0xa]),
        ("a parameter that is the server's", "transport", &[0x8]),
        ("a reset token, from a client", "transport", &[0x8]),
        ("packets smaller than QUIC's", "transport", &[0x8]),
        ("a parameter twice", "transport", &[0x8]),
    ] {
        let line = reported(what);
        let end = line["end"].as_u64();
        assert!(line["by"] == by && end.is_some_and(|end| ends.contains(&end)), "{what}: {line}");
    }
    // An unknown version is answered with version negotiation. A first datagram that is too short gets no
    // answer, since that would amplify.
    let versions = bytes(&reported("another version")["heard"]);
    assert_eq!(versions.get(1..5), Some(&[0; 4][..]), "version negotiation: {versions:02x?}");
    let spoken: Vec<&[u8]> = versions.rchunks_exact(4).take_while(|word| word[..3] == [0, 0, 0]).collect();
    assert_eq!(spoken, [&[0, 0, 0, 1]], "version 1 and no other: {versions:02x?}");
    assert_eq!(reported("another version, too short")["heard"], "");
    assert_eq!(reported("a beginning that is too short")["heard"], "");
    others_are_undisturbed(&world, &machine.name);
}
