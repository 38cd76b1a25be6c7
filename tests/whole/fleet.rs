//! Three agents as separate processes, enrolled by invitation, listed and diagnosed; their facts agree with
//! the output of other tools on this computer.

use fernwart_tests::{World, run};
use serde_json::Value;
use std::process::Command;

fn tool(program: &str, arguments: &[&str]) -> String {
    run(Command::new(program).args(arguments).env("LC_ALL", "C")).exits(0).out
}

fn near(ours: f64, theirs: f64, share: f64, what: &str) {
    assert!((ours - theirs).abs() <= theirs.abs() * share + 1.0, "{what}: {ours} here, {theirs} there");
}

fn facts<'a>(result: &'a Value, section: &str) -> &'a Value {
    &result["report"]["sections"][section]["facts"]
}

#[test]
fn diagnosed_facts_match_the_output_of_system_tools() {
    let world = World::new();
    let _machines: Vec<_> = ["kasse-1", "kasse-2", "lager-1"].iter().map(|name| world.add_machine(name)).collect();
    let listed = world.technician(&["ls"]).exits(0).out;
    for name in ["kasse-1", "kasse-2", "lager-1"] {
        let line = listed.lines().find(|line| line.starts_with(name)).expect("the machine is listed");
        assert!(line.contains("Bäckerei Meyer") && line.contains("online") && line.contains("quic"), "{line}");
    }

    let printed = world.technician(&["diagnose", "all", "-o", "jsonl"]);
    assert!(matches!(printed.code, 0 | 1), "{}", printed.err);
    let lines = printed.json_lines();
    assert_eq!(lines.len(), 4);
    let names: std::collections::BTreeSet<_> = lines.iter().filter_map(|line| line["machine"].as_str()).collect();
    assert_eq!(names.len(), 3);
    assert!(lines.iter().all(|line| line["v"] == 1));
    let summary = &lines[3];
    assert_eq!(summary["type"], "summary");
    assert_eq!((summary["selected"].as_u64(), summary["answered"].as_u64()), (Some(3), Some(3)));
    assert_eq!(summary["exit"], printed.code);

    let result = &lines[0];
    assert_eq!(result["report"]["sections"].as_object().map(serde_json::Map::len), Some(12));
    assert!(result["report"]["took_ms"].as_u64().is_some_and(|ms| ms <= 3000));
    free_agrees(facts(result, "memory"));
    df_agrees(facts(result, "disks"));
    uname_agrees(facts(result, "system"));
    ip_agrees(facts(result, "network"));
    ss_agrees(facts(result, "security"));
}

fn free_agrees(memory: &Value) {
    let free = tool("free", &["-b"]);
    let row: Vec<f64> =
        free.lines().nth(1).expect("a row").split_whitespace().skip(1).map(|n| n.parse().expect("a number")).collect();
    near(memory["total_bytes"].as_f64().expect("total"), row[0], 0.0, "total memory");
    near(memory["available_bytes"].as_f64().expect("available"), row[5], 0.1, "available memory");
}

fn df_agrees(disks: &Value) {
    let filesystems = disks["filesystems"].as_array().expect("file systems");
    assert!(!filesystems.is_empty());
    for filesystem in filesystems {
        let mount = filesystem["mount"].as_str().expect("a mount");
        // Other tests beside this one mount and unmount.
        if mount.starts_with("/tmp/") || mount.starts_with("/srv/") {
            continue;
        }
        let df = tool("df", &["-B1", "--output=size,avail", mount]);
        let row: Vec<f64> =
            df.lines().nth(1).expect("a row").split_whitespace().map(|n| n.parse().expect("a number")).collect();
        near(filesystem["size_bytes"].as_f64().expect("a size"), row[0], 0.0, mount);
        near(filesystem["free_bytes"].as_f64().expect("free"), row[1], 0.05, mount);
    }
}

fn uname_agrees(system: &Value) {
    assert_eq!(system["kernel"].as_str(), Some(tool("uname", &["-r"]).trim()));
    assert_eq!(system["hostname"].as_str(), Some(tool("uname", &["-n"]).trim()));
    assert_eq!(system["arch"].as_str(), Some(tool("uname", &["-m"]).trim()));
}

fn ip_agrees(network: &Value) {
    let ip: Value = serde_json::from_str(&tool("ip", &["-j", "address"])).expect("JSON");
    let theirs: Vec<&Value> = ip.as_array().expect("a list").iter().filter(|link| link["ifname"] != "lo").collect();
    let ours = network["interfaces"].as_array().expect("a list");
    assert_eq!(ours.len(), theirs.len(), "{ours:?}");
    for link in theirs {
        let mine = ours.iter().find(|mine| mine["name"] == link["ifname"]).expect("the interface");
        assert_eq!(mine["mtu_bytes"], link["mtu"]);
        for address in link["addr_info"].as_array().expect("a list") {
            let text = format!("{}/{}", address["local"].as_str().expect("an address"), address["prefixlen"]);
            assert!(
                mine["addresses"].as_array().expect("a list").iter().any(|a| *a == text.as_str()),
                "{text}: {mine}"
            );
        }
    }
    let routes: Value = serde_json::from_str(&tool("ip", &["-j", "route", "show", "default"])).expect("JSON");
    for route in routes.as_array().expect("a list") {
        if let Some(gateway) = route["gateway"].as_str() {
            assert!(network["gateways"].as_array().expect("a list").iter().any(|g| g == gateway), "{network}");
        }
    }
}

