//! Orders that the machine's gate must refuse, delivered by a hub that is
//! willing to deliver anything.

use super::attack;
use super::evil_hub::{Answer, EvilHub, nobody};
use fernwart_certs::envelope::seal;
use fernwart_certs::identity::SigningKey;
use fernwart_protocol::code::Refusal;
use fernwart_protocol::codec;
use fernwart_protocol::document::{Action, Cancel, Envelope, Outcome};
use fernwart_protocol::id::{CustomerId, Digest, MachineId};
use fernwart_protocol::script::{Parameters, Privilege};
use fernwart_protocol::text::Blob;
use fernwart_protocol::to_agent::Control;
use fernwart_protocol::version::Version;
use fernwart_tests::test_script::Script;
use fernwart_tests::{World, wait_until};

const DAY: i64 = 24 * 3600 * 1000;

pub(super) fn refused(answer: &Answer) -> Option<Refusal> {
    match answer {
        Answer::Refused(refusal) => Some(*refusal),
        Answer::Outcome(receipt, _) => receipt.refusal,
    }
}

fn script() -> Action {
    Action::Script {
        bundle: "format-c".parse().expect("a name"),
        version: 1,
        sha256: Digest::from_bytes([1; 32]),
        privilege: Privilege::Repair,
        parameters: Parameters::default(),
        dry_run: false,
    }
}

#[test]
fn each_invalid_order_is_refused_with_its_code_and_one_journal_line() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    attack(async {
        let hub = EvilHub::take(&mut world, &machine).await;
        let now = fernwart_agent::now();
        let forger = SigningKey::generate().expect("a key");
        let hub_key = SigningKey::read(&world.shop().join("hub/evidence.key")).expect("the hub's key");
        // Proof that nothing but the change is wrong: unchanged it runs.
        let honest = hub.signed(|_| {});
        assert!(matches!(hub.deliver(&honest).await, Answer::Outcome(receipt, _) if receipt.outcome == Outcome::Ok));

        let unsigned = |key: &SigningKey| seal(&hub.order(|_| {}), key, Version::OLDEST).expect("sealed");
        let crooked: Vec<(&str, Envelope, Refusal)> = vec![
            ("another machine", hub.signed(|o| o.machine = MachineId::from_bytes([9; 16])), Refusal::WrongMachine),
            ("another customer", hub.signed(|o| o.customer = CustomerId::from_bytes([9; 16])), Refusal::WrongCustomer),
            ("expired", hub.signed(|o| o.not_after = now - 6 * 60_000), Refusal::TooLate),
            ("from the past", hub.signed(|o| (o.not_before, o.not_after) = (0, 1)), Refusal::TooLate),
            ("not yet", hub.signed(|o| (o.not_before, o.not_after) = (now + DAY, now + 2 * DAY)), Refusal::NotYet),
            ("valid too long", hub.signed(|o| o.not_after = now + 30 * DAY), Refusal::NotYet),
            ("an act nobody approved", hub.signed(|o| o.action = script()), Refusal::NotApproved),
            ("signed by a stranger", unsigned(&forger), Refusal::BadSignature),
            ("signed by the hub", unsigned(&hub_key), Refusal::BadSignature),
            ("a late act", hub.signed(|o| (o.action, o.not_after) = (script(), now - 1)), Refusal::TooLate),
            (
                "by an unknown key",
                seal(&hub.order(|o| o.key = nobody()), &forger, Version::OLDEST).expect("sealed"),
                Refusal::UnknownStaff,
            ),
            ("under another key id", Envelope { key: nobody(), ..hub.signed(|_| {}) }, Refusal::UnknownStaff),
            (
                "no order at all",
                {
                    let bytes = b"fernwart order 1\n{}\n".to_vec();
                    let signature = hub.staff.order_key.sign(&bytes);
                    Envelope { key: hub.staff.key_id(), signature, bytes: Blob::try_from(bytes).expect("short") }
                },
                Refusal::NotAnOrder,
            ),
        ];
        let mut outsiders = 0;
        for (what, envelope, expected) in &crooked {
            let before = machine.journal();
            let answer = hub.deliver(envelope).await;
            assert_eq!(refused(&answer), Some(*expected), "{what}");
            let after = machine.journal();
            let new: Vec<_> =
                after[before.len()..].iter().map(|(kind, body)| (kind.as_str(), body["code"].as_str())).collect();
            match expected {
                // An unknown signer: counted, and noted once an hour.
                Refusal::BadSignature | Refusal::UnknownStaff | Refusal::NotAnOrder => {
                    outsiders += 1;
                    assert!(new.len() <= 1 && (outsiders > 1) == new.is_empty(), "{what}: {new:?}");
                }
                _ => assert_eq!(new, [("order_refused", Some(expected.code().as_ref()))], "{what}"),
            }
        }
        // Others are undisturbed: the next honest order runs.
        assert!(
            matches!(hub.deliver(&hub.signed(|_| {})).await, Answer::Outcome(receipt, _) if receipt.outcome == Outcome::Ok)
        );
        hub.stop().await;
    });
}

