//! Results of a job can be read afterwards, as they would have appeared on a terminal.

use fernwart_tests::test_script::Script;
use fernwart_tests::{Machine, World, wait_until};
use serde_json::Value;

fn trusting(machine: &Machine) {
    std::fs::write(machine.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"allow\"\n")
        .expect("written");
}

/// Two machines with a script that succeeds where it runs first, and fails where it runs next.
struct Two {
    one: Machine,
    two: Machine,
    /// What it leaves behind.
    traces: tempfile::TempDir,
}

impl Two {
    fn new(world: &World) -> Self {
        let (one, two) = (world.add_machine("kasse-1"), world.add_machine("kasse-2"));
        trusting(&one);
        trusting(&two);
        let traces = tempfile::tempdir_in("/srv").expect("a folder");
        let place = traces.path().display();
        let text = format!(
            "for n in 1 2 3 4 5; do echo \"line $n\"; done\n\
             printf ' 1 %%\\r50 %%\\r100 %%\\n'; printf 'a\\tb\\r\\n'; printf '\\033[31mred\\n'\n\
             mkdir {place}/first 2>/dev/null && exit 0\n\
             printf 'no M\\374ller here\\n' >&2; exit 7\n"
        );
        world.approve(&Script::new("talk", &text).with(&format!("writes = [\"{place}\"]")));
        Self { one, two, traces }
    }
}

#[test]
fn job_logs_show_the_output_of_each_machine() {
    let world = World::new();
    let _two = Two::new(&world);
    let both = ["run", "talk", "kasse-1", "kasse-2", "--parallel", "1", "--reason", "test"];
    let output = world.technician(&both).exits(1);
    assert!(output.out.contains("    line 3\n"), "{}", output.out);
    assert!(!output.out.contains("line 4"), "only the first lines: {}", output.out);
    assert!(output.out.contains("    … 5 more lines: fernwart job logs 1 kasse-1\n"), "{}", output.out);
    assert!(output.out.contains("    no M\u{fffd}ller here\n"), "of what failed, its errors: {}", output.out);
    assert!(output.err.contains("fernwart job logs 1\n"), "{}", output.err);

    let all = world.technician(&["job", "logs", "1"]).exits(0).out;
    let headings: Vec<&str> = all.lines().filter(|line| line.starts_with("==> ")).collect();
    assert!(headings.len() == 2 && headings[0].starts_with("==> kasse-1 · Bäckerei Meyer · done in "), "{all}");
    assert!(headings[1].contains("exit 7"), "{all}");
    assert!(all.contains("line 5\n100 %\na\tb\n\\u{1b}[31mred\n"), "{all}");
    assert!(all.contains("-- standard error:\nno M\u{fffd}ller here\n"), "{all}");

    let failed = world.technician(&["job", "logs", "1", "--failed"]).exits(0).out;
    assert!(failed.contains("kasse-2") && !failed.contains("kasse-1"), "{failed}");
    let one = world.technician(&["job", "logs", "1", "kasse-2"]).exits(0);
    assert!(one.out.starts_with("line 1\n") && !one.out.contains("==>"), "{}", one.out);
    assert!(one.err.contains("exit 7") && one.err.ends_with("no M\u{fffd}ller here\n"), "{}", one.err);
    let globbed = world.technician(&["job", "logs", "1", "*-1"]).exits(0);
    assert!(globbed.err.contains("kasse-1: done"), "{}", globbed.err);

    let json: Value =
        serde_json::from_str(&world.technician(&["job", "logs", "1", "-o", "json"]).exits(0).out).expect("JSON");
    assert_eq!((&json["type"], &json["job"]), (&"job_logs".into(), &1.into()));
    let second = &json["results"][1];
    assert_eq!(
        (&second["machine"], &second["status"], &second["report"]["exit"]),
        (&"kasse-2".into(), &"crit".into(), &7.into())
    );
    assert_eq!(second["report"]["stderr"]["head"], "no M\u{fffd}ller here\n");
    let lines = world.technician(&["job", "logs", "1", "-o", "jsonl", "--failed"]).exits(0).json_lines();
    assert_eq!((lines.len(), &lines[0]["machine"]), (1, &"kasse-2".into()));
    let csv = world.technician(&["job", "logs", "1", "-o", "csv"]).exits(0).out;
    assert!(csv.starts_with("machine,customer,status,code,why,stdout,stderr\n"), "{csv}");

    let shown = world.technician(&["job", "show", "1"]).exits(0);
    assert!(shown.out.contains("exit 7") && shown.err.contains("fernwart job logs 1"), "{shown:?}");
    let unknown = world.technician(&["job", "logs", "1", "kasse-9"]).exits(2);
    assert!(
        unknown.err.contains("kasse-9 was not in this job") && unknown.err.contains("FW-CLI-02"),
        "{}",
        unknown.err
    );
    world.technician(&["job", "logs", "99"]).exits(2);
}

