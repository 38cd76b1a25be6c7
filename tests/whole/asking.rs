//! SQL queries over all that machines have reported, and changed facts of one machine.

use fernwart_tests::{World, run, staff_command, wait_until};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

fn rows(output: &fernwart_tests::CommandOutput) -> Vec<Value> {
    output.json_lines().into_iter().filter(|line| line["type"] == "row").collect()
}

fn ask(world: &World, sql: &str) -> Vec<Value> {
    let output = world.technician(&["query", sql, "-o", "jsonl"]).exits(0);
    let lines = output.json_lines();
    let summary = lines.last().expect("a summary");
    assert_eq!(summary["type"], "summary");
    let rows = rows(&output);
    assert_eq!(summary["rows"], rows.len());
    rows
}

#[test]
fn a_query_is_answered_from_signed_reports() {
    let mut world = World::new();
    let _kept = [world.add_machine("kasse-1"), world.add_machine("kasse-2")];
    assert!(ask(&world, "SELECT * FROM filesystems").is_empty(), "nobody has told anything yet");
    let output = world.technician(&["diagnose", "all", "-o", "jsonl"]);
    let reports = output.json_lines();
    for report in reports.iter().filter(|line| line["type"] == "result") {
        let reported = &report["report"];
        let sql = format!(
            "SELECT mount, free_pct FROM filesystems WHERE machine = '{}'",
            report["machine"].as_str().expect("a name")
        );
        let asked: Vec<(Value, Value)> =
            ask(&world, &sql).iter().map(|row| (row["mount"].clone(), row["free_pct"].clone())).collect();
        let disks = reported["sections"]["disks"]["facts"]["filesystems"].as_array().expect("disks").iter();
        assert_eq!(asked, disks.map(|disk| (disk["mount"].clone(), disk["free_pct"].clone())).collect::<Vec<_>>());
        let findings = reported["findings"].as_array().expect("findings");
        for finding in findings {
            let id = finding["id"].as_str().expect("an id");
            let there = world.technician(&["query", "--finding", id, "-o", "name"]).exits(0).out;
            assert!(there.lines().any(|name| report["machine"] == name), "{id}: {there}");
        }
    }
    let kernel = ask(&world, "SELECT DISTINCT facts ->> '$.kernel' AS kernel FROM facts WHERE section = 'system'");
    assert_eq!(kernel[0]["kernel"], run(std::process::Command::new("uname").arg("-r")).out.trim());

    // If the index file is lost, it is rebuilt from the store and gives the same answer.
    let all = "SELECT machine, state, health, os FROM machines ORDER BY machine";
    let before = ask(&world, all);
    world.hub.kill_9();
    std::fs::remove_file(world.shop().join("hub/facts.sqlite")).expect("removed");
    world.restart_hub();
    wait_until("both are back", || world.is_online("kasse-1") && world.is_online("kasse-2"));
    assert_eq!(ask(&world, all), before);
    assert_eq!(ask(&world, "SELECT machine FROM cpu").len(), 2, "made anew from the store");

    for (sql, says) in [
        ("SELECT fre_pct FROM filesystems", "no such column: fre_pct"),
        ("DELETE FROM told", "one SELECT"),
        ("SELECT 1; SELECT 2", "one SELECT"),
        ("ATTACH '/etc/passwd' AS x", "one SELECT"),
        ("WITH a AS (SELECT 1) DELETE FROM told", "readonly"),
    ] {
        let output = world.technician(&["query", sql]).exits(2);
        assert!(output.err.contains(says) && output.err.contains("FW-QRY-01"), "{sql}: {}", output.err);
    }
    // A query that exceeds its memory limit fails alone.
    for greedy in ["SELECT zeroblob(900000000)", "SELECT hex(zeroblob(450000000)) || hex(zeroblob(450000000))"] {
        let output = world.technician(&["query", greedy]).exits(5);
        assert!(output.err.contains("FW-QRY-03") && output.err.contains("fernwart limits"), "{greedy}: {}", output.err);
    }
    assert_eq!(ask(&world, all), before);
    assert!(world.technician(&["query", "--tables"]).exits(0).out.contains("free_pct"));
}