#[test]
fn an_order_cancelled_before_delivery_never_runs_even_after_a_restart() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    attack(async {
        let mut hub = EvilHub::take(&mut world, &machine).await;
        let order = hub.order(|_| {});
        let output =
            Cancel { run: order.run, machine: hub.machine, key: hub.staff.key_id(), at: fernwart_agent::now() };
        let cancel = seal(&output, &hub.staff.order_key, Version::OLDEST).expect("signed");
        let store = machine.home.join("books.redb");
        let written = || std::fs::metadata(&store).and_then(|file| file.modified()).expect("books");
        let before = written();
        hub.control.send(&Control::Cancel(cancel)).await.expect("sent");
        wait_until("it is written down", || written() != before);
        assert!(
            matches!(hub.deliver(&hub.signed(|_| {})).await, Answer::Outcome(receipt, _) if receipt.outcome == Outcome::Ok)
        );
        machine.agent.kill_9();
        machine.restart();
        hub.greet_again().await;
        let answer = hub.deliver(&seal(&order, &hub.staff.order_key, Version::OLDEST).expect("signed")).await;
        assert!(matches!(&answer, Answer::Outcome(receipt, _) if receipt.outcome == Outcome::Cancelled), "{answer:?}");
        hub.stop().await;
    });
    let began = machine.journal().iter().filter(|(kind, _)| kind == "run_started").count();
    assert_eq!(began, 1);
}

#[test]
fn an_order_with_any_bit_flipped_is_refused() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    attack(async {
        let hub = EvilHub::take(&mut world, &machine).await;
        let honest = hub.signed(|_| {});
        let wire = codec::encode(&honest).expect("encoded");
        let before = machine.journal().len();
        let mut tried = 0;
        for bit in 0..wire.len() * 8 {
            let mut flipped = wire.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // With a wrong length it is not an envelope and cannot even be sent as one.
            let Ok(envelope) = codec::decode::<Envelope>(&flipped) else { continue };
            let answer = hub.deliver(&envelope).await;
            assert!(
                matches!(answer, Answer::Refused(Refusal::BadSignature | Refusal::UnknownStaff)),
                "bit {bit}: {answer:?}"
            );
            tried += 1;
        }
        assert!(tried > wire.len() * 8 - 128, "{tried} of {}", wire.len() * 8);
        assert_eq!(machine.journal().len(), before + 1, "one line for all of them");
        assert!(matches!(hub.deliver(&honest).await, Answer::Outcome(receipt, _) if receipt.outcome == Outcome::Ok));
        hub.stop().await;
    });
}

#[test]
fn a_replayed_order_is_answered_from_the_state_store_and_done_once() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    attack(async {
        let hub = EvilHub::take(&mut world, &machine).await;
        let order = hub.signed(|_| {});
        let first = hub.deliver(&order).await;
        let lines = machine.journal().len();
        for _ in 0..3 {
            assert_eq!(hub.deliver(&order).await, first, "the very same receipt");
        }
        assert_eq!(machine.journal().len(), lines, "nothing was done again");
        // Evil: another order under a run id that is taken.
        use fernwart_protocol::document::{Document, Order};
        let taken = Order::from_bytes(order.bytes.as_bytes()).expect("an order").run;
        let other = hub.signed(|o| o.run = taken);
        assert_eq!(hub.deliver(&other).await, Answer::Refused(Refusal::Replayed));
        hub.stop().await;
        // Also after a power cut.
        machine.agent.kill_9();
        machine.restart();
        let hub = EvilHub::take(&mut world, &machine).await;
        assert_eq!(hub.deliver(&order).await, first);
        hub.stop().await;
    });
    let started = machine.journal().iter().filter(|(kind, _)| kind == "run_started").count();
    assert_eq!(started, 1);
}

