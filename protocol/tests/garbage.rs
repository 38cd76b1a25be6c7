//! No bytes from outside make the decoder panic, or take more memory than they
//! are long; and what was encoded comes back as it was.

#![allow(clippy::expect_used, reason = "a test may fail loudly")]

use fernwart_protocol::codec::{decode, encode};
use fernwart_protocol::diagnosis::Report;
use fernwart_protocol::document::{Cancel, Countersignature, Document, Lock, Order, Receipt, Retirement};
use fernwart_protocol::text::{List, MachineName, Text, escaped};
use fernwart_protocol::{enroll, staff, to_agent, to_hub, version};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn garbage_is_refused_by_every_kind_of_message(variant in 0u32..32, rest in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut bytes = variant.to_le_bytes().to_vec();
        bytes.extend(rest);
        let _ = decode::<version::Hello>(&bytes);
        let _ = decode::<to_hub::Ask>(&bytes);
        let _ = decode::<to_hub::Delivered>(&bytes);
        let _ = decode::<to_hub::Control>(&bytes);
        let _ = decode::<to_agent::Control>(&bytes);
        let _ = decode::<to_agent::Deliver>(&bytes);
        let _ = decode::<to_agent::Fetched>(&bytes);
        let _ = decode::<to_agent::Stored>(&bytes);
        let _ = decode::<enroll::Request>(&bytes);
        let _ = decode::<enroll::Reply>(&bytes);
        let _ = decode::<staff::Request>(&bytes);
        let _ = decode::<staff::Reply>(&bytes);
        let _ = Report::unpack(&bytes);
        let _ = Order::from_bytes(&bytes);
        let _ = Cancel::from_bytes(&bytes);
        let _ = Retirement::from_bytes(&bytes);
        let _ = Lock::from_bytes(&bytes);
        let _ = Receipt::from_bytes(&bytes);
        let _ = Countersignature::from_bytes(&bytes);
    }

    #[test]
    fn a_length_that_lies_takes_no_memory(length in any::<u64>(), rest in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(&rest);
        let list = decode::<List<u8, 64>>(&bytes);
        prop_assert_eq!(list.is_ok(), length == rest.len() as u64);
        let text = decode::<Text<64>>(&bytes);
        prop_assert!(text.is_err() || length == rest.len() as u64);
    }

    #[test]
    fn a_text_survives_and_never_acts_on_a_terminal(text in "\\PC{0,40}|[\\x00-\\x1f\\x7f-\\u{9f}a-z]{0,40}") {
        let text = Text::<200>::clipped(&text);
        let bytes = encode(&text).expect("encoded");
        prop_assert_eq!(&decode::<Text<200>>(&bytes).expect("decoded"), &text);
        prop_assert!(!escaped(text.as_raw()).chars().any(char::is_control));
        prop_assert_eq!(text.to_string(), escaped(text.as_raw()));
    }

    #[test]
    fn whatever_a_machine_calls_itself_becomes_a_name(hostname in ".{0,80}", number in 2u64..100_000) {
        let name = MachineName::from_hostname(&hostname);
        prop_assert!(name.as_str().parse::<MachineName>().is_ok());
        prop_assert!(name.numbered(number).as_str().parse::<MachineName>().is_ok());
    }
}
