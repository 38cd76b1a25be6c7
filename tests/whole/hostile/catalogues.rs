//! TUF's named attacks on a machine that follows two of three approvers. The
//! attacker has the hub and, where it says so, one approver's key. After each,
//! the agent is killed: a restart must show that nothing rejected was kept.

use super::attack;
use super::evil_hub::{Answer, EvilHub, role_signed_by};
use fernwart_certs::identity::SigningKey;
use fernwart_certs::sha256;
use fernwart_protocol::document::Outcome;
use fernwart_protocol::limits::OFFER_FILES;
use fernwart_tests::{Machine, World, run, staff_command, wait_until};
use serde_json::Value;

/// What is offered: the timestamp's version, and files.
type Offer = (u64, Vec<(String, Vec<u8>)>);

struct Cast {
    snapshot: SigningKey,
    timestamp: SigningKey,
    /// Three approvers, of whom two must sign.
    approvers: [SigningKey; 3],
    /// Targets and staff list as they were approved one version ago.
    older: (u64, Vec<u8>, Vec<u8>),
}

/// The approved targets' body and number.
fn approved(hub: &EvilHub) -> (u64, Value) {
    let number = hub.trusted.floors.versions().targets;
    let file: Value = serde_json::from_slice(&hub.trusted.files[&format!("{number}.targets.json")]).expect("JSON");
    (number, file["signed"].clone())
}

/// The next targets with an empty staff list, for somebody to sign.
fn evil_body(hub: &EvilHub) -> (u64, Value, Vec<u8>) {
    let (number, mut body) = approved(hub);
    let staff = b"{\"v\":1,\"staff\":[]}\n".to_vec();
    body["version"] = (number + 1).into();
    body["targets"]["staff.json"]["hashes"]["sha256"] = sha256(&staff).to_string().into();
    body["targets"]["staff.json"]["length"] = staff.len().into();
    (number + 1, body, staff)
}

fn offer_of(hub: &EvilHub, at: u64, number: u64, targets: Vec<u8>, beside: Vec<(String, Vec<u8>)>) -> Offer {
    let (snapshot, timestamp) = hub.wrap(number, &targets, at);
    let mut files = vec![
        (format!("{number}.targets.json"), targets),
        (format!("{at}.snapshot.json"), snapshot),
        ("timestamp.json".to_owned(), timestamp),
    ];
    files.extend(beside);
    (at, files)
}

fn next_root(hub: &EvilHub, version: u64, keys: &[&SigningKey]) -> Vec<u8> {
    let number = hub.trusted.floors.versions().root;
    let file: Value = serde_json::from_slice(&hub.trusted.files[&format!("{number}.root.json")]).expect("JSON");
    let mut body = file["signed"].clone();
    body["version"] = version.into();
    role_signed_by(&body, keys)
}

/// Each attack by its name in the TUF specification.
fn attacks(hub: &EvilHub, cast: &Cast, at: u64) -> Vec<(&'static str, Offer)> {
    let [anna, ben, carla] = &cast.approvers;
    let (number, body, staff) = evil_body(hub);
    let staff = || vec![("staff.json".to_owned(), staff.clone())];
    let signed = |keys: &[&SigningKey]| offer_of(hub, at, number, role_signed_by(&body, keys), staff());
    let current = approved(hub).0;
    let current_bytes = hub.trusted.files[&format!("{current}.targets.json")].clone();
    let root = hub.trusted.floors.versions().root;
    let with_root = |bytes: Vec<u8>| {
        offer_of(hub, at, current, current_bytes.clone(), vec![(format!("{}.root.json", root + 1), bytes)])
    };
    let (older, older_targets, older_staff) = &cast.older;
    let far = {
        let mut far = body.clone();
        far["version"] = (1u64 << 52).into();
        offer_of(hub, at, 1 << 52, role_signed_by(&far, &[ben]), staff())
    };
    let mixed_files = {
        // Approved targets, with a staff list that was approved before.
        let beside = vec![("staff.json".to_owned(), older_staff.clone())];
        offer_of(hub, at, current, current_bytes.clone(), beside)
    };
    let mixed_targets = {
        // A snapshot of the approved targets, but with the previous targets.
        let (at, mut files) = offer_of(hub, at, current, current_bytes.clone(), Vec::new());
        files[0].1.clone_from(older_targets);
        (at, files)
    };
    let frozen = {
        // Everything is approved; the timestamp is older than one that was seen.
        let seen = hub.trusted.floors.versions().timestamp;
        offer_of(hub, seen - 1, current, current_bytes.clone(), Vec::new())
    };
    let own = {
        let mut own = body.clone();
        own["proposer"] = fernwart_certs::approve::proposer_id(&ben.public()).expect("an id").into();
        offer_of(hub, at, number, role_signed_by(&own, &[ben, carla]), staff())
    };
    let delegated = {
        let mut delegated = body.clone();
        let id = fernwart_certs::approve::proposer_id(&cast.snapshot.public()).expect("an id");
        delegated["delegations"] = serde_json::json!({
            "keys": {}, "roles": [{"name": "x", "keyids": [id], "threshold": 1, "paths": ["*"], "terminating": true}],
        });
        offer_of(hub, at, number, role_signed_by(&delegated, &[anna, ben]), staff())
    };
    let padded = {
        let mut padded = current_bytes.clone();
        padded.resize(fernwart_protocol::limits::METADATA_BYTES, b' ');
        let (at, mut files) = offer_of(hub, at, current, current_bytes.clone(), Vec::new());
        files[0].1 = padded;
        (at, files)
    };
    vec![
        ("threshold less one", signed(&[ben])),
        ("the same key counted twice", signed(&[ben, ben])),
        ("wrong role: the hub's keys", signed(&[&cast.snapshot, &cast.timestamp])),
        ("wrong role: one approver and the hub", signed(&[ben, &cast.snapshot])),
        (
            "rollback of the targets",
            offer_of(hub, at, *older, older_targets.clone(), vec![("staff.json".to_owned(), older_staff.clone())]),
        ),
        ("fast-forward of the targets", far),
        ("freeze: an older timestamp", frozen),
        ("mix and match: an older staff list", mixed_files),
        ("mix and match: older targets", mixed_targets),
        ("endless data: a file that does not end where it should", padded),
        ("root two ahead, by its own approvers", with_root(next_root(hub, root + 2, &[anna, ben]))),
        ("root one back, by its own approvers", with_root(next_root(hub, root - 1, &[anna, ben]))),
        ("next root, one signature short", with_root(next_root(hub, root + 1, &[ben]))),
        ("next root, by the hub's keys", with_root(next_root(hub, root + 1, &[&cast.snapshot, &cast.timestamp]))),
        ("approved by its own proposer", own),
        ("a delegation, though two have signed it", delegated),
    ]
}

