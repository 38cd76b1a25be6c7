//! Two of three approvers: one signature publishes nothing, two do.

use fernwart_tests::{Process, Said, free_port, run, staff_command, wait_until};
use std::path::Path;

struct Shop {
    folder: tempfile::TempDir,
}

impl Shop {
    fn at(&self, home: &str, arguments: &[&str]) -> Said {
        run(&mut staff_command(&self.folder.path().join(home), arguments))
    }

    /// Signs as a script does: by naming the draft that was printed.
    fn sign(&self, home: &str, arguments: &[&str]) -> Said {
        let mut all = vec!["catalogue", "sign"];
        all.extend(arguments);
        let told = self.at(home, &all);
        if told.code == 2 && told.err.contains("FW-CAT-08") {
            let id = told.err.split("--yes ").nth(1).expect("an id").split_whitespace().next().expect("an id");
            all.extend(["--yes", id]);
            return self.at(home, &all);
        }
        told
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("text").to_owned()
    }
}

/// The folder's own path out of a text, so that it can be compared.
fn plain(text: &str, folder: &Path) -> String {
    text.replace(folder.to_str().expect("text"), "~")
}

#[test]
fn with_two_of_three_approvers_one_signature_publishes_nothing_and_two_do() {
    let shop = Shop { folder: tempfile::tempdir().expect("a folder") };
    let keys: Vec<String> = ["anna", "ben", "carla"]
        .iter()
        .map(|name| shop.at(name, &["approver", "new"]).exits(0).out.trim().to_owned())
        .collect();
    let address = format!("127.0.0.1:{}", free_port());
    let mut init = vec!["init", "--address", &address, "--listen", &address, "--name", "jana", "-k", "2"];
    keys.iter().for_each(|key| init.extend(["--approver", key]));
    let said = shop.at("shop", &init).exits(0);
    assert!(plain(&said.err, shop.folder.path()).contains("2 of 3 approvers must sign"), "{}", said.err);

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
    let stranger = shop.sign("stranger", &["--file", &draft]).exits(3);
    assert!(stranger.err.contains("none of the approvers'"), "{}", stranger.err);
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
    let said = shop.at("ole", &["diagnose", "all"]);
    assert!(matches!(said.code, 0 | 1), "{}", said.err);
    // A technician who only looks may not invite.
    let beyond = shop.at("ole", &["invite", "Demo"]).exits(3);
    assert!(beyond.err.contains("FW-HUB-03"), "{}", beyond.err);
}
