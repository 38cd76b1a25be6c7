//! Two of three approvers: one signature publishes nothing, two do.

use fernwart_tests::{CommandOutput, Process, free_port, run, staff_command, wait_until};
use std::path::Path;

struct Shop {
    folder: tempfile::TempDir,
}

impl Shop {
    fn at(&self, home: &str, arguments: &[&str]) -> CommandOutput {
        run(&mut staff_command(&self.folder.path().join(home), arguments))
    }

    /// Signs without a prompt, by naming the id of the printed draft.
    fn sign(&self, home: &str, arguments: &[&str]) -> CommandOutput {
        let mut all = vec!["catalogue", "sign"];
        all.extend(arguments);
        let reported = self.at(home, &all);
        if reported.code == 2 && reported.err.contains("FW-CAT-08") {
            let id = reported.err.split("--yes ").nth(1).expect("an id").split_whitespace().next().expect("an id");
            all.extend(["--yes", id]);
            return self.at(home, &all);
        }
        reported
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("text").to_owned()
    }
}

/// Replaces the folder's own path in a text, so that texts can be compared.
fn plain(text: &str, folder: &Path) -> String {
    text.replace(folder.to_str().expect("text"), "~")
}

#[test]
fn two_of_three_approvers_must_sign_before_a_draft_can_be_published() {
    let shop = Shop { folder: tempfile::tempdir().expect("a folder") };
    let keys: Vec<String> = ["anna", "ben", "carla"]
        .iter()
        .map(|name| shop.at(name, &["approver", "new"]).exits(0).out.trim().to_owned())
        .collect();
    let address = format!("127.0.0.1:{}", free_port());
    let mut init = vec!["init", "--address", &address, "--listen", &address, "--name", "jana", "-k", "2"];
    keys.iter().for_each(|key| init.extend(["--approver", key]));
    let output = shop.at("shop", &init).exits(0);
    assert!(plain(&output.err, shop.folder.path()).contains("2 of 3 approvers must sign"), "{}", output.err);

    let draft = shop.path("shop/first-draft.json");
    let publish = ["catalogue", "publish", "--file", &draft];
    let none = shop.at("shop", &publish).exits(3);
    assert!(none.err.contains("FW-CAT-03"), "{}", none.err);
    shop.sign("anna", &["--file", &draft]).exits(0);
    let one = shop.at("shop", &publish).exits(3);
    assert!(one.err.contains("FW-CAT-03") && one.err.contains("1 of 2"), "{}", one.err);
    let again = shop.sign("anna", &["--file", &draft]).exits(3);
    assert!(again.err.contains("signed already"), "{}", again.err);
    shop.at("stranger", &["approver", "new"]).exits(0);
    let outsider = shop.sign("stranger", &["--file", &draft]).exits(3);
    assert!(outsider.err.contains("none of the approvers'"), "{}", outsider.err);
    shop.sign("ben", &["--file", &draft]).exits(0);
    shop.at("shop", &publish).exits(0);

    let mut serve = staff_command(&shop.folder.path().join("shop"), &["serve"]);
    let hub = Process::start(&mut serve, &shop.folder.path().join("hub.log"));
    wait_until("the hub listens", || hub.log().contains("hub is listening"));

    // A new technician joins; keys are made on their computer.
    let line = shop.at("shop", &["invite", "--staff", "--quiet"]).exits(0).out.trim().to_owned();
    let staff_line = shop.path("line");
    std::fs::write(&staff_line, &line).expect("written");
    let join = ["join", "--invitation", &staff_line, "--name", "ole"];
    let join_now: Vec<&str> = join.iter().copied().chain(["--no-wait"]).collect();
    let joined = shop.at("ole", &join_now).exits(0);
    let key = joined.out.split_whitespace().last().expect("a key id").to_owned();
    let early = shop.at("ole", &["ls"]).exits(3);
    assert!(early.err.contains("FW-JOIN-12"), "{}", early.err);

    let added = shop.at("shop", &["staff", "add", "ole", "--key-id", &key, "--role", "diagnose"]).exits(0);
    assert!(
        added.err.contains("nothing is in force yet") && added.err.contains("+ staff ole: diagnose"),
        "{}",
        added.err
    );
    let publish = ["catalogue", "publish"];
    shop.at("shop", &publish).exits(3);
    let (anna, carla) = (shop.path("anna"), shop.path("carla"));
    shop.sign("shop", &["--key", &anna]).exits(0);
    let one = shop.at("shop", &publish).exits(3);
    assert!(one.err.contains("FW-CAT-03"), "{}", one.err);
    shop.at("ole", &join_now).exits(0);
    shop.at("ole", &["ls"]).exits(3);
    shop.sign("shop", &["--key", &carla]).exits(0);
    shop.at("shop", &publish).exits(0);

    // The new technician is in, and the first order works.
    shop.at("ole", &join).exits(0);
    let invitation = shop.at("shop", &["invite", "Demo", "--admit-automatically", "--quiet"]).exits(0).out;
    let file = shop.path("invitation");
    std::fs::write(&file, invitation).expect("written");
    let home = shop.path("kasse-1");
    let agent = |arguments: &[&str]| {
        let mut command = std::process::Command::new(fernwart_tests::program("fernwart-agent"));
        command.arg("--home").arg(&home).args(arguments);
        command
    };
    run(&mut agent(&["enroll", "--invitation", &file, "--policy", "ask", "--no-service"])).exits(0);
    let _agent = Process::start(&mut agent(&["run"]), &shop.folder.path().join("agent.log"));
    wait_until("the machine is linked", || shop.at("ole", &["ls", "-o", "csv"]).out.contains(",online,"));
    let output = shop.at("ole", &["diagnose", "all"]);
    assert!(matches!(output.code, 0 | 1), "{}", output.err);
    // A technician who only looks may not invite.
    let beyond = shop.at("ole", &["invite", "Demo"]).exits(3);
    assert!(beyond.err.contains("FW-HUB-03"), "{}", beyond.err);
}

