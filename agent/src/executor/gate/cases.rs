//! Tests of the gate: each refusal by its code, each time limit from both sides.

use super::*;
use fernwart_certs::catalogue::{Approved, Customers, Expiries, Grants, Hub, Shop, StaffEntry, StaffList};
use fernwart_certs::envelope::seal;
use fernwart_certs::identity::{SigningKey, staff_key_id};
use fernwart_protocol::document::Versions;
use fernwart_protocol::id::{PublicKey, RunId};
use fernwart_protocol::script::{Privilege, Value};
use fernwart_protocol::text::List;
use fernwart_protocol::version::Version;
use std::collections::BTreeSet;

const NOW: UnixMs = 1_795_442_400_000;
const SKEW: UnixMs = 5 * 60_000;
const LIFE: UnixMs = 7 * 24 * 3600 * 1000;
const SCRIPT: Digest = Digest::from_bytes([3; 32]);

const MANIFEST: &str = r#"
name = "mend"
version = 1
title = { en = "Mend", de = "Flicken" }
explain = { en = "Mends what is broken here.", de = "Flickt, was hier kaputt ist." }
interpreter = "sh"
run = "run.sh"
platforms = ["linux"]
privilege = "repair"
"#;

/// An order and everything it is checked against.
struct Case {
    order: Order,
    key: SigningKey,
    catalogue: Catalogue,
    locks: Locks,
    clock: Clock,
    floor: UnixMs,
    orders_since: UnixMs,
    files_are_ours: bool,
    manifest: String,
    bundle: Digest,
    is_at_hand: bool,
    cage: Option<Cage>,
    secrets: Option<Parameters>,
}

impl Case {
    fn new(action: Action) -> Self {
        let key = SigningKey::generate().expect("a key");
        let tls_key = Digest::from_bytes([5; 32]);
        let entry = StaffEntry {
            key: staff_key_id(&key.public(), &tls_key),
            order_key: key.public(),
            tls_key,
            name: Text::clipped("jana"),
            role: Role::Repair,
            customers: Customers::All,
            until: NOW,
        };
        let order = Order {
            run: RunId::from_bytes([1; 16]),
            machine: MachineId::from_bytes([1; 16]),
            machine_name: "kasse-1".parse().expect("a name"),
            customer: CustomerId::from_bytes([1; 16]),
            action,
            key: entry.key,
            reason: Text::clipped("a test"),
            targets_version: 7,
            not_before: NOW - 1,
            not_after: NOW,
            sealed: None,
            session_key: None,
        };
        let approved = Approved { version: 1, sha256: SCRIPT, bytes: 1 };
        let catalogue = Catalogue {
            versions: Versions { targets: 7, ..Versions::default() },
            root: Digest::from_bytes([0; 32]),
            expiries: Expiries { root: NOW, targets: NOW, snapshot: NOW, timestamp: NOW },
            approvers: BTreeMap::new(),
            threshold: 1,
            staff: StaffList { v: 1, staff: vec![entry] },
            hub: Hub::default(),
            shop: Shop::default(),
            scripts: BTreeMap::from([("mend".parse().expect("a name"), approved)]),
            grants: Grants::new(),
        };
        Self {
            order,
            key,
            catalogue,
            locks: Locks::default(),
            clock: Clock::Plausible(NOW),
            floor: 0,
            orders_since: 0,
            files_are_ours: true,
            manifest: MANIFEST.to_owned(),
            bundle: SCRIPT,
            is_at_hand: true,
            cage: Some(Cage::Namespaces),
            secrets: Some(Parameters::default()),
        }
    }

    fn entry(&mut self) -> &mut StaffEntry {
        &mut self.catalogue.staff.staff[0]
    }

