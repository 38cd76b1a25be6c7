//! The bytes that protocol version 3 added. NEVER edit the literals or counts below to make a test
//! pass: programs in use send exactly these. If a test fails, the code is wrong. Each later
//! version has a file of its own.

#![allow(clippy::expect_used, reason = "a test may fail loudly")]

mod golden;

use fernwart_protocol::code::Refusal;
use fernwart_protocol::codec::encode_for;
use fernwart_protocol::document::{Document, Envelope, Retirement, Versions};
use fernwart_protocol::id::{CustomerId, JobId, KeyId, MachineId, RunId, Signature};
use fernwart_protocol::staff::{Reply, Request, Suspension};
use fernwart_protocol::text::{Blob, List, Text};
use fernwart_protocol::to_agent::{self, CatalogueFile, Deliver};
use fernwart_protocol::to_hub::{Control, Delivered, GivenBack};
use fernwart_protocol::version::Version;
use fernwart_protocol::version::variants::known;
use golden::hex;
use serde::Serialize;
use serde::de::DeserializeOwned;

const VERSION: Version = Version::of_peer(3);

/// Asserts these bytes, and that the message is not encoded for a peer of version 2.
#[track_caller]
fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(message: &T, literal: &str) {
    golden::golden(3, message, literal);
}

#[test]
fn a_restored_hub_asks_for_lost_files_and_locks() {
    let versions = Versions { root: 1, targets: 2, snapshot: 3, timestamp: 4 };
    golden(
        &Deliver::GiveBack(versions),
        "04000000 0100000000000000 0200000000000000 0300000000000000 0400000000000000",
    );
    golden(&Request::PutFile(Blob::try_from(b"#!".to_vec()).expect("short")), "24000000 0200000000000000 2321");
    let file = CatalogueFile { name: Text::clipped("a"), bytes: Blob::try_from(vec![7]).expect("short") };
    golden(&GivenBack::File(file), "00000000 0100000000000000 61 0100000000000000 07");
    let lock = Envelope {
        key: KeyId::from_bytes([1; 16]),
        signature: Signature::from_bytes([2; 64]),
        bytes: Blob::try_from(vec![7]).expect("short"),
    };
    let (ones, twos) = ("01".repeat(16), "02".repeat(64));
    golden(&GivenBack::Lock(lock), &format!("01000000 {ones} {twos} 0100000000000000 07"));
    golden(&Control::CatalogueRefused(Text::clipped("x")), "05000000 0100000000000000 78");
}

#[test]
fn a_technician_queries_the_state_of_single_runs() {
    let runs = List::try_from(vec![RunId::from_bytes([1; 16])]).expect("one");
    let ones = "01".repeat(16);
    golden(&Request::Outcomes(JobId(7), runs), &format!("25000000 0700000000000000 0100000000000000 {ones}"));
}

#[test]
fn a_lead_lists_suspended_keys_and_lifts_a_suspension() {
    let (ones, key) = ("01".repeat(16), KeyId::from_bytes([1; 16]));
    golden(&Request::Suspensions, "26000000");
    golden(&Request::Resume(key), &format!("27000000 {ones}"));
    golden(&Request::RejectStaff(key), &format!("28000000 {ones}"));
    golden(&Request::Formerly("a".parse().expect("a name")), "29000000 0100000000000000 61");
    let suspended = List::try_from(vec![Suspension { key, locked: true }]).expect("one");
    golden(&Reply::Suspensions(suspended), &format!("1e000000 0100000000000000 {ones} 01"));
}

#[test]
fn a_chain_states_which_receipts_were_deleted() {
    let (ones, twos) = ("01".repeat(16), "02".repeat(64));
    let signed = Envelope {
        key: KeyId::from_bytes([1; 16]),
        signature: Signature::from_bytes([2; 64]),
        bytes: Blob::try_from(vec![7]).expect("short"),
    };
    golden(&Reply::ChainCut(signed), &format!("1f000000 {ones} {twos} 0100000000000000 07"));
}

#[test]
fn a_signed_retirement_is_sent_to_the_machine() {
    let (ones, twos) = ("01".repeat(16), "02".repeat(64));
    let signed = || Envelope {
        key: KeyId::from_bytes([1; 16]),
        signature: Signature::from_bytes([2; 64]),
        bytes: Blob::try_from(vec![7]).expect("short"),
    };
    golden(&Request::RetireSigned(signed()), &format!("2a000000 {ones} {twos} 0100000000000000 07"));
    golden(&to_agent::Control::Retired(signed()), &format!("06000000 {ones} {twos} 0100000000000000 07"));
    golden(&Control::Leaving, "06000000");
    let retirement = Retirement {
        machine: MachineId::from_bytes([3; 16]),
        machine_name: "kasse-1".parse().expect("a name"),
        customer: CustomerId::from_bytes([4; 16]),
        key: KeyId::from_bytes([1; 16]),
        at: 4,
        not_after: 5,
    };
    let (threes, fours) = ("03".repeat(16), "04".repeat(16));
    let text = format!(
        "fernwart retirement 1\n{{\"machine\":\"{threes}\",\"machine_name\":\"kasse-1\",\"customer\":\"{fours}\",\
         \"key\":\"{ones}\",\"at\":4,\"not_after\":5}}\n"
    );
    assert_eq!(retirement.to_bytes().expect("written"), text.as_bytes());
}

#[test]
fn a_peer_of_version_2_receives_an_older_code() {
    let message = Delivered::Refused(Refusal::FilesChanged);
    let bytes = |version| hex(&encode_for(&message, version).expect("encoded"));
    assert_eq!(bytes(VERSION), "0200000022000000");
    assert_eq!(bytes(Version::of_peer(2)), "0200000013000000", "FW-GATE-15");
}

#[test]
fn variant_counts_of_version_3() {
    assert_eq!(known("Deliver", VERSION), Some(5));
    assert_eq!(known("staff.Request", VERSION), Some(43));
    assert_eq!(known("staff.Reply", VERSION), Some(32));
    assert_eq!(known("GivenBack", VERSION), Some(2));
    assert_eq!(known("Refusal", VERSION), Some(35));
    assert_eq!(known("to_hub.Control", VERSION), Some(7));
    assert_eq!(known("to_agent.Control", VERSION), Some(7));
}
