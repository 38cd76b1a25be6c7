//! Outcomes with forged or mismatched receipts.

use super::{attack, identity, incoming, speak};
use fernwart_certs::identity::SigningKey;
use fernwart_protocol::document::{Document, Envelope, Order, Outcome};
use fernwart_protocol::id::Digest;
use fernwart_protocol::link::{Door, Link, Receiver, Sender};
use fernwart_protocol::text::Blob;
use fernwart_protocol::to_agent::Deliver;
use fernwart_protocol::to_hub::{Delivered, SignedOutcome};
use fernwart_tests::World;
use fernwart_tests::rogues::receipt;
use std::process::Stdio;

/// Answers echoes until the next order arrives.
async fn next_order(link: &Link) -> (Sender, Receiver, Envelope) {
    loop {
        let (mut send, mut receive) = link.accept().await.expect("a stream");
        match receive.expect::<Deliver>().await.expect("a word") {
            Deliver::Order(order) => return (send, receive, order),
            echo @ Deliver::Echo(_) => {
                send.send(&echo).await.expect("sent");
                send.finish();
            }
            other => panic!("{other:?}"),
        }
    }
}

/// An outcome whose receipt is signed with this key, for this order or, unless `fits`, for another.
fn signed(envelope: &Envelope, key: &SigningKey, fits: bool) -> SignedOutcome {
    let order = Order::from_bytes(envelope.bytes.as_bytes()).expect("an order");
    let mut receipt = receipt(&order, envelope, Outcome::Failed);
    if !fits {
        receipt.order = Digest::from_bytes([0; 32]);
    }
    let bytes = receipt.to_bytes().expect("written");
    let (key_id, signature) = (order.machine.key_id(), key.sign(&bytes));
    let receipt = Envelope { key: key_id, signature, bytes: Blob::try_from(bytes).expect("short") };
    SignedOutcome { order: envelope.clone(), receipt, body: Blob::default() }
}

#[test]
fn an_outcome_with_a_bad_signature_is_refused_counted_and_reported() {
    let (world, machine) = World::with_one_away("kasse-1");
    let own = identity(&machine.home.join("tls.identity"));
    let evidence = SigningKey::read(&machine.home.join("evidence.key")).expect("a key");
    let forger = SigningKey::generate().expect("a key");
    let counted = || world.metric("fernwart_outcomes_refused_total").expect("counted");
    let health = || {
        let rows = world.technician(&["ls", "-o", "jsonl"]).exits(0).json_lines();
        rows[0]["health"].as_str().unwrap_or_default().to_owned()
    };
    attack(async {
        let link = incoming(&world, Door::Agent, own.chain.clone(), &own.key).await.expect("let in");
        let _words = speak(&link).await;
        let answered_with = async |key: &SigningKey, fits: bool| {
            let mut command = world.command(&["diagnose", "kasse-1", "--section", "memory", "--timeout", "10s"]);
            let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
            // The hub's reply is not read.
            let (mut send, _receive, order) = next_order(&link).await;
            send.send(&Delivered::Outcome(Box::new(signed(&order, key, fits)))).await.expect("sent");
            send.finish();
            let child = child.expect("started");
            let waited = tokio::task::spawn_blocking(move || child.wait_with_output());
            // The hub may ask whether the link is alive meanwhile.
            let output = tokio::select! {
                output = waited => output.expect("waited").expect("ended"),
                _ = next_order(&link) => panic!("no second order"),
            };
            let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            (text.concat(), output.status.code())
        };
        // Proof: signed by the machine's own key it is taken in.
        let (text, code) = answered_with(&evidence, true).await;
        assert!(code != Some(0) && text.contains("failed") && !text.contains("refused its answer"), "{text}");
        assert_eq!(counted(), 0.0);
        for (key, fits, times, alarm) in [
            (&forger, true, 1.0, "a receipt that it has not signed"),
            (&evidence, false, 2.0, "a receipt that does not fit"),
        ] {
            let (text, code) = answered_with(key, fits).await;
            assert!(code != Some(0) && text.contains("the hub has refused its answer"), "{code:?} {text}");
            assert_eq!(counted(), times);
            assert!(health().contains(alarm), "{}", health());
            let events = world.technician(&["events"]).exits(0).json_lines();
            let reported = |line: &&serde_json::Value| {
                line["type"] == "alarm" && line["machine"] == "kasse-1" && line["what"].to_string().contains(alarm)
            };
            assert_eq!(events.iter().filter(reported).count(), 1, "{events:?}");
            assert!(world.hub.log().contains(alarm) && world.hub.log().contains("kasse-1"), "{}", world.hub.log());
        }
    });
    world.technician(&["acknowledge", "kasse-1"]).exits(0);
    assert!(!health().contains("receipt"), "{}", health());
}
