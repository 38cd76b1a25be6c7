//! A completely stolen hub: every file of its home, its database, its port. The thief attacks twenty
//! machines whose policy allows every approved script, so that only signatures protect them.

use super::attack;
use super::evil_hub::{Answer, EvilHub, nobody, role_signed_by};
use fernwart_certs::catalogue::Role;
use fernwart_certs::envelope::seal;
use fernwart_certs::identity::{SigningKey, key_id};
use fernwart_client::StaffHome;
use fernwart_protocol::code::{Denial, Refusal};
use fernwart_protocol::codec;
use fernwart_protocol::document::{Action, Cancel, Countersignature, Document, Envelope, Lock, Locked, Order, Outcome};
use fernwart_protocol::id::{CustomerId, Digest, MachineId, RunId};
use fernwart_protocol::script::{Parameters, Privilege, Value};
use fernwart_protocol::text::{Blob, List, Text};
use fernwart_protocol::to_agent::{Control, Deliver, Stored};
use fernwart_protocol::to_hub::{Ask, Delivered};
use fernwart_protocol::version::Version;
use fernwart_tests::test_script::Script;
use fernwart_tests::{Machine, Process, World, run, staff_command, wait_until};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const AGENTS: usize = 20;
const DAY: i64 = 24 * 3600 * 1000;
const TEN_YEARS: i64 = 10 * 365 * DAY;

/// Machines enrolled by one invitation, with a policy that allows everything.
fn fleet(world: &World) -> Vec<Machine> {
    let line = world.invitation(&["Bäckerei Meyer", "--machines", "20", "--admit-automatically"]);
    let file = world.path().join("invitation");
    std::fs::write(&file, line).expect("written");
    let machines: Vec<Machine> = (0..AGENTS)
        .map(|number| {
            let home = world.path().join(format!("machine-{number}"));
            let words = ["enroll", "--invitation", file.to_str().expect("text"), "--policy", "trusted", "--no-service"];
            let command = |words: &[&str]| {
                let mut command = std::process::Command::new(fernwart_tests::program("fernwart-agent"));
                command.arg("--home").arg(&home).args(words);
                command
            };
            run(&mut command(&words)).exits(0);
            std::fs::write(home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
                .expect("rules");
            let agent = Process::start(&mut command(&["run"]), &home.with_extension("log"));
            Machine { home, name: format!("machine-{number}"), agent }
        })
        .collect();
    wait_until("all are linked", || {
        let rows = world.technician(&["ls", "-o", "jsonl"]);
        rows.json_lines().iter().filter(|row| row["state"] == "online").count() == AGENTS
    });
    machines
}

/// Adds a member of staff; returns their home.
fn hired(world: &World, name: &str, role: &str) -> PathBuf {
    let line = world.invitation_for_staff();
    let home = world.path().join(name);
    let join = ["join", "--invitation", &line, "--name", name];
    let joined = run(&mut staff_command(&home, &[&join[..], &["--no-wait"]].concat())).exits(0);
    let key = joined.out.split_whitespace().last().expect("a key id").to_owned();
    world.technician(&["staff", "add", name, "--key-id", &key, "--role", role]).exits(0);
    run(&mut staff_command(&home, &join)).exits(0);
    home.join("staff")
}

/// Orders that the thief finds in the hub's database.
fn found_orders(world: &World) -> Vec<Envelope> {
    let store = world.shop().join("hub/store.sqlite");
    let sql = "SELECT hex(order_envelope) FROM runs";
    let dump = run(std::process::Command::new("sqlite3").arg(store).arg(sql)).exits(0).out;
    dump.lines()
        .map(|line| {
            let bytes: Vec<u8> = (0..line.len() / 2)
                .map(|at| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).expect("hexadecimal"))
                .collect();
            codec::decode(&bytes).expect("an order")
        })
        .collect()
}

/// The files that no attack may alter on a machine, with their hashes.
fn belongings(machine: &Machine) -> Vec<(String, Digest)> {
    ["policy.toml", "agent.toml", "evidence.key", "sealing.key", "tls.identity"]
        .iter()
        .map(|name| {
            let bytes = std::fs::read(machine.home.join(name)).expect("there");
            ((*name).to_owned(), fernwart_certs::sha256(&bytes))
        })
        .collect()
}

fn started(machine: &Machine) -> usize {
    machine.journal().iter().filter(|(kind, _)| kind == "run_started").count()
}