    fn standing(&self) -> GateContext<'_> {
        GateContext {
            machine: MachineId::from_bytes([1; 16]),
            customer: CustomerId::from_bytes([1; 16]),
            catalogue: &self.catalogue,
            locks: &self.locks,
            clock: self.clock,
            floor: self.floor,
            orders_since: self.orders_since,
            files_are_ours: self.files_are_ours,
        }
    }

    fn envelope(&self) -> Envelope {
        seal(&self.order, &self.key, Version::OLDEST).expect("signed")
    }

    /// The refusal; none if the order may take effect.
    fn answer(&self) -> Option<Refusal> {
        let me = self.standing();
        let authentic = match authenticate(&self.envelope(), &me) {
            Ok(authentic) => authentic,
            Err(not) => return Some(not.refusal()),
        };
        let entry = &self.catalogue.staff.staff[0];
        assert_eq!((authentic.staff(), authentic.hash()), (&entry.name, sha256(self.envelope().bytes.as_bytes())));
        let at_hand = matches!(self.order.action, Action::Script { .. }) && self.is_at_hand;
        let at_hand = at_hand.then(|| AtHand {
            script: Script {
                sha256: self.bundle,
                manifest: Manifest::read(&self.manifest).expect("a manifest"),
                files: BTreeMap::new(),
            },
            cage: self.cage,
            secrets: self.secrets.clone(),
        });
        let policy = Policy::from_toml("[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n").expect("a policy");
        match permit(authentic, &me, &policy, &Owner::default(), at_hand) {
            Ok(permit) => {
                let is_script = matches!(self.order.action, Action::Script { .. });
                assert_eq!(permit.script().is_some(), is_script, "a permit for a script has it");
                None
            }
            Err((No::Refused(refusal), _)) => Some(refusal),
            Err((other, _)) => panic!("{other:?}"),
        }
    }

    fn script(&mut self) -> (&mut u32, &mut Digest, &mut Privilege, &mut Parameters, &mut bool) {
        let Action::Script { version, sha256, privilege, parameters, dry_run, .. } = &mut self.order.action else {
            panic!("a look");
        };
        (version, sha256, privilege, parameters, dry_run)
    }
}

fn look() -> Action {
    Action::Diagnose { sections: List::default() }
}

fn act() -> Action {
    Action::Script {
        bundle: "mend".parse().expect("a name"),
        version: 1,
        sha256: SCRIPT,
        privilege: Privilege::Repair,
        parameters: Parameters::default(),
        dry_run: false,
    }
}