#[test]
fn a_diagnose_only_robot_cannot_run_scripts_and_a_removed_one_nothing() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    let line = world.invitation_for_staff();
    let home = world.path().join("robot");
    let robot = |arguments: &[&str]| fernwart_tests::run(&mut fernwart_tests::staff_command(&home, arguments));
    let joined = robot(&["join", "--invitation", &line, "--name", "cron", "--no-wait"]).exits(0);
    let key = joined.out.split_whitespace().last().expect("a key id").to_owned();
    world.technician(&["staff", "add", "cron", "--key-id", &key, "--role", "diagnose"]).exits(0);
    robot(&["join", "--invitation", &line, "--name", "cron"]).exits(0);
    // A robot's cron job: lines, an exit code, no prompt.
    let output = robot(&["diagnose", "all", "-o", "jsonl", "--fail-on", "crit"]);
    assert!(matches!(output.code, 0 | 1) && output.json_lines().len() == 2, "{}", output.err);
    let robot_home = std::path::Path::new(&home).join("staff");
    let follows = |machine: &fernwart_tests::Machine, times: usize| {
        fernwart_tests::wait_until("the machine follows the staff list", || {
            machine.journal().iter().filter(|(kind, _)| kind == "catalogue_followed").count() >= times
        });
    };
    follows(&machine, 1);
    let give = |world: &mut World, action: Option<Action>| {
        attack(async {
            let hub = EvilHub::take(world, &machine).await;
            let robot = fernwart_client::StaffHome::open(&robot_home).expect("a home");
            let order = hub.order(|o| {
                o.key = robot.key_id();
                if let Some(action) = &action {
                    o.action = action.clone();
                }
            });
            let answer = hub.deliver(&seal(&order, &robot.order_key, Version::OLDEST).expect("signed")).await;
            hub.stop().await;
            refused(&answer)
        })
    };
    // Proof: looking works; evil: acting.
    assert_eq!(give(&mut world, None), None);
    assert_eq!(give(&mut world, Some(script())), Some(Refusal::BeyondRole));
    world.restart_hub();
    fernwart_tests::wait_until("linked", || world.is_online("kasse-1"));
    // Locked by an approver.
    world.technician(&["staff", "suspend", "cron"]).exits(0);
    fernwart_tests::wait_until("locked", || machine.journal().iter().any(|(kind, _)| kind == "locked"));
    assert_eq!(give(&mut world, None), Some(Refusal::StaffLocked));
    world.restart_hub();
    fernwart_tests::wait_until("linked", || world.is_online("kasse-1"));
    // Removed by the catalogue.
    world.technician(&["staff", "rm", "cron", "--yes=cron"]).exits(0);
    follows(&machine, 2);
    assert_eq!(give(&mut world, None), Some(Refusal::UnknownStaff));
}

#[test]
fn a_robot_runs_only_the_scripts_named_in_its_staff_entry() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    let allows = "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n";
    std::fs::write(machine.home.join("policy.toml"), allows).expect("written");
    world.approve_all(&[Script::new("mend", "echo mended\n"), Script::new("other", "echo other\n")]);
    let home = world.add_robot("Bäckerei Meyer");
    let robot = |words: &[&str]| fernwart_tests::run(&mut fernwart_tests::staff_command(&home, words));
    let rows = || world.technician(&["staff", "ls", "-o", "jsonl"]).exits(0).json_lines();
    let row = || rows().into_iter().find(|row| row["name"] == "robot").expect("listed");
    let key = row()["key"].as_str().expect("a key").to_owned();
    assert!(row()["scripts"].is_null(), "{}", row());
    let acts = |script: &str| robot(&["run", script, "kasse-1", "--reason", "nightly"]);
    assert!(acts("mend").exits(3).err.contains("FW-HUB-03"));
    let entry = |more: &[&str]| {
        let add = ["staff", "add", "robot", "--key-id", &key, "--customer", "Bäckerei Meyer"];
        world.technician(&[&add, more].concat())
    };
    assert!(entry(&["--role", "repair", "--script", "mend"]).exits(2).err.contains("every script already"));
    assert!(entry(&["--role", "diagnose", "--script", "mand"]).exits(2).err.contains("FW-CAT-01"));
    let output = entry(&["--role", "diagnose", "--script", "mend"]).exits(0);
    assert!((output.err.clone() + &output.out).contains("diagnose and running mend"), "{}", output.err);
    assert_eq!(row()["scripts"], serde_json::json!(["mend"]));
    let followed = || machine.journal().iter().filter(|(kind, _)| kind == "catalogue_followed").count();
    fernwart_tests::wait_until("the machine follows", || acts("mend").code == 0);
    assert!(acts("other").exits(3).err.contains("FW-HUB-03"));
    let before = followed();
    // A stolen hub cannot widen it: the machine checks it.
    let robot_home = home.join("staff");
    let answer = attack(async {
        let hub = EvilHub::take(&mut world, &machine).await;
        let robot = fernwart_client::StaffHome::open(&robot_home).expect("a home");
        let order = hub.order(|order| {
            order.key = robot.key_id();
            order.action = script();
        });
        let answer = hub.deliver(&seal(&order, &robot.order_key, Version::OLDEST).expect("signed")).await;
        hub.stop().await;
        refused(&answer)
    });
    assert_eq!(answer, Some(Refusal::BeyondRole));
    world.restart_hub();
    fernwart_tests::wait_until("linked", || world.is_online("kasse-1"));
    // A new version of the script needs a new approval; the approver is shown who may run it.
    let output = world.approve(&Script::new("mend", "echo otherwise\n").version(2));
    let output = output.err.clone() + &output.out;
    assert!(output.contains("robot may run it beyond the role diagnose"), "{output}");
    // An entry without `--script` removes the grant.
    let add = ["staff", "add", "robot", "--key-id", &key, "--role", "diagnose"];
    world.technician(&add).exits(0);
    fernwart_tests::wait_until("the machine follows", || {
        machine.journal().iter().filter(|(kind, _)| kind == "catalogue_followed").count() > before
    });
    let output = fernwart_tests::run(&mut fernwart_tests::staff_command(
        &home,
        &["run", "mend", "kasse-1", "--reason", "nightly"],
    ));
    assert!(output.exits(3).err.contains("FW-HUB-03"));
    // Withdrawing the script removes the grant, too.
    let scripts = || {
        let rows = world.technician(&["staff", "ls", "-o", "jsonl"]).exits(0).json_lines();
        rows.into_iter().find(|row| row["name"] == "robot").expect("listed")["scripts"].clone()
    };
    world.technician(&[&add[..], &["--script", "mend"]].concat()).exits(0);
    assert_eq!(scripts(), serde_json::json!(["mend"]));
    world.technician(&["catalogue", "withdraw", "mend", "--yes"]).exits(0);
    assert!(scripts().is_null(), "{}", scripts());
}