fn ss_agrees(security: &Value) {
    let sockets = tool("ss", &["-H", "-l", "-n", "-t"]);
    let mut theirs: Vec<u64> = sockets
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3))
        .filter(|local| !local.starts_with("127.") && !local.starts_with("[::1]"))
        .filter_map(|local| local.rsplit(':').next()?.parse().ok())
        .collect();
    theirs.sort_unstable();
    theirs.dedup();
    let ours: Vec<u64> = security["listening"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|socket| socket["protocol"] == "tcp")
        .filter_map(|socket| socket["port"].as_u64())
        .collect();
    assert_eq!(ours, theirs);
}

#[test]
fn targets_are_names_labels_and_groups_and_never_an_implicit_all() {
    let world = World::new();
    let _one = world.add_machine("kasse-1");
    let _two = world.add_machine("kasse-2");
    world.technician(&["label", "kasse-1", "site=kiel"]).exits(0);
    world.technician(&["group", "add", "tills", "kasse-1", "kasse-2"]).exits(0);
    let names = |arguments: &[&str]| {
        let mut all = vec!["ls", "-o", "name"];
        all.extend(arguments);
        world.technician(&all).exits(0).out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(&["-l", "site=kiel"]), ["kasse-1"]);
    assert_eq!(names(&["@tills", "--except", "kasse-1"]), ["kasse-2"]);
    assert_eq!(names(&["customer:Bäckerei Meyer"]), ["kasse-1", "kasse-2"]);
    let nothing = world.technician(&["diagnose"]).exits(2);
    assert!(nothing.err.contains("FW-CLI-02"), "{}", nothing.err);
    let misspelt = world.technician(&["diagnose", "kase-1"]).exits(2);
    assert!(misspelt.err.contains("did you mean kasse-1?"), "{}", misspelt.err);
    world.technician(&["rename", "kasse-2", "lager-1"]).exits(0);
    assert_eq!(names(&["@tills"]), ["kasse-1", "lager-1"]);
    let all = world.technician(&["rename", "lager-1", "all"]).exits(2);
    assert!(all.err.contains("means every one of them"), "{}", all.err);
    let taken = world.technician(&["rename", "lager-1", "kasse-1"]).exits(3);
    assert!(taken.err.contains("FW-HUB-07"), "{}", taken.err);
    let pong = world.technician(&["ping", "all", "-o", "jsonl"]).exits(0).json_lines();
    assert!(pong.len() == 2 && pong.iter().all(|pong| pong["ms"].as_f64().is_some_and(|ms| ms < 1000.0)), "{pong:?}");
}

#[test]
fn a_past_diagnosis_can_be_read_again_and_its_journal_verified() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let printed = world.technician(&["diagnose", "kasse-1", "--reason", "Platte voll?"]);
    assert!(matches!(printed.code, 0 | 1), "{}", printed.err);
    let facts: Value =
        serde_json::from_str(&world.technician(&["facts", "kasse-1", "--section", "disks", "-o", "json"]).exits(0).out)
            .expect("JSON");
    assert_eq!(facts["facts"].as_object().expect("facts").keys().collect::<Vec<_>>(), ["disks"]);
    let jobs = world.technician(&["job", "ls", "-o", "jsonl"]).exits(0).json_lines();
    assert_eq!(
        (jobs[0]["job"].as_u64(), jobs[0]["reason"].as_str(), jobs[0]["done"].as_u64()),
        (Some(1), Some("Platte voll?"), Some(1))
    );
    let runs = world.technician(&["job", "show", "1", "-o", "jsonl"]).exits(0).json_lines();
    assert_eq!((runs[0]["state"].as_str(), runs[0]["outcome"].as_str()), (Some("settled"), Some("ok")));
    let watched = world.technician(&["job", "watch", "1"]);
    assert_eq!(watched.code, printed.code, "watching ends as asking did");
    assert!(watched.out.starts_with("kasse-1"), "{}", watched.out);

    // The machine's own journal agrees, and verifies without a hub.
    let kinds: Vec<_> = machine.journal().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["joined", "run_started", "run_finished"]);
    let (_, started) = &machine.journal()[1];
    assert_eq!((started["staff"].as_str(), started["reason"].as_str()), (Some("jana"), Some("Platte voll?")));
    let export = world.path().join("journal.jsonl");
    let text = machine.owner(&["journal", "--export"]).exits(0).out;
    std::fs::write(&export, &text).expect("written");
    let path = export.to_str().expect("text").to_owned();
    let complete = world.technician(&["journal", "verify", &path]).exits(0);
    assert!(complete.out.starts_with("whole: 3 entries"), "{}", complete.out);
    for (from, to) in [("Platte voll?", "Platte leer?"), ("run_finished", "run_followed")] {
        assert!(text.contains(from), "{from} stands in the journal");
        std::fs::write(&export, text.replace(from, to)).expect("written");
        let altered = world.technician(&["journal", "verify", &path]).exits(1);
        assert!(altered.err.contains("FW-JNL-01"), "{}", altered.err);
    }
    let cut: Vec<_> = text.lines().take(2).collect();
    std::fs::write(&export, cut.join("\n")).expect("written");
    world.technician(&["journal", "verify", &path]).exits(1);
}

