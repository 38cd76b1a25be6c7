//! The bytes of protocol version 1, as the programs 0.2.0 use them. NEVER edit the literals or
//! counts below to make a test pass: released programs send exactly these. If a test fails, the
//! code is wrong. Each later version has a file of its own.

#![allow(clippy::expect_used, reason = "a test may fail loudly")]

use fernwart_protocol::code::{Denial, Refusal};
use fernwart_protocol::codec::{decode, encode_for};
use fernwart_protocol::document::{Document, Envelope, Order, Versions};
use fernwart_protocol::enroll;
use fernwart_protocol::event::{Event, Happened, Named, Until};
use fernwart_protocol::id::{BootId, Digest, JobId, KeyId, MachineId, RunId, Signature};
use fernwart_protocol::staff;
use fernwart_protocol::text::{Blob, List, Text};
use fernwart_protocol::to_agent::{self, CatalogueFile, Deliver, Fetched, Stored};
use fernwart_protocol::to_hub::{self, About, Ask, Delivered, RunState};
use fernwart_protocol::version::variants::known;
use fernwart_protocol::version::{Hello, Version};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[track_caller]
fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(message: &T, literal: &str) {
    let bytes = encode_for(message, Version::OLDEST).expect("encoded");
    assert_eq!(hex(&bytes), literal.replace(char::is_whitespace, ""));
    assert_eq!(&decode::<T>(&bytes).expect("decoded"), message);
}

/// How many variants version 1 knows.
#[track_caller]
fn variants(name: &str, count: u32) {
    assert_eq!(known(name, Version::OLDEST), Some(count), "{name}");
}

fn envelope() -> Envelope {
    Envelope {
        key: KeyId::from_bytes([1; 16]),
        signature: Signature::from_bytes([2; 64]),
        bytes: Blob::try_from(b"x".to_vec()).expect("short"),
    }
}

#[test]
fn hello_is_frozen() {
    let tags = List::try_from(vec![(3u16, Blob::try_from(vec![9, 8]).expect("short"))]).expect("one");
    golden(&Hello { min: 1, current: 1, tags }, "0100 0100 0100000000000000 0300 0200000000000000 0908");
}

#[test]
fn messages_of_an_agent() {
    let about = About {
        boot: BootId::from_bytes([1; 16]),
        os: Text::clipped("debian-12"),
        journal_seq: 5,
        journal_head: Digest::from_bytes([2; 32]),
        chain_seq: 6,
        chain_head: Digest::from_bytes([3; 32]),
    };
    let hello = Hello { min: 1, current: 1, tags: List::default() };
    let ones = "01".repeat(16);
    let (twos, threes) = ("02".repeat(32), "03".repeat(32));
    golden(
        &Ask::Control(hello, about),
        &format!(
            "00000000 0100 0100 0000000000000000 {ones} 0900000000000000 64656269616e2d3132 0500000000000000 {twos} 0600000000000000 {threes}"
        ),
    );
    let versions = Versions { root: 1, targets: 2, snapshot: 3, timestamp: 4 };
    golden(&Ask::Fetch(versions), "01000000 0100000000000000 0200000000000000 0300000000000000 0400000000000000");
    golden(&Ask::Renew(Blob::try_from(vec![7]).expect("short")), "03000000 0100000000000000 07");
    golden(&Delivered::State(RunState::Started), "00000000 02000000");
    golden(&Delivered::Refused(Refusal::BadSignature), "02000000 01000000");
    golden(&to_hub::Control::Goodbye, "01000000");
    variants("Ask", 5);
    variants("Delivered", 4);
    variants("RunState", 3);
    variants("Note", 5);
    variants("Stream", 2);
    golden(
        &to_hub::Control::Journal(7, fernwart_protocol::id::Digest::from_bytes([9; 32])),
        &format!("03000000 0700000000000000 {}", "09".repeat(32)),
    );
    variants("to_hub.Control", 4);
}