#[test]
fn a_technician_is_limited_to_their_customers_and_their_expiry_date() {
    let mut world = World::new();
    let machine = world.add_machine("kasse-1");
    world.technician(&["customer", "add", "Praxis Blum"]).exits(0);
    let line = world.invitation_for_staff();
    let home = world.path().join("ole");
    let ole = |arguments: &[&str]| fernwart_tests::run(&mut fernwart_tests::staff_command(&home, arguments));
    let joined = ole(&["join", "--invitation", &line, "--name", "ole", "--no-wait"]).exits(0);
    let key = joined.out.split_whitespace().last().expect("a key id").to_owned();
    let entry = |customer: &str, until: &str| {
        let words = ["staff", "add", "ole", "--key-id", &key, "--role", "repair", "--customer", customer];
        world.technician(&[&words[..], &["--until", until]].concat()).exits(0);
    };
    let followed = |times: usize| {
        fernwart_tests::wait_until("the machine follows", || {
            machine.journal().iter().filter(|(kind, _)| kind == "catalogue_followed").count() >= times
        });
    };
    // Proof: for this customer it works.
    entry("Bäckerei Meyer", "30d");
    ole(&["join", "--invitation", &line, "--name", "ole"]).exits(0);
    followed(1);
    assert!(matches!(ole(&["diagnose", "kasse-1", "--section", "memory"]).code, 0 | 1));
    entry("Praxis Blum", "30d");
    followed(2);
    assert_eq!(ole(&["ls", "-o", "name"]).exits(0).out, "", "not even seen");
    let order = |hub: &EvilHub| {
        let ole = fernwart_client::StaffHome::open(&home.join("staff")).expect("a home");
        seal(&hub.order(|o| o.key = ole.key_id()), &ole.order_key, Version::OLDEST).expect("signed")
    };
    let give = |world: &mut World| {
        attack(async {
            let hub = EvilHub::take(world, &machine).await;
            let answer = hub.deliver(&order(&hub)).await;
            hub.stop().await;
            refused(&answer)
        })
    };
    assert_eq!(give(&mut world), Some(Refusal::WrongCustomer));
    world.restart_hub();
    fernwart_tests::wait_until("linked", || world.is_online("kasse-1"));
    let words = ["staff", "add", "ole", "--key-id", &key, "--role", "repair", "--until", "1s"];
    world.technician(&words).exits(0);
    followed(3);
    fernwart_tests::wait_until("the time is over", || ole(&["ls"]).code == 3);
    assert_eq!(give(&mut world), Some(Refusal::StaffExpired));
}

#[test]
fn a_clock_a_minute_ahead_is_diagnosed_as_a_warning() {
    let world = World::new();
    let mut machine = world.add_machine("kasse-1");
    machine.agent.stop();
    if !machine.restart_at("+60s") {
        return;
    }
    fernwart_tests::wait_until("it is linked", || world.is_online("kasse-1"));
    let output = world.technician(&["diagnose", "kasse-1", "--section", "time", "-o", "jsonl", "--fail-on", "warn"]);
    let report = &output.exits(1).json_lines()[0]["report"];
    let off = report["findings"].as_array().expect("findings").iter().find(|finding| finding["id"] == "time.off");
    assert_eq!(off.expect("time.off")["severity"], "warn");
}