fn code(answer: &Answer) -> Option<Refusal> {
    match answer {
        Answer::Refused(refusal) => Some(*refusal),
        Answer::Outcome(receipt, _) => receipt.refusal,
    }
}

/// All keys and homes that the thief has.
struct Loot {
    thief: SigningKey,
    evidence: SigningKey,
    snapshot: SigningKey,
    timestamp: SigningKey,
    ex: StaffHome,
    locked: StaffHome,
    robot: StaffHome,
    /// Of the approved script: version 2 and its hash.
    mend: (u32, Digest),
    /// The version before, and a script that was withdrawn.
    older: (u32, Digest),
    withdrawn: (u32, Digest),
}

impl Loot {
    fn act(&self) -> Action {
        script("mend", self.mend)
    }
}

fn script(name: &str, (version, sha256): (u32, Digest)) -> Action {
    Action::Script {
        bundle: name.parse().expect("a name"),
        version,
        sha256,
        privilege: Privilege::Repair,
        parameters: Parameters::default(),
        dry_run: false,
    }
}

fn with_parameters(action: &Action, values: &[(&str, Value)]) -> Action {
    let values: BTreeMap<String, Value> =
        values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    match action.clone() {
        Action::Script { bundle, version, sha256, privilege, dry_run, .. } => {
            let parameters = Parameters::try_from(values).expect("few");
            Action::Script { bundle, version, sha256, privilege, parameters, dry_run }
        }
        other @ Action::Diagnose { .. } => other,
    }
}

/// A signed order whose text is altered afterwards.
fn altered(envelope: &Envelope, from: &str, to: &str) -> Envelope {
    let text = String::from_utf8(envelope.bytes.as_bytes().to_vec()).expect("text");
    assert!(text.contains(from), "{from} stands in {text}");
    Envelope { bytes: Blob::try_from(text.replacen(from, to, 1).into_bytes()).expect("short"), ..envelope.clone() }
}

