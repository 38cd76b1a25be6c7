//! Compares the table of variants with the enums themselves, so that a variant added without
//! updating the table fails here.

#![allow(clippy::expect_used, reason = "a test may fail loudly")]

use fernwart_protocol::code::{Denial, Refusal};
use fernwart_protocol::codec::decode;
use fernwart_protocol::document::Outcome;
use fernwart_protocol::event::{Happened, Until};
use fernwart_protocol::version::Version;
use fernwart_protocol::version::variants::{known, names};
use fernwart_protocol::{enroll, staff, to_agent, to_hub};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;

/// How many variants a decoder knows: serde's error for a number beyond them states it.
fn decoded<T: DeserializeOwned + std::fmt::Debug>() -> u32 {
    let error = decode::<T>(&u32::MAX.to_le_bytes()).expect_err("no such variant");
    let source = std::error::Error::source(&error).expect("a cause").to_string();
    let (_, count) = source.rsplit_once("0 <= i < ").unwrap_or_else(|| panic!("{source}"));
    count.parse().unwrap_or_else(|_| panic!("{source}"))
}

#[test]
fn the_table_lists_the_variant_count_of_every_wire_enum() {
    let of_codes = |all: usize| u32::try_from(all).expect("few");
    let all = [
        ("Admission", decoded::<staff::Admission>()),
        ("Ask", decoded::<to_hub::Ask>()),
        ("Deliver", decoded::<to_agent::Deliver>()),
        ("Delivered", decoded::<to_hub::Delivered>()),
        ("Denial", of_codes(Denial::ALL.len())),
        ("Fetched", decoded::<to_agent::Fetched>()),
        ("GivenBack", decoded::<to_hub::GivenBack>()),
        ("Happened", decoded::<Happened>()),
        ("Membership", decoded::<staff::Membership>()),
        ("News", decoded::<staff::News>()),
        ("Note", decoded::<to_hub::Note>()),
        ("Outcome", decoded::<Outcome>()),
        ("Presence", decoded::<staff::Presence>()),
        ("Refusal", of_codes(Refusal::ALL.len())),
        ("Renewed", decoded::<to_agent::Renewed>()),
        ("RunState", decoded::<to_hub::RunState>()),
        ("Stored", decoded::<to_agent::Stored>()),
        ("Stream", decoded::<to_hub::Stream>()),
        ("TokenKind", decoded::<staff::TokenKind>()),
        ("Until", decoded::<Until>()),
        ("Verdict", decoded::<staff::Verdict>()),
        ("enroll.Reply", decoded::<enroll::Reply>()),
        ("enroll.Request", decoded::<enroll::Request>()),
        ("staff.Reply", decoded::<staff::Reply>()),
        ("staff.Request", decoded::<staff::Request>()),
        ("to_agent.Control", decoded::<to_agent::Control>()),
        ("to_hub.Control", decoded::<to_hub::Control>()),
    ];
    for (name, count) in all {
        assert_eq!(known(name, Version::NEWEST), Some(count), "{name}: see version/variants.rs");
    }
    let tried: BTreeSet<_> = all.iter().map(|(name, _)| *name).collect();
    assert_eq!(tried, names().collect(), "each enum of the table is tried");
}
