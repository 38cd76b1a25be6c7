//! Watching the hub: events as they happen, and what is counted.

use fernwart_tests::{Frozen, Process, World, program, run, staff_command, wait_until, wait_within};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A technician who follows events.
struct Follower {
    child: Child,
    out: PathBuf,
}

impl Follower {
    fn of(home: &Path, out: PathBuf) -> Self {
        let file = std::fs::File::create(&out).expect("a file");
        let mut command = staff_command(home, &["events", "-f", "--since", "1h"]);
        let child = command.stdin(Stdio::null()).stdout(file).stderr(Stdio::null()).spawn().expect("started");
        Self { child, out }
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.out).expect("a file");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON, whole")).collect()
    }

    /// The events so far, as `machine type`.
    fn reported(&self) -> Vec<String> {
        let of = |line: &Value| {
            format!("{} {}", line["machine"].as_str().unwrap_or("-"), line["type"].as_str().expect("a type"))
        };
        self.lines().iter().map(of).collect()
    }

    fn hears(&self, what: &str) {
        wait_within(Duration::from_secs(30), what, || self.reported().iter().any(|reported| reported == what));
    }

    /// Waits for it to end by itself.
    fn end(mut self) -> (Option<i32>, Vec<Value>) {
        let mut code = None;
        wait_within(Duration::from_secs(20), "it ends", || {
            code = self.child.try_wait().expect("asked").map(|status| status.code());
            code.is_some()
        });
        (code.flatten(), self.lines())
    }

    /// Ctrl-C.
    fn stop(mut self) -> (Option<i32>, Vec<Value>) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signalled");
        let code = self.child.wait().expect("ended").code();
        (code, self.lines())
    }
}

#[test]
fn events_are_sent_only_to_technicians_who_may_see_them() {
    let mut world = World::new();
    let _praxis = world.add_machine_of("Praxis Petersen", "praxis-1");
    let robot = world.add_robot("Praxis Petersen");
    let all = Follower::of(&world.shop(), world.path().join("all.jsonl"));
    let theirs = Follower::of(&robot, world.path().join("theirs.jsonl"));
    let mut till = world.add_machine("kasse-1");
    wait_until("the robot hears of its own machine", || {
        theirs.lines().iter().any(|line| line["customer"] == "Praxis Petersen" && line["type"] == "linked")
    });
    world.technician(&["diagnose", "kasse-1", "--reason", "Auftrag 4711"]);
    till.agent.stop();
    for what in ["kasse-1 admitted", "kasse-1 linked", "- job", "kasse-1 settled", "kasse-1 left"] {
        all.hears(what);
    }
    let lines = all.lines();
    assert!(lines.windows(2).all(|two| two[0]["seq"].as_u64() < two[1]["seq"].as_u64()), "{lines:?}");
    let job = lines.iter().find(|line| line["type"] == "job").expect("told");
    assert_eq!((&job["by"], &job["reason"], &job["machines"]), (&"jana".into(), &"Auftrag 4711".into(), &1.into()));
    let left = lines.iter().find(|line| line["type"] == "left").expect("told");
    assert_eq!(left["why"], "done", "it has said goodbye");

    // A later command shows the same events; the table has lines for people.
    let late = world.technician(&["events"]).exits(0).json_lines();
    assert_eq!(late.last().expect("a summary")["type"], "summary");
    let known: Vec<_> = late.iter().filter(|line| line["type"] == "left").collect();
    assert_eq!(known, [left]);
    let eyes = world.technician(&["events", "-o", "table"]).exits(0).out;
    assert!(eyes.lines().any(|line| line.contains("kasse-1") && line.contains("left")), "{eyes}");

    // No events of other customers' machines, nor of the jobs of others.
    let (code, received) = theirs.stop();
    assert_eq!((code, &received.last().expect("a summary")["type"]), (Some(130), &Value::from("summary")));
    assert!(
        !received.iter().any(|line| line["customer"] == "B\u{e4}ckerei Meyer" || line["type"] == "job"),
        "{received:?}"
    );

    // Following continues after the hub was restarted.
    world.hub.stop();
    world.restart_hub();
    all.hears("- missed");
    till.restart();
    wait_until("it is back", || world.is_online("kasse-1"));
    wait_until("that is told", || all.reported().iter().filter(|reported| *reported == "kasse-1 linked").count() == 2);
    let (code, lines) = all.stop();
    assert_eq!((code, &lines.last().expect("a summary")["type"]), (Some(130), &Value::from("summary")));
}

