//! Peers of the next version send messages that are unknown today: they are answered, the link stays,
//! nothing is lost. From a peer of today the same is misbehaviour.

use super::{INCOMPATIBLE, Next, Scripted, Stream, UNKNOWN, command, play, printed};
use crate::hostile::evil_hub::{Answer, EvilHub};
use fernwart_certs::envelope::seal;
use fernwart_certs::identity::TlsIdentity;
use fernwart_certs::sha256;
use fernwart_client::StaffHome;
use fernwart_protocol::code::{Denial, Goodbye, Refusal};
use fernwart_protocol::codec::{decode, encode};
use fernwart_protocol::document::{Document, Envelope, Order, Outcome};
use fernwart_protocol::enroll;
use fernwart_protocol::link::{Door, FrameError};
use fernwart_protocol::row::{self, Row};
use fernwart_protocol::staff::{JobHead, MachineRow, Orders, OtherHealth, Presence, Reply, Request, Verdict};
use fernwart_protocol::text::{Blob, List, Text};
use fernwart_protocol::to_agent::{Control, Deliver, Stored};
use fernwart_protocol::to_hub::{self, Ask, Delivered};
use fernwart_protocol::version::{CURRENT, Hello};
use fernwart_tests::rogues::{Target, dial, introduction};
use fernwart_tests::{World, wait_until};

/// The first message of a machine that speaks this version.
fn first_words(current: u16) -> Vec<u8> {
    let Ask::Control(hello, about) = introduction() else { panic!("an introduction") };
    encode(&Ask::Control(Hello { current, ..hello }, about)).expect("encoded")
}

async fn greeted(machine: &mut Scripted) {
    assert!(matches!(machine.control.receive::<Control>().await, Control::Hello(_)));
    assert!(matches!(machine.control.receive::<Control>().await, Control::CatalogueChanged { .. }));
}

fn target(world: &World) -> Target {
    Target { address: world.address, pin: sha256(&std::fs::read(world.shop().join("hub/ca.der")).expect("the CA")) }
}

/// A document as a program of version 9 would sign it.
fn of_version_9(envelope: &Envelope, staff: &StaffHome) -> Envelope {
    let text = String::from_utf8(envelope.bytes.as_bytes().to_vec()).expect("text");
    let (first, json) = text.split_once('\n').expect("two lines");
    let kind = first.rsplit_once(' ').expect("a version").0;
    let bytes = format!("{kind} 9\n{}", json.replacen('{', "{\"new\":1,", 1)).into_bytes();
    let signature = staff.order_key.sign(&bytes);
    Envelope { key: envelope.key, signature, bytes: Blob::try_from(bytes).expect("short") }
}

#[test]
fn unknown_messages_of_a_newer_machine_are_denied_and_its_link_stays() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    play(async {
        let mut new = Scripted::in_place_of(&world, &mut machine, &first_words(CURRENT + 1)).await;
        greeted(&mut new).await;
        for frame in [&UNKNOWN[..], &[3, 0, 0, 0], &[0; 64]] {
            // An unknown request: its stream is turned away.
            let mut stream = Stream::open(&new.link).await;
            stream.put(frame).await;
            assert_eq!(stream.next().await, Next::Reset(INCOMPATIBLE), "{frame:?}");
            // An unknown control message: it is denied, and the next one is read.
            new.control.put(frame).await;
            assert_eq!(new.control.receive::<Control>().await, Control::Denied(Denial::Incompatible));
        }
        new.control.say(&to_hub::Control::Following(Default::default())).await;
        assert!(new.stays().await);

        // An unknown answer to an order: the technician is told why, and the machine still gets orders.
        let words = ["diagnose", "kasse-1", "--section", "time"];
        let asked = command(&world, &words);
        let (mut stream, Deliver::Order(_)) = new.delivery().await else { panic!("no order") };
        stream.put(&UNKNOWN).await;
        assert_eq!(stream.next().await, Next::Reset(INCOMPATIBLE));
        let (text, code) = printed(asked);
        assert!(text.contains("FW-HUB-02") && code == 5, "{code}: {text}");

        // Unknown codes: read as `other`, shown, stored.
        let asked = command(&world, &words);
        let (mut stream, _) = new.delivery().await;
        // Delivered::Refused with reason 57.
        stream.put(&[2, 0, 0, 0, 57, 0, 0, 0]).await;
        let (text, code) = printed(asked);
        assert!(text.contains("[other(57)]") && code == 3, "{code}: {text}");
        let asked = command(&world, &words);
        let (mut stream, delivered) = new.delivery().await;
        let Deliver::Order(order) = delivered else { panic!("{delivered:?}") };
        let refused = |text: String| text.replace("\"body\":", "\"refusal\":\"FW-GATE-99\",\"body\":");
        stream.say(&new.outcome(&order, Outcome::Refused, refused)).await;
        assert!(matches!(stream.receive::<Stored>().await, Stored::Countersigned(_)), "acknowledged like any other");
        let (text, code) = printed(asked);
        assert!(text.contains("[FW-GATE-99]") && code == 3, "{code}: {text}");
        let events = world.technician(&["events", "-o", "jsonl"]).exits(0).out;
        assert!(events.contains("\"other(57)\""), "{events}");

        // A receipt of a version that this hub cannot read: the machine keeps it until the hub can.
        let asked = command(&world, &words);
        let (mut stream, delivered) = new.delivery().await;
        let Deliver::Order(order) = delivered else { panic!("{delivered:?}") };
        let newer = |text: String| text.replace("fernwart receipt 1", "fernwart receipt 9");
        stream.say(&new.outcome(&order, Outcome::Ok, newer)).await;
        assert_eq!(stream.receive::<Stored>().await, Stored::NotNow(Denial::NewerDocument));
        let (text, code) = printed(asked);
        assert!(text.contains("FW-HUB-34") && code == 5, "{code}: {text}");
        assert!(new.stays().await);
        let counted = world.metric("fernwart_newer_frames_total").expect("counted");
        assert!(counted >= 7.0, "{counted}");
    });
    let states = world.technician(&["job", "show", "2", "-o", "jsonl"]).exits(0).json_lines();
    assert_eq!(states[0]["state"], "refused");
}