fn secret_file(path: &Path, text: &str) -> String {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path).expect("a file");
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
    path.to_str().expect("text").to_owned()
}

#[test]
fn a_protected_key_needs_its_passphrase_and_is_refused_on_a_hub() {
    let shop = Shop { folder: tempfile::tempdir().expect("a folder") };
    let right = secret_file(&shop.folder.path().join("right"), "lampe kiesel anker\n");
    let wrong = secret_file(&shop.folder.path().join("wrong"), "lampe kiesel\n");
    let key = shop.at("anna", &["approver", "new", "--passphrase-file", &right]).exits(0).out;
    // Showing the key's name needs no passphrase.
    assert_eq!(shop.at("anna", &["approver", "show"]).exits(0).out, key);
    let address = format!("127.0.0.1:{}", free_port());
    let init = ["init", "--address", &address, "--listen", &address, "--approver", key.trim(), "-k", "1"];
    shop.at("shop", &init).exits(0);
    let draft = shop.path("shop/first-draft.json");
    let unread = shop.at("anna", &["catalogue", "sign", "--file", &draft]);
    let id = unread.err.split("--yes ").nth(1).expect("an id").split_whitespace().next().expect("an id").to_owned();
    let sign = |more: &[&str]| {
        let words = ["catalogue", "sign", "--file", &draft, "--yes", &id];
        shop.at("anna", &[&words[..], more].concat())
    };
    let nobody = sign(&[]).exits(2);
    assert!(nobody.err.contains("FW-CAT-17") && nobody.err.contains("--passphrase-file"), "{}", nobody.err);
    let closed = sign(&["--passphrase-file", &wrong]).exits(3);
    assert!(closed.err.contains("the passphrase does not open this key"), "{}", closed.err);
    sign(&["--passphrase-file", &right]).exits(0);
    shop.at("shop", &["catalogue", "publish", "--file", &draft]).exits(0);
    // A hub refuses any approver's key in its home, protected or not.
    let copy = shop.folder.path().join("shop/hub/catalogue/backup");
    std::fs::copy(shop.folder.path().join("anna/approver/approver.key"), copy).expect("copied");
    let output = shop.at("shop", &["serve"]).exits(3);
    assert!(output.err.contains("FW-HUB-22"), "{}", output.err);
}