#[test]
fn a_live_query_diagnoses_first_and_counts_machines_without_an_answer() {
    let (world, first, _away) = World::with_one_linked_and_one_stopped();
    let output = world.technician(&["query", "SELECT machine FROM memory", "--live", "-o", "jsonl"]).exits(0);
    assert_eq!(rows(&output).iter().map(|row| row["machine"].clone()).collect::<Vec<_>>(), [first.name.as_str()]);
    assert!(output.err.contains("1 of 2 machines did not tell anything new"), "{}", output.err);
}

#[test]
fn a_query_returns_only_rows_of_the_askers_customers() {
    let world = World::new();
    let _meyer = world.add_machine("kasse-1");
    let _praxis = world.add_machine_of("Praxis Petersen", "praxis-1");
    let both = || world.technician(&["query", "SELECT machine FROM memory", "--live", "-o", "name"]).out;
    wait_until("both have told", || both().lines().count() == 2);

    let robot = world.add_robot("Praxis Petersen");
    let asked = |sql: &str| rows(&run(&mut staff_command(&robot, &["query", sql, "-o", "jsonl"])).exits(0)).len();
    assert_eq!(asked("SELECT machine FROM memory"), 1);
    assert_eq!(asked("SELECT * FROM known"), 1);
    assert_eq!(asked("SELECT * FROM told WHERE section = 'memory'"), 1);
    assert_eq!(asked("SELECT * FROM sqlite_schema WHERE name = 'whole'"), 0);
}

/// Holds a write transaction on the index, so that nobody else can write.
struct Hold(Child);

impl Hold {
    fn of(world: &World) -> Self {
        let mut command = Command::new("sqlite3");
        command.arg(world.shop().join("hub/facts.sqlite")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let input = child.stdin.as_mut().expect("piped");
        input.write_all(b".timeout 5000\nBEGIN IMMEDIATE;\n.print held\n").expect("written");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("read");
        assert_eq!(line.trim(), "held");
        Self(child)
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("ended");
    }
}

#[test]
fn a_delayed_query_uses_the_askers_rights_at_the_time_of_the_answer() {
    let world = World::new();
    let _praxis = world.add_machine_of("Praxis Petersen", "praxis-1");
    let _till = world.add_machine("kasse-1");
    let robot = world.add_robot("Praxis Petersen");
    let question = ["query", "SELECT customer FROM memory", "-o", "csv"];
    let look = || world.technician(&["diagnose", "all", "-o", "name"]);
    look();
    assert_eq!(run(&mut staff_command(&robot, &question)).exits(0).out, "customer\nPraxis Petersen\n");

    // A query waits for a locked index only for a limited time; on a busy computer the changed rights may
    // come too late for it.
    let answered = (0..5).find_map(|_| {
        world.aim_robot(Some("Praxis Petersen"));
        let hold = Hold::of(&world);
        look();
        let mut command = staff_command(&robot, &question);
        let asking = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("started");
        wait_until("it waits", || world.metric("fernwart_links{door=\"staff\"}") == Some(1.0));
        world.aim_robot(Some("B\u{e4}ckerei Meyer"));
        hold.end();
        let output = asking.wait_with_output().expect("ended");
        (output.status.code() == Some(0)).then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    });
    assert_eq!(answered.as_deref(), Some("customer\nB\u{e4}ckerei Meyer\n"));
}

#[test]
fn the_index_catches_up_after_a_lock_and_is_rebuilt_after_damage() {
    let mut world = World::new();
    let _till = world.add_machine("kasse-1");
    let hold = Hold::of(&world);
    world.technician(&["diagnose", "kasse-1"]);
    let output = world.technician(&["query", "SELECT machine FROM memory"]);
    assert!(output.code != 0 && output.err.contains("store failed"), "older facts are no answer: {output:?}");
    hold.end();
    let question = ["query", "SELECT machine FROM memory", "-o", "name"];
    wait_until("it is there", || world.technician(&question).out == "kasse-1\n");

    // An index that is missing or damaged is rebuilt.
    let index = world.shop().join("hub/facts.sqlite");
    std::fs::remove_file(&index).expect("removed");
    assert_eq!(world.technician(&question).exits(0).out, "kasse-1\n");
    let damage = || {
        let complete = ["PRAGMA wal_checkpoint(TRUNCATE);"];
        run(Command::new("sqlite3").arg(&index).args(complete)).exits(0);
        std::fs::write(&index, [7; 200_000]).expect("written");
    };
    damage();
    wait_until("it is begun anew", || world.technician(&question).code == 0);
    assert_eq!(world.technician(&question).exits(0).out, "kasse-1\n");
    assert!(world.hub.log().contains("it will be rebuilt"), "{}", world.hub.log());
    std::fs::File::create(&index).expect("emptied");
    wait_until("it is begun anew", || world.technician(&question).code == 0);
    assert_eq!(world.technician(&question).exits(0).out, "kasse-1\n");
    damage();
    world.technician(&["diagnose", "kasse-1"]);
    wait_until("it is begun anew", || world.technician(&question).code == 0);
    assert_eq!(world.technician(&question).exits(0).out, "kasse-1\n");
    // An index that cannot be opened is tried again later.
    world.hub.stop();
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(world.shop().join(format!("hub/facts.sqlite{end}")));
    }
    std::fs::create_dir(&index).expect("something in its place");
    world.restart_hub();
    world.technician(&question).exits(5);
    std::fs::remove_dir(&index).expect("removed");
    assert_eq!(world.technician(&question).exits(0).out, "kasse-1\n");
}