#[test]
fn unknown_messages_of_a_current_machine_close_its_link() {
    let world = World::new();
    for (name, on_control) in [("kasse-1", false), ("kasse-2", true)] {
        let mut machine = world.add_machine(name);
        play(async {
            let mut new = Scripted::in_place_of(&world, &mut machine, &first_words(CURRENT)).await;
            greeted(&mut new).await;
            if on_control {
                new.control.put(&UNKNOWN).await;
            } else {
                Stream::open(&new.link).await.put(&UNKNOWN).await;
            }
            let quinn::ConnectionError::ApplicationClosed(close) = new.link.closed().await else {
                panic!("not closed")
            };
            assert_eq!(close.error_code.into_inner(), u64::from(Goodbye::Misbehaved.number()));
        });
    }
}

#[test]
fn unknown_messages_of_a_newer_hub_are_denied_and_the_link_stays() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    play(async {
        let mut hub = EvilHub::take_as(&mut world, &machine, CURRENT + 1).await;
        for _ in 0..3 {
            hub.control.send_body(&UNKNOWN).await.expect("sent");
            let word = hub.next_word(|word| matches!(word, to_hub::Control::Denied(_))).await;
            assert_eq!(word, to_hub::Control::Denied(Denial::Incompatible));
        }
        // A denial that it does not know, for something it never asked.
        hub.control.send(&Control::Denied(decode(&99u32.to_le_bytes()).expect("read"))).await.expect("sent");

        let (mut send, mut receive) = hub.link.open().await.expect("a stream");
        send.send_body(&UNKNOWN).await.expect("sent");
        let answer = receive.next::<Deliver>().await;
        assert!(matches!(answer, Err(FrameError::Rejected)), "{answer:?}");

        // An order of a later version: refused with its reason, and nothing is kept.
        let newer = of_version_9(&hub.signed(|_| {}), &hub.staff);
        assert_eq!(hub.deliver(&newer).await, Answer::Refused(Refusal::NewerOrder));

        // An unknown reply to an outcome: the outcome is kept, and offered again.
        let order = hub.signed(|_| {});
        let (mut send, mut receive) = hub.link.open().await.expect("a stream");
        send.send(&Deliver::Order(order.clone())).await.expect("sent");
        while !matches!(receive.expect::<Delivered>().await.expect("a word"), Delivered::Outcome(_)) {}
        send.send_body(&UNKNOWN).await.expect("sent");
        drop((send, receive));
        let Answer::Outcome(..) = hub.deliver(&order).await else { panic!("it is kept") };
        assert!(hub.link.end().is_none(), "the link stands");
    });
    drop(world);
}