type Attempt = (&'static str, Envelope, Refusal);

/// Orders that the machine must refuse, and the expected refusal.
#[expect(clippy::too_many_lines, reason = "a list")]
fn forged(hub: &EvilHub, loot: &Loot) -> Vec<Attempt> {
    let now = fernwart_agent::now();
    let own = |change: &dyn Fn(&mut Order)| {
        hub.order(|order| {
            order.action = loot.act();
            change(order);
        })
    };
    // Signed by the technician, never delivered; the thief may alter it.
    let kept = seal(&own(&|_| {}), &hub.staff.order_key, Version::OLDEST).expect("sealed");
    let under = |key: &SigningKey| seal(&own(&|_| {}), key, Version::OLDEST).expect("sealed");
    let named = |key: &SigningKey| {
        let order = own(&|order| order.key = key_id(&key.public()));
        seal(&order, key, Version::OLDEST).expect("sealed")
    };
    let by = |home: &StaffHome| {
        seal(&own(&|order| order.key = home.key_id()), &home.order_key, Version::OLDEST).expect("sealed")
    };
    let jana = |change: &dyn Fn(&mut Order)| seal(&own(change), &hub.staff.order_key, Version::OLDEST).expect("sealed");
    let approver = *hub.trusted.view().expect("a catalogue").approvers.keys().next().expect("an approver");
    let bytes = kept.bytes.as_bytes();
    let cut =
        |length: usize| Envelope { bytes: Blob::try_from(bytes[..length].to_vec()).expect("short"), ..kept.clone() };
    let resealed = |text: Vec<u8>| Envelope {
        signature: hub.staff.order_key.sign(&text),
        bytes: Blob::try_from(text).expect("short"),
        ..kept.clone()
    };
    let other_domain =
        String::from_utf8(bytes.to_vec()).expect("text").replacen("fernwart order 1", "fernwart cancel 1", 1);
    let longer = {
        let mut longer = bytes.to_vec();
        longer.push(b'\n');
        longer
    };
    let version = format!("\"version\":{}", loot.mend.0);
    vec![
        ("the thief's key under the technician's name", under(&loot.thief), Refusal::BadSignature),
        ("the hub's evidence key under the technician's name", under(&loot.evidence), Refusal::BadSignature),
        ("the snapshot key under the technician's name", under(&loot.snapshot), Refusal::BadSignature),
        ("the timestamp key under the technician's name", under(&loot.timestamp), Refusal::BadSignature),
        ("the thief's key under its own name", named(&loot.thief), Refusal::UnknownStaff),
        ("the hub's evidence key under its own name", named(&loot.evidence), Refusal::UnknownStaff),
        ("the snapshot key under its own name", named(&loot.snapshot), Refusal::UnknownStaff),
        (
            "an approver's name, who is no technician",
            seal(&own(&|order| order.key = approver), &loot.thief, Version::OLDEST).expect("sealed"),
            Refusal::UnknownStaff,
        ),
        ("a technician who was removed", by(&loot.ex), Refusal::UnknownStaff),
        ("a technician who is locked", by(&loot.locked), Refusal::StaffLocked),
        ("a robot that may only look", by(&loot.robot), Refusal::BeyondRole),
        ("another name on the envelope", Envelope { key: nobody(), ..kept.clone() }, Refusal::UnknownStaff),
        (
            "a robot's name on the envelope",
            Envelope { key: loot.robot.key_id(), ..kept.clone() },
            Refusal::BadSignature,
        ),
        (
            "another machine written in",
            altered(&kept, &hub.machine.to_string(), &"0".repeat(32)),
            Refusal::BadSignature,
        ),
        (
            "another customer written in",
            altered(&kept, &hub.customer.to_string(), &"0".repeat(32)),
            Refusal::BadSignature,
        ),
        ("another script written in", altered(&kept, "\"mend\"", "\"wipe\""), Refusal::BadSignature),
        ("another version written in", altered(&kept, &version, "\"version\":1"), Refusal::BadSignature),
        (
            "another hash written in",
            altered(&kept, &loot.mend.1.to_string(), &loot.older.1.to_string()),
            Refusal::BadSignature,
        ),
        ("a lower privilege written in", altered(&kept, "\"repair\"", "\"read\""), Refusal::BadSignature),
        (
            "parameters written in",
            altered(&kept, "\"parameters\":{}", "\"parameters\":{\"x\":1}"),
            Refusal::BadSignature,
        ),
        (
            "a dry run made real",
            {
                let dry = jana(&|order| {
                    order.action = match loot.act() {
                        Action::Script { bundle, version, sha256, privilege, parameters, .. } => {
                            Action::Script { bundle, version, sha256, privilege, parameters, dry_run: true }
                        }
                        other @ Action::Diagnose { .. } => other,
                    }
                });
                altered(&dry, "\"dry_run\":true", "\"dry_run\":false")
            },
            Refusal::BadSignature,
        ),
        ("a longer life written in", altered(&kept, "\"not_after\":1", "\"not_after\":2"), Refusal::BadSignature),
        ("another reason written in", altered(&kept, "a test", "b test"), Refusal::BadSignature),
        (
            "a catalogue from before written in",
            altered(&kept, "\"targets_version\":", "\"targets_version\":0"),
            Refusal::BadSignature,
        ),
        ("cut short", cut(bytes.len() - 1), Refusal::BadSignature),
        ("nothing in it", cut(0), Refusal::BadSignature),
        (
            "the signature of another order",
            {
                let other = jana(&|order| order.reason = Text::clipped("other"));
                Envelope { signature: other.signature, ..kept.clone() }
            },
            Refusal::BadSignature,
        ),
        ("another kind of document, truly signed", resealed(other_domain.into_bytes()), Refusal::NotAnOrder),
        ("a truly signed order with something behind it", resealed(longer), Refusal::NotAnOrder),
        (
            "truly signed for another machine",
            jana(&|order| order.machine = MachineId::from_bytes([9; 16])),
            Refusal::WrongMachine,
        ),
        (
            "truly signed for another customer",
            jana(&|order| order.customer = CustomerId::from_bytes([9; 16])),
            Refusal::WrongCustomer,
        ),
        ("kept back until it expired", jana(&|order| order.not_after = now - 1), Refusal::TooLate),
        ("from the distant past", jana(&|order| (order.not_before, order.not_after) = (0, 1)), Refusal::TooLate),
        (
            "for tomorrow",
            jana(&|order| (order.not_before, order.not_after) = (now + DAY, now + 2 * DAY)),
            Refusal::NotYet,
        ),
        ("for ever", jana(&|order| order.not_after = now + 30 * DAY), Refusal::NotYet),
        (
            "kept back until the script was replaced",
            jana(&|order| order.action = script("mend", loot.older)),
            Refusal::NotApproved,
        ),
        (
            "kept back until the script was withdrawn",
            jana(&|order| order.action = script("old", loot.withdrawn)),
            Refusal::NotApproved,
        ),
        ("a script nobody has approved", jana(&|order| order.action = script("wipe", loot.mend)), Refusal::NotApproved),
        (
            "with a privilege that its approvers did not read",
            jana(&|order| {
                order.action = match loot.act() {
                    Action::Script { bundle, version, sha256, parameters, dry_run, .. } => {
                        Action::Script { bundle, version, sha256, privilege: Privilege::Read, parameters, dry_run }
                    }
                    other @ Action::Diagnose { .. } => other,
                }
            }),
            Refusal::NotApproved,
        ),
        (
            "with parameters that do not fit",
            jana(&|order| {
                order.action = with_parameters(&loot.act(), &[("x", Value::Text("; touch /srv/evil".into()))]);
            }),
            Refusal::BadParameters,
        ),
        (
            "as a dry run it does not have",
            jana(&|order| {
                order.action = match loot.act() {
                    Action::Script { bundle, version, sha256, privilege, parameters, .. } => {
                        Action::Script { bundle, version, sha256, privilege, parameters, dry_run: true }
                    }
                    other @ Action::Diagnose { .. } => other,
                }
            }),
            Refusal::NoDryRun,
        ),
        ("under a catalogue that it has not seen", jana(&|order| order.targets_version += 1), Refusal::CatalogueBehind),
    ]
}

/// Messages on the control stream that the machine must reject.
fn false_words(hub: &EvilHub, loot: &Loot, run: RunId) -> Vec<(&'static str, Control)> {
    let now = fernwart_agent::now();
    let lock = |key: &SigningKey, signer, locked: Locked| {
        let lock = Lock { locked, key: signer, reason: Text::clipped("x"), at: now };
        Control::Lock(seal(&lock, key, Version::OLDEST).expect("sealed"))
    };
    let jana = || Locked::Keys(List::try_from(vec![hub.staff.key_id()]).expect("one"));
    let machine = || Locked::Machine(hub.machine);
    let approver = *hub.trusted.view().expect("a catalogue").approvers.keys().next().expect("an approver");
    let cancel = |key: &SigningKey, signer| {
        Control::Cancel(
            seal(&Cancel { run, machine: hub.machine, key: signer, at: now }, key, Version::OLDEST).expect("sealed"),
        )
    };
    vec![
        ("a lock by the hub's key", lock(&loot.evidence, key_id(&loot.evidence.public()), jana())),
        ("a lock in an approver's name", lock(&loot.thief, approver, machine())),
        ("a robot's lock on somebody else", lock(&loot.robot.order_key, loot.robot.key_id(), jana())),
        ("a technician's lock on a machine", lock(&hub.staff.order_key, hub.staff.key_id(), machine())),
        ("a cancel by the hub's key", cancel(&loot.evidence, hub.staff.key_id())),
        ("a cancel by a removed technician", cancel(&loot.ex.order_key, loot.ex.key_id())),
    ]
}

async fn lie_about_settling(hub: &EvilHub, loot: &Loot) {
    let order = hub.signed(|_| {});
    let run = Order::from_bytes(order.bytes.as_bytes()).expect("an order").run;
    let (mut send, mut receive) = hub.link.open().await.expect("a stream");
    send.send(&Deliver::Order(order)).await.expect("sent");
    let receipt = loop {
        match receive.expect::<Delivered>().await.expect("a word") {
            Delivered::Outcome(settle) => break settle.receipt,
            Delivered::State(_) | Delivered::Note(_) => {}
            Delivered::Refused(refusal) => panic!("{refusal}"),
        }
    };
    let output = Countersignature {
        run,
        machine: hub.machine,
        receipt: fernwart_certs::sha256(receipt.bytes.as_bytes()),
        chain_seq: 1,
        chain_head: Digest::from_bytes([0; 32]),
        key: key_id(&loot.thief.public()),
        at: 0,
    };
    // Signed with the thief's own key and name instead of the hub's evidence key.
    let word = Stored::Countersigned(seal(&output, &loot.thief, Version::OLDEST).expect("sealed"));
    send.send(&word).await.expect("sent");
    send.finish();
}

#[test]
fn a_stolen_hub_cannot_run_anything_on_twenty_machines() {
    let effects = tempfile::tempdir_in("/srv").expect("a folder");
    let mut world = World::new();
    let text = |word: &str| format!("echo {word} >> {}/effects\n", effects.path().display());
    let writes = format!("writes = [\"{}\"]", effects.path().display());
    let approved = |name: &str| {
        let trusted = StaffHome::open(&world.shop().join("staff")).expect("a home").trusted().expect("read");
        let catalogue = trusted.expect("a catalogue").view().expect("a catalogue");
        catalogue
            .scripts
            .get(&name.parse().expect("a name"))
            .map(|known| (known.version, known.sha256))
            .expect("approved")
    };
    world.approve(&Script::new("mend", &text("one")).with(&writes));
    world.approve(&Script::new("old", &text("old")).with(&writes));
    let (older, withdrawn) = (approved("mend"), approved("old"));
    world.approve(&Script::new("mend", &text("two")).version(2).with(&writes));
    world.technician(&["catalogue", "withdraw", "--yes", "old"]).exits(0);
    let (ex, locked, robot) =
        (hired(&world, "ex", "repair"), hired(&world, "lena", "repair"), hired(&world, "cron", "diagnose"));
    let machines = fleet(&world);
    world.technician(&["staff", "suspend", "lena"]).exits(0);
    world.technician(&["staff", "rm", "ex", "--yes=ex"]).exits(0);
    let locked_there = |machine: &Machine| machine.journal().iter().any(|(kind, _)| kind == "locked");
    let newest = |machine: &Machine| {
        let followed: Vec<_> = machine.journal().into_iter().filter(|(kind, _)| kind == "catalogue_followed").collect();
        followed.last().and_then(|(_, body)| body["versions"]["targets"].as_u64())
    };
    let output = world.technician(&["catalogue", "show"]).exits(0).out;
    let version: u64 =
        output.split("version ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("one");
    wait_until("all follow", || machines.iter().all(|m| locked_there(m) && newest(m) == Some(version)));
    // Proof that all of it works, and that every machine has the script.
    let output = world.technician(&["run", "mend", "all", "--reason", "x", "--yes=20"]).exits(0);
    assert_eq!(output.out.matches("done in").count(), AGENTS);
    let honest = std::fs::read_to_string(effects.path().join("effects")).expect("effects");
    assert_eq!(honest, "two\n".repeat(AGENTS));
    let before: Vec<_> = machines.iter().map(|machine| (belongings(machine), started(machine))).collect();
    let found = found_orders(&world);
    assert_eq!(found.len(), AGENTS);
    let key = |name: &str| SigningKey::read(&world.shop().join("hub").join(name)).expect("a key");
    let loot = Loot {
        thief: SigningKey::generate().expect("a key"),
        evidence: key("evidence.key"),
        snapshot: key("snapshot.key"),
        timestamp: key("timestamp.key"),
        ex: StaffHome::open(&ex).expect("a home"),
        locked: StaffHome::open(&locked).expect("a home"),
        robot: StaffHome::open(&robot).expect("a home"),
        mend: approved("mend"),
        older,
        withdrawn,
    };
    let all: Vec<&Machine> = machines.iter().collect();
    let mut attempts = 0;
    attack(async {
        let mut hubs = EvilHub::take_all(&mut world, &all, 0).await;
        for hub in &mut hubs {
            let forged = forged(hub, &loot);
            attempts = forged.len();
            for (what, envelope, expected) in &forged {
                assert_eq!(code(&hub.deliver(envelope).await), Some(*expected), "{what}");
            }
            // Orders from the database: the machine's own again, and those of others.
            let mut own = 0;
            for order in &found {
                let is_own = Order::from_bytes(order.bytes.as_bytes()).expect("an order").machine == hub.machine;
                match hub.deliver(order).await {
                    Answer::Outcome(receipt, _) if is_own && receipt.outcome == Outcome::Ok => own += 1,
                    answer => assert_eq!((is_own, code(&answer)), (false, Some(Refusal::WrongMachine))),
                }
            }
            assert_eq!(own, 1, "answered from the books");
            // Another order under the run id of one that was done.
            let taken = found.iter().map(|order| Order::from_bytes(order.bytes.as_bytes()).expect("an order"));
            let taken = taken.into_iter().find(|order| order.machine == hub.machine).expect("one").run;
            let again = hub.signed(|order| (order.run, order.action) = (taken, loot.act()));
            assert_eq!(hub.deliver(&again).await, Answer::Refused(Refusal::Replayed));
            attempts += 3;
            for (_, word) in false_words(hub, &loot, taken) {
                hub.control.send(&word).await.expect("sent");
                attempts += 1;
            }
            lie_about_settling(hub, &loot).await;
            // Catalogues: an invented technician; approved targets with a script slipped in.
            let (number, files) = hub.invented_staff(&loot.thief, hub.entry_of(&loot.thief, Role::Lead)).await;
            hub.offer(number, &files).await;
            let (number, files) = slipped_in(hub, &loot, number + 10);
            hub.offer(number, &files).await;
            let invented =
                hub.order(|order| (order.key, order.action) = (hub.entry_of(&loot.thief, Role::Lead).key, loot.act()));
            let invented = seal(&invented, &loot.thief, Version::OLDEST).expect("sealed");
            assert_eq!(code(&hub.deliver(&invented).await), Some(Refusal::UnknownStaff));
            attempts += 4;
        }
        for (machine, hub) in machines.iter().zip(&hubs) {
            wait_until("the catalogues were refused", || {
                machine.journal().iter().any(|(kind, _)| kind == "catalogue_refused")
            });
            assert!(machine.agent.log().contains("the hub's countersignature does not fit"), "{}", machine.name);
            // Proof that the link is good and the machine undisturbed: what the
            // technician has signed is done.
            let look = hub.deliver(&hub.signed(|_| {})).await;
            assert!(matches!(look, Answer::Outcome(receipt, _) if receipt.outcome == Outcome::Ok));
        }
        // Messages that the protocol does not have: a pushed policy, a command, garbage.
        for hub in &hubs {
            let policy = "[act]\nmode = \"allow\"\n".to_owned();
            for pushed in [(7u32, policy.clone()), (2, "/bin/sh -c reboot".to_owned()), (u32::MAX, policy)] {
                let Ok((mut send, _receive)) = hub.link.open().await else { break };
                let _ = send.send(&pushed).await;
            }
        }
        attempts += 3;
        EvilHub::stop_all(hubs).await;
        // A false clock, ten years ahead and behind: no order is accepted at the wrong time.
        for lie in [TEN_YEARS, -TEN_YEARS] {
            let hubs = EvilHub::take_all(&mut world, &all, lie).await;
            for hub in &hubs {
                if lie > 0 {
                    deny_renewal(hub).await;
                }
                let now = fernwart_agent::now();
                for (not_before, not_after) in [
                    (now - DAY / 96, now + DAY / 96),
                    (now - 2 * DAY, now - DAY),
                    (now + lie - DAY / 96, now + lie + DAY / 96),
                ] {
                    let order = hub.signed(|order| {
                        (order.action, order.not_before, order.not_after) = (loot.act(), not_before, not_after);
                    });
                    let refusal = code(&hub.deliver(&order).await);
                    let timely = [
                        Refusal::TooLate,
                        Refusal::NotYet,
                        Refusal::ClockImplausible,
                        // In ten years all of today's staff entries have expired.
                        Refusal::StaffExpired,
                    ];
                    let timely = refusal.is_some_and(|refusal| timely.contains(&refusal));
                    assert!(timely, "{lie}: {refusal:?}");
                }
            }
            attempts += 3;
            EvilHub::stop_all(hubs).await;
        }
    });
    println!("{attempts} different attempts on each of {AGENTS} machines");
    assert!(attempts >= 40, "{attempts}");
    let after = std::fs::read_to_string(effects.path().join("effects")).expect("effects");
    assert_eq!(after, honest, "not one effect");
    for (machine, (things, runs)) in machines.iter().zip(&before) {
        assert_eq!(&belongings(machine), things, "{}", machine.name);
        let result =
            |(kind, body): &&(String, serde_json::Value)| kind == "run_started" && body["action"]["script"].is_object();
        assert_eq!(machine.journal().iter().filter(result).count(), 1, "{}", machine.name);
        assert_eq!(*runs, 1);
    }
    // The true hub finds everything as it was.
    world.restart_hub();
    wait_until("all are back", || {
        let rows = world.technician(&["ls", "-o", "jsonl"]);
        rows.json_lines().iter().filter(|row| row["state"] == "online").count() == AGENTS
    });
    let output = world.technician(&["run", "mend", "all", "--reason", "x", "--yes=20"]).exits(0);
    assert_eq!(output.out.matches("done in").count(), AGENTS, "{}", output.out);
    // Files that a stolen hub hands out in the place of approved ones.
    swapped_files(&mut world, &machines[0], effects.path());
}

/// Ten years ahead the agent asks for a new certificate; the thief denies it, so that the agent continues.
async fn deny_renewal(hub: &EvilHub) {
    use fernwart_protocol::to_agent::Renewed;
    // It also offers again the outcome without a valid countersignature.
    let mut send = loop {
        let (send, mut receive) = hub.link.accept().await.expect("asked");
        if matches!(receive.expect::<Ask>().await.expect("a question"), Ask::Renew(_)) {
            break send;
        }
    };
    send.send(&Renewed::Denied(Denial::KeysRefused)).await.expect("sent");
    let _ = send.delivered().await;
}

/// The approved targets with one more script, signed with all that the hub has.
fn slipped_in(hub: &EvilHub, loot: &Loot, number: u64) -> (u64, Vec<(String, Vec<u8>)>) {
    let targets = hub.trusted.floors.versions().targets;
    let approved = &hub.trusted.files[&format!("{targets}.targets.json")];
    let mut body: serde_json::Value = serde_json::from_slice(approved).expect("JSON");
    body["signed"]["version"] = (targets + 1).into();
    let wipe =
        serde_json::json!({"length": 7, "hashes": {"sha256": loot.older.1.to_string()}, "custom": {"version": 1}});
    body["signed"]["targets"]["script/wipe"] = wipe;
    let bytes = role_signed_by(&body["signed"], &[&loot.snapshot, &loot.timestamp, &loot.evidence, &loot.thief]);
    let (snapshot, timestamp) = hub.wrap(targets + 1, &bytes, number);
    let files = vec![
        (format!("{}.targets.json", targets + 1), bytes),
        (format!("{number}.snapshot.json"), snapshot),
        ("timestamp.json".to_owned(), timestamp),
    ];
    (number, files)
}

/// Serves other files to a machine that lacks a script's files.
fn swapped_files(world: &mut World, machine: &Machine, effects: &Path) {
    let writes = format!("writes = [\"{}\"]", effects.display());
    let script = Script::new("fresh", &format!("echo fresh >> {}/effects\n", effects.display())).with(&writes);
    world.approve(&script);
    let approved = {
        let home = StaffHome::open(&world.shop().join("staff")).expect("a home");
        let catalogue = home.trusted().expect("read").expect("a catalogue").view().expect("a catalogue");
        catalogue.scripts.get(&"fresh".parse().expect("a name")).copied().expect("approved")
    };
    wait_until("the machine follows", || {
        let followed = machine.journal().into_iter().rfind(|(kind, _)| kind == "catalogue_followed");
        followed.is_some_and(|(_, body)| body["versions"]["targets"].as_u64().is_some_and(|v| v >= 9))
    });
    let before = std::fs::read_to_string(effects.join("effects")).expect("effects");
    attack(async {
        use fernwart_protocol::to_agent::Fetched;
        for evil in [Some(b"echo evil".to_vec()), Some(Vec::new()), None] {
            let hub = EvilHub::take(world, machine).await;
            let order = hub.signed(|order| {
                order.action = self::script("fresh", (approved.version, approved.sha256));
            });
            let serve = async {
                let (mut send, hash) = loop {
                    let (send, mut receive) = hub.link.accept().await.expect("asked");
                    if let Ask::Blob(hash) = receive.expect::<Ask>().await.expect("a question") {
                        break (send, hash);
                    }
                };
                assert_eq!(hash, approved.sha256);
                let answer = match &evil {
                    Some(bytes) => Fetched::Blob(Blob::try_from(bytes.clone()).expect("short")),
                    None => Fetched::Denied(Denial::NoSuchBlob),
                };
                send.send(&answer).await.expect("sent");
                let _ = send.delivered().await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = serve => {}
                answer = hub.deliver(&order) => assert_eq!(code(&answer), Some(Refusal::NotFetched)),
            }
            hub.stop().await;
        }
    });
    let after = std::fs::read_to_string(effects.join("effects")).expect("effects");
    assert_eq!(after, before, "not one effect");
}