#[test]
fn narrowed_rights_end_the_watching_of_a_job() {
    let world = World::new();
    let (till, _other) = (world.add_machine("kasse-1"), world.add_machine("kasse-2"));
    let robot = world.add_robot("B\u{e4}ckerei Meyer");
    world.aim_robot(None);
    let frozen = Frozen::new(&till.agent);
    let mut asking = world.command(&["diagnose", "kasse-1", "kasse-2", "--section", "power", "--timeout", "60s"]);
    let mut asking = Process::start(&mut asking, &world.path().join("asking.log"));
    wait_until("the job is there", || world.technician(&["job", "show", "1"]).code == 0);
    let out = world.path().join("watch.out");
    let mut watching = staff_command(&robot, &["job", "watch", "1"])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out).expect("a file"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let reported = || std::fs::read_to_string(&out).expect("a file");
    wait_until("it hears of the one that answers", || reported().contains("kasse-2"));

    world.aim_robot(Some("B\u{e4}ckerei Meyer"));
    wait_within(Duration::from_secs(5), "it is over", || watching.try_wait().expect("asked").is_some());
    let mut output = String::new();
    watching.stderr.take().expect("piped").read_to_string(&mut output).expect("read");
    let again = run(&mut staff_command(&robot, &["job", "watch", "1"]));
    assert!(again.code != 0 && !again.err.is_empty(), "{again:?}");
    assert_eq!(output.trim(), again.err.trim(), "it ends as it would not begin now");
    assert!(!reported().contains("kasse-1"), "{}", reported());
    assert!(asking.is_running(), "whose job it is goes on");
    drop(frozen);
    wait_until("it has its answer", || !asking.is_running());
}

#[test]
fn followed_events_respect_changed_rights_and_suspension() {
    let world = World::new();
    let _praxis = world.add_machine_of("Praxis Petersen", "praxis-1");
    let robot = world.add_robot("Praxis Petersen");
    let _till = world.add_machine("kasse-1");
    let theirs = Follower::of(&robot, world.path().join("theirs.jsonl"));
    let looked = |name: &str| world.technician(&["diagnose", name, "--section", "power"]).exits(0);
    let settled = |who: &str| {
        let lines = theirs.lines();
        lines.iter().filter(|line| line["type"] == "settled" && line["customer"] == who).count()
    };
    let praxis = "customer:Praxis Petersen";
    looked(praxis);
    wait_until("it hears of its own", || settled("Praxis Petersen") == 1);

    // The robot may now see another customer instead, on the link that is open.
    world.aim_robot(Some("B\u{e4}ckerei Meyer"));
    looked(praxis);
    looked("kasse-1");
    wait_until("it hears of the other", || settled("B\u{e4}ckerei Meyer") == 1);
    assert_eq!(settled("Praxis Petersen"), 1, "{:?}", theirs.lines());

    // Suspended, it ends with an error and does not retry again and again.
    world.technician(&["staff", "suspend", "robot"]).exits(0);
    let (code, lines) = theirs.end();
    assert_eq!(code, Some(3), "{lines:?}");
    assert!(lines.iter().filter(|line| line["type"] == "missed").count() <= 1, "{lines:?}");
}

#[test]
fn following_events_ends_when_the_reader_closes_its_pipe() {
    let world = World::new();
    let _till = world.add_machine("kasse-1");
    let mut command = Command::new("sh");
    let script = format!("{} events -f | head -1", program("fernwart").display());
    command.args(["-c", &script]).env("FERNWART_HOME", world.shop()).stdin(Stdio::null());
    let mut following = Process::start(&mut command, &world.path().join("head.log"));
    // The next event meets a closed pipe.
    wait_within(Duration::from_secs(10), "it has ended", || {
        world.technician(&["diagnose", "kasse-1", "--section", "power"]);
        !following.is_running()
    });
}

fn get(path: &str, method: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: hub\r\n\r\n")
}