/// Runs until a query's time limit.
const ENDLESS: &str = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";

#[test]
fn endless_queries_do_not_block_queries_of_others() {
    let world = World::new();
    let _till = world.add_machine("kasse-1");
    let robot = world.add_robot("B\u{e4}ckerei Meyer");
    let mut endless: Vec<Child> = (0..4)
        .map(|_| {
            world.command(&["query", ENDLESS]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started")
        })
        .collect();
    wait_until("all ask", || world.metric("fernwart_links{door=\"staff\"}") == Some(4.0));
    run(&mut staff_command(&robot, &["query", "SELECT machine FROM machines", "-o", "name"])).exits(0);
    assert!(endless.iter_mut().any(|one| matches!(one.try_wait(), Ok(None))), "they still ask");
    // Some exceed the time limit, others are denied because the hub is busy with queries.
    for one in endless {
        let ended = one.wait_with_output().expect("ended");
        let why = match ended.status.code() {
            Some(4) => "FW-HUB-33",
            Some(5) => "FW-QRY-03",
            code => panic!("{code:?}"),
        };
        let output = String::from_utf8_lossy(&ended.stderr);
        assert!(output.contains(why), "{output}");
    }
}

#[test]
fn facts_changed_since_a_time_are_listed_one_by_one() {
    let world = World::new();
    let _machine = world.add_machine("kasse-1");
    let output = world.technician(&["facts", "kasse-1", "--since", "1h"]).exits(1);
    assert!(output.err.contains("has no report of a whole diagnosis yet"), "{}", output.err);
    world.technician(&["diagnose", "kasse-1"]);
    let output = world.technician(&["facts", "kasse-1", "--since", "1h", "--changed"]).exits(1);
    assert!(output.err.contains("no report from before"), "{}", output.err);
    wait_until("that was a second ago", || world.technician(&["facts", "kasse-1", "--since", "1s"]).code == 0);
    world.technician(&["diagnose", "kasse-1"]);
    let output = world.technician(&["facts", "kasse-1", "--since", "1s", "--changed", "-o", "jsonl"]).exits(0);
    let changed = output.json_lines();
    let uptime = changed.iter().find(|line| line["fact"] == "system.uptime_s").expect("it has been up longer");
    assert!(uptime["before"].as_u64() < uptime["now"].as_u64(), "{uptime}");
    assert!(!changed.iter().any(|line| line["fact"] == "system.kernel"), "that has not changed");
}