type Row = (&'static str, fn(&mut Case), Option<Refusal>);

fn hold(action: &Action, rows: &[Row]) {
    assert_eq!(Case::new(action.clone()).answer(), None, "unchanged it takes effect");
    for (what, change, expected) in rows {
        let mut case = Case::new(action.clone());
        change(&mut case);
        assert_eq!(case.answer(), *expected, "{what}: {action:?}");
    }
}

#[test]
fn an_order_needs_a_listed_unlocked_signer_for_this_machine_and_customer() {
    use Refusal::*;
    let rows: &[Row] = &[
        ("nobody we know", |c| c.catalogue.staff.staff.clear(), Some(UnknownStaff)),
        ("an entry that is not of its own keys", |c| c.entry().tls_key = SCRIPT, Some(UnknownStaff)),
        ("signed by another", |c| c.key = SigningKey::generate().expect("a key"), Some(BadSignature)),
        ("another signing key is listed", |c| c.entry().order_key = PublicKey::from_bytes([9; 32]), Some(UnknownStaff)),
        ("until now", |c| c.entry().until = NOW, None),
        ("until before", |c| c.entry().until = NOW - 1, Some(StaffExpired)),
        ("locked", |c| _ = c.locks.keys.insert(c.order.key), Some(StaffLocked)),
        ("another is locked", |c| _ = c.locks.keys.insert(KeyId::from_bytes([9; 16])), None),
        ("another machine", |c| c.order.machine = MachineId::from_bytes([9; 16]), Some(WrongMachine)),
        ("another customer", |c| c.order.customer = CustomerId::from_bytes([9; 16]), Some(WrongCustomer)),
        (
            "staff for another customer",
            |c| c.entry().customers = Customers::Only(vec![CustomerId::from_bytes([9; 16])]),
            Some(WrongCustomer),
        ),
        ("staff for this one", |c| c.entry().customers = Customers::Only(vec![CustomerId::from_bytes([1; 16])]), None),
        ("staff for nobody", |c| c.entry().customers = Customers::Only(Vec::new()), Some(WrongCustomer)),
    ];
    hold(&look(), rows);
    hold(&act(), rows);
    let least: Row = ("the least role", |c| c.entry().role = Role::Diagnose, None);
    hold(&look(), &[least]);
    hold(&act(), &[(least.0, least.1, Some(BeyondRole))]);
}

#[test]
fn an_order_is_valid_within_its_times_and_a_look_five_minutes_longer() {
    use Refusal::*;
    let both: &[Row] = &[
        ("begins now", |c| c.order.not_before = NOW, None),
        ("begins in a moment", |c| (c.order.not_before, c.order.not_after) = (NOW + 1, NOW + 2), Some(NotYet)),
        ("lasts seven days", |c| c.order.not_after = c.order.not_before + LIFE, None),
        ("lasts longer", |c| c.order.not_after = c.order.not_before + LIFE + 1, Some(NotYet)),
        ("its end is the newest signed time", |c| c.floor = NOW, None),
    ];
    hold(&look(), both);
    hold(&act(), both);
    hold(
        &look(),
        &[
            ("ended five minutes ago", |c| c.order.not_after = NOW - SKEW, None),
            ("ended before that", |c| c.order.not_after = NOW - SKEW - 1, Some(TooLate)),
            ("a newer time was signed", |c| c.floor = NOW + SKEW, None),
            ("one that is newer still", |c| c.floor = NOW + SKEW + 1, Some(TooLate)),
            ("ordered before the ledger", |c| c.orders_since = c.order.not_before + 1, None),
        ],
    );
    hold(
        &act(),
        &[
            ("ended just now", |c| c.order.not_after = NOW - 1, Some(TooLate)),
            ("a newer time was signed", |c| c.floor = NOW + 1, Some(TooLate)),
            ("ordered as the ledger begins", |c| c.orders_since = c.order.not_before, None),
            ("ordered before the ledger", |c| c.orders_since = c.order.not_before + 1, Some(TooLate)),
        ],
    );
}

#[test]
fn a_locked_machine_a_wrong_clock_and_changed_files_stop_acts_but_not_looks() {
    use Refusal::*;
    let locked: fn(&mut Case) = |c| c.locks.machine = true;
    let wrong: fn(&mut Case) = |c| c.clock = Clock::Implausible { hub: NOW };
    let changed: fn(&mut Case) = |c| c.files_are_ours = false;
    hold(
        &look(),
        &[
            ("the machine is locked", locked, None),
            ("the clock is worth nothing", wrong, None),
            ("its files were changed", changed, None),
        ],
    );
    hold(
        &act(),
        &[
            ("the machine is locked", locked, Some(MachineLocked)),
            ("its files were changed", changed, Some(FilesChanged)),
            ("the clock is worth nothing", wrong, Some(ClockImplausible)),
            (
                "but it is the clock that is mended",
                |c| {
                    c.clock = Clock::Implausible { hub: NOW };
                    c.manifest += "services = true\nrepairs_clock = true\n";
                },
                None,
            ),
            (
                "by the hub's time whoever ordered it has left",
                |c| {
                    c.clock = Clock::Implausible { hub: NOW + 1 };
                    c.manifest += "services = true\nrepairs_clock = true\n";
                },
                Some(StaffExpired),
            ),
        ],
    );
}

#[test]
fn a_script_must_be_the_approved_complete_one_and_fit_this_machine() {
    use Refusal::*;
    hold(
        &act(),
        &[
            ("the catalogue has ended", |c| c.catalogue.expiries.timestamp = NOW - 1, Some(CatalogueExpired)),
            ("its root has", |c| c.catalogue.expiries.root = NOW - 1, Some(CatalogueExpired)),
            ("the technician has seen a newer one", |c| c.order.targets_version = 8, Some(CatalogueBehind)),
            ("an older one", |c| c.order.targets_version = 6, None),
            ("nobody has approved it", |c| c.catalogue.scripts.clear(), Some(NotApproved)),
            ("another version", |c| *c.script().0 = 2, Some(NotApproved)),
            ("other bytes", |c| *c.script().1 = Digest::from_bytes([4; 32]), Some(NotApproved)),
            ("another privilege than it has", |c| *c.script().2 = Privilege::Raw, Some(NotApproved)),
            ("other bytes lie here", |c| c.bundle = Digest::from_bytes([4; 32]), Some(NotApproved)),
            ("it is not here", |c| c.is_at_hand = false, Some(NotFetched)),
            ("its last day is tomorrow", |c| c.manifest += "expires = \"2026-11-24\"\n", None),
            ("its last day was yesterday", |c| c.manifest += "expires = \"2026-11-22\"\n", Some(ScriptExpired)),
            (
                "it is for Windows",
                |c| c.manifest = c.manifest.replace("[\"linux\"]", "[\"windows\"]"),
                Some(OtherPlatform),
            ),
            ("it shows nothing beforehand", |c| *c.script().4 = true, Some(NoDryRun)),
            ("what is sealed does not open", |c| c.secrets = None, Some(BadParameters)),
            (
                "a parameter it does not know",
                |c| {
                    let unknown = BTreeMap::from([("x".to_owned(), Value::Integer(1))]);
                    *c.script().3 = Parameters::try_from(unknown).expect("one");
                },
                Some(BadParameters),
            ),
            ("nothing can hold it", |c| c.cage = None, Some(NoCage)),
        ],
    );
}

#[test]
fn a_reading_script_with_network_counts_as_an_act_by_its_manifest() {
    let reads = Action::Script {
        bundle: "mend".parse().expect("a name"),
        version: 1,
        sha256: SCRIPT,
        privilege: Privilege::Read,
        parameters: Parameters::default(),
        dry_run: false,
    };
    let case = |more: &str, role: Role| {
        let mut case = Case::new(reads.clone());
        case.manifest = case.manifest.replace("\"repair\"", "\"read\"") + more;
        case.entry().role = role;
        case.answer()
    };
    assert_eq!(case("", Role::Diagnose), None);
    assert_eq!(case("network = true\n", Role::Repair), None);
    assert_eq!(case("network = true\n", Role::Diagnose), Some(Refusal::BeyondRole));
}

#[test]
fn a_grant_allows_its_script_beyond_the_role_and_no_other_script() {
    use Refusal::*;
    let acts = |bundle: &str, privilege| Action::Script {
        bundle: bundle.parse().expect("a name"),
        version: 1,
        sha256: SCRIPT,
        privilege,
        parameters: Parameters::default(),
        dry_run: false,
    };
    let answer = |change: fn(&mut Case)| {
        let mut case = Case::new(acts("mend", Privilege::Repair));
        case.entry().role = Role::Diagnose;
        let named = BTreeSet::from(["mend".parse().expect("a name")]);
        case.catalogue.grants.insert(case.order.key, named);
        change(&mut case);
        case.answer()
    };
    assert_eq!(answer(|_| {}), None);
    type Row = (&'static str, fn(&mut Case), Refusal);
    let rows: &[Row] = &[
        ("nothing is named", |c| c.catalogue.grants.clear(), BeyondRole),
        ("another script is named", |c| drop(c.catalogue.grants.insert(c.order.key, BTreeSet::new())), BeyondRole),
        (
            "another key may",
            |c| {
                let named = c.catalogue.grants.remove(&c.order.key).expect("there");
                c.catalogue.grants.insert(KeyId::from_bytes([9; 16]), named);
            },
            BeyondRole,
        ),
        ("the entry has run out", |c| c.entry().until = NOW - 1, StaffExpired),
        ("the key is locked", |c| c.locks.keys.extend([c.order.key]), StaffLocked),
        ("the machine is locked", |c| c.locks.machine = true, MachineLocked),
        ("it is of other customers", |c| c.entry().customers = Customers::Only(Vec::new()), WrongCustomer),
        ("it is off the list", |c| c.catalogue.staff.staff.clear(), UnknownStaff),
    ];
    for (what, change, refusal) in rows {
        assert_eq!(answer(*change), Some(*refusal), "{what}");
    }
    // An order that turns out to be an act once its manifest is read.
    let reads = |is_named: bool| {
        let mut case = Case::new(acts("mend", Privilege::Read));
        case.manifest = case.manifest.replace("\"repair\"", "\"read\"") + "network = true\n";
        case.entry().role = Role::Diagnose;
        if is_named {
            case.catalogue.grants.insert(case.order.key, BTreeSet::from(["mend".parse().expect("a name")]));
        }
        case.answer()
    };
    assert_eq!((reads(true), reads(false)), (None, Some(BeyondRole)));
}

#[test]
fn only_a_lead_of_its_customer_can_retire_a_machine() {
    use Refusal::*;
    let machine = MachineId::from_bytes([1; 16]);
    let word = |case: &Case, machine: MachineId| Retirement {
        machine,
        machine_name: "kasse-1".parse().expect("a name"),
        customer: case.order.customer,
        key: case.order.key,
        at: NOW,
        not_after: NOW,
    };
    let answer = |change: fn(&mut Case), of: MachineId| {
        let mut case = Case::new(look());
        case.entry().role = Role::Lead;
        change(&mut case);
        let word = word(&case, of);
        retired_by(&seal(&word, &case.key, Version::OLDEST).expect("signed"), &case.standing()).map(|(_, at)| at)
    };
    let other = MachineId::from_bytes([9; 16]);
    assert_eq!(answer(|_| {}, machine), Ok(NOW));
    assert_eq!(answer(|_| {}, other), Err(WrongMachine));
    type Change = fn(&mut Case);
    let cases: &[(&str, Change, Refusal)] = &[
        ("may only repair", |c| c.entry().role = Role::Repair, BeyondRole),
        ("may only look", |c| c.entry().role = Role::Diagnose, BeyondRole),
        ("has run out", |c| c.entry().until = NOW - 1, StaffExpired),
        ("is not on the list", |c| c.catalogue.staff.staff.clear(), UnknownStaff),
        ("is locked", |c| c.locks.keys.extend([c.order.key]), StaffLocked),
        ("is of other customers", |c| c.entry().customers = Customers::Only(Vec::new()), WrongCustomer),
        ("signs with another key", |c| c.key = SigningKey::generate().expect("a key"), BadSignature),
    ];
    for (what, change, refusal) in cases {
        assert_eq!(answer(*change, machine), Err(*refusal), "whoever signs {what}");
    }
    let mut case = Case::new(look());
    case.entry().role = Role::Lead;
    assert_eq!(retired_by(&case.envelope(), &case.standing()), Err(NotAnOrder), "an order is no retirement");
    for (customer, not_after, answer) in [
        (CustomerId::from_bytes([9; 16]), NOW, Err(WrongCustomer)),
        (case.order.customer, NOW, Ok(NOW)),
        (case.order.customer, NOW - 1, Err(TooLate)),
    ] {
        let word = Retirement { customer, not_after, ..word(&case, machine) };
        let signed = seal(&word, &case.key, Version::OLDEST).expect("signed");
        assert_eq!(retired_by(&signed, &case.standing()).map(|(_, at)| at), answer, "{customer} {not_after}");
    }
    let word = word(&case, machine);
    let mut bent = seal(&word, &case.key, Version::OLDEST).expect("signed");
    bent.signature = seal(&case.order, &case.key, Version::OLDEST).expect("signed").signature;
    assert_eq!(retired_by(&bent, &case.standing()), Err(BadSignature));
}

#[test]
fn a_lock_stops_the_keys_and_the_machine_it_names_and_is_never_lifted() {
    let (me, other) = (MachineId::from_bytes([1; 16]), MachineId::from_bytes([9; 16]));
    let [one, two, three] = [1, 2, 3].map(|n| KeyId::from_bytes([n; 16]));
    let lock = |locked: Locked| Lock { locked, key: three, reason: Text::default(), at: NOW };
    let keys = |keys: &[KeyId]| lock(Locked::Keys(List::try_from(keys.to_vec()).expect("few")));
    let mut locks = Locks::default();
    locks.add(&keys(&[one]), me);
    assert_eq!((locks.holds(&one), locks.holds(&two), locks.machine), (true, false, false));
    locks.add(&lock(Locked::Machine(other)), me);
    assert!(!locks.machine, "another machine's lock");
    locks.add(&lock(Locked::Machine(me)), me);
    locks.add(&lock(Locked::Machine(other)), me);
    locks.add(&keys(&[two]), me);
    assert_eq!((locks.holds(&one), locks.holds(&two), locks.holds(&three), locks.machine), (true, true, false, true));
}