#[test]
fn job_logs_explain_refused_away_and_queued_runs() {
    let world = World::new();
    let Two { mut one, two, traces } = Two::new(&world);
    std::fs::write(two.home.join("policy.toml"), "[look]\nmode = \"allow\"\n[act]\nmode = \"never\"\n")
        .expect("written");
    world.technician(&["run", "talk", "kasse-1", "kasse-2", "--reason", "test"]).exits(3);
    let refused = world.technician(&["job", "logs", "1", "--failed"]).exits(0);
    assert!(refused.err.contains("kasse-2") || refused.out.contains("kasse-2"), "{refused:?}");
    let shown = world.technician(&["job", "show", "1"]).exits(0).out;
    assert!(shown.contains("FW-OWN-"), "why it was refused: {shown}");

    one.agent.stop();
    wait_until("it is away", || !world.is_online("kasse-1"));
    let output = world.technician(&["run", "talk", "kasse-1", "--reason", "test", "-o", "json"]).exits(4);
    let all: Value = serde_json::from_str(&output.out).expect("JSON");
    assert_eq!(
        (&all["results"][0]["status"], &all["summary"]["away"], &all["summary"]["no_answer"]),
        (&"away".into(), &1.into(), &0.into())
    );
    let away = world.technician(&["job", "logs", "2"]).exits(0);
    assert!(away.err.contains("kasse-1: away"), "{away:?}");
    world.technician(&["run", "talk", "kasse-1", "--reason", "test", "--queue", "1h"]).exits(0);
    let queued = world.technician(&["job", "logs", "3"]).exits(0);
    assert!(queued.err.contains("queued: away"), "{queued:?}");
    drop(traces);
}

#[test]
fn a_cancelled_script_keeps_its_output() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    trusting(&machine);
    world.approve(&Script::new("slow", "echo begun\nsleep 60\n"));
    let log = world.path().join("run.log");
    let mut running =
        fernwart_tests::Process::start(&mut world.command(&["run", "slow", "kasse-1", "--reason", "test"]), &log);
    let state = || world.technician(&["job", "show", "1", "-o", "jsonl"]).json_lines()[0]["state"].clone();
    wait_until("it runs", || running.log().contains("job 1") && state() == "running");
    world.technician(&["job", "cancel", "1"]).exits(0);
    wait_until("it has ended", || !running.is_running());
    let reported = world.technician(&["job", "logs", "1"]).exits(0);
    assert!(reported.out == "begun\n" && reported.err.contains("cancelled"), "{reported:?}");
    let shown = world.technician(&["job", "show", "1"]).exits(0).out;
    assert!(shown.contains("cancelled"), "{shown}");
}

#[test]
fn job_logs_show_diagnosis_reports() {
    let world = World::new();
    let _one = world.add_machine("kasse-1");
    let output = world.technician(&["diagnose", "kasse-1"]);
    let reported = world.technician(&["job", "logs", "1"]).exits(0);
    let counts = |text: &str| text.lines().find(|line| line.contains(" checks: ")).map(str::to_owned);
    assert!(counts(&reported.out).is_some() && counts(&reported.out) == counts(&output.out), "{reported:?} {output:?}");
}

#[test]
fn a_dry_run_is_never_called_a_repair() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    trusting(&machine);
    world.approve(&Script::new("talk", "echo \"would delete\"\n").with("dry_run = true"));
    world.technician(&["run", "talk", "kasse-1", "--dry-run"]).exits(0);
    let jobs = world.technician(&["job", "ls"]).exits(0).out;
    assert!(jobs.contains("script talk (dry run)"), "{jobs}");
    let events = world.technician(&["events", "-o", "table"]).exits(0).out;
    assert!(events.contains("script talk (dry run)"), "{events}");
    for (language, repair, trial) in [("en", "Repair", "Dry run"), ("de", "Reparatur", "Probelauf")] {
        let owner = |command: &str| machine.owner(&["--lang", language, command]).exits(0).out;
        let journal = owner("journal");
        let lines: Vec<&str> = journal.lines().filter(|line| line.contains(trial)).collect();
        assert!(lines.len() == 2 && !journal.contains(repair), "{journal}");
        let status = owner("status");
        assert!(status.contains(&format!("{trial}: ")), "{status}");
        assert!(!owner("history").contains(repair));
    }
}
