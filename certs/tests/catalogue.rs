//! Tests the catalogue against the attacks that TUF names, and tests the floors, which tough does
//! not keep.

#![cfg(all(feature = "approve", feature = "issue"))]
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use fernwart_certs::approve::{
    Contents, Draft, FirstRoot, HubRoles, NextRoot, PublishError, SignError, freshen, proposer_id, publish,
};
use fernwart_certs::catalogue::{Catalogue, CatalogueError, Files, Grants, Hub, Shop, StaffList, Trusted, advance};
use fernwart_certs::identity::SigningKey;
use fernwart_protocol::text::Text;
use std::collections::BTreeMap;
use tough::schema::{Root, Signed};

const NOW: i64 = 1_800_000_000_000;
const DAY: i64 = 24 * 3600 * 1000;

struct Shopkeepers {
    approvers: Vec<SigningKey>,
    hub: HubRoles,
}

fn key() -> SigningKey {
    SigningKey::generate().expect("a key")
}

fn hub() -> Hub {
    let ca = vec![fernwart_certs::sha256(b"a CA")];
    Hub { v: 1, addresses: vec![Text::clipped("hub.example:443")], ca, evidence_keys: Vec::new() }
}

fn contents(name: &str) -> Contents {
    let shop = Shop { v: 1, name: Text::clipped(name), ..Shop::default() };
    Contents {
        staff: StaffList { v: 1, staff: Vec::new() },
        hub: hub(),
        shop,
        scripts: BTreeMap::new(),
        grants: Grants::new(),
    }
}

impl Shopkeepers {
    fn new(n: usize) -> Self {
        Self { approvers: (0..n).map(|_| key()).collect(), hub: HubRoles { snapshot: key(), timestamp: key() } }
    }

    fn first_draft(&self, k: u64) -> Draft {
        let plan = FirstRoot {
            approvers: self.approvers.iter().map(SigningKey::public).collect(),
            threshold: k,
            snapshot: self.hub.snapshot.public(),
            timestamp: self.hub.timestamp.public(),
        };
        Draft::first(&plan, &contents("one"), NOW).expect("a draft")
    }

    /// Signs with the first `k` approvers and publishes.
    async fn open(&self, k: usize) -> (Files, Trusted, Catalogue) {
        let mut draft = self.first_draft(k as u64);
        for approver in self.approvers.iter().take(k) {
            draft.sign(approver, None, None, NOW).expect("signed");
        }
        publish(&draft, None, &self.hub, NOW).await.expect("published")
    }

    async fn next(
        &self,
        trusted: &Trusted,
        name: &str,
        signers: &[usize],
        now: i64,
    ) -> Result<(Files, Trusted, Catalogue), PublishError> {
        let before = trusted.view().expect("a catalogue");
        let mut draft = Draft::next(&before, &contents(name), None, now).expect("a draft");
        let root = root_of(trusted);
        for signer in signers {
            draft.sign(&self.approvers[*signer], Some(&root.signed), None, now).expect("signed");
        }
        publish(&draft, Some(trusted), &self.hub, now).await
    }
}

fn root_of(trusted: &Trusted) -> Signed<Root> {
    serde_json::from_slice(trusted.root().expect("a root")).expect("readable")
}

/// A machine that has just joined.
fn begin(files: &Files) -> Trusted {
    let root = files.get("1.root.json").expect("a root");
    Trusted::begin(1, &fernwart_certs::sha256(root), files).expect("begun")
}

#[tokio::test]
async fn a_machine_accepts_a_catalogue_and_its_successor() {
    let shop = Shopkeepers::new(1);
    let (files, hub, _) = shop.open(1).await;
    let (machine, catalogue) = advance(&begin(&files), &files).await.expect("believed");
    assert_eq!(catalogue.shop.name.as_raw(), "one");
    assert_eq!(catalogue.approvers.len(), 1);
    let (files, _, _) = shop.next(&hub, "two", &[0], NOW + DAY).await.expect("published");
    let (_, catalogue) = advance(&machine, &files).await.expect("believed");
    assert_eq!((catalogue.shop.name.as_raw(), catalogue.versions.targets), ("two", 2));
}