#[test]
fn a_hub_listens_on_the_port_of_its_address_unless_configured_otherwise() {
    let shop = Shop { folder: tempfile::tempdir().expect("a folder") };
    let settings = |home: &str| {
        let text = std::fs::read_to_string(shop.folder.path().join(home).join("hub/hub.toml")).expect("settings");
        text.lines().next().unwrap_or_default().to_owned()
    };
    shop.at("own", &["init", "--address", "hub.example:7443", "--address", "hub.example:443"]).exits(0);
    assert_eq!(settings("own"), r#"listen = "[::]:7443""#, "a name may have addresses of both families");
    shop.at("four", &["init", "--address", "192.0.2.1:7443"]).exits(0);
    assert_eq!(settings("four"), r#"listen = "0.0.0.0:7443""#);
    shop.at("six", &["init", "--address", "[2001:db8::1]:7443"]).exits(0);
    assert_eq!(settings("six"), r#"listen = "[::]:7443""#);
    // As behind a router that maps one port to another.
    shop.at("mapped", &["init", "--address", "hub.example:443", "--listen", "10.0.0.2:7443"]).exits(0);
    assert_eq!(settings("mapped"), r#"listen = "10.0.0.2:7443""#);
    let nobodys = ["hub.example", "hub.example:", ":443", "hub:70000", "hub:0", "::1:443", "[hub]:443", "a hub:443"];
    let neither = ["http://x:443", "256.1.1.1:443", "a..b:443", "h-:443", "x:+7443"];
    for address in nobodys.into_iter().chain(neither) {
        let output = shop.at("none", &["init", "--address", address]).exits(2);
        assert!(output.err.contains("is no address") && output.err.contains("host:port"), "{}", output.err);
    }
    for nameless in ["--shop", "--name"] {
        let output = shop.at("none", &["init", "--address", "hub.example:443", nameless, " "]).exits(2);
        assert!(output.err.contains(&format!("{nameless} is empty")), "{}", output.err);
    }
}

#[test]
fn machines_follow_a_change_of_approvers() {
    let world = fernwart_tests::World::new();
    let machine = world.add_machine("kasse-1");
    let home = |name: &str| world.path().join(name);
    let ben = run(&mut staff_command(&home("ben"), &["approver", "new"])).exits(0).out.trim().to_owned();
    let own = world.technician(&["approver", "show"]).exits(0).out.trim().to_owned();
    let propose = |words: &[&str]| world.technician(&[&["catalogue", "rotate", "--yes"][..], words].concat());
    assert!(propose(&["--add", &own]).exits(2).err.contains("is an approver already"));
    assert!(propose(&["-k", "5"]).exits(2).err.contains("FW-CAT-16"));
    let output = propose(&["--add", &ben, "-k", "2"]).exits(0);
    assert!(output.err.contains(&format!("+ approver {ben}")) && output.err.contains("2 of 2"), "{}", output.err);
    assert!(output.err.contains("signed: 1 of 2 signatures"), "{}", output.err);
    world.technician(&["catalogue", "publish"]).exits(3);
    let sign = |key: &str| {
        let unread = world.technician(&["catalogue", "sign", "--key", key]).exits(2);
        let id = unread.err.split("--yes ").nth(1).expect("an id").split_whitespace().next().expect("an id");
        world.technician(&["catalogue", "sign", "--key", key, "--yes", id])
    };
    let ben_home = home("ben");
    sign(ben_home.to_str().expect("text")).exits(0);
    world.technician(&["catalogue", "publish"]).exits(0);
    let root = |number: u64| {
        move |(kind, body): &(String, serde_json::Value)| {
            kind == "catalogue_followed" && body["versions"]["root"] == number
        }
    };
    wait_until("the machine follows", || machine.journal().iter().any(root(2)));
    // From now on two must sign, and nobody may approve their own proposal.
    let folder = home("particulars");
    let folder = folder.to_str().expect("text");
    world.technician(&["catalogue", "show", "--to", folder]).exits(0);
    let file = home("particulars").join("shop.json");
    let text = std::fs::read_to_string(&file).expect("read").replace("Nordlicht IT", "Polarlicht IT");
    std::fs::write(&file, text).expect("written");
    world.technician(&["catalogue", "propose", "--yes", folder]).exits(0);
    let own_home = world.shop();
    let own_proposal = sign(own_home.to_str().expect("text")).exits(3);
    assert!(own_proposal.err.contains("nobody approves their own proposal"), "{}", own_proposal.err);
    sign(ben_home.to_str().expect("text")).exits(0);
    world.technician(&["catalogue", "publish"]).exits(3);
    let history = world.technician(&["catalogue", "history"]).exits(0).out;
    assert!(history.contains("version 2") && history.contains("nothing but its dates"), "{history}");
    assert_eq!(history.matches("signed by fwa1-").count(), 2, "{history}");
}
