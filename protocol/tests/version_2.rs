//! The bytes that protocol version 2 added. NEVER edit the literals or counts below to make a test
//! pass: released programs send exactly these. If a test fails, the code is wrong. Each later
//! version has a file of its own.

#![allow(clippy::expect_used, reason = "a test may fail loudly")]

mod golden;

use fernwart_protocol::code::{Denial, Refusal};
use fernwart_protocol::codec::{encode, encode_for};
use fernwart_protocol::document::Envelope;
use fernwart_protocol::id::{CustomerId, JobId, KeyId, MachineId, PublicKey, RunId};
use fernwart_protocol::row::{self, Row};
use fernwart_protocol::staff::{
    self, CustomerRow, Health, JobRow, MachineRow, OtherHealth, Presence, Reply, RunRow, Verdict,
};
use fernwart_protocol::text::{List, Text};
use fernwart_protocol::to_agent::Stored;
use fernwart_protocol::to_hub::{self, Delivered};
use fernwart_protocol::version::Version;
use fernwart_protocol::version::variants::known;
use golden::hex;
use serde::Serialize;
use serde::de::DeserializeOwned;

const VERSION: Version = Version::of_peer(2);

/// Asserts these bytes, and that the message is not encoded for a peer of version 1.
#[track_caller]
fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(message: &T, literal: &str) {
    golden::golden(2, message, literal);
}

/// How many variants version 2 knows.
#[track_caller]
fn variants(name: &str, count: u32) {
    assert_eq!(known(name, VERSION), Some(count), "{name}");
}

fn machine_row() -> MachineRow {
    MachineRow {
        id: MachineId::from_bytes([2; 16]),
        name: "kasse-1".parse().expect("a name"),
        customer: CustomerId::from_bytes([3; 16]),
        customer_name: Text::clipped("m"),
        os: Text::clipped("d"),
        presence: Presence::Online(9),
        health_in_version_1: Verdict::Warn(Text::clipped("w")),
        seen_at: 4,
        labels: List::default(),
        groups: List::default(),
        certificate_until: 5,
        agent: Text::clipped("0"),
    }
}

const MACHINE_ROW: &str = "02020202020202020202020202020202 0700000000000000 6b617373652d31 \
    03030303030303030303030303030303 0100000000000000 6d 0100000000000000 64 00000000 09000000 \
    02000000 0100000000000000 77 0400000000000000 0000000000000000 0000000000000000 0500000000000000 \
    0100000000000000 30";

#[test]
fn rows_carry_tags_of_later_versions() {
    let row = Row::from(machine_row()).with(row::tag::PROTOCOL, &2u16);
    let rows = Reply::MachineRows(List::try_from(vec![row]).expect("one"));
    let tags = "0100000000000000 0100 0200000000000000 0200";
    golden(&rows, &format!("18000000 0100000000000000 {MACHINE_ROW} {tags}"));
    // The same machine for a peer of version 1.
    let rows = Reply::Machines(List::try_from(vec![machine_row()]).expect("one"));
    let bytes = encode_for(&rows, Version::OLDEST).expect("encoded");
    assert_eq!(hex(&bytes), format!("02000000 0100000000000000 {MACHINE_ROW}").replace(char::is_whitespace, ""));

    let customer = CustomerRow {
        id: CustomerId::from_bytes([3; 16]),
        name: Text::clipped("m"),
        language: Text::clipped("de"),
        machines: 7,
    };
    let threes = "03".repeat(16);
    golden(
        &Reply::CustomerRows(List::try_from(vec![customer.into()]).expect("one")),
        &format!(
            "19000000 0100000000000000 {threes} 0100000000000000 6d 0200000000000000 6465 07000000 0000000000000000"
        ),
    );
    golden(&Reply::PendingRows(List::default(), List::default()), "1a000000 0000000000000000 0000000000000000");
    let job = JobRow {
        id: JobId(1),
        action: Text::clipped("a"),
        staff: Text::clipped("s"),
        reason: Text::clipped("r"),
        at: 2,
        selected: 3,
        settled: 4,
    };
    golden(
        &Reply::JobRows(List::try_from(vec![job.into()]).expect("one")),
        "1b000000 0100000000000000 0100000000000000 0100000000000000 61 0100000000000000 73 0100000000000000 72 \
         0200000000000000 03000000 04000000 0000000000000000",
    );
    let run = RunRow {
        run: RunId::from_bytes([1; 16]),
        machine: MachineId::from_bytes([2; 16]),
        name: "k".parse().expect("a name"),
        state: Text::clipped("held"),
        outcome: None,
        settled_at: None,
    };
    golden(
        &Reply::RunRows(List::try_from(vec![run.into()]).expect("one")),
        &format!(
            "1c000000 0100000000000000 {} {} 0100000000000000 6b 0400000000000000 68656c64 00 00 0000000000000000",
            "01".repeat(16),
            "02".repeat(16)
        ),
    );
    let health = Health {
        program: Text::clipped("0"),
        now: 1,
        online: 2,
        machines: 3,
        free_bytes: 4,
        rss_bytes: 5,
        timestamp_until: 6,
    };
    golden(
        &Reply::HubHealth(health.into()),
        "1d000000 0100000000000000 30 0100000000000000 02000000 03000000 0400000000000000 0500000000000000 \
         0600000000000000 0000000000000000",
    );
    let other = OtherHealth { word: 1, about: Text::clipped("x") };
    assert_eq!(hex(&encode(&other).expect("encoded")), "0100010000000000000078");
}

#[test]
fn an_agent_reports_a_skipped_frame() {
    golden(&to_hub::Control::Denied(Denial::Incompatible), "04000000 01000000");
}

#[test]
fn a_peer_of_version_1_receives_an_older_code() {
    let both = |message: &Delivered, new: &str, old: &str| {
        assert_eq!(hex(&encode_for(message, VERSION).expect("encoded")), new);
        assert_eq!(hex(&encode_for(message, Version::OLDEST).expect("encoded")), old);
    };
    both(&Delivered::Refused(Refusal::NewerOrder), "0200000021000000", "0200000000000000");
    let denied = Stored::NotNow(Denial::NewerDocument);
    assert_eq!(hex(&encode_for(&denied, VERSION).expect("encoded")), "0100000023000000");
    assert_eq!(hex(&encode_for(&denied, Version::OLDEST).expect("encoded")), "0100000001000000");
}

#[test]
fn messages_of_version_1_are_unchanged_in_version_2() {
    variants("staff.Reply", 30);
    variants("to_hub.Control", 5);
    variants("Refusal", 34);
    variants("Denial", 36);
    // Messages that did not grow keep their length; see version_1.rs.
    let key = PublicKey::from_bytes([5; 32]);
    let envelope = Envelope {
        key: KeyId::from_bytes([1; 16]),
        signature: fernwart_protocol::id::Signature::from_bytes([2; 64]),
        bytes: Default::default(),
    };
    let news = staff::News::Outcome(envelope, key, Default::default());
    let older = encode_for(&news, Version::OLDEST).expect("encoded");
    assert_eq!(older, encode(&news).expect("encoded"), "written the same way, whoever it is for");
}