#[test]
fn unknown_messages_of_a_current_hub_close_the_link() {
    for on_control in [true, false] {
        let mut world = World::new();
        let machine = world.add_machine("kasse-1");
        play(async {
            let mut hub = EvilHub::take_as(&mut world, &machine, CURRENT).await;
            let mut streams = Vec::new();
            if on_control {
                hub.control.send_body(&UNKNOWN).await.expect("sent");
            } else {
                let mut stream = hub.link.open().await.expect("a stream");
                stream.0.send_body(&UNKNOWN).await.expect("sent");
                streams.push(stream);
            }
            let end = hub.link.closed().await;
            assert_eq!(end, fernwart_protocol::link::LinkError::Closed(Goodbye::Misbehaved));
        });
    }
}

#[test]
fn requests_of_a_newer_technician_are_denied_as_incompatible() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let identity = TlsIdentity::read(&world.shop().join("staff/staff.identity")).expect("an identity");
    let staff = StaffHome::open(&world.shop().join("staff")).expect("a home");
    let row = world.technician(&["ls", "-o", "jsonl"]).exits(0).json_lines().remove(0);
    assert_eq!(row["name"], "kasse-1");
    play(async {
        let (_endpoint, link) = dial(target(&world), Some(&identity), Door::Staff, 64 * 1024).await;
        let ask = async |current: u16, bodies: &[Vec<u8>]| {
            let mut stream = Stream::open(&link).await;
            stream.say(&Hello { current, ..Hello::new(&[]) }).await;
            for body in bodies {
                stream.put(body).await;
            }
            let _: Hello = stream.receive().await;
            stream.receive::<Reply>().await
        };
        assert_eq!(ask(CURRENT + 1, &[UNKNOWN.to_vec()]).await, Reply::Denied(Denial::Incompatible));
        // An order of a later version: its job is denied.
        let head = JobHead { action: Text::clipped("x"), reason: Text::default(), orders: 1, parallel: 0 };
        let order = order_for(&staff, &machine.home);
        let orders = Orders(List::try_from(vec![of_version_9(&order, &staff)]).expect("one"));
        let bodies = [encode(&Request::Submit(head)).expect("encoded"), encode(&orders).expect("encoded")];
        assert_eq!(ask(CURRENT + 1, &bodies).await, Reply::Denied(Denial::NewerDocument));
        assert!(matches!(
            ask(CURRENT + 1, &[encode(&Request::Customers).expect("encoded")]).await,
            Reply::CustomerRows(_)
        ));

        // The enrollment door has no hello: a newer request is known by its number.
        let (_endpoint, outsider) = dial(target(&world), None, Door::Enroll, 64 * 1024).await;
        for _ in 0..2 {
            let mut stream = Stream::open(&outsider).await;
            stream.put(&UNKNOWN).await;
            assert_eq!(stream.receive::<enroll::Reply>().await, enroll::Reply::Denied(Denial::Incompatible));
        }
        Stream::open(&outsider).await.put(&[255; 8]).await;
        let quinn::ConnectionError::ApplicationClosed(close) = outsider.closed().await else { panic!("not closed") };
        assert_eq!(close.error_code.into_inner(), u64::from(Goodbye::Misbehaved.number()));

        // The same from a technician of today.
        let mut stream = Stream::open(&link).await;
        stream.say(&Hello::new(&[])).await;
        stream.put(&UNKNOWN).await;
        let quinn::ConnectionError::ApplicationClosed(close) = link.closed().await else { panic!("not closed") };
        assert_eq!(close.error_code.into_inner(), u64::from(Goodbye::Misbehaved.number()));
    });
    let jobs = world.technician(&["job", "ls", "-o", "jsonl"]).exits(0).json_lines();
    assert!(jobs.is_empty(), "{jobs:?}");
}

/// An order for a machine, signed by the founding technician.
fn order_for(staff: &StaffHome, home: &std::path::Path) -> Envelope {
    let enrollment = fernwart_agent::home::Home::at(home).enrollment().expect("enrolled");
    let now = fernwart_agent::now();
    let order = Order {
        run: fernwart_protocol::id::RunId::from_bytes(fernwart_certs::random()),
        machine: enrollment.machine,
        machine_name: "kasse-1".parse().expect("a name"),
        customer: enrollment.customer,
        action: fernwart_protocol::document::Action::Diagnose { sections: List::default() },
        key: staff.key_id(),
        reason: Text::default(),
        targets_version: 1,
        not_before: now - 1000,
        not_after: now + 60_000,
        sealed: None,
        session_key: None,
    };
    assert!(order.to_bytes().is_ok());
    seal(&order, &staff.order_key, fernwart_protocol::version::Version::OLDEST).expect("signed")
}