#[test]
fn messages_of_a_hub_to_agents() {
    let sealed = format!("{} {} 0100000000000000 78", "01".repeat(16), "02".repeat(64));
    golden(&Deliver::Order(envelope()), &format!("00000000 {sealed}"));
    golden(&Deliver::Echo(5), "01000000 0500000000000000");
    golden(&to_agent::Control::CatalogueChanged { timestamp: 7 }, "01000000 0700000000000000");
    golden(&to_agent::Control::Lock(envelope()), &format!("02000000 {sealed}"));
    golden(&to_agent::Control::Cancel(envelope()), &format!("03000000 {sealed}"));
    golden(&to_agent::Control::Goodbye { retry_after_ms: 9 }, "04000000 09000000");
    golden(&to_agent::Control::Denied(Denial::Incompatible), "05000000 01000000");
    golden(&Stored::Countersigned(envelope()), &format!("00000000 {sealed}"));
    let file = CatalogueFile { name: Text::clipped("a"), bytes: Blob::try_from(vec![1, 2]).expect("short") };
    golden(&Fetched::File(file), "00000000 0100000000000000 61 0200000000000000 0102");
    golden(&Deliver::TakenBack(envelope(), envelope()), &format!("02000000 {sealed} {sealed}"));
    golden(&Deliver::Begun(envelope(), None), &format!("03000000 {sealed} 00"));
    golden(&Deliver::Begun(envelope(), Some(envelope())), &format!("03000000 {sealed} 01 {sealed}"));
    variants("Deliver", 4);
    variants("to_agent.Control", 6);
    variants("Stored", 2);
    variants("Fetched", 3);
    variants("Renewed", 2);
}

#[test]
fn messages_of_newcomers_and_technicians() {
    let claim = enroll::Claim {
        machine: MachineId::from_bytes([1; 16]),
        tls_key: Blob::try_from(vec![5]).expect("short"),
        signature: Signature::from_bytes([2; 64]),
    };
    let literal = format!("{} 0100000000000000 05 {}", "01".repeat(16), "02".repeat(64));
    golden(&enroll::Request::Collect(claim.clone()), &format!("01000000 {literal}"));
    golden(&enroll::Request::Return(claim), &format!("02000000 {literal}"));
    golden(&enroll::Reply::Denied(Denial::TokenSpent), "02000000 14000000");
    golden(&staff::Request::Machines, "00000000");
    golden(&staff::Request::Watch(JobId(3)), "0d000000 0300000000000000");
    golden(&staff::Request::Renew, "19000000");
    golden(&staff::Request::Events(Until::Left), "23000000 01000000");
    let update = staff::Update {
        run: RunId::from_bytes([1; 16]),
        machine: MachineId::from_bytes([2; 16]),
        news: staff::News::Away,
    };
    golden(&staff::Reply::Update(update), &format!("08000000 {} {} 00000000", "01".repeat(16), "02".repeat(16)));
    let named = Named {
        id: MachineId::from_bytes([2; 16]),
        name: "kasse-1".parse().expect("a name"),
        customer: Text::clipped("m"),
    };
    let event = Event { life: 5, seq: 6, at: 7, what: Happened::Left(named, Text::clipped("silent")) };
    let literal = format!(
        "17000000 0500000000000000 0600000000000000 0700000000000000 02000000 {} 0700000000000000 6b617373652d31 \
         0100000000000000 6d 0600000000000000 73696c656e74",
        "02".repeat(16)
    );
    golden(&staff::Reply::Event(event), &literal);
    variants("Happened", 18);
    variants("Until", 2);
    variants("enroll.Request", 5);
    variants("enroll.Reply", 3);
    variants("staff.Request", 36);
    variants("staff.Reply", 24);
    variants("News", 10);
    variants("Presence", 2);
    variants("Verdict", 4);
    variants("Refusal", 33);
    variants("Denial", 35);
    golden(&Denial::TooManyTags, "21000000");
    golden(&Denial::QuestionsBusy, "22000000");
}

#[test]
fn the_signed_bytes_of_an_order_are_frozen() {
    let text = format!(
        "fernwart order 1\n{{\"run\":\"{}\",\"machine\":\"{}\",\"machine_name\":\"kasse-1\",\"customer\":\"{}\",\
         \"action\":{{\"diagnose\":{{\"sections\":[\"disks\"]}}}},\"key\":\"{}\",\"reason\":\"why\",\"targets_version\":7,\
         \"not_before\":1,\"not_after\":2}}\n",
        "01".repeat(16),
        "02".repeat(16),
        "03".repeat(16),
        "04".repeat(16)
    );
    let order = Order::from_bytes(text.as_bytes()).expect("an order");
    assert_eq!(String::from_utf8(order.to_bytes().expect("written")).expect("text"), text);
}