#[test]
fn a_rejected_machine_stays_out_and_says_so() {
    let world = World::new();
    let line = world.invitation(&["Bäckerei Meyer"]);
    world.owner_in("kasse-1", &["enroll", &line, "--policy", "ask", "--no-service"]).exits(0);
    let name = world.technician(&["pending", "-o", "name"]).exits(0).out.trim().to_owned();
    let misspelt = world.technician(&["admit", &format!("{name}x")]).exits(2);
    assert!(misspelt.err.contains(&format!("did you mean {name}?")), "{}", misspelt.err);
    world.technician(&["reject", &name, &format!("--yes={name}")]).exits(0);
    assert_eq!(world.technician(&["pending", "-o", "name"]).exits(0).out, "");
    let again = world.technician(&["admit", &name]).exits(2);
    assert!(again.err.contains("FW-JOIN-11"), "{}", again.err);
    let mut command = Command::new(fernwart_tests::program("fernwart-agent"));
    command.arg("--home").arg(world.path().join("kasse-1")).arg("run");
    let agent = fernwart_tests::Process::start(&mut command, &world.path().join("rejected.log"));
    fernwart_tests::wait_until("it is told", || agent.log().contains("this machine was rejected"));
    assert!(!world.technician(&["ls", "-o", "csv"]).exits(0).out.contains("online"));
    let printed = world.owner_in("kasse-1", &["--lang", "de", "status"]).exits(0).out;
    assert!(printed.contains("hat diesen Rechner abgelehnt"), "{printed}");
    // A new invitation alone does not enroll it again: it still has its old enrollment.
    let line = world.invitation(&["Bäckerei Meyer"]);
    let words = ["--lang", "de", "enroll", &line, "--policy", "ask", "--no-service"];
    let printed = world.owner_in("kasse-1", &words).exits(3);
    assert!(printed.err.contains("FW-JOIN-29") && printed.err.contains("sudo fernwart-agent leave"), "{}", printed.err);
    drop(agent);
    std::fs::rename(world.path().join("kasse-1"), world.path().join("kasse-1.old")).expect("moved aside");
    // Some mail programs break the invitation into pieces. Here they begin with a hyphen, and other options
    // stand between them.
    let broken = format!("„{}“", line.replace('-', "\n-"));
    let (first, pieces) = broken.split_once('\n').expect("two pieces");
    let pieces: Vec<&str> = pieces.split('\n').collect();
    let words = [&["--lang", "de", "enroll", first, "--policy", "ask"][..], &pieces, &["--no-service"]].concat();
    world.owner_in("kasse-1", &words).exits(0);
}

#[test]
fn invitations_for_no_time_or_an_impossible_number_of_machines_are_refused() {
    let world = World::new();
    for words in [["--for", "0s"], ["--machines", "0"], ["--machines", "100000000"]] {
        world.technician(&[&["invite", "Bäckerei Meyer"][..], &words].concat()).exits(2);
    }
}

#[test]
fn an_approved_change_of_the_catalogue_reaches_the_machines() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let folder = world.path().join("proposal");
    let path = folder.to_str().expect("text").to_owned();
    world.technician(&["catalogue", "show", "--to", &path]).exits(0);
    let shop = folder.join("shop.json");
    let text = std::fs::read_to_string(&shop).expect("read");
    assert!(text.contains("\"hours\": \"\""), "{text}");
    std::fs::write(&shop, text.replace("\"hours\": \"\"", "\"hours\": \"Mo-Fr 8-18\"")).expect("written");
    let printed = world.technician(&["catalogue", "propose", "--yes", &path]).exits(0);
    assert!(printed.err.contains("published: version 2"), "{}", printed.err);
    fernwart_tests::wait_until("the owner sees it", || machine.owner(&["status"]).out.contains("Mo-Fr 8-18"));
    world.technician(&["catalogue", "propose", "--yes", "/nonexistent"]).exits(2);
}
