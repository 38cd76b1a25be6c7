//! No external bytes make the decoder panic or allocate more memory than their length. Decoding an
//! encoded value restores it.

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
    fn no_message_decoder_panics_on_garbage(variant in 0u32..32, rest in proptest::collection::vec(any::<u8>(), 0..600)) {
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
    fn a_false_length_prefix_is_rejected(length in any::<u64>(), rest in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(&rest);
        let list = decode::<List<u8, 64>>(&bytes);
        prop_assert_eq!(list.is_ok(), length == rest.len() as u64);
        let text = decode::<Text<64>>(&bytes);
        prop_assert!(text.is_err() || length == rest.len() as u64);
    }

    #[test]
    fn a_text_is_decoded_unchanged_and_printed_without_control_characters(text in "\\PC{0,40}|[\\x00-\\x1f\\x7f-\\u{9f}a-z]{0,40}") {
        let text = Text::<200>::clipped(&text);
        let bytes = encode(&text).expect("encoded");
        prop_assert_eq!(&decode::<Text<200>>(&bytes).expect("decoded"), &text);
        prop_assert!(!escaped(text.as_raw()).chars().any(char::is_control));
        prop_assert_eq!(text.to_string(), escaped(text.as_raw()));
    }

    #[test]
    fn any_host_name_becomes_a_valid_machine_name(hostname in ".{0,80}", number in 2u64..100_000) {
        let name = MachineName::from_hostname(&hostname);
        prop_assert!(name.as_str().parse::<MachineName>().is_ok());
        prop_assert!(name.numbered(number).as_str().parse::<MachineName>().is_ok());
    }
}
