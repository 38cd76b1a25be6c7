//! Frames captured from the real programs 0.2.0: they decode, encode to the same bytes, and need no
//! newer version.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use fernwart_protocol::codec::{decode, encode_for};
use fernwart_protocol::version::Version;
use fernwart_protocol::{enroll, staff, to_agent, to_hub, version};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;

const FRAMES: &str = include_str!("data/frames-0.2.0.txt");

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().map(|c| u8::try_from(c.to_digit(16).expect("hex")).expect("small")).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn again<T: Serialize + DeserializeOwned>(body: &[u8]) {
    let message: T = decode(body).expect("read");
    assert_eq!(encode_for(&message, Version::OLDEST).expect("known to version 1"), body);
}

#[test]
fn captured_frames_of_released_programs_decode_and_encode_to_the_same_bytes() {
    let mut kinds = BTreeSet::new();
    for line in FRAMES.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, kind, body] = words.as_slice() else { panic!("{line}") };
        let body = bytes(body);
        match *kind {
            "version::Hello" => again::<version::Hello>(&body),
            "to_hub::Ask" => again::<to_hub::Ask>(&body),
            "to_hub::Control" => again::<to_hub::Control>(&body),
            "to_hub::Delivered" => again::<to_hub::Delivered>(&body),
            "to_agent::Control" => again::<to_agent::Control>(&body),
            "to_agent::Deliver" => again::<to_agent::Deliver>(&body),
            "to_agent::Stored" => again::<to_agent::Stored>(&body),
            "to_agent::Fetched" => again::<to_agent::Fetched>(&body),
            "to_agent::CatalogueFile" => again::<to_agent::CatalogueFile>(&body),
            "enroll::Request" => again::<enroll::Request>(&body),
            "enroll::Reply" => again::<enroll::Reply>(&body),
            "staff::Request" => again::<staff::Request>(&body),
            "staff::Orders" => again::<staff::Orders>(&body),
            "staff::Reply" => again::<staff::Reply>(&body),
            other => panic!("a frame of an unknown kind: {other}"),
        }
        kinds.insert((*kind).to_owned());
    }
    assert_eq!(kinds.len(), 14, "{kinds:?}");
}