#[test]
fn a_technician_reads_a_newer_hubs_replies_and_shows_unknown_ones_as_such() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    drop(machine);
    play(async {
        let hub = EvilHub::listen(&mut world);
        let serve = async |words: &[&str], replies: &[Vec<u8>]| {
            let asked = command(&world, words);
            let link = hub.accept().await.expect("open").finish().await.expect("linked");
            let (mut send, mut receive) = link.accept().await.expect("a stream");
            let _: Hello = receive.expect().await.expect("a hello");
            let _: Request = receive.expect().await.expect("a request");
            send.send(&Hello { current: CURRENT + 1, ..Hello::new(&[]) }).await.expect("sent");
            for reply in replies {
                send.send_body(reply).await.expect("sent");
            }
            send.delivered().await.expect("heard");
            let printed = printed(asked);
            drop(link);
            printed
        };
        let done = encode(&Reply::Done).expect("encoded");
        let row = MachineRow {
            id: fernwart_protocol::id::MachineId::from_bytes([1; 16]),
            name: "kasse-9".parse().expect("a name"),
            customer: fernwart_protocol::id::CustomerId::from_bytes([2; 16]),
            customer_name: Text::clipped("Meyer"),
            os: Text::clipped("debian-14"),
            presence: Presence::Away,
            health_in_version_1: Verdict::Unknown,
            seen_at: 1,
            labels: List::default(),
            groups: List::default(),
            certificate_until: 1,
            agent: Text::clipped("0.9.0"),
        };
        let health = OtherHealth { word: 5, about: Text::clipped("disk.asleep /var") };
        let row = Row::from(row).with(4711, &"something new").with(row::tag::HEALTH, &health);
        let rows = encode(&Reply::MachineRows(List::try_from(vec![row]).expect("one"))).expect("encoded");
        let (text, code) = serve(&["ls"], &[rows, done.clone()]).await;
        assert!(text.contains("kasse-9") && text.contains("other(5): disk.asleep /var"), "{text}");
        assert_eq!(code, 0);

        // A reply that it does not know, and a denial that it does not know.
        let (text, code) = serve(&["ls"], &[UNKNOWN.to_vec()]).await;
        assert!(text.contains("FW-HUB-02") && text.contains("update this program"), "{text}");
        assert_eq!(code, 5);
        let denied: Denial = decode(&99u32.to_le_bytes()).expect("read");
        let (text, code) = serve(&["ls"], &[encode(&Reply::Denied(denied)).expect("encoded")]).await;
        assert!(text.contains("[other(99)]"), "{text}");
        assert_eq!(code, 3);
        // A goodbye that it does not know.
        let asked = command(&world, &["ls"]);
        let link = hub.accept().await.expect("open").finish().await.expect("linked");
        link.close(Goodbye::Other(57));
        let (text, code) = printed(asked);
        assert!(text.contains("other(57)"), "{text}");
        assert_ne!(code, 0);
    });
    drop(world);
}

#[test]
fn no_order_is_sent_to_a_machine_too_old_to_read_it() {
    let mut world = World::new();
    let _one = world.add_machine("kasse-1");
    let mut two = world.add_machine("kasse-2");
    assert_eq!(two.agent.stop(), Some(0));
    wait_until("it is away", || !world.is_online("kasse-2"));
    world.hub.stop();
    // As if its program were older than all that is signed today.
    let store = world.shop().join("hub/store.sqlite");
    let changed = std::process::Command::new("sqlite3")
        .arg(&store)
        .arg("UPDATE machines SET protocol = 0 WHERE name = 'kasse-2'")
        .status();
    assert!(changed.expect("sqlite3").success());
    world.restart_hub();
    wait_until("the other is back", || world.is_online("kasse-1"));
    let printed = world.technician(&["diagnose", "all", "--section", "time", "-o", "jsonl"]).exits(3);
    let lines = printed.json_lines();
    let of = |name: &str| lines.iter().find(|line| line["machine"] == name).cloned().expect("told");
    assert_eq!((of("kasse-1")["status"].as_str(), of("kasse-2")["code"].as_str()), (Some("ok"), Some("FW-CLI-17")));
    assert!(of("kasse-2")["why"].as_str().is_some_and(|why| why.contains("update it there")), "{}", of("kasse-2"));
    let runs = world.technician(&["job", "show", "1", "-o", "jsonl"]).exits(0).json_lines();
    assert_eq!(runs.len(), 1, "nothing was sent for the other: {runs:?}");
    let printed = world.technician(&["diagnose", "kasse-2"]).exits(3);
    assert!((printed.out + &printed.err).contains("FW-CLI-17"));
    assert_eq!(world.technician(&["job", "ls", "-o", "jsonl"]).exits(0).json_lines().len(), 1, "no empty job");
}