fn refusals(machine: &Machine) -> usize {
    machine.journal().iter().filter(|(kind, _)| kind == "catalogue_refused").count()
}

/// Kills and restarts the agent, and asserts that it follows the same catalogue as before.
async fn remembers_nothing(hub: &mut EvilHub, machine: &mut Machine, what: &str, before: (Option<u64>, Option<u64>)) {
    machine.agent.kill_9();
    machine.restart();
    hub.greet_again().await;
    assert_eq!(hub.follows, before, "{what}: nothing of it was kept");
    let look = hub.deliver(&hub.signed(|_| {})).await;
    assert!(matches!(look, Answer::Outcome(receipt, _) if receipt.outcome == Outcome::Ok), "{what}: all else goes on");
}

#[test]
fn each_tuf_attack_on_the_catalogue_is_refused_and_nothing_of_it_is_kept() {
    let mut world = World::new();
    let mut machine = world.add_machine("kasse-1");
    let home = |name: &str| world.path().join(name);
    let mut rotate = vec!["catalogue".to_owned(), "rotate".into(), "--yes".into(), "-k".into(), "2".into()];
    for name in ["ben", "carla"] {
        let key = run(&mut staff_command(&home(name), &["approver", "new"])).exits(0).out;
        rotate.extend(["--add".to_owned(), key.trim().to_owned()]);
    }
    world.technician(&rotate.iter().map(String::as_str).collect::<Vec<_>>()).exits(0);
    let ben = home("ben");
    let sign = ["catalogue", "sign", "--key", ben.to_str().expect("text")];
    let unread = world.technician(&sign).exits(2).err;
    let id = unread.split("--yes ").nth(1).expect("an id").split_whitespace().next().expect("an id").to_owned();
    world.technician(&[&sign[..], &["--yes", &id]].concat()).exits(0);
    world.technician(&["catalogue", "publish"]).exits(0);
    wait_until("the machine follows", || {
        machine.journal().iter().any(|(kind, body)| kind == "catalogue_followed" && body["versions"]["root"] == 2)
    });
    let catalogue = world.shop().join("hub/catalogue");
    let key = |path: std::path::PathBuf| SigningKey::read(&path).expect("a key");
    let cast = Cast {
        snapshot: key(world.shop().join("hub/snapshot.key")),
        timestamp: key(world.shop().join("hub/timestamp.key")),
        approvers: [
            key(world.shop().join("approver/approver.key")),
            key(home("ben").join("approver/approver.key")),
            key(home("carla").join("approver/approver.key")),
        ],
        older: (
            1,
            std::fs::read(catalogue.join("1.targets.json")).expect("the first"),
            b"{\"v\":1,\"staff\":[]}".to_vec(),
        ),
    };
    attack(async {
        let mut hub = EvilHub::take(&mut world, &machine).await;
        let before = hub.follows;
        let versions = hub.trusted.floors.versions();
        assert_eq!(before, (Some(versions.targets), Some(versions.timestamp)));
        let attacks = attacks(&hub, &cast, versions.timestamp + 100);
        assert!(attacks.len() >= 12);
        for (what, (at, files)) in &attacks {
            let reported = refusals(&machine);
            hub.offer(*at, files).await;
            wait_until(what, || refusals(&machine) > reported);
            assert_eq!(refusals(&machine), reported + 1, "{what}: one line");
            remembers_nothing(&mut hub, &mut machine, what, before).await;
        }
        // Endless data: files that were not requested, until the agent aborts.
        let what = "endless data: more and more files";
        let many: Vec<_> = (0..OFFER_FILES + 5).map(|n| (format!("{n}.root.json"), vec![b' '; 100_000])).collect();
        hub.offer(versions.timestamp + 100, &many).await;
        wait_until(what, || machine.agent.log().contains("the hub offers too many files"));
        remembers_nothing(&mut hub, &mut machine, what, before).await;
        // Proof that only the signatures were wrong: what two approvers sign is followed, in the same
        // wrapping as the rest.
        let (number, body, staff) = evil_body(&hub);
        let [anna, ben, _] = &cast.approvers;
        let (at, files) = offer_of(
            &hub,
            versions.timestamp + 101,
            number,
            role_signed_by(&body, &[anna, ben]),
            vec![("staff.json".to_owned(), staff)],
        );
        hub.offer(at, &files).await;
        wait_until("it is followed", || {
            let journal = machine.journal();
            let followed = journal.iter().rfind(|(kind, _)| kind == "catalogue_followed");
            followed.is_some_and(|(_, body)| body["versions"]["targets"] == number)
        });
        hub.stop().await;
    });
}
