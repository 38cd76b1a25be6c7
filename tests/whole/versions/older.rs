//! Peers of version 1: what they send was recorded from the programs of 0.2.0, byte for byte, and they must
//! be sent only what version 1 knows.

use super::{Next, Scripted, Stream, command, play, printed, recorded};
use fernwart_certs::identity::TlsIdentity;
use fernwart_certs::sha256;
use fernwart_protocol::codec::encode;
use fernwart_protocol::document::Outcome;
use fernwart_protocol::event::Until;
use fernwart_protocol::id::JobId;
use fernwart_protocol::link::Door;
use fernwart_protocol::staff::{Reply, Request};
use fernwart_protocol::to_agent::{Control, Deliver, Stored};
use fernwart_protocol::to_hub::{Delivered, RunState};
use fernwart_protocol::version::{Hello, tag};
use fernwart_tests::World;
use fernwart_tests::rogues::{Target, dial};

#[test]
fn a_version_1_machine_is_sent_only_version_1_messages() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let newer = world.add_machine("kasse-2");
    play(async {
        let first = recorded("fernwart-agent", "to_hub::Ask").remove(0);
        let mut old = Scripted::in_place_of(&world, &mut machine, &first).await;
        let Control::Hello(hello) = old.control.receive_old::<Control>().await else { panic!("no hello") };
        assert!(hello.current > 1, "the hub says what it speaks");
        assert!(matches!(old.control.receive_old::<Control>().await, Control::CatalogueChanged { .. }));
        old.control.put(&recorded("fernwart-agent", "to_hub::Control").remove(0)).await;

        // Diagnosed beside a new one, from the order to the hub's signature.
        let asked = command(&world, &["diagnose", "all", "--section", "time", "-o", "jsonl"]);
        let (mut stream, delivered) = old.delivery().await;
        let Deliver::Order(order) = delivered else { panic!("{delivered:?}") };
        stream.say(&Delivered::State(RunState::Started)).await;
        stream.say(&old.outcome(&order, Outcome::Ok, |receipt| receipt)).await;
        assert!(matches!(stream.receive_old::<Stored>().await, Stored::Countersigned(_)));
        let (text, _) = printed(asked);
        assert!(text.contains("\"machine\":\"kasse-1\"") && text.contains("\"answered\":1"), "{text}");

        // And when the hub leaves.
        world.hub.stop();
        assert!(matches!(old.control.receive_old::<Control>().await, Control::Goodbye { .. }));
    });
    drop(newer);
}

#[test]
fn a_version_1_technician_is_sent_only_version_1_replies() {
    let world = World::new();
    let _machine = world.add_machine("kasse-1");
    assert!(world.technician(&["diagnose", "kasse-1", "--section", "time"]).code <= 1);
    let line = world.invitation(&["Bäckerei Meyer"]);
    world.owner_in("kasse-2", &["enroll", &line, "--policy", "ask", "--no-service"]).exits(0);
    let identity = TlsIdentity::read(&world.shop().join("staff/staff.identity")).expect("an identity");
    let pin = sha256(&std::fs::read(world.shop().join("hub/ca.der")).expect("the CA"));
    play(async {
        let hub = Target { address: world.address, pin };
        let (_endpoint, link) = dial(hub, Some(&identity), Door::Staff, 64 * 1024).await;
        let hello = recorded("fernwart", "version::Hello").remove(0);
        // All recorded requests that need no id of this world, such as lists.
        let asks = recorded("fernwart", "staff::Request").into_iter().filter(|ask| ask.len() == 4);
        // And requests about the first job and about events.
        let of_job = [Request::Job(JobId(1)), Request::Watch(JobId(1)), Request::Events(Until::Now)];
        let asks: Vec<Vec<u8>> = asks.chain(of_job.iter().map(|ask| encode(ask).expect("encoded"))).collect();
        assert!(asks.len() >= 11, "{}", asks.len());
        let mut kinds = std::collections::BTreeSet::new();
        for ask in asks {
            let mut stream = Stream::open(&link).await;
            stream.put(&hello).await;
            stream.put(&ask).await;
            stream.send.finish().expect("ended");
            let hello: Hello = stream.receive_old().await;
            assert!(hello.number(tag::CLOCK).is_some());
            loop {
                match stream.receive_old::<Reply>().await {
                    Reply::Done => break,
                    Reply::Denied(denial) => panic!("{ask:?}: {denial}"),
                    Reply::Machines(rows) => {
                        assert_eq!(rows.as_slice().len(), 1);
                        kinds.insert("machines");
                    }
                    Reply::Customers(_) => drop(kinds.insert("customers")),
                    Reply::Health(_) => drop(kinds.insert("health")),
                    Reply::Pending(..) => drop(kinds.insert("pending")),
                    Reply::Jobs(_) => drop(kinds.insert("jobs")),
                    Reply::Runs(_) => drop(kinds.insert("runs")),
                    Reply::Update(_) => drop(kinds.insert("update")),
                    Reply::Event(_) => drop(kinds.insert("event")),
                    _ => {}
                }
            }
            assert_eq!(stream.next().await, Next::Ended);
        }
        assert_eq!(kinds.len(), 8, "{kinds:?}");
    });
}