#[tokio::test]
async fn a_draft_with_a_missing_signature_is_neither_published_nor_accepted() {
    let shop = Shopkeepers::new(3);
    let (files, hub, _) = shop.open(2).await;
    let machine = advance(&begin(&files), &files).await.expect("believed").0;
    let short = shop.next(&hub, "two", &[1], NOW + DAY).await;
    assert!(matches!(short, Err(PublishError::Unsigned { have: 1, need: 2 })), "{short:?}");

    // A malicious hub publishes it anyway: remove one signature from a valid catalogue.
    let (mut files, _, _) = shop.next(&hub, "two", &[0, 2], NOW + DAY).await.expect("published");
    let mut targets: Signed<tough::schema::Targets> =
        serde_json::from_slice(files.get("2.targets.json").expect("targets")).expect("readable");
    targets.signatures.pop();
    files.insert("2.targets.json", serde_json::to_vec(&targets).expect("written"));
    assert!(matches!(advance(&machine, &files).await, Err(CatalogueError::Tough(_))));
}

#[tokio::test]
async fn a_key_that_signs_or_is_listed_twice_counts_once() {
    let shop = Shopkeepers::new(3);
    let (_, hub, _) = shop.open(2).await;
    let before = hub.view().expect("a catalogue");
    let root = root_of(&hub);
    let mut draft = Draft::next(&before, &contents("two"), None, NOW + DAY).expect("a draft");
    draft.sign(&shop.approvers[0], Some(&root.signed), None, NOW).expect("signed");
    assert!(matches!(draft.sign(&shop.approvers[0], Some(&root.signed), None, NOW), Err(SignError::AlreadySigned)));
    let again = draft.targets.signatures[0].clone();
    draft.targets.signatures.push(again);
    assert_eq!(draft.progress(Some(&root.signed)).have, 1);
    assert!(publish(&draft, Some(&hub), &shop.hub, NOW + DAY).await.is_err());
    // A root that lists one key twice in a role is rejected, too.
    let mut doubled = shop.first_draft(2);
    if let Some(root) = &mut doubled.root {
        let targets = root.signed.roles.get_mut(&tough::schema::RoleType::Targets).expect("targets");
        let first = targets.keyids[0].clone();
        targets.keyids.push(first);
    }
    // Approvers are shown one list of approvers, so a root with two different lists is not signed.
    assert!(matches!(doubled.sign(&shop.approvers[0], None, None, NOW), Err(SignError::NewRoot)));
    if let Some(root) = &mut doubled.root {
        let targets = root.signed.roles[&tough::schema::RoleType::Targets].clone();
        root.signed.roles.insert(tough::schema::RoleType::Root, targets);
    }
    doubled.sign(&shop.approvers[0], None, None, NOW).expect("signed");
    doubled.sign(&shop.approvers[1], None, None, NOW).expect("signed");
    let result = publish(&doubled, None, &shop.hub, NOW).await;
    assert!(matches!(&result, Err(PublishError::Refused(e)) if matches!(**e, CatalogueError::KeyTwice)), "{result:?}");
}