#[test]
fn metrics_are_served_locally_and_name_no_machine_or_person() {
    let world = World::new();
    let _till = world.add_machine("kasse-1");
    world.technician(&["diagnose", "kasse-1", "--section", "power"]).exits(0);
    // A complete diagnosis is indexed without a query.
    assert!(world.technician(&["diagnose", "kasse-1"]).code < 2);
    wait_within(Duration::from_secs(20), "it is indexed", || world.metric("fernwart_reports_due") == Some(0.0));
    world.technician(&["job", "show", "77"]);
    let page = world.metrics_page(&get("/metrics", "GET"));
    assert!(page.starts_with("HTTP/1.1 200") && page.ends_with("# EOF\n"), "{page}");
    assert!(page.contains("content-type: text/plain; version=0.0.4"), "{page}");
    let newer = "GET /metrics HTTP/1.1\r\nHost: hub\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n";
    assert!(world.metrics_page(newer).contains("content-type: application/openmetrics-text; version=1.0.0"));
    for (name, value) in [
        ("fernwart_machines_online", 1.0),
        ("fernwart_links{door=\"agent\"}", 1.0),
        ("fernwart_outcomes_stored_total{result=\"ok\"}", 2.0),
        ("fernwart_outcomes_stored_total{result=\"interrupted\"}", 0.0),
        ("fernwart_orders_sent_total", 2.0),
        ("fernwart_delivery_seconds_count", 2.0),
        ("fernwart_requests_denied_total{code=\"FW-HUB-05\"}", 1.0),
    ] {
        assert_eq!(world.metric(name), Some(value), "{name} in {page}");
    }
    assert!(
        world.metric("process_resident_memory_bytes") > Some(1e6)
            && world.metric("process_cpu_seconds_total") > Some(0.0)
    );
    let events = world.technician(&["events"]).exits(0).json_lines();
    let id = events.iter().find_map(|line| line["machine_id"].as_str()).expect("an id");
    for name in ["kasse-1", id, "Meyer", "jana"] {
        assert!(!page.contains(name), "{name} is nobody's business: {page}");
    }

    // Other requests, silence and garbage do no harm.
    assert!(world.metrics_page(&get("/", "GET")).starts_with("HTTP/1.1 404"));
    assert!(world.metrics_page(&get("/metrics", "POST")).starts_with("HTTP/1.1 405"));
    assert!(!world.metrics_page("\u{0}\u{1}\u{2}\r\n\r\n").contains("fernwart_"));
    let log = world.hub.log();
    let address = log.rsplit_once("page=http://").and_then(|(_, rest)| rest.split('/').next()).expect("an address");
    let mut silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(address).expect("connected")).collect();
    silent[0].write_all(b"GET /metr").expect("sent");
    let mut too_many = silent.pop().expect("one");
    let mut nothing = Vec::new();
    // An end or a reset, either at once.
    let _ = too_many.read_to_end(&mut nothing);
    assert!(nothing.is_empty());
    wait_within(Duration::from_secs(15), "the silent ones have made room", || {
        TcpStream::connect(address)
            .and_then(|mut stream| {
                stream.write_all(get("/metrics", "GET").as_bytes())?;
                let mut page = String::new();
                stream.read_to_string(&mut page).map(|_| page)
            })
            .is_ok_and(|page| page.starts_with("HTTP/1.1 200"))
    });
    drop(silent);
}

#[test]
fn metrics_are_off_by_default_and_only_on_loopback() {
    let mut world = World::new();
    world.hub.stop();
    let log = world.path().join("plain.log");
    let mut hub = Process::start(&mut staff_command(&world.shop(), &["serve"]), &log);
    wait_until("it listens", || hub.log().contains("hub is listening"));
    assert!(!hub.log().contains("metrics are served"), "{}", hub.log());
    hub.stop();
    let settings = world.shop().join("hub/hub.toml");
    let text = std::fs::read_to_string(&settings).expect("settings");
    std::fs::write(&settings, format!("metrics = \"127.0.0.1:0\"\n{text}")).expect("written");
    let mut hub = Process::start(&mut staff_command(&world.shop(), &["serve"]), &world.path().join("told.log"));
    wait_until("it tells them", || hub.log().contains("metrics are served page=http://127.0.0.1:"));
    hub.stop();
    let output = run(&mut staff_command(&world.shop(), &["serve", "--metrics", "0.0.0.0:9464"])).exits(2);
    assert!(output.err.contains("FW-HUB-29") && output.err.contains("127.0.0.1"), "{}", output.err);
}