#[tokio::test]
async fn a_draft_with_hidden_content_or_excessive_validity_is_not_signed() {
    let shop = Shopkeepers::new(3);
    let (_, hub, _) = shop.open(2).await;
    let before = hub.view().expect("a catalogue");
    let root = root_of(&hub).signed;
    let approvers: Vec<_> = shop.approvers.iter().map(|key| key.public()).collect();
    let next = NextRoot { approvers, threshold: 2 };
    let draft = || {
        let draft = Draft::next(&before, &contents("two"), None, NOW).expect("a draft");
        draft.with_root(&root, &next, NOW).expect("a root")
    };
    let sign = |mut draft: Draft| draft.sign(&shop.approvers[0], Some(&root), None, NOW);
    sign(draft()).expect("as it was made, it is signed");
    let years = |years: i64| jiff::Timestamp::from_millisecond(NOW + years * 366 * DAY).expect("a time");
    let crooked = |change: &dyn Fn(&mut Draft, &mut tough::schema::Root)| {
        let mut draft = draft();
        let mut root = draft.root.take().expect("a root");
        change(&mut draft, &mut root.signed);
        draft.root = Some(root);
        sign(draft).expect_err("not signed")
    };
    assert!(matches!(crooked(&|draft, _| draft.targets.signed.expires = years(2)), SignError::Lasts { .. }));
    assert!(matches!(crooked(&|_, root| root.expires = years(4)), SignError::Lasts { .. }));
    let beside = || ("more".to_owned(), serde_json::json!("unseen"));
    assert!(matches!(
        crooked(&|draft, _| draft.targets.signed._extra.extend([beside()])),
        SignError::Unread("targets")
    ));
    assert!(matches!(crooked(&|_, root| root._extra.extend([beside()])), SignError::Unread("root")));
    let hidden = |_: &mut Draft, root: &mut tough::schema::Root| {
        for role in root.roles.values_mut() {
            role._extra.extend([beside()]);
        }
    };
    assert!(matches!(crooked(&hidden), SignError::Unread("root")));
    let idle = |_: &mut Draft, root: &mut tough::schema::Root| {
        let (id, key) = root.keys.iter().next().map(|(id, key)| (id.clone(), key.clone())).expect("a key");
        let mut other = id.to_vec();
        other.reverse();
        root.keys.insert(other.into(), key);
    };
    assert!(matches!(crooked(&idle), SignError::Unread("root")));
    // The approver is shown who approves, and for how long.
    let lines = draft().changes(Some(&before)).expect("readable");
    assert!(lines[0].starts_with("root 2: 2 of 3 approvers must sign, good until 20"), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.contains("approver fwa1-")).count(), 3, "{lines:?}");
    assert!(lines.last().is_some_and(|line| line.starts_with("good until 20")), "{lines:?}");
}

#[tokio::test]
async fn grants_are_shown_signed_and_read_back_in_one_format_only() {
    let shop = Shopkeepers::new(1);
    let (_, hub, _) = shop.open(1).await;
    let before = hub.view().expect("a catalogue");
    let root = root_of(&hub).signed;
    let robot = fernwart_protocol::id::KeyId::from_bytes([7; 16]);
    let scripts = ["lock-remove", "time-sync"].map(|name| name.parse().expect("a name"));
    let more = Contents { grants: Grants::from([(robot, scripts.into())]), ..contents("two") };
    let draft = || Draft::next(&before, &more, None, NOW).expect("a draft");
    let lines = draft().changes(Some(&before)).expect("readable");
    assert!(lines.iter().any(|line| line.contains(&robot.to_string()) && line.contains("lock-remove, time-sync")));
    let mut signed = draft();
    signed.sign(&shop.approvers[0], Some(&root), None, NOW).expect("signed");
    let (_, hub, published) = publish(&signed, Some(&hub), &shop.hub, NOW).await.expect("published");
    assert_eq!(published.grants, more.grants);
    assert_eq!(hub.view().expect("a catalogue").grants, more.grants);
    let id = robot.to_string();
    for odd in [
        serde_json::json!({}),
        serde_json::json!([]),
        serde_json::json!({"x": ["lock-remove"]}),
        serde_json::json!({id.clone(): ["time-sync", "lock-remove"]}),
        serde_json::json!({id.clone(): ["lock-remove", "lock-remove"]}),
        serde_json::json!({id.to_uppercase() + "0": ["lock-remove"]}),
        serde_json::json!({id: "lock-remove"}),
    ] {
        let mut draft = draft();
        draft.targets.signed._extra.insert("may_run".to_owned(), odd.clone());
        let refused = draft.sign(&shop.approvers[0], Some(&root), None, NOW);
        assert!(matches!(refused, Err(SignError::Unread("targets"))), "{odd}: {refused:?}");
    }
}

#[tokio::test]
async fn proposers_cannot_approve_their_own_proposal_if_two_must_sign() {
    let shop = Shopkeepers::new(3);
    let (files, hub, _) = shop.open(2).await;
    let machine = advance(&begin(&files), &files).await.expect("believed").0;
    let before = hub.view().expect("a catalogue");
    let root = root_of(&hub);
    let own = shop.approvers[0].public();
    let mut draft = Draft::next(&before, &contents("two"), Some(&own), NOW + DAY).expect("a draft");
    assert!(matches!(draft.sign(&shop.approvers[0], Some(&root.signed), None, NOW), Err(SignError::OwnProposal)));
    draft.sign(&shop.approvers[1], Some(&root.signed), None, NOW).expect("signed");
    draft.sign(&shop.approvers[2], Some(&root.signed), None, NOW).expect("signed");
    let (mut files, _, _) = publish(&draft, Some(&hub), &shop.hub, NOW + DAY).await.expect("published");
    advance(&machine, &files).await.expect("believed");

    // The proposer signs with another program, and one colleague signs, too.
    let mut evil: Signed<tough::schema::Targets> =
        serde_json::from_slice(files.get("2.targets.json").expect("targets")).expect("readable");
    evil.signed._extra.insert("proposer".into(), proposer_id(&shop.approvers[1].public()).expect("an id").into());
    let form = tough::schema::Role::canonical_form(&evil.signed).expect("written");
    for (signature, approver) in evil.signatures.iter_mut().zip([&shop.approvers[1], &shop.approvers[2]]) {
        signature.sig = approver.sign(&form).as_bytes().to_vec().into();
    }
    let bytes = serde_json::to_vec(&evil).expect("written");
    root.signed.verify_role(&evil).expect("the evil targets carry two good signatures");
    let mut snapshot: Signed<tough::schema::Snapshot> = {
        let name =
            files.iter().map(|(name, _)| name.clone()).find(|name| name.ends_with(".snapshot.json")).expect("one");
        serde_json::from_slice(files.get(&name).expect("a snapshot")).expect("readable")
    };
    resign(&shop, &mut files, &mut snapshot, &bytes);
    let result = advance(&machine, &files).await;
    assert!(matches!(result, Err(CatalogueError::OwnApproval)), "{result:?}");
}

/// What a thief of the hub's keys can do: sign any snapshot and timestamp.
fn resign(shop: &Shopkeepers, files: &mut Files, snapshot: &mut Signed<tough::schema::Snapshot>, targets: &[u8]) {
    let number = snapshot.signed.version;
    let meta = snapshot.signed.meta.get_mut("targets.json").expect("targets");
    meta.length = Some(targets.len() as u64);
    meta.hashes.as_mut().expect("hashes").sha256 = fernwart_certs::sha256(targets).as_bytes().to_vec().into();
    let form = tough::schema::Role::canonical_form(&snapshot.signed).expect("written");
    snapshot.signatures[0].sig = shop.hub.snapshot.sign(&form).as_bytes().to_vec().into();
    let bytes = serde_json::to_vec(&snapshot).expect("written");
    let mut timestamp: Signed<tough::schema::Timestamp> =
        serde_json::from_slice(files.get("timestamp.json").expect("a timestamp")).expect("readable");
    let meta = timestamp.signed.meta.get_mut("snapshot.json").expect("snapshot");
    meta.length = Some(bytes.len() as u64);
    meta.hashes.as_mut().expect("hashes").sha256 = fernwart_certs::sha256(&bytes).as_bytes().to_vec().into();
    let form = tough::schema::Role::canonical_form(&timestamp.signed).expect("written");
    timestamp.signatures[0].sig = shop.hub.timestamp.sign(&form).as_bytes().to_vec().into();
    files.insert(&format!("{number}.snapshot.json"), bytes);
    files.insert("timestamp.json", serde_json::to_vec(&timestamp).expect("written"));
    files.insert("2.targets.json", targets.to_vec());
}

#[tokio::test]
async fn rollbacks_and_different_contents_of_one_version_are_rejected() {
    let shop = Shopkeepers::new(1);
    let (first, hub, _) = shop.open(1).await;
    let machine = advance(&begin(&first), &first).await.expect("believed").0;
    let (second, hub2, _) = shop.next(&hub, "two", &[0], NOW + DAY).await.expect("published");
    let machine2 = advance(&machine, &second).await.expect("believed").0;
    // Rollback: all files of the first catalogue again.
    let result = advance(&machine2, &first).await;
    assert!(matches!(result, Err(CatalogueError::Rollback { .. })), "{result:?}");
    // Rollback with a fresh timestamp: the hub signs the first targets again.
    let (mixed, _, _) = freshen(&hub, &shop.hub, (0, 0), NOW + 2 * DAY).await.expect("wrapped");
    let mut mixed = mixed;
    mixed.insert("1.targets.json", first.get("1.targets.json").expect("targets").clone());
    for name in ["staff.json", "hub.json", "shop.json"] {
        mixed.insert(name, first.get(name).expect("a target").clone());
    }
    let result = advance(&machine2, &mixed).await;
    assert!(matches!(result, Err(CatalogueError::Rollback { role: "targets", .. })), "{result:?}");
    // Two contents: another timestamp of the same version.
    let (other, _, _) = freshen(&hub2, &shop.hub, (0, 0), NOW + 3 * DAY).await.expect("wrapped");
    let machine3 = advance(&machine2, &other).await.expect("believed").0;
    let (twin, _, _) = freshen(&hub2, &shop.hub, (0, 0), NOW + 3 * DAY + 1).await.expect("wrapped");
    let mut twin = twin;
    let timestamp = twin.get("timestamp.json").expect("a timestamp").clone();
    let mut padded = timestamp.clone();
    padded.push(b' ');
    twin.insert("timestamp.json", padded);
    let result = advance(&machine3, &twin).await;
    assert!(matches!(result, Err(CatalogueError::TwoFaces { role: "timestamp", .. })), "{result:?}");
}

#[tokio::test]
async fn a_root_of_unknown_signers_is_not_followed() {
    let shop = Shopkeepers::new(1);
    let (files, _, _) = shop.open(1).await;
    let machine = advance(&begin(&files), &files).await.expect("believed").0;
    let unknown_signers = Shopkeepers::new(1);
    let mut draft = unknown_signers.first_draft(1);
    let root = draft.root.as_mut().expect("a root");
    for skip in [3, 2] {
        root.signed.version = std::num::NonZeroU64::new(skip).expect("not zero");
        let mut offered = files.clone();
        let form = tough::schema::Role::canonical_form(&root.signed).expect("written");
        let id = root.signed.roles.get(&tough::schema::RoleType::Root).expect("a role").keyids[0].clone();
        let sig = unknown_signers.approvers[0].sign(&form).as_bytes().to_vec().into();
        root.signatures = vec![tough::schema::Signature { keyid: id, sig }];
        offered.insert(&format!("{skip}.root.json"), serde_json::to_vec(&root).expect("written"));
        match advance(&machine, &offered).await {
            Ok((after, _)) => assert_eq!((skip, after.floors.root.version), (3, 1), "version 3 is never asked for"),
            Err(error) => assert!(skip == 2 && matches!(error, CatalogueError::Tough(_)), "{error:?}"),
        }
    }
    // Another organisation's catalogue does not match the pinned root.
    let (foreign, _, _) = unknown_signers.open(1).await;
    let pinned = fernwart_certs::sha256(files.get("1.root.json").expect("a root"));
    assert!(matches!(Trusted::begin(1, &pinned, &foreign), Err(CatalogueError::OtherRoot)));
    assert!(advance(&machine, &foreign).await.is_err());
}

#[tokio::test]
async fn a_validly_signed_root_that_skips_a_version_is_not_followed() {
    let shop = Shopkeepers::new(1);
    let (files, _, _) = shop.open(1).await;
    let machine = advance(&begin(&files), &files).await.expect("believed").0;
    let signed = |number: u64| {
        let mut root = root_of(&machine);
        root.signed.version = std::num::NonZeroU64::new(number).expect("not zero");
        let form = tough::schema::Role::canonical_form(&root.signed).expect("written");
        let keyid = root.signatures[0].keyid.clone();
        let sig = shop.approvers[0].sign(&form).as_bytes().to_vec().into();
        root.signatures = vec![tough::schema::Signature { keyid, sig }];
        serde_json::to_vec(&root).expect("written")
    };
    let offer = |name: &str, number: u64| {
        let mut offered = files.clone();
        offered.insert(name, signed(number));
        offered
    };
    // Under its own name nobody asks for it; under the name of the next version it is rejected.
    let (after, _) = advance(&machine, &offer("3.root.json", 3)).await.expect("the rest is good");
    assert_eq!(after.floors.root.version, 1);
    assert!(advance(&machine, &offer("2.root.json", 3)).await.is_err());
    assert!(advance(&machine, &offer("2.root.json", 1)).await.is_err(), "nor one that stays behind");
    // Control: the same root with the right number is followed.
    let (after, _) = advance(&machine, &offer("2.root.json", 2)).await.expect("followed");
    assert_eq!(after.floors.root.version, 2);
}

#[tokio::test]
async fn approvers_are_replaced_by_a_root_that_old_and_new_approvers_sign() {
    let shop = Shopkeepers::new(3);
    let (files, hub, before) = shop.open(2).await;
    let machine = advance(&begin(&files), &files).await.expect("believed").0;
    let newcomer = key();
    // Approver 0 is removed, a new one is added.
    let next = NextRoot {
        approvers: vec![shop.approvers[1].public(), shop.approvers[2].public(), newcomer.public()],
        threshold: 2,
    };
    let in_force = root_of(&hub).signed;
    let proposer = shop.approvers[0].public();
    let draft = |proposer| {
        let draft = Draft::next(&before, &Contents::of(&before), proposer, NOW + DAY).expect("a draft");
        draft.with_root(&in_force, &next, NOW + DAY).expect("a root")
    };
    // The new approvers alone are not enough: the old root's approvers must sign, too.
    let mut alone = draft(None);
    alone.sign(&newcomer, Some(&in_force), Some(&before), NOW).expect("signed");
    alone.sign(&shop.approvers[1], Some(&in_force), Some(&before), NOW).expect("signed");
    assert_eq!((alone.progress(Some(&in_force)).have, alone.progress(Some(&in_force)).need), (1, 2));
    assert!(matches!(publish(&alone, Some(&hub), &shop.hub, NOW + DAY).await, Err(PublishError::Unsigned { .. })));
    // The proposer cannot sign it, and neither can unknown keys.
    let mut own = draft(Some(&proposer));
    let signed = own.sign(&shop.approvers[0], Some(&in_force), Some(&before), NOW);
    assert!(matches!(signed, Err(SignError::OwnProposal)), "{signed:?}");
    assert!(matches!(own.sign(&key(), Some(&in_force), Some(&before), NOW), Err(SignError::NotAnApprover)));
    for approver in [&shop.approvers[1], &shop.approvers[2]] {
        own.sign(approver, Some(&in_force), Some(&before), NOW).expect("signed");
    }
    let (files, hub, after) = publish(&own, Some(&hub), &shop.hub, NOW + DAY).await.expect("published");
    assert_eq!((after.versions.root, after.approvers.len(), after.threshold), (2, 3, 2));
    let (machine, _) = advance(&machine, &files).await.expect("followed");
    // From now on the removed approver does not count, and the new one does.
    let mut third = Draft::next(&after, &contents("three"), None, NOW + 2 * DAY).expect("a draft");
    let in_force = root_of(&hub).signed;
    let gone = third.sign(&shop.approvers[0], Some(&in_force), Some(&after), NOW + 2 * DAY);
    assert!(matches!(gone, Err(SignError::NotAnApprover)), "{gone:?}");
    third.sign(&newcomer, Some(&in_force), Some(&after), NOW + 2 * DAY).expect("signed");
    third.sign(&shop.approvers[1], Some(&in_force), Some(&after), NOW + 2 * DAY).expect("signed");
    let (files, _, _) = publish(&third, Some(&hub), &shop.hub, NOW + 2 * DAY).await.expect("published");
    let (_, catalogue) = advance(&machine, &files).await.expect("followed");
    assert_eq!(catalogue.shop.name.as_raw(), "three");
}

#[tokio::test]
async fn a_replaced_named_target_is_rejected() {
    let shop = Shopkeepers::new(1);
    let (mut files, _, _) = shop.open(1).await;
    let staff = r#"{"v":1,"staff":[]}"#.as_bytes().to_vec();
    files.insert("staff.json", staff);
    let result = advance(&begin(&files), &files).await;
    assert!(matches!(result, Err(CatalogueError::TargetHash(ref name)) if name == "staff.json"), "{result:?}");
}
